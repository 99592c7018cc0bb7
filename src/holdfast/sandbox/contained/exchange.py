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
from standins import OBJECT, StandInType, get_own_attribute

_read, _write, _references = os.read, os.write, sys.getrefcount
dumps, loads = JSONEncoder(separators=(",", ":")).encode, JSONDecoder().decode

LARGEST = 32 << 20
"""Bytes of one message."""

KEPT_IN_STEP = 256
"""Lists, dicts and sets that both sides hold and that are compared at every message; older ones become copies."""


class ChannelLost(BaseException):
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
        self.lent_objects: dict[int, object] = {}
        self.next_lent = 1
        self.numbers: dict[int, int] = {}  # by id(); the object is kept alive by `lent_objects`
        self.classes: dict[int, type] = {}  # of the other side, by number
        self.borrowed_objects: dict[int, object] = {}  # stand-ins (or weak references to them), by number
        self.returned_numbers: list[int] = []
        self.described_classes: set[int] = set()
        self.shared_containers: dict[int, list] = {}  # number: [container, its state when both sides last agreed]
        self.shared_numbers: dict[int, int] = {}  # by id()
        self.next_shared = first
        self.news: dict[int, dict] = {}  # descriptions of classes that the message being made must bring
        self.decoding = False
        self.alive = True
        StandInType.exchange = self

    # ---- messages

    def send_message(self, **parts) -> None:
        """Send one message; every part is encoded."""
        with self.lock:
            self.news = {}
            num_shared, new_states = len(self.shared_containers), {}
            try:
                body = {name: self.encode_value(part) for name, part in parts.items()}
                queue = list(self.shared_containers)
                for number in queue:  # grows: a state may mention containers that are new
                    before = self.next_shared
                    state = dumps(values.state_of(self, self.shared_containers[number][0]))
                    queue.extend(range(before, self.next_shared, 2))
                    if state != self.shared_containers[number][1]:
                        new_states[number] = state
                surplus = self.unused_containers()
                extra = {"classes": self.news, "returned": self.returned_numbers, "dropped": surplus}
                head = dumps({k: v for k, v in extra.items() if v} | body)
            except BaseException:
                for number in list(self.shared_containers)[num_shared:]:
                    self.forget_container(number)
                self.described_classes -= set(self.news)
                raise
            for number, state in new_states.items():
                self.shared_containers[number][1] = state
            for number in surplus:
                self.forget_container(number)
            self.returned_numbers = []
            states = ",".join(f'"{number}":{state}' for number, state in new_states.items())
            self.write_frame(f'{head[:-1]}{"," if len(head) > 2 else ""}"states":{{{states}}}}}'.encode())

    def write_frame(self, data: bytes) -> None:
        rest = memoryview(len(data).to_bytes(4, "big") + data)
        try:
            while rest:
                rest = rest[_write(self.target, rest) :]
        except OSError:
            raise self.mark_lost("the other process ended") from None

    def mark_lost(self, why: str) -> ChannelLost:
        """To be raised; from now on nothing is asked any more, even if a test swallows it."""
        self.alive = False
        return ChannelLost(why)

    def read_bytes(self, size: int) -> bytes:
        pieces = []
        while size:
            try:
                piece = _read(self.source, min(size, 1 << 20))
            except OSError:
                piece = b""
            if not piece:
                raise self.mark_lost("the other process ended")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def receive_message(self) -> dict:
        """The next message, its states taken over; its values are still to be decoded."""
        size = int.from_bytes(self.read_bytes(4), "big")
        if size > LARGEST:
            raise self.mark_lost(f"a value of more than {LARGEST >> 20} MiB")
        data = self.read_bytes(size)
        try:
            self.decoding = True
            message = loads(data.decode("ascii"))
            self.apply_updates(message)
        except Exception as error:
            raise self.mark_lost(f"no message: {type(error).__name__}") from None
        finally:
            self.decoding = False
        return message

    def apply_updates(self, message: dict) -> None:
        """What a message says beside its values: classes, changed containers, what is no longer needed."""
        for number in message.get("returned", ()):
            self.numbers.pop(id(self.lent_objects.pop(number, None)), None)
        for number, about in message.get("classes", {}).items():
            parents = tuple(self.decode_value(base) for base in about["bases"])
            self.classes[int(number)] = standins.make_class(int(number), about, parents)
        states = {int(number): state for number, state in message["states"].items()}
        for number, state in states.items():
            if number not in self.shared_containers:
                self.register_container(number, values.build_container(self, state))
        for number, state in states.items():
            values.fill_container(self, self.shared_containers[number][0], state)
        for number in states:
            self.shared_containers[number][1] = dumps(values.state_of(self, self.shared_containers[number][0]))
        for number in message.get("dropped", ()):
            self.forget_container(number)

    # ---- asking and answering

    def request_operation(self, what: str, *args, **kwargs):
        """Ask the other side for something and return, or raise, what it answers."""
        if not self.alive:
            raise ChannelLost("the other process ended")
        if self.decoding:
            raise self.mark_lost("a message that asks for more while it is read")
        with self.lock:
            self.send_message(ask=what, args=args, named=tuple(kwargs.items()))
            while True:
                message = self.receive_message()
                if "ask" in message:
                    self.answer_request(message)
                elif "told" not in message:
                    break
            if "error" not in message:
                return self.decode_strictly(message.get("value"))
            error = self.decode_strictly(message["error"])
            raise error if isinstance(error, BaseException) else self.mark_lost("an error that is none")

    def decode_strictly(self, value):
        try:
            self.decoding = True
            return self.decode_value(value)
        except Exception as error:
            raise self.mark_lost(f"no value: {type(error).__name__}") from None
        finally:
            self.decoding = False

    def answer_request(self, message: dict) -> None:
        """Do what the other side asked for and send what came of it."""
        what = message["ask"]
        args, kwargs = self.decode_strictly(message.get("args")), self.decode_strictly(message.get("named"))
        if not (type(what) is str and type(args) is tuple and type(kwargs) is tuple):
            raise self.mark_lost("no question")
        kwargs = dict(kwargs)
        try:
            self.send_message(value=self.perform_request(what, *args, **kwargs))
        except ChannelLost:
            raise
        except BaseException as error:
            try:
                self.send_message(error=error)
            except Exception:  # arguments that cannot be sent
                self.send_message(error=RuntimeError(f"{type(error).__name__}: an error that cannot be passed on"))

    def perform_request(self, what: str, *args, **kwargs):
        return values.perform_operation(what, *args, **kwargs)

    def apply_operator(self, target, name: str, args: tuple, kwargs: dict):
        """An operator on a stand-in."""
        return self.request_operation(name, target, *args, **kwargs)

    def raise_refusal(self, why: str):
        raise TypeError(why)

    # ---- containers that both sides hold

    def register_container(self, number: int, container) -> None:
        self.shared_containers[number] = [container, None]
        self.shared_numbers[id(container)] = number

    def forget_container(self, number: int) -> None:
        entry = self.shared_containers.pop(number, None)
        if entry is not None:
            self.shared_numbers.pop(id(entry[0]), None)

    def unused_containers(self) -> list[int]:
        """Containers that nothing else here holds (what became of them is in the message), and the oldest of many."""
        many = len(self.shared_containers) - KEPT_IN_STEP
        # two references: of the entry, and of the argument
        return [number for place, (number, entry) in enumerate(self.shared_containers.items())
                if place < many or _references(entry[0]) <= 2]  # fmt: skip

    # ---- values

    def encode_value(self, value):
        """`value` as JSON: itself where that is unambiguous, otherwise a list behind a letter."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        encoder = values.ENCODERS.get(kind)
        if encoder is not None:
            return encoder(self, value)
        if kind is StandInType:
            return ["y", type.__getattribute__(value, standins.NUMBER)]
        if type(kind) is StandInType and (number := get_own_attribute(value, OBJECT)) is not None:
            return ["y", number]
        return values.encode_other(self, value, kind)

    def share_container(self, container) -> list:
        number = self.shared_numbers.get(id(container))
        if number is None:
            number, self.next_shared = self.next_shared, self.next_shared + 2
            self.register_container(number, container)
        return ["s", number]

    def lend_object(self, value) -> int:
        number = self.numbers.get(id(value))
        if number is None:
            number, self.next_lent = self.next_lent, self.next_lent + 1
            self.lent_objects[number] = value
            self.numbers[id(value)] = number
        return number

    def class_number(self, kind: type) -> int:
        """The number of a class, described to the other side the first time."""
        number = self.lend_object(kind)
        if number not in self.described_classes:
            self.described_classes.add(number)
            about = values.describe_class(self, kind)
            self.news[number] = about
        return number

    def decode_value(self, value):
        if type(value) is not list:
            return value
        return values.DECODERS[value[0]](self, value)

    def borrow_object(self, number: int, kind: type, content, hash_value):
        """The stand-in for object `number`, the one that is there already if it still is."""
        entry = self.borrowed_objects.get(number)
        standin = entry() if type(entry) is weakref.ref else entry
        if standin is None:
            standin = standins.make_object(kind, number, content, hash_value)
            if number in self.returned_numbers:
                self.returned_numbers.remove(number)
            try:
                self.borrowed_objects[number] = weakref.ref(standin, lambda _: self.give_back(number))
            except TypeError:  # objects on int or tuple have no weak references
                self.borrowed_objects[number] = standin
        return standin

    def give_back(self, number: int) -> None:
        entry = self.borrowed_objects.get(number)
        if type(entry) is weakref.ref and entry() is None:
            del self.borrowed_objects[number]
            self.returned_numbers.append(number)
