"""A JSON file read element by element, so that one larger than the memory can be."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any

from holdfast.errors import UserError

Record = tuple[int, dict[str, Any]]
"""Where it stands (line or row number, from 1), and its columns."""
BLANK = " \t\r\n"


class ByPlace(dict[str, Any]):
    """A record that is a list: its columns are called "0", "1", ..."""


def array_elements(name: str, text: TextWindow) -> Iterator[Record]:
    """The records of an array that `text` stands before; afterwards it stands behind it."""
    text.take(1)
    number = 0
    while (char := text.skip(BLANK)) != "]":
        if number and char != ",":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a comma or ] after row {number}); mend it")
        if number:
            text.take(1)
            text.skip(BLANK)
        number += 1
        yield number, as_object(f"{name} row {number}", text.value())
    text.take(1)


def object_members(text: TextWindow) -> Iterator[str]:
    """The keys of an object that `text` stands before; it stands before the value, which is to be read at each."""
    text.take(1)
    begun = False
    while (char := text.skip(BLANK)) != "}":
        if begun and char != ",":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a comma or }}); mend it")
        if begun:
            text.take(1)
            text.skip(BLANK)
        begun = True
        key = text.value()
        if not isinstance(key, str) or text.skip(BLANK) != ":":
            raise UserError(f"{text.name}:{text.line}: broken JSON (expected a name and a colon); mend it")
        text.take(1)
        text.skip(BLANK)
        yield key


class TextWindow:
    """A stretch of a text file that grows at its end and is consumed at its start."""

    def __init__(self, name: str, handle: IO[bytes]) -> None:
        self.name, self.handle = name, handle
        self.text, self.at, self.line = "", 0, 1
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.json = json.JSONDecoder()

    def grow(self, size: int = 1 << 20) -> bool:
        with unpacking(self.name):
            raw = self.handle.read(size)
        try:
            more = self.decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: not UTF-8 text; save the file as UTF-8") from error
        self.text, self.at = self.text[self.at :] + more, 0
        return bool(raw)

    def take(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def skip(self, chars: str) -> str:
        """The next character that is none of `chars`."""
        while True:
            while self.at < len(self.text):
                char = self.text[self.at]
                if char not in chars:
                    return char
                self.take(1)
            if not self.grow():
                raise UserError(f"{self.name}:{self.line}: broken JSON (the file ends inside the list); mend its end")

    def value(self) -> Any:
        """The JSON value that begins here."""
        size = 1 << 20
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                line = self.line + self.text.count("\n", self.at, error.pos)
                # It may only be that the value goes on beyond the window: look again with twice as much text.
                if self.grow(size):
                    size *= 2
                    continue
                raise UserError(f"{self.name}:{line}: broken JSON ({json_fault(error)}); mend it") from error
            except ValueError as error:  # a whole number of more than 4,300 digits
                raise UserError(f"{self.name}:{self.line}: {str(error).split(';')[0]}; mend it") from error
            self.take(end - self.at)
            return value


@contextlib.contextmanager
def unpacking(name: str) -> Iterator[None]:
    """A compressed file that cannot be read to its end is the user's to mend."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name}: broken or cut-off gzip file ({error}); pack or fetch it once more") from error


def json_fault(error: json.JSONDecodeError) -> str:
    return f"{error.msg} at column {error.colno}"


def as_object(where: str, record: Any) -> dict[str, Any]:
    """A record as a mapping; the columns of a list are called by their place."""
    if isinstance(record, list):
        return ByPlace((str(place), value) for place, value in enumerate(record))
    if not isinstance(record, dict):
        raise UserError(f"{where}: a row must be an object with named columns, not {describe(record)}")
    return record


def describe(value: Any) -> str:
    """A JSON value in words, for errors."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
