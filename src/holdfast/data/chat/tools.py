"""Tools in a conversation: what a model may call, its calls, and what was answered; whether a template writes them.

A message of the assistant may carry `tool_calls`, as in the OpenAI format but with the arguments as an object; messages
of role `tool` answer them. What may be called stands as `tools` in the first message that is not the system's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from holdfast.data.rows import Message
from holdfast.errors import UserError

TOOL_KEYS = ("tool_calls", "tool_call_id", "name")
"""Keys of messages that a template is given as they are."""
MEND = "take these rows out, or give a template that writes tools (data.chat_template)"


def tools_of(messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """What a model may call in a conversation; `None` where nothing is said of it."""
    return next((m["tools"] for m in messages if "tools" in m), None)


def has_tools(messages: Sequence[Message]) -> bool:
    """Whether tools play a part in a conversation."""
    return any(m["role"] == "tool" or "tool_calls" in m or "tools" in m for m in messages)


def require_tools_written(messages: Sequence[Message], rendering: str, template: str) -> None:
    """See that a rendering holds what may be called and what tools answered; of calls see `require_call`.

    Raises:
        UserError: If the template leaves some of it out.
    """
    for tool in tools_of(messages) or ():
        name = tool.get("function", tool).get("name", "")
        if name not in rendering:
            raise UserError(
                f"{template}: the chat template does not write what a model may call ({name}); name tools in "
                "data.ignore to train as if there were none, or give a template that writes them (data.chat_template)"
            )
    for number, message in enumerate(messages, 1):
        text = message["content"].strip()
        if message["role"] == "tool" and text not in rendering and json.dumps(text)[1:-1] not in rendering:
            raise UserError(f"{template}: the chat template leaves out message {number}, what a tool answered; {MEND}")


def require_call(message: Message, number: int, text: str, markers: Sequence[str], template: str) -> None:
    """See that the text of an answer holds its calls, and that these hold none of the template's control tokens.

    Raises:
        UserError: If not.
    """
    for call in message["tool_calls"]:
        function = call["function"]
        values = [value for value in function["arguments"].values() if isinstance(value, str)]
        missing = [
            part for part in (function["name"], *values) if part not in text and json.dumps(part)[1:-1] not in text
        ]
        # A template may write other letters than these as escapes (\u00e9), and then leaves nothing out.
        if any(part.isascii() for part in missing):
            raise UserError(f"{template}: the chat template leaves out the tool call of message {number}; {MEND}")
    calls_text = json.dumps(message["tool_calls"], ensure_ascii=False)
    if marker := next((marker for marker in markers if marker in calls_text), None):
        raise UserError(f"the tool call of message {number} holds the control token {marker}; take the row out")
