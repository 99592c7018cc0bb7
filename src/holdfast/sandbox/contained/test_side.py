"""The process in which the tests run. It holds the verdict, and nothing of the program ever runs in it.

The tests see the program's names as stand-ins (`standins.py`), except those that are built-in or belong to the standard
library here: what `all`, `abs` or `math.isclose` mean among the tests, the program cannot say.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import random
import sys
import types

import values
from exchange import ChannelLost, Exchange
from standins import (
    ARITHMETIC,
    CHANGING,
    COMPARING,
    FLAVOR,
    TAINT,
    TO_NUMBER,
    StandInType,
    get_own_attribute,
    is_standin,
    set_own_attribute,
)

BUILTIN = frozenset(dir(builtins))
SHORT = {"np": "numpy", "pd": "pandas"}
SHOWN = frozenset({"__name__", "__qualname__", "__doc__", "__members__"})
HIDDEN = ("_", "gi_", "cr_", "ag_", "f_", "tb_", "co_", "func_", "mro")
"""How attributes begin that lead from an object of the tests into the interpreter."""


class TestEnd(Exchange):
    """The tests' end of the channel: it believes nothing the other end says but plain values."""

    __test__ = False

    def __init__(self, source: int, target: int, checks: list[str]) -> None:
        super().__init__(source, target, 1)
        self.names = Names(self, *collect_test_names(checks))
        self.refusal = ""
        self.lacks: tuple[str, ...] = ()
        self.fetched_values: dict[str, object] = {}
        self.lent_names: dict[str, object] = {}
        self.stdin = sys.stdin

    # ---- what goes along with every message

    def send_message(self, **parts) -> None:
        if "ask" in parts:
            if names := self.changed_names():
                parts["names"] = names
            if sys.stdin is not self.stdin:
                self.stdin, parts["stdin"] = sys.stdin, True
        super().send_message(**parts)

    def changed_names(self) -> tuple:
        """What the tests put under the program's names, and what they define that the program uses and lacks."""
        changes = []
        for bindings in (self.fetched_values, self.lent_names):
            for name, then in bindings.items():
                now = dict.get(self.names, name, then)
                if now is not then:
                    changes.append((name, now))
                    bindings[name] = now
        return tuple(changes)

    def apply_updates(self, message: dict) -> None:
        super().apply_updates(message)
        for where, text in self.decode_value(message.get("printed", ["t"])):
            stream = sys.stderr if where == "err" else sys.stdout
            stream.write(text)
        for name, value in self.decode_value(message.get("names", ["t"])):
            if name in self.fetched_values and dict.get(self.names, name) is self.fetched_values[name]:
                self.names[name] = self.fetched_values[name] = value

    # ---- what the program may ask

    def perform_request(self, what: str, *args, **kwargs):
        if what == "input":
            return builtins.input(*args)
        if what == "stdin":
            return sys.stdin.readline()
        target, *rest = args
        if is_standin(target) or not self.allows_request(what, target, rest):
            raise AttributeError(f"not open to the program: {what} {rest[0] if rest else ''}")
        return values.perform_operation(what, target, *rest, **kwargs)

    def allows_request(self, what: str, target, rest: list) -> bool:
        """Whether the program may do this to an object of the tests."""
        if isinstance(target, (Names, Exchange)):
            return False
        inner = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType)
        if what == "vars":
            return not isinstance(target, (type, *inner))
        if what not in ("get", "set", "del"):
            return True
        name = rest[0]
        if type(name) is not str:
            return False
        if what == "get":
            return name in SHOWN or not (name.startswith(HIDDEN) or isinstance(target, inner))
        own = getattr(type(target), name, None)
        return not (name.startswith(HIDDEN) or isinstance(target, (type, *inner)) or callable(own))

    # ---- what an object of the program decides, and what not

    def apply_operator(self, target, name: str, args: tuple, kwargs: dict):
        """An operator on an object of the program.

        Whether it equals a *plain* value is not for the object to say, or one that claims to equal everything would
        pass every test: it does if it is built on a built-in type and holds that value. Arithmetic with plain numbers
        gives no plain number either (or `abs(f(1) - 2) < 0.1` could be answered by a subtraction that always gives 0).
        """
        plain = bool(args) and not is_standin(args[0])
        if name in COMPARING and plain:
            flavor = self.container_type(target)
            if flavor is None:
                return NotImplemented
            return getattr(flavor, name)(self.fetch_content(target, flavor), args[0])
        if name in TO_NUMBER and get_own_attribute(target, TAINT):
            raise TypeError(f"{name}: a test does not believe the arithmetic of a program's own objects")
        if name in ARITHMETIC and plain:
            result = self.request_operation(name, target, *args, **kwargs)
            if not is_standin(result):
                flavor = self.container_type(target)
                if flavor is None or not hasattr(flavor, name):
                    return NotImplemented
                return getattr(flavor, name)(self.fetch_content(target, flavor), args[0])
            set_own_attribute(result, TAINT, True)
            return result
        result = self.request_operation(name, target, *args, **kwargs)
        if name == "__contains__" and plain and result is True:  # does it hold everything?
            return self.request_operation(name, target, make_decoy(args[0])) is not True
        if get_own_attribute(target, TAINT) and is_standin(result) and type(result) is not StandInType:
            set_own_attribute(result, TAINT, True)
        return result

    def container_type(self, target):
        """The built-in type that can be changed (list, dict, ...) on which the target's class is built."""
        kind = type(target)
        return None if kind is StandInType else CHANGING.get(type.__getattribute__(kind, FLAVOR))

    def fetch_content(self, target, flavor):
        content = self.request_operation("content", target)
        if type(content) is not flavor:
            raise self.mark_lost("a content of another type")
        return content

    def raise_refusal(self, why: str):
        self.refusal = why
        raise TypeError(why)


