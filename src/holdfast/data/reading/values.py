"""Values of a record: texts, numbers, flags, and what is wrong with a row that holds something else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from holdfast.data.reading.json_stream import describe_value

YES, NO = ("true", "yes", "on", "1", "1.0"), ("false", "no", "off", "0", "0.0")
NOTHING = ("", "[]", "{}", "null", "none", "nan")
"""How a cell of a table says that there is nothing in it."""


class BadRow(Exception):
    """A row that cannot be used: `what` is wrong, and what to do beside removing it (`{}` stands for it or them)."""

    def __init__(self, what: str, mend: str = "mend {}") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend

    def format_line(self, where: str, count: int) -> str:
        """The error line for `count` rows like the one at `where`."""
        if count == 1:
            return f"{where}: {self.what}; remove the row or {self.mend.format('it')}"
        return f"{where}: {self.what} ({count} rows like this); remove or {self.mend.format('them')}"


def text_of(value: Any, field: str) -> str:
    """A text, given as such or as a list of text parts; not empty."""
    if isinstance(value, list) and value and all(isinstance(part, (dict, str)) for part in value):
        value = "".join(_part_text(part, field) for part in value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"{field} is empty", "fill {} in")
    if not isinstance(value, str):
        raise BadRow(f"{field} is {describe_value(value)}, not text", "write {} as text")
    if not value.isascii():
        check_encodable(value)
    return value


def check_encodable(text: str) -> None:
    """Refuse what no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("a text holds half a character (a lone surrogate)") from error


def _part_text(part: dict[str, Any] | str, field: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text", part.get("value"))
    if part.get("type", "text") not in ("text", "input_text") or not isinstance(text, str):
        what = "only text and, in a user's turn of messages, pictures can be trained on"
        raise BadRow(f"{field} holds a part of type {part.get('type')}, {what}", "leave {} out")
    return text


def number_of(value: Any, field: str) -> float:
    """A number, given as such or (in CSV) as text."""
    try:
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        raise BadRow(f"field {field} is not a number ({shorten_value(value)})", "mend {}") from None


def shorten_value(value: Any, longest: int = 40) -> str:
    """A value as an error shows it, however long it is."""
    if isinstance(value, int) and abs(value) >= 10**longest:  # thousands of digits cannot even be written out
        return f"a whole number of about {round(value.bit_length() * math.log10(2)):,} digits"
    text = repr(value)
    return text if len(text) <= longest + 3 else f"{text[:longest]}..."


def flag_of(value: Any) -> bool | None:
    """True or false, however it is written (`true`, 1, "1", "False"); `None` for anything else."""
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in YES else False if word in NO else None
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def has_content(value: Any) -> bool:
    """Whether there is something in it: neither null, nor blank, nor an empty list or object (in a cell: `[]`)."""
    if value is None or value == [] or value == {}:
        return False
    return not (isinstance(value, str) and value.strip().lower() in NOTHING) and value == value  # NaN is not itself


def first_key(record: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of `keys` that holds something, else the first that is there at all."""
    there = [key for key in keys if key in record]
    return next((key for key in there if record[key] not in (None, "")), there[0] if there else None)
