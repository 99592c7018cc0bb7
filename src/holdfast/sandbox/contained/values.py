"""How each kind of value is written for the other process, and read from it."""

from __future__ import annotations

import abc
import base64
import copy
import enum
import importlib
import math
import operator
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from standins import CHANGING, FIXED, FORWARDED


def split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STANDARD = sys.stdlib_module_names - split_words("__main__ antigravity this test idlelib turtle turtledemo")
PURE = split_words(
    """
    builtins math cmath operator _operator functools _functools itertools string re statistics heapq _heapq bisect
    _bisect copy json fractions decimal _decimal numbers textwrap unicodedata collections
    """
)
"""Modules whose functions may stand under a program's name among the tests: they are only calculated with."""
PLAIN = split_words(
    """
    builtins collections collections.abc string re decimal _decimal fractions numbers datetime uuid pathlib enum typing
    types abc dataclasses array io _io
    """
)
"""The same for classes; those of others are lent, so that their objects live with the program."""
NOT_PURE = split_words("exec eval open compile setattr delattr input breakpoint globals locals vars exit quit")
NAMED = frozenset({"numpy", "pandas", "scipy", "sympy", "torch", "sklearn"})
"""Further modules that may be meant by a name (`np`) of a program that uses installed packages."""
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
SMALL = 1 << 62


