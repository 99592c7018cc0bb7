"""Token ids that an engine continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.axes.engine import Request
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat


def prompt_ids(chat: Chat, requests: Sequence[Request]) -> list[list[int]]:
    """Token ids that an engine continues: the rendered messages, then the request's prefill.

    Raises:
        UserError: If there is nothing in them.
    """
    batch_ids = chat.prompt_ids_many([request.messages for request in requests])
    for request, ids in zip(requests, batch_ids, strict=True):
        if prefill := behind_opening(chat, request.prefill):
            ids += answer_ids(chat, prefill)
        if not ids:
            raise UserError(f"{request.key}: the prompt is empty; give it at least one token")
    return batch_ids


def answer_ids(chat: Chat, text: str) -> list[int]:
    """Token ids of a text that an answer begins with."""
    # A line break before it keeps some tokenizers from writing a space before the first word.
    before, both = (chat.tokenizer.encode(part, add_special_tokens=False) for part in ("\n", "\n" + text))
    is_apart = both[: len(before)] == before
    return both[len(before) :] if is_apart else chat.tokenizer.encode(text, add_special_tokens=False)


def behind_opening(chat: Chat, prefill: str) -> str:
    """A prefill as it goes on from a prompt that opens a thought: as the thought, if it begins with what opens it;
    else as the answer, the thought being closed before it."""
    if not prefill or not chat.opening:
        return prefill
    return prefill.removeprefix(chat.opening) if prefill.startswith(chat.opening) else chat.closing + prefill


def opening_of(chat: Chat, request: Request) -> str:
    """What the prompt of a request has opened of a thought when the model begins to write."""
    return "" if request.prefill else chat.opening
