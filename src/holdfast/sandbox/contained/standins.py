"""Stand-ins: the classes and objects by which one process works with those of another.

An object that cannot be sent by value is sent as a number. On the other side a class is made with the same name,
the same bases and those of the operators that the real class has; its objects pass each operator, attribute and call
on to the process where the real object lives, through the one `Exchange` of the process.
"""

from __future__ import annotations

from typing import Any


def _split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPARING = _split_words("__eq__ __lt__ __le__ __gt__ __ge__")
_BINARY = _split_words("add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift")
ARITHMETIC = frozenset(f"__{way}{name}__" for name in _BINARY for way in ("", "r", "i"))
TO_NUMBER = _split_words("__bool__ __int__ __float__ __complex__ __index__ __abs__ __round__ __trunc__")
FORWARDED = COMPARING | ARITHMETIC | TO_NUMBER | _split_words(
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

NAMES = _split_words(
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
            return mcs.exchange.raise_refusal("a class of the tests is built on a class of the program")
        return super().__new__(mcs, name, bases, space)

    def __call__(cls, *args, **kwargs):
        return cls.exchange.request_operation("call", cls, *args, **kwargs)

    def __getattr__(cls, name):
        return _get_attribute(cls, name)

    def __setattr__(cls, name, value):
        if name.startswith("__"):  # `abc` and others keep their books on a class
            super().__setattr__(name, value)
        else:
            cls.exchange.request_operation("set", cls, name, value)

    def __delattr__(cls, name):
        cls.exchange.request_operation("del", cls, name)


def is_standin(value) -> bool:
    """Whether `value` lives in the other process."""
    kind = type(value)
    return kind is StandInType or (type(kind) is StandInType and get_own_attribute(value, OBJECT) is not None)


def set_own_attribute(standin, name, value) -> None:
    object.__setattr__(standin, name, value)


def get_own_attribute(standin, name):
    try:
        return object.__getattribute__(standin, name)
    except AttributeError:
        return None


def _get_attribute(target, name):
    if name.startswith("__") and name not in NAMES:
        raise AttributeError(f"no attribute {name!r}")
    return StandInType.exchange.request_operation("get", target, name)


def _build_operation(name):
    def forward_operation(self, *args, **kwargs):
        return StandInType.exchange.apply_operator(self, name, args, kwargs)

    forward_operation.__name__ = name
    return forward_operation


OPERATIONS = {name: _build_operation(name) for name in FORWARDED}
for _name in OF_CLASSES:
    type.__setattr__(StandInType, _name, OPERATIONS[_name])


def _hash_standin(self):
    value = get_own_attribute(self, HASH)
    if value is None:
        value = StandInType.exchange.request_operation("hash", self)
        set_own_attribute(self, HASH, value)
    return value


def _set_attribute(self, name, value):
    StandInType.exchange.request_operation("set", self, name, value)


def _delete_attribute(self, name):
    StandInType.exchange.request_operation("del", self, name)


def _await_result(self):
    return StandInType.exchange.request_operation("await", self)
    yield


def _send_value(self, value=None):
    raise StopIteration(StandInType.exchange.request_operation("await", self))


def _copy_object(self):
    return StandInType.exchange.request_operation("copy", self)


def _deepcopy_object(self, memo):
    return StandInType.exchange.request_operation("deepcopy", self)


def _get_vars(self):
    return StandInType.exchange.request_operation("vars", self)


class _Doc:
    """The docstring, which `type` would answer for by itself."""

    def __get__(self, standin, kind):
        return StandInType.exchange.request_operation("get", kind if standin is None else standin, "__doc__")


def make_class(number: int, about: dict, parents: tuple) -> type:
    """The class whose objects stand for those of class `number` of the other side, as `about` describes it."""
    operations, flavor = about["operations"], about["flavor"]
    space = {name: OPERATIONS[name] for name in operations if name in FORWARDED}
    space |= {
        "__module__": about["module"],
        NUMBER: number,
        FLAVOR: flavor,
        "__getattr__": _get_attribute,
        "__doc__": _Doc(),
    }
    error = any(issubclass(parent, BaseException) for parent in parents)
    if flavor in FIXED:  # the content came along: what it is equal to, its built-in type says
        space = {k: v for k, v in space.items() if k not in COMPARING | ARITHMETIC | TO_NUMBER}
    if not error:
        space |= {
            "__setattr__": _set_attribute,
            "__delattr__": _delete_attribute,
            "__copy__": _copy_object,
            "__deepcopy__": _deepcopy_object,
        }
        space["__dict__"] = property(_get_vars)
    if about["hashes"] == "own":
        space["__hash__"] = _hash_standin
    elif "__eq__" in space:
        space["__hash__"] = None if about["hashes"] == "none" else object.__hash__
    if flavor in CHANGING:
        space["__class__"] = property(lambda self: CHANGING[flavor])
        space |= {name: OPERATIONS[name] for name in COMPARING}
    if "__await__" in operations:
        space["__await__"] = _await_result
        if about["name"] == "coroutine":
            space |= {"send": _send_value, "throw": _send_value, "close": lambda self: None}
    if flavor in FIXED and not any(issubclass(parent, FIXED[flavor]) for parent in parents):
        parents = (*parents, FIXED[flavor])
    return StandInType(about["name"], parents, space)


def make_object(kind: type, number: int, content, hash_value) -> object:
    """The stand-in of class `kind` for object `number` of the other side."""
    arguments = () if content is None else (content,)
    base = next((b for b in kind.__mro__ if type(b) is not StandInType), object)
    standin = base.__new__(kind, *arguments)
    set_own_attribute(standin, OBJECT, number)
    if hash_value is not None:
        set_own_attribute(standin, HASH, hash_value)
    return standin
