"""Pictures of a record: as parts of a message, as a column beside it, and where they stand in the text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.data.pictures.references import PLACEHOLDER, identify_pictures
from holdfast.data.reading.values import BadRow, has_content
from holdfast.data.rows import Message, Row, fingerprint_json
from holdfast.errors import UserError

TYPES = ("image", "image_url", "input_image")
"""What a part of a message that is a picture calls itself: transformers' way, and the two of the OpenAI format."""
KEYS = ("image", "image_url", "path", "url", "bytes", "base64", "data")
"""Where such a part has the picture; none of them: the next of the record's column."""
COLUMNS = ("images", "image")


def is_picture_part(part: Any) -> bool:
    """Whether a part of a content is a picture."""
    return isinstance(part, dict) and part.get("type") in TYPES


def take_pictures(content: Any, role: str, field: str) -> tuple[Any, list[Any]]:
    """A content with placeholders in the place of its pictures, and these; `None` for one that a column holds.

    Raises:
        BadRow: They stand where none can be, or a text holds the placeholder itself.
    """
    if not isinstance(content, list) or not any(map(is_picture_part, content)):
        return content, []
    if role == "assistant":
        raise BadRow(f"{field} is an answer with a picture; models here write text", "take {} out")
    parts, pictures = [], []
    for part in content:
        if is_picture_part(part):
            pictures.append(_picture_of(part))
            parts.append({"type": "text", "text": PLACEHOLDER})
            continue
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str) and PLACEHOLDER in text:
            raise BadRow(f"{field} holds pictures, and {PLACEHOLDER} in a text, which would be one more", "reword {}")
        parts.append(part)
    return parts, pictures


def _picture_of(part: Mapping[str, Any]) -> Any:
    value = next((part[key] for key in KEYS if has_content(part.get(key))), None)
    if isinstance(value, dict) and "url" in value:  # {"image_url": {"url": ...}}
        value = value["url"]
    if isinstance(value, str) and "base64" in part and value is part["base64"]:
        value = f"data:image;base64,{value}"
    return value


def take_picture_columns(record: dict[str, Any]) -> list[Any]:
    """The pictures of a record's columns; takes them out of it."""
    out: list[Any] = []
    for key in COLUMNS:
        if key in record and not has_content(record[key]):
            record.pop(key)
        elif key in record:
            value = record.pop(key)
            out += list(value) if isinstance(value, (list, tuple)) else [value]
    return out


def place_pictures(row: Row, columns: list[Any], folder: Path | None) -> None:
    """Give a row's messages the pictures of its columns, and every picture its reference.

    Those of columns go to the parts that name none; without such, to the placeholders of the texts; without these, to
    the beginning of the first user's turn.

    Args:
        folder: Where relative paths begin; `None`: that of the process.
    Raises:
        BadRow: A picture cannot be read, or there are more or fewer than places for them.
    """
    messages = row.messages
    if columns:
        _fill_places(messages, columns)
    if not any("images" in message for message in messages):
        return
    for message in messages:
        if "images" in message:
            _check_places(message)
            message["images"] = [_resolve_value(value, folder or Path()) for value in message["images"]]
    row.id = fingerprint_json([identify_pictures(messages), row.chosen, row.rejected])[:16]


def _fill_places(messages: list[Message], columns: list[Any]) -> None:
    """Put pictures where they belong."""
    open_places = [(m, i) for m in messages for i, value in enumerate(m.get("images", ())) if value is None]
    places = [m for m in messages if m["role"] != "assistant" and "images" not in m and PLACEHOLDER in m["content"]]
    if not open_places and places:
        for message in places:
            message["images"] = [None] * message["content"].count(PLACEHOLDER)
            open_places += [(message, i) for i in range(len(message["images"]))]
    if not open_places:
        user = next((m for m in messages if m["role"] == "user"), None)
        if user is None:
            raise BadRow("a text that is all learned has no place for a picture", "give prompt and answer in {}")
        user["content"] = PLACEHOLDER * len(columns) + user["content"]
        user["images"] = [*columns, *user.get("images", ())]
        return
    if len(open_places) != len(columns):
        raise BadRow(f"there are {len(columns)} pictures in its columns and {len(open_places)} places for them")
    for (message, index), value in zip(open_places, columns, strict=True):
        message["images"][index] = value


def _check_places(message: Message) -> None:
    places, pictures = message["content"].count(PLACEHOLDER), message["images"]
    if places != len(pictures):
        raise BadRow(f"a message has {len(pictures)} pictures and {places} times {PLACEHOLDER} in its text")
    if any(value is None for value in pictures):
        raise BadRow("a part of type image names no picture, and no column images holds it", "give {} a path")


def _resolve_value(value: Any, folder: Path) -> str:
    from holdfast.data.pictures.resolving import resolve_picture

    try:
        return resolve_picture(value, folder)
    except UserError as error:
        raise BadRow(str(error)) from error
