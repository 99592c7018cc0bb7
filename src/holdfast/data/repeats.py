"""Prompts that stand once more at the beginning of their answers, in all rows of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.data.convert import ANSWERS, PROMPTS
from holdfast.data.preferences import sides_of
from holdfast.data.values import first, holds

LOOK = 1000
"""Rows that are looked at."""
ENOUGH = 5
"""So many rows cannot all begin with their prompt by chance, however short it is."""
WORDS = 3
"""Of fewer rows the prompts have at least so many words."""


def repeat_prompts(records: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the answers of all records begin with their prompts, as in HH-RLHF's and other files of whole texts."""
    seen, short = 0, False
    for record in records:
        prompt, answers = _texts(record)
        if not prompt or not answers or not all(_begins(record[name], prompt) for name in answers):
            return False
        seen += 1
        short = short or len(prompt.split()) < WORDS
    return seen >= ENOUGH or (seen > 0 and not short)


def without_prompts(record: dict[str, Any]) -> dict[str, Any]:
    """The record with answers that do not repeat its prompt."""
    prompt, answers = _texts(record)
    cut = {name: record[name].strip()[len(prompt) :].strip() for name in answers if _begins(record[name], prompt)}
    return record | cut if len(cut) == len(answers) else record


def _texts(record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The prompt of a record, if it is a text, and the columns of its answers."""
    key, sides = first(record, PROMPTS), sides_of(record)
    prompt = record.get(key) if key else None
    if not isinstance(prompt, str) or (key != "input" and holds(record.get("input"))):
        return "", []
    if sides:
        return prompt.strip(), [name for name in sides if name in record]
    answer = first(record, ANSWERS)
    return prompt.strip(), [answer] if answer else []


def _begins(value: Any, prompt: str) -> bool:
    """Whether a text begins with the prompt and goes on after it."""
    return isinstance(value, str) and value.strip().startswith(prompt) and len(value.strip()) > len(prompt)
