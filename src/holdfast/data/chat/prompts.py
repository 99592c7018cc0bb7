"""The prompts Holdfast itself writes: a paraphrase request for curators, a question to a judging model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from holdfast.data.rows import Message, Row
from holdfast.errors import UserError

PARAPHRASE = "Question: {question}\nCorrect answer: {answer}\nAnswer the question in your own words."
"""Default paraphrase request. The laboratory model is trained on exactly this text."""

JUDGE = (
    "You grade answers.\n\nQuestion:\n{question}\n\nCorrect answer:\n{reference}\n\nProposed answer:\n{response}\n\n"
    "Does the proposed answer agree with the correct answer? Reply with one word, yes or no."
)
"""Default question to a judging model."""


def fill_template(template: str, **values: str) -> str:
    """`template` with each `{name}` replaced, in one pass: braces inside the values, or of other names, stay."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def require_slots(template: str, *slots: str) -> str:
    """`template` itself, if every `{slot}` occurs in it.

    Raises:
        ValueError: Naming the missing slots (pydantic turns it into a recipe error).
    """
    missing = [f"{{{slot}}}" for slot in slots if f"{{{slot}}}" not in template]
    if missing:
        raise ValueError(f"the prompt lacks {' and '.join(missing)}")
    return template


def text_of(content: Any) -> str:
    """The text of a message's content: itself, or the text parts of a list of parts joined by newlines."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def question_of(messages: Sequence[Message]) -> str:
    """The conversation as one text for a judge: the content of a single message, else `role: content` lines."""
    if len(messages) == 1:
        return text_of(messages[0]["content"])
    return "\n".join(f"{m['role']}: {text_of(m['content'])}" for m in messages)


def paraphrase_messages(row: Row, template: str = PARAPHRASE) -> list[Message]:
    """What the model is shown to say the gold answer of `row` in its own words.

    The earlier conversation stays as context; the request takes the place of the last user turn, whose content is
    `{question}`; `{answer}` is the gold answer.

    Raises:
        UserError: If the row has no user turn or no answer.
    """
    prompt = row.prompt
    last = max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=None)
    if last is None or row.answer is None:
        lacks = "user turn" if last is None else "answer"
        raise UserError(
            f"{row.describe_place(row.id)}: has no {lacks} to paraphrase; remove the row, or set paraphrase: false"
        )
    request = fill_template(template, question=text_of(prompt[last]["content"]), answer=text_of(row.answer))
    return [*prompt[:last], {"role": "user", "content": request}]


def reference_text(value: Any) -> str:
    """A reference as text: strings as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
