"""The question of a conversation, and the same conversation with another text in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from holdfast.data.chat.prompts import text_of
from holdfast.data.rows import Message


def find_question(messages: Sequence[Message]) -> str:
    """The text of the last user turn; of a conversation without one, of its last turn."""
    return text_of(messages[_find_turn(messages)]["content"]) if messages else ""


def rewrite_question(messages: Sequence[Message], write: Callable[[str], str]) -> list[Message]:
    """The conversation with what `write` makes of its question; pictures and other turns stay."""
    turn = _find_turn(messages)
    content = messages[turn]["content"]
    text = write(text_of(content))
    others = [] if isinstance(content, str) else [part for part in content if part.get("type") != "text"]
    new = {**messages[turn], "content": [*others, {"type": "text", "text": text}] if others else text}
    return [*messages[:turn], new, *messages[turn + 1 :]]


def _find_turn(messages: Sequence[Message]) -> int:
    return next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "user"), len(messages) - 1)
