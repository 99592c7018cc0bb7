"""Stand-ins: the classes and objects by which one process works with those of another.

An object that cannot be sent by value is sent as a number. On the other side a class is made with the same name,
the same bases and those of the operators that the real class has; its objects pass each operator, attribute and call
on to the process where the real object lives, through the one `Exchange` of the process.
"""

from __future__ import annotations

from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPARING = _words("__eq__ __lt__ __le__ __gt__ __ge__")
_BINARY = _words("add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift")
ARITHMETIC = frozenset(f"__{way}{name}__" for name in _BINARY for way in ("", "r", "i"))
TO_NUMBER = _words("__bool__ __int__ __float__ __complex__ __index__ __abs__ __round__ __trunc__")
FORWARDED = COMPARING | ARITHMETIC | TO_NUMBER | _words(
    """
    __len__ __neg__ __pos__ __invert__ __floor__ __ceil__ __iter__ __next__ __reversed__ __str__ __repr__ __format__
    __bytes__ __call__ __getitem__ __setitem__ __delitem__ __contains__ __enter__ __exit__ __length_hint__ __fspath__
    __aiter__ __anext__ __aenter__ __aexit__
    """
)  # fmt: skip
OF_CLASSES = ("__iter__", "__len__", "__getitem__", "__contains__")
"""What a metaclass may do, such as that of Enum."""

FIXED = {kind.__name__: kind for kind in (int, float, complex, str, bytes, tuple, frozenset)}
CHANGING = {kind.__name__: kind for kind in (list, dict, set, bytearray)}
"""Built-in types that a class can be built on; an object of such a class is compared by what it holds."""

NAMES = _words(
    """
    __name__ __qualname__ __doc__ __wrapped__ __annotations__ __members__ __dataclass_fields__ __defaults__
    __kwdefaults__ __self__ __func__ __origin__ __args__
    """
)
"""The names between underscores that may be asked for. Through others (`__array_function__` and the like) libraries let
an object decide what a comparison says."""

NUMBER, FLAVOR = "_holdfast_class", "_holdfast_flavor"
OBJECT, HASH, TAINT = "_holdfast_object", "_holdfast_hash", "_holdfast_taint"


class StandInType(type):
    """The class of the stand-ins for classes: calling one makes an object on the other side."""

    exchange: Any = None

    def __new__(mcs, name, bases, space):
        if NUMBER not in space:  # a class statement of somebody's own
            return mcs.exchange.refuse("a class of the tests is built on a class of the program")
        return super().__new__(mcs, name, bases, space)

    def __call__(cls, *args, **named):
        return cls.exchange.request("call", cls, *args, **named)

    def __getattr__(cls, name):
        return _get(cls, name)

    def __setattr__(cls, name, value):
        if name.startswith("__"):  # `abc` and others keep their books on a class
            super().__setattr__(name, value)
        else:
            cls.exchange.request("set", cls, name, value)

    def __delattr__(cls, name):
        cls.exchange.request("del", cls, name)


def is_standin(value) -> bool:
    """Whether `value` lives in the other process."""
    kind = type(value)
    return kind is StandInType or (type(kind) is StandInType and recall(value, OBJECT) is not None)


def remember(standin, name, value) -> None:
    object.__setattr__(standin, name, value)


def recall(standin, name):
    try:
        return object.__getattribute__(standin, name)
    except AttributeError:
        return None


def _get(target, name):
    if name.startswith("__") and name not in NAMES:
        raise AttributeError(f"no attribute {name!r}")
    return StandInType.exchange.request("get", target, name)


def _operation(name):
    def operation(self, *args, **named):
        return StandInType.exchange.operate(self, name, args, named)

    operation.__name__ = name
    return operation


OPERATIONS = {name: _operation(name) for name in FORWARDED}
for _name in OF_CLASSES:
    type.__setattr__(StandInType, _name, OPERATIONS[_name])


def _hash(self):
    known = recall(self, HASH)
    if known is None:
        known = StandInType.exchange.request("hash", self)
        remember(self, HASH, known)
    return known


def _set(self, name, value):
    StandInType.exchange.request("set", self, name, value)


def _delete(self, name):
    StandInType.exchange.request("del", self, name)


def _await(self):
    return StandInType.exchange.request("await", self)
    yield


def _send(self, value=None):
    raise StopIteration(StandInType.exchange.request("await", self))


def _copy(self):
    return StandInType.exchange.request("copy", self)


def _deepcopy(self, memo):
    return StandInType.exchange.request("deepcopy", self)


def _dict(self):
    return StandInType.exchange.request("vars", self)


class _Doc:
    """The docstring, which `type` would answer for by itself."""

    def __get__(self, standin, kind):
        return StandInType.exchange.request("get", kind if standin is None else standin, "__doc__")


def make_class(number: int, about: dict, parents: tuple) -> type:
    """The class whose objects stand for those of class `number` of the other side, as `about` describes it."""
    operations, flavor = about["operations"], about["flavor"]
    space = {name: OPERATIONS[name] for name in operations if name in FORWARDED}
    space |= {"__module__": about["module"], NUMBER: number, FLAVOR: flavor, "__getattr__": _get, "__doc__": _Doc()}
    error = any(issubclass(parent, BaseException) for parent in parents)
    if flavor in FIXED:  # the content came along: what it is equal to, its built-in type says
        space = {k: v for k, v in space.items() if k not in COMPARING | ARITHMETIC | TO_NUMBER}
    if not error:
        space |= {"__setattr__": _set, "__delattr__": _delete, "__copy__": _copy, "__deepcopy__": _deepcopy}
        space["__dict__"] = property(_dict)
    if about["hashes"] == "own":
        space["__hash__"] = _hash
    elif "__eq__" in space:
        space["__hash__"] = None if about["hashes"] == "none" else object.__hash__
    if flavor in CHANGING:
        space["__class__"] = property(lambda self: CHANGING[flavor])
        space |= {name: OPERATIONS[name] for name in COMPARING}
    if "__await__" in operations:
        space["__await__"] = _await
        if about["name"] == "coroutine":
            space |= {"send": _send, "throw": _send, "close": lambda self: None}
    if flavor in FIXED and not any(issubclass(parent, FIXED[flavor]) for parent in parents):
        parents = (*parents, FIXED[flavor])
    return StandInType(about["name"], parents, space)


def make_object(kind: type, number: int, content, hashed) -> object:
    """The stand-in of class `kind` for object `number` of the other side."""
    arguments = () if content is None else (content,)
    base = next((b for b in kind.__mro__ if type(b) is not StandInType), object)
    made = base.__new__(kind, *arguments)
    remember(made, OBJECT, number)
    if hashed is not None:
        remember(made, HASH, hashed)
    return made