def standard_name(value: object, to_tests: bool) -> tuple[str, str] | None:
    """Module and name by which the other side finds the same class or function of the standard library, if it may."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if type(module) is not str or type(name) is not str or not is_sendable(module, name, value, to_tests):
        return None
    return (module, name) if getattr(sys.modules.get(module), name, None) is value else None


def is_sendable(module: str, name: str, value: object, to_tests: bool) -> bool:
    """Whether a class or function may be sent by its name; to the tests only what cannot decide what they say."""
    if module.partition(".")[0] not in STANDARD:
        return False
    if not to_tests:
        return True
    if isinstance(value, type):
        return module in PLAIN or (issubclass(value, BaseException) and not module.startswith("unittest"))
    return module in PURE and name not in NOT_PURE and not name.startswith("__")


# ---- writing


def encode_int(exchange, value):
    return value if -SMALL < value < SMALL else ["i", hex(value)]


def encode_float(exchange, value):
    return value if math.isfinite(value) else ["f", repr(value)]


def encode_items(letter):
    return lambda exchange, value: [letter, *map(exchange.encode_value, value)]


def encode_shared(exchange, value):
    return exchange.share_container(value)


ENCODERS: dict[Any, Callable[..., Any]] = {
    int: encode_int,
    float: encode_float,
    complex: lambda exchange, value: ["c", encode_float(exchange, value.real), encode_float(exchange, value.imag)],
    bytes: lambda exchange, value: ["b", base64.b64encode(value).decode()],
    tuple: encode_items("t"),
    frozenset: encode_items("z"),
    range: lambda exchange, value: ["r", *(encode_int(exchange, n) for n in (value.start, value.stop, value.step))],
    slice: lambda exchange, value: ["sl", *map(exchange.encode_value, (value.start, value.stop, value.step))],
    type(Ellipsis): lambda exchange, value: ["n", "Ellipsis"],
    type(NotImplemented): lambda exchange, value: ["n", "NotImplemented"],
    type({}.keys()): lambda exchange, value: ["vk", *map(exchange.encode_value, value)],
    type({}.values()): lambda exchange, value: ["vv", *map(exchange.encode_value, value)],
    type({}.items()): lambda exchange, value: ["vi", *map(exchange.encode_value, value)],
    **dict.fromkeys((list, dict, set, bytearray, deque, OrderedDict, defaultdict, Counter), encode_shared),
}

VALUES: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "Decimal": ("decimal", str, lambda kind, text: kind(text)),
    "Fraction": ("fractions", lambda v: f"{v.numerator:x}/{v.denominator:x}",
                 lambda kind, text: kind(*(int(part, 16) for part in text.split("/")))),
    "date": ("datetime", lambda v: v.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "datetime": ("datetime", lambda v: v.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "time": ("datetime", lambda v: v.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "timedelta": ("datetime", lambda v: f"{v.days},{v.seconds},{v.microseconds}",
                  lambda kind, text: kind(*map(int, text.split(",")))),
    "UUID": ("uuid", str, lambda kind, text: kind(text)),
    "PosixPath": ("pathlib", str, lambda kind, text: kind(text)),
    "PurePosixPath": ("pathlib", str, lambda kind, text: kind(text)),
}  # fmt: skip
"""Other classes that travel by value: their module, to text, and from text."""


def encode_other(exchange: Any, value: Any, kind: Any) -> Any:
    """What is no plain value: by its name in the standard library, by value where `VALUES` knows how, or lent."""
    if issubclass(kind, BaseException):
        return encode_error(exchange, value, kind)
    if issubclass(kind, type):
        name = standard_name(value, exchange.to_tests)
        return ["g", *name] if name else ["k", exchange.class_number(value)]
    if kind is types.ModuleType and value.__name__.partition(".")[0] in STANDARD | NAMED:
        return ["m", value.__name__]
    if kind in FUNCTIONS and (name := standard_name(value, exchange.to_tests)):
        return ["g", *name]
    title = kind.__name__
    entry = VALUES.get(title)
    if entry and getattr(sys.modules.get(entry[0]), title, None) is kind:
        return ["v", title, entry[1](value)]
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
        return encode_array(exchange, numpy.asarray(value), kind is numpy.ndarray)
    return lend_value(exchange, value, kind)


def lend_value(exchange, value, kind):
    number = exchange.class_number(kind)
    content = next((convert(value) for base, convert in CONTENTS.items() if issubclass(kind, base)), None)
    hash_value = None
    if has_own_hash(kind):
        try:
            hash_value = hash(value)
        except Exception:  # it cannot be hashed; whoever tries is told so
            hash_value = None
    return ["o", exchange.lend_object(value), number, exchange.encode_value(content), hash_value]


CONTENTS: dict[type, Callable[[Any], Any]] = {
    int: int.__index__,
    float: float.__float__,
    complex: lambda v: complex(complex.__add__(v, 0j)),
    str: lambda v: "".join(str.__iter__(v)),
    bytes: lambda v: bytes(bytes.__iter__(v)),
    tuple: lambda v: tuple(tuple.__iter__(v)),
    frozenset: lambda v: frozenset(frozenset.__iter__(v)),
}
"""What an object of a class built on a built-in type holds, whatever its own methods say."""


def encode_array(exchange, array, whole):
    if array.dtype.kind in "biufcSUMm":
        return ["N", array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode(), whole]
    return ["N", "O", list(array.shape), [exchange.encode_value(item) for item in array.ravel().tolist()], whole]


def encode_error(exchange, error, kind):
    try:
        arguments = exchange.encode_value(error.args)
    except Exception:
        arguments = ["t", str(error)]
    if name := standard_name(kind, exchange.to_tests):
        return ["e", ["g", *name], arguments]
    return ["e", ["k", exchange.class_number(kind)], arguments, exchange.lend_object(error)]


def has_own_hash(kind: type) -> bool:
    maker = next((base for base in kind.__mro__ if "__hash__" in vars(base)), object)
    return maker not in (object, BaseException, *FIXED.values()) and kind.__hash__ is not None


def describe_class(exchange, kind: type) -> dict:
    """What the other side must know of a class to make its stand-in."""
    bases = []
    for base in kind.__bases__:
        if standard_name(base, exchange.to_tests):
            bases += [["g", base.__module__, base.__qualname__]] if issubclass(base, BaseException) else []
        elif base is not object and base not in FIXED.values() and base not in CHANGING.values():
            bases.append(["k", exchange.class_number(base)])
    builtin = next((b for b in kind.__mro__ if b in FIXED.values() or b in CHANGING.values()), None)
    builtin_bases = set() if builtin is None else set(builtin.__mro__)
    names = {
        name
        for base in kind.__mro__
        if base is not object and base not in builtin_bases
        for name, value in vars(base).items()
        if value is not None and (name in FORWARDED or name == "__await__")
    }
    if builtin in CHANGING.values():
        names |= {name for name in vars(builtin) if name in FORWARDED}
    hashes = "none" if kind.__hash__ is None else "own" if has_own_hash(kind) else "default"
    return {"name": str(kind.__name__), "module": str(kind.__module__), "bases": bases, "operations": sorted(names),
            "flavor": builtin.__name__ if builtin else "", "hashes": hashes}  # fmt: skip


# ---- reading


def decode_global(exchange, value):
    _, module, name = value
    if module.partition(".")[0] not in STANDARD:
        raise ValueError(module)
    target = getattr(importlib.import_module(module), name)
    if not exchange.to_tests:  # sent by the program
        plain = type(target) in ((type, abc.ABCMeta, enum.EnumMeta) if isinstance(target, type) else FUNCTIONS)
        if not plain or not is_sendable(module, name, target, to_tests=True):
            raise ValueError(name)
    return target


def decode_module(exchange, value):
    if value[1].partition(".")[0] not in STANDARD | NAMED:
        raise ValueError(value[1])
    return importlib.import_module(value[1])


def decode_value(exchange, value):
    module, _, read = VALUES[value[1]]
    return read(getattr(importlib.import_module(module), value[1]), value[2])


def decode_array(exchange, value):
    import numpy

    _, kind, shape, data, whole = value
    if kind == "O":
        array = numpy.empty(len(data), dtype=object)
        array[:] = [exchange.decode_value(item) for item in data]
    else:
        array = numpy.frombuffer(base64.b64decode(data), dtype=numpy.dtype(kind)).copy()
    array = array.reshape(shape)
    return array if whole else array[()]


def decode_object(exchange, value):
    _, number, kind, content, hash_value = value
    return exchange.borrow_object(int(number), exchange.classes[kind], exchange.decode_value(content), hash_value)


def decode_error(exchange, value):
    kind, arguments = exchange.decode_value(value[1]), exchange.decode_value(value[2])
    if not issubclass(kind, BaseException):
        raise TypeError(kind)
    if len(value) > 3:
        error = exchange.borrow_object(int(value[3]), kind, None, None)
    else:
        try:
            return kind(*arguments)
        except Exception:  # a class that wants other arguments than it keeps
            error = kind.__new__(kind)
    error.args = arguments
    return error


def decode_items(value, exchange):
    return [exchange.decode_value(item) for item in value[1:]]


DECODERS: dict[str, Callable[..., Any]] = {
    "i": lambda exchange, value: int(value[1], 16),
    "f": lambda exchange, value: float(value[1]),
    "c": lambda exchange, value: complex(*decode_items(value, exchange)),
    "b": lambda exchange, value: base64.b64decode(value[1]),
    "t": lambda exchange, value: tuple(decode_items(value, exchange)),
    "z": lambda exchange, value: frozenset(decode_items(value, exchange)),
    "r": lambda exchange, value: range(*decode_items(value, exchange)),
    "sl": lambda exchange, value: slice(*decode_items(value, exchange)),
    "n": lambda exchange, value: {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[value[1]],
    "vk": lambda exchange, value: dict.fromkeys(decode_items(value, exchange)).keys(),
    "vv": lambda exchange, value: dict(enumerate(decode_items(value, exchange))).values(),
    "vi": lambda exchange, value: dict(decode_items(value, exchange)).items(),
    "s": lambda exchange, value: exchange.shared_containers[value[1]][0],
    "g": decode_global,
    "m": decode_module,
    "v": decode_value,
    "N": decode_array,
    "k": lambda exchange, value: exchange.classes[value[1]],
    "y": lambda exchange, value: exchange.lent_objects[value[1]],
    "o": decode_object,
    "e": decode_error,
}


# ---- containers

LETTERS: dict[type, str] = {
    list: "l",
    set: "S",
    bytearray: "B",
    deque: "q",
    dict: "d",
    OrderedDict: "O",
    defaultdict: "D",
    Counter: "C",
}
KINDS = {letter: kind for kind, letter in LETTERS.items()}


def state_of(exchange, container) -> list:
    """A container's letter and items."""
    kind = type(container)
    letter, encode = LETTERS[kind], exchange.encode_value
    if kind is bytearray:
        return [letter, base64.b64encode(container).decode()]
    if letter in "lS":
        return [letter, *map(encode, container)]
    if kind is deque:
        return [letter, container.maxlen, *map(encode, container)]
    pairs = [[encode(key), encode(value)] for key, value in container.items()]
    return [letter, encode(container.default_factory), *pairs] if kind is defaultdict else [letter, *pairs]


