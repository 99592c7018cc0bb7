"""What two processes say to each other: values are copied, other objects are lent by number.

A message is a line of JSON behind its length. Plain values (numbers, text, tuples, dates, ...) travel by value. Lists,
dicts and sets travel by value too, but both sides remember which of theirs is which of the other's, and every message
brings those up to date that were changed since: so a function may change the list it was given. Anything else is lent:
the other side gets a stand-in (`standins.py`). Only one side works at a time; the other waits for its answer, and does
what it is asked meanwhile.
"""

from __future__ import annotations

import os
import sys
import weakref
from _thread import RLock
from json import JSONDecoder, JSONEncoder

import standins
import values
from standins import OBJECT, StandInType, recall

_read, _write, _references = os.read, os.write, sys.getrefcount
dumps, loads = JSONEncoder(separators=(",", ":")).encode, JSONDecoder().decode

LARGEST = 32 << 20
"""Bytes of one message."""

KEPT_IN_STEP = 256
"""Lists, dicts and sets that both sides hold and that are compared at every message; older ones become copies."""


class Gone(BaseException):
    """The other process is no longer there, or what it sent is no message."""


class Exchange:
    """One end of the channel between two processes.

    Args:
        source, target: Descriptors to read from and to write to.
        first: 1 on one side, 2 on the other: each numbers the containers it sends first by twos from here.
    """

    to_tests = False
    """Whether this is the program's end: what it says of itself is then not believed on the other."""

    def __init__(self, source: int, target: int, first: int) -> None:
        self.source, self.target = source, target
        self.lock = RLock()
        self.lent: dict[int, object] = {}
        self.next_lent = 1
        self.numbers: dict[int, int] = {}  # by id(); the object is kept alive by `lent`
        self.classes: dict[int, type] = {}  # of the other side, by number
        self.borrowed: dict[int, object] = {}  # stand-ins (or weak references to them), by number
        self.returned: list[int] = []
        self.described: set[int] = set()
        self.shared: dict[int, list] = {}  # number: [container, its state when both sides last agreed]
        self.shared_numbers: dict[int, int] = {}  # by id()
        self.next_shared = first
        self.news: dict[int, dict] = {}  # descriptions of classes that the message being made must bring
        self.decoding = False
        self.alive = True
        StandInType.exchange = self

    # ---- messages

    def send(self, **parts) -> None:
        """Send one message; every part is encoded."""
        with self.lock:
            self.news = {}
            known, changed = len(self.shared), {}
            try:
                body = {name: self.encode(part) for name, part in parts.items()}
                queue = list(self.shared)
                for number in queue:  # grows: a state may mention containers that are new
                    before = self.next_shared
                    state = dumps(values.state_of(self, self.shared[number][0]))
                    queue.extend(range(before, self.next_shared, 2))
                    if state != self.shared[number][1]:
                        changed[number] = state
                unused = self.unused()
                extra = {"classes": self.news, "returned": self.returned, "dropped": unused}
                head = dumps({k: v for k, v in extra.items() if v} | body)
            except BaseException:
                for number in list(self.shared)[known:]:
                    self.forget(number)
                self.described -= set(self.news)
                raise
            for number, state in changed.items():
                self.shared[number][1] = state
            for number in unused:
                self.forget(number)
            self.returned = []
            states = ",".join(f'"{number}":{state}' for number, state in changed.items())
            self.write(f'{head[:-1]}{"," if len(head) > 2 else ""}"states":{{{states}}}}}'.encode())

    def write(self, data: bytes) -> None:
        left = memoryview(len(data).to_bytes(4, "big") + data)
        try:
            while left:
                left = left[_write(self.target, left) :]
        except OSError:
            raise self.lost("the other process ended") from None

    def lost(self, why: str) -> Gone:
        """To be raised; from now on nothing is asked any more, even if a test swallows it."""
        self.alive = False
        return Gone(why)

    def read(self, size: int) -> bytes:
        pieces = []
        while size:
            try:
                piece = _read(self.source, min(size, 1 << 20))
            except OSError:
                piece = b""
            if not piece:
                raise self.lost("the other process ended")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def receive(self) -> dict:
        """The next message, its states taken over; its values are still to be decoded."""
        size = int.from_bytes(self.read(4), "big")
        if size > LARGEST:
            raise self.lost(f"a value of more than {LARGEST >> 20} MiB")
        data = self.read(size)
        try:
            self.decoding = True
            message = loads(data.decode("ascii"))
            self.take(message)
        except Exception as error:
            raise self.lost(f"no message: {type(error).__name__}") from None
        finally:
            self.decoding = False
        return message

    def take(self, message: dict) -> None:
        """What a message says beside its values: classes, changed containers, what is no longer needed."""
        for number in message.get("returned", ()):
            self.numbers.pop(id(self.lent.pop(number, None)), None)
        for number, about in message.get("classes", {}).items():
            parents = tuple(self.decode(base) for base in about["bases"])
            self.classes[int(number)] = standins.make_class(int(number), about, parents)
        states = {int(number): state for number, state in message["states"].items()}
        for number, state in states.items():
            if number not in self.shared:
                self.remember(number, values.empty(self, state))
        for number, state in states.items():
            values.fill(self, self.shared[number][0], state)
        for number in states:
            self.shared[number][1] = dumps(values.state_of(self, self.shared[number][0]))
        for number in message.get("dropped", ()):
            self.forget(number)

    # ---- asking and answering

    def request(self, what: str, *args, **named):
        """Ask the other side for something and return, or raise, what it answers."""
        if not self.alive:
            raise Gone("the other process ended")
        if self.decoding:
            raise self.lost("a message that asks for more while it is read")
        with self.lock:
            self.send(ask=what, args=args, named=tuple(named.items()))
            while True:
                message = self.receive()
                if "ask" in message:
                    self.answer(message)
                elif "told" not in message:
                    break
            if "error" not in message:
                return self.decoded(message.get("value"))
            error = self.decoded(message["error"])
            raise error if isinstance(error, BaseException) else self.lost("an error that is none")

    def decoded(self, value):
        try:
            self.decoding = True
            return self.decode(value)
        except Exception as error:
            raise self.lost(f"no value: {type(error).__name__}") from None
        finally:
            self.decoding = False

    def answer(self, message: dict) -> None:
        """Do what the other side asked for and send what came of it."""
        what = message["ask"]
        args, named = self.decoded(message.get("args")), self.decoded(message.get("named"))
        if not (type(what) is str and type(args) is tuple and type(named) is tuple):
            raise self.lost("no question")
        named = dict(named)
        try:
            self.send(value=self.perform(what, *args, **named))
        except Gone:
            raise
        except BaseException as error:
            try:
                self.send(error=error)
            except Exception:  # arguments that cannot be sent
                self.send(error=RuntimeError(f"{type(error).__name__}: an error that cannot be passed on"))

    def perform(self, what: str, *args, **named):
        return values.perform(what, *args, **named)

    def operate(self, target, name: str, args: tuple, named: dict):
        """An operator on a stand-in."""
        return self.request(name, target, *args, **named)

    def refuse(self, why: str):
        raise TypeError(why)

    # ---- containers that both sides hold

    def remember(self, number: int, container) -> None:
        self.shared[number] = [container, None]
        self.shared_numbers[id(container)] = number

    def forget(self, number: int) -> None:
        entry = self.shared.pop(number, None)
        if entry is not None:
            self.shared_numbers.pop(id(entry[0]), None)

    def unused(self) -> list[int]:
        """Containers that nothing else here holds (what became of them is in the message), and the oldest of many."""
        many = len(self.shared) - KEPT_IN_STEP
        # two references: of the entry, and of the argument
        return [number for place, (number, entry) in enumerate(self.shared.items())
                if place < many or _references(entry[0]) <= 2]  # fmt: skip

    # ---- values

    def encode(self, value):
        """`value` as JSON: itself where that is unambiguous, otherwise a list behind a letter."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        encoder = values.ENCODERS.get(kind)
        if encoder is not None:
            return encoder(self, value)
        if kind is StandInType:
            return ["y", type.__getattribute__(value, standins.NUMBER)]
        if type(kind) is StandInType and (number := recall(value, OBJECT)) is not None:
            return ["y", number]
        return values.encode_other(self, value, kind)

    def share(self, container) -> list:
        number = self.shared_numbers.get(id(container))
        if number is None:
            number, self.next_shared = self.next_shared, self.next_shared + 2
            self.remember(number, container)
        return ["s", number]

    def lend(self, value) -> int:
        number = self.numbers.get(id(value))
        if number is None:
            number, self.next_lent = self.next_lent, self.next_lent + 1
            self.lent[number] = value
            self.numbers[id(value)] = number
        return number

    def describe(self, kind: type) -> int:
        """The number of a class, described to the other side the first time."""
        number = self.lend(kind)
        if number not in self.described:
            self.described.add(number)
            about = values.description(self, kind)
            self.news[number] = about
        return number

    def decode(self, value):
        if type(value) is not list:
            return value
        return values.DECODERS[value[0]](self, value)

    def borrow(self, number: int, kind: type, content, hashed):
        """The stand-in for object `number`, the one that is there already if it still is."""
        held = self.borrowed.get(number)
        standin = held() if type(held) is weakref.ref else held
        if standin is None:
            standin = standins.make_object(kind, number, content, hashed)
            if number in self.returned:
                self.returned.remove(number)
            try:
                self.borrowed[number] = weakref.ref(standin, lambda _: self.give_back(number))
            except TypeError:  # objects on int or tuple have no weak references
                self.borrowed[number] = standin
        return standin

    def give_back(self, number: int) -> None:
        held = self.borrowed.get(number)
        if type(held) is weakref.ref and held() is None:
            del self.borrowed[number]
            self.returned.append(number)
