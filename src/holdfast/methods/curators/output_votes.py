"""Examples that a model wrote, and the output that most of its replies give."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from holdfast.data.overlap.words import split_words


def format_example(input_text: str, output: Any) -> str:
    """An example as it is to be written."""
    return json.dumps({"input": input_text, "output": output}, ensure_ascii=False)


def parse_example(text: str) -> tuple[str, str] | None:
    """Input and output in a reply, which may have words or a code fence around its JSON; `None` if there is none."""
    match = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = json.loads(match[0]) if match else None
    except (ValueError, RecursionError):
        return None
    pair = [value.get(key) for key in ("input", "output")] if isinstance(value, dict) else []
    if len(pair) != 2 or not all(isinstance(part, (str, int, float)) and str(part).strip() for part in pair):
        return None
    return str(pair[0]).strip(), str(pair[1]).strip()


def vote_output(texts: Sequence[str]) -> str:
    """The output given most often; of equally frequent ones the shortest, the first of equal ones."""
    keys = name_outputs(texts)
    most = max(keys.count(key) for key in keys)
    return min((text for text, key in zip(texts, keys, strict=True) if keys.count(key) == most), key=len)


def count_votes(texts: Sequence[str]) -> int:
    """How many outputs are the same as the one that is taken."""
    keys = name_outputs(texts)
    return max(map(keys.count, keys))


def name_outputs(texts: Sequence[str]) -> list[str]:
    """What makes two outputs the same: the last number in each where all hold one, else the words."""
    numbers = [re.findall(r"-?\d+(?:\.\d+)?", text)[-1:] for text in texts]
    return [number[0] for number in numbers] if all(numbers) else [" ".join(split_words(text)) for text in texts]
