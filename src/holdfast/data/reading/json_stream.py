"""JSON without surprises: read element by element, so that a file may be larger than the memory, and in bounds."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

from holdfast.errors import UserError

Record = tuple[int, dict[str, Any]]
"""Where it stands (line or row number, from 1), and its columns."""
BLANK = " \t\r\n"

LONGEST = 16 << 20
"""Most bytes of one row. In memory a row takes up to a hundred times as much; a book has less than 2 MiB."""
DEEPEST = 100
"""Most lists and objects inside each other. Deeper ones overflow the stack of one library or another."""
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


class JsonFault(ValueError):
    """What is wrong with a JSON text, in words; `at` is where in it."""

    def __init__(self, what: str, at: int = 0) -> None:
        super().__init__(what)
        self.at = at


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which no key stands twice: all but one of the values would be lost."""
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonFault(f"the key {twice[:40]!r} stands twice in one object")
    return out


DECODER = json.JSONDecoder(object_pairs_hook=_build_object)


def parse_json(text: str) -> Any:
    """The value that a text is in JSON.

    Raises:
        JsonFault: It is none, has a key twice in one object, is nested too deeply, or has a number of thousands of
            digits.
    """
    _check_depth(text)
    with explain_json_faults():
        return DECODER.decode(text)


@contextlib.contextmanager
def explain_json_faults() -> Iterator[None]:
    """What a decoder of JSON says, as a `JsonFault`."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise JsonFault(f"{error.msg} at column {error.colno}", error.pos) from error
    except RecursionError as error:
        raise JsonFault(f"nested more than {DEEPEST} deep") from error
    except JsonFault:
        raise
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise JsonFault(str(error).split(";")[0]) from error


def _check_depth(text: str, at: int = 0, end: int | None = None) -> None:
    """Refuse deep nesting; few texts have so many brackets that it must be looked for."""
    end = len(text) if end is None else end
    if text.count("[", at, end) + text.count("{", at, end) <= DEEPEST:
        return
    depth = 0
    for match in BRACKETS.finditer(text, at, end):
        if (mark := match[0]) in "[{":
            depth += 1
            if depth > DEEPEST:
                raise JsonFault(f"nested more than {DEEPEST} deep")
        elif mark in "]}":
            depth -= 1


class ByPlace(dict[str, Any]):
    """A record that is a list: its columns are called "0", "1", ..."""


def array_elements(name: str, text: TextWindow) -> Iterator[Record]:
    """The records of an array that `text` stands before; afterwards it stands behind it."""
    for number, value in _iterate_elements(name, text):
        yield number, as_object(f"{name} row {number}", value)


def object_members(text: TextWindow) -> Iterator[str]:
    """The keys of an object that `text` stands before; it stands before the value, which is to be read at each."""
    known_keys: set[str] = set()
    for _ in _iterate_parts(text, "}"):
        key = text.read_value("the name")
        if not isinstance(key, str) or text.skip_chars(BLANK) != ":":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a name and a colon); mend it")
        if key in known_keys:
            raise UserError(f"{text.name}:{text.line}: the key {key[:40]!r} stands twice in one object; rename one")
        known_keys.add(key)
        text.take_chars(1)
        text.skip_chars(BLANK)
        yield key


def skip_value(name: str, text: TextWindow) -> tuple[int, Any]:
    """Pass over a value however long it is: how many elements a list has, and its first one; (0, None) of others."""
    if text.skip_chars(BLANK) != "[":
        text.read_value("a value")
        return 0, None
    count, first = 0, None
    for count, record in _iterate_elements(name, text):
        first = record if count == 1 else first
    return count, first


def _iterate_elements(name: str, text: TextWindow) -> Iterator[tuple[int, Any]]:
    """The elements of an array that `text` stands before, whatever they are; afterwards it stands behind it."""
    for number in _iterate_parts(text, "]"):
        yield number, text.read_value(f"row {number}")


def _iterate_parts(text: TextWindow, end: str) -> Iterator[int]:
    """Count what stands between commas up to `end`, from 1: `text` stands before each, which is to be read at once."""
    text.take_chars(1)
    number = 0
    while (char := text.skip_chars(BLANK)) != end:
        if number:
            if char != ",":
                after = f" after row {number}" if end == "]" else ""
                raise UserError(f"{text.name}:{text.line}: broken JSON (expected a comma or {end}{after}); mend it")
            text.take_chars(1)
            text.skip_chars(BLANK)
        number += 1
        yield number
    text.take_chars(1)


class TextWindow:
    """A stretch of a text file that grows at its end and is consumed at its start."""

    def __init__(self, name: str, handle: IO[bytes]) -> None:
        self.name, self.handle = name, handle
        self.text, self.at, self.line = "", 0, 1
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def grow(self, size: int = 1 << 20) -> bool:
        with explain_gzip_faults(self.name):
            raw = self.handle.read(size)
        try:
            more = self.decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: not UTF-8 text; save the file as UTF-8") from error
        self.text, self.at = self.text[self.at :] + more, 0
        return bool(raw)

    def take_chars(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def skip_chars(self, chars: str) -> str:
        """The next character that is none of `chars`."""
        while True:
            while self.at < len(self.text):
                char = self.text[self.at]
                if char not in chars:
                    return char
                self.take_chars(1)
            if not self.grow():
                raise UserError(f"{self.name}:{self.line}: broken JSON (the file ends inside the list); mend its end")

    def read_value(self, what: str) -> Any:
        """The JSON value that begins here, called `what` in errors."""
        size = 1 << 20
        while True:
            try:
                with explain_json_faults():
                    value, end = DECODER.raw_decode(self.text, self.at)
                _check_depth(self.text, self.at, end)
            except JsonFault as fault:
                line = self.line + self.text.count("\n", self.at, max(self.at, fault.at))
                if self._cut_off(fault):  # by the window only, perhaps: look again with twice as much text
                    if len(self.text) - self.at > LONGEST:
                        raise UserError(f"{self.name}:{self.line}: {too_long(what)}") from fault
                    if self.grow(size):
                        size *= 2
                        continue
                raise UserError(f"{self.name}:{line}: broken JSON ({fault}); mend it") from fault
            if end == len(self.text) and self.grow(size):
                continue  # a number may go on
            if end - self.at > LONGEST:
                raise UserError(f"{self.name}:{self.line}: {too_long(what)}")
            self.take_chars(end - self.at)
            return value

    def _cut_off(self, fault: JsonFault) -> bool:
        """Whether a fault may come of the end of the window rather than of what stands before it."""
        cause = fault.__cause__
        if not isinstance(cause, json.JSONDecodeError):
            return False
        return cause.pos > len(self.text) - len("-Infinity") - 9 or cause.msg.startswith("Unterminated string")

    def require_end(self, what: str) -> None:
        """Read to the end of the file.

        Raises:
            UserError: If something stands there, after `what`.
        """
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in BLANK:
                    raise UserError(
                        f"{self.name}:{self.line}: there is more after the end of the {what}; nothing of it would be "
                        "read: put all rows into one list, or one a line"
                    )
                self.take_chars(1)
            if not self.grow():
                return


def too_long(what: str) -> str:
    """The complaint about a row of more than `LONGEST` bytes."""
    return f"{what} is longer than {LONGEST >> 20} MiB; cut it into several rows"


@contextlib.contextmanager
def explain_gzip_faults(name: str) -> Iterator[None]:
    """A compressed file that cannot be read to its end is the user's to mend."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name}: broken or cut-off gzip file ({error}); pack or fetch it once more") from error


def as_object(where: str, record: Any) -> dict[str, Any]:
    """A record as a mapping; the columns of a list are called by their place."""
    if isinstance(record, list):
        return ByPlace((str(place), value) for place, value in enumerate(record))
    if not isinstance(record, dict):
        raise UserError(f"{where}: a row must be an object with named columns, not {describe_value(record)}")
    return record


def describe_value(value: Any) -> str:
    """A JSON value in words, for errors."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