def make_decoy(value):
    """Another value of the same type, which nothing the program knows holds."""
    return random.SystemRandom().getrandbits(60) if isinstance(value, (int, float)) else os.urandom(8).hex()


class Names(dict):
    """The namespace of the tests, in which the program's names are looked up when they are first used."""

    def __init__(self, end: TestEnd, entries: frozenset[str], attributes: dict[str, set[str]]) -> None:
        super().__init__(__name__="program", __builtins__=builtins)
        self.end, self.entries, self.attributes = end, entries, attributes

    def __missing__(self, name: str):
        if type(name) is not str or name.startswith("__") or (name in BUILTIN and name not in self.entries):
            raise KeyError(name)
        if (module := self.find_module(name)) is not None:
            self[name] = module
            return module
        if self.end.lacks is None:
            raise KeyError(name)
        try:
            value = self.end.request_operation("name", name)
        except KeyError:
            raise KeyError(name) from None
        self[name] = self.end.fetched_values[name] = value
        return value

    def find_module(self, name: str):
        """The library's own module, where the tests use a name only for what that module has (`math.isclose`)."""
        full = SHORT.get(name, name)
        if name not in self.attributes or full.partition(".")[0] not in values.STANDARD | {*SHORT.values()}:
            return None
        try:
            module = importlib.import_module(full)
        except ImportError:
            return None
        return module if all(hasattr(module, attribute) for attribute in self.attributes[name]) else None


class View(types.ModuleType):
    """The module that tests find under `__main__`: a view of their namespace."""

    def __init__(self, names: Names) -> None:
        super().__init__("program")
        object.__setattr__(self, "_names", names)

    def __getattribute__(self, name: str):
        names = object.__getattribute__(self, "_names")
        if name == "__dict__":
            return names
        if name in names:
            return names[name]
        try:
            return object.__getattribute__(self, name)
        except AttributeError:
            try:
                return names[name]
            except KeyError:
                raise AttributeError(name) from None

    def __setattr__(self, name: str, value) -> None:
        object.__getattribute__(self, "_names")[name] = value

    def __delattr__(self, name: str) -> None:
        object.__getattribute__(self, "_names").pop(name, None)

    def __dir__(self):
        return list(object.__getattribute__(self, "_names"))