def build_container(exchange, state):
    """A new container for a state."""
    if state[0] == "q":
        return deque(maxlen=state[1])
    return KINDS[state[0]]()


def fill_container(exchange, container, state) -> None:
    """Make a container hold what a state says."""
    if LETTERS[type(container)] != state[0]:
        raise TypeError(state[0])
    kind, decode = type(container), exchange.decode_value
    if kind is bytearray:
        container[:] = base64.b64decode(state[1])
    elif kind is list:
        container[:] = [decode(item) for item in state[1:]]
    elif kind in (set, deque):
        items = [decode(item) for item in state[1 if kind is set else 2 :]]
        container.clear()
        (container.update if kind is set else container.extend)(items)
    else:
        if kind is defaultdict:
            container.default_factory = decode(state[1])
        pairs = [(decode(key), decode(value)) for key, value in state[2 if kind is defaultdict else 1 :]]
        container.clear()
        for key, value in pairs:
            container[key] = value


# ---- doing what the other side asks

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, *args, **kwargs: target(*args, **kwargs),
    "get": getattr,
    "set": setattr,
    "del": delattr,
    "hash": hash,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "vars": vars,
    "__call__": lambda target, *args, **kwargs: target(*args, **kwargs),
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__contains__": operator.contains,
    "__str__": str,
    "__repr__": repr,
    "__format__": format,
    "__bool__": bool,
    "__reversed__": reversed,
}


def perform_operation(what, target, *args, **kwargs):
    """Do `what` (an operator, "call", "get", ...) to an object of this side."""
    if what in OPERATIONS:
        return OPERATIONS[what](target, *args, **kwargs)
    if what == "content":
        builtin = next(kind for kind in CHANGING.values() if isinstance(target, kind))
        return dict(dict.items(target)) if builtin is dict else builtin(builtin.__iter__(target))
    if what == "await":
        import asyncio

        async def await_target():
            return await target

        return asyncio.run(await_target())
    if what not in FORWARDED:
        raise AttributeError(what)
    return getattr(type(target), what)(target, *args, **kwargs)
