"""Prompts that stand once more at the beginning of their answers: those of marked turns, or of all rows of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.data.reading.converters import ANSWERS, PROMPTS
from holdfast.data.reading.preferences import sides_of
from holdfast.data.reading.values import first_key, has_content

LOOK = 1000
"""Rows that are looked at."""
ENOUGH = 5
"""So many rows cannot all begin with their prompt by chance, however short it is."""
MARK = "\n\nAssistant:"
"""A prompt that ends so begins no answer by chance."""
WORDS = 3
"""Of fewer rows the prompts have at least so many words."""


def repeat_prompts(records: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the answers of all records begin with their prompts, as in HH-RLHF's and other files of whole texts."""
    count, short = 0, False
    for record in records:
        prompt, answers = _find_texts(record)
        if not prompt or not answers:
            continue  # the prompt, or an answer, is no text
        if not all(_begins_with(record[name], prompt) for name in answers):
            return False
        count += 1
        short = short or len(prompt.split()) < WORDS
    return count >= ENOUGH or (count > 0 and not short)


def without_prompts(record: dict[str, Any], repeats_prompts: bool) -> dict[str, Any]:
    """The record with answers that do not repeat its prompt; the same one if they do not, or may do so by chance.

    Args:
        repeats_prompts: Whether those of all rows of its file do.
    """
    prompt, answers = _find_texts(record)
    if not prompt or not answers or not (repeats_prompts or prompt.endswith(MARK)):
        return record
    if not all(_begins_with(record[name], prompt) for name in answers):
        return record
    return record | {name: record[name].strip()[len(prompt) :].strip() for name in answers}


def _find_texts(record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The prompt of a record, if it is a text, and the columns of its answers."""
    key, sides = first_key(record, PROMPTS), sides_of(record)
    prompt = record.get(key) if key else None
    if not isinstance(prompt, str) or (key != "input" and has_content(record.get("input"))):
        return "", []
    answer = first_key(record, ANSWERS)
    names = [name for name in sides if name in record] if sides else [answer] if answer else []
    return (prompt.strip(), names) if all(isinstance(record[name], str) for name in names) else ("", [])


def _begins_with(value: str, prompt: str) -> bool:
    """Whether a text begins with the prompt and goes on after it."""
    return value.strip().startswith(prompt) and len(value.strip()) > len(prompt)
