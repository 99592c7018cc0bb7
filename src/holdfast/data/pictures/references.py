"""How rows name pictures: `<image>` in a text for each, and what it stands for in the message's `images`.

A reference is one text: a path with the SHA-256 of what lies there (`/data/cat.png#sha256=...`), a data URL, which
holds the picture itself, or a key of the laboratory's drawings (`lab:cards/3S.JD`). Rows are known by the content of
their pictures: identities and fingerprints leave the path out, so that a folder may be moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from holdfast.errors import UserError

PLACEHOLDER = "<image>"
"""Stands in a text where a picture does."""
DIGEST = "#sha256="
DATA_URL = "data:"


def pictures_of(messages: Iterable[dict[str, Any]]) -> list[str]:
    """References of all pictures of a conversation, in order."""
    return [reference for message in messages for reference in message.get("images", ())]


def split_content(message: dict[str, Any]) -> list[dict[str, str]]:
    """The content of a message with pictures as the parts that chat templates take.

    Raises:
        UserError: It has more or fewer placeholders than pictures.
    """
    texts = message["content"].split(PLACEHOLDER)
    if len(texts) - 1 != len(message["images"]):
        raise UserError(
            f"a message has {len(message['images'])} pictures and {len(texts) - 1} times {PLACEHOLDER} in its text; "
            "give one for each"
        )
    parts: list[dict[str, str]] = []
    for number, text in enumerate(texts):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def identify_pictures(messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The messages with each picture named by its content alone."""
    if not any("images" in message for message in messages):
        return messages
    return [
        {**message, "images": [identify_picture(reference) for reference in message["images"]]}
        if "images" in message
        else message
        for message in messages
    ]


def identify_picture(reference: Any) -> Any:
    """What a reference says of the picture's content; of what is none yet, itself."""
    return DIGEST + reference.rpartition(DIGEST)[2] if isinstance(reference, str) and DIGEST in reference else reference


def compared_text(message: dict[str, Any]) -> str:
    """The content as rows are compared by it: each placeholder with what tells its picture from others."""
    text = str(message["content"])
    for reference in message.get("images", ()):
        name = hashlib.sha256(str(identify_picture(reference)).encode()).hexdigest()[:16]
        text = text.replace(PLACEHOLDER, f" picture{name} ", 1)
    return text


def name_picture(reference: str) -> str:
    """What errors call a picture: its path, the beginning of its data, or its key."""
    if reference.startswith(DATA_URL):
        return f"the picture {reference[:32]}..."
    return reference.rpartition(DIGEST)[0] if DIGEST in reference else reference