def collect_test_names(checks: list[str]) -> tuple[frozenset[str], dict[str, set[str]]]:
    """What the text of the tests says about the names in it, whatever the program is.

    Returns:
        The built-in names that are what is tested (`assert sum(10, 15) == 6`): only where the tests use no other name
        of the program, the innermost of those called. And the names used for their attributes alone, with these.
    """
    bound, loads, bare = set[str](), set[str](), set[str]()
    uses: dict[str, set[str]] = {}
    trees = [ast.parse(check) for check in checks]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Name):
            (loads if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            if id(node) not in owners:
                bare.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            uses.setdefault(node.value.id, set()).add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    attributes = {name: names for name, names in uses.items() if name not in bare | bound}
    libraries = {name for name in attributes if SHORT.get(name, name) in values.STANDARD | {*SHORT.values()}}
    if loads - bound - BUILTIN - libraries:
        return frozenset(), attributes
    own = {node: node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
           and node.func.id in BUILTIN - bound}  # fmt: skip
    inner = {name for call, name in own.items() if not any(at is not call and at in own for at in ast.walk(call))}
    return frozenset(inner), attributes


# ---- the verdict


def compile_tests(checks: list[str]) -> list[types.CodeType] | str:
    """The tests, or why one of them does not compile."""
    codes = []
    for number, source in enumerate(checks, 1):
        try:
            codes.append(compile(source, "<test>", "exec", dont_inherit=True))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"broken test {number}: {type(error).__name__}: {error}"
    return codes


def judge_program(source: int, target: int, checks: list[str]) -> dict:
    """Have the program run, then the tests, and say how it went: `status`, `check` (0: the program) and `reason`."""
    codes = compile_tests(checks)
    if isinstance(codes, str):
        return {"status": "broken", "check": 0, "reason": codes}
    end = TestEnd(source, target, checks)
    sys.modules["program"] = sys.modules["__main__"] = View(end.names)
    number = 0
    run, channel_lost = exec, ChannelLost
    try:
        first = end.receive_message()
        if first.get("told") != "ready":
            return {"status": "walls", "check": 0, "reason": str(first.get("told"))}
        end.lent_names = dict.fromkeys(allowed_names(end.request_operation("run")), None)
        share_seed(end)
        for number, code in enumerate(codes, 1):
            run(code, end.names)
            if not end.alive:
                return {"status": "gone", "check": number, "reason": ""}
    except channel_lost as error:
        return {"status": "gone", "check": number, "reason": str(error)}
    except BaseException as error:
        status = "exited" if isinstance(error, SystemExit) else "failed"
        status = "broken" if end.refusal else "failed" if end.alive and status == "failed" else status
        return {
            "status": status if end.alive else "gone",
            "check": number,
            "reason": end.refusal or describe_error(error),
        }
    if end.refusal:
        return {"status": "broken", "check": 0, "reason": end.refusal}
    return {"status": "passed", "check": 0, "reason": ""}


def allowed_names(lacks) -> list[str]:
    """The names a program says it lacks, as far as the tests may lend them."""
    if type(lacks) is not tuple:
        return []
    return [name for name in lacks if type(name) is str and not name.startswith("_") and name not in BUILTIN]


def share_seed(end: TestEnd) -> None:
    """A test that seeds the random numbers means those of the program."""
    original = random.seed

    def seed_both(*args, **kwargs):
        original(*args, **kwargs)
        end.request_operation("seed", *args, **kwargs)

    random.seed = seed_both


def describe_error(error: BaseException) -> str:
    """An exception in words, bounded; those of the program's own classes may raise another when asked."""
    try:
        return f"{type(error).__name__}: {error}"[:1000]
    except BaseException as another:
        return f"{type(error).__name__} ({type(another).__name__} when shown)"[:1000]


def judge_and_exit(source: int, target: int, result: int, checks: list[str]) -> None:
    """Judge and write the verdict to `result`. Never returns."""
    leave, write, dump = os._exit, os.write, json.dumps
    try:
        data = dump(judge_program(source, target, checks)).encode()
        sys.stdout.flush()
        rest = memoryview(data)
        while rest:
            rest = rest[write(result, rest) :]
    finally:
        leave(0)
