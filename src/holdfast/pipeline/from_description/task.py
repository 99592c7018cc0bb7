"""A task in words: its instruction and the examples that stand in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from holdfast.axes.engine import Request, SampleFn, SamplingParams
from holdfast.data.thoughts import final_answer

MARK = re.compile(r"(?:^|\n|(?<=[.!?:] ))\s*(?:example\s*\d*:?\s*)?(?:input|question|text|q)\s*\d*:", re.IGNORECASE)
"""Where the examples in a task begin."""
EXAMPLE = re.compile(
    r"(?:input|question|text|q)\s*\d*:\s*(?P<input>.*?)\s*(?:output|answer|label|a)\s*\d*:\s*(?P<output>.*?)\s*"
    r"(?=(?:example\s*\d*:?\s*)?(?:input|question|text|q)\s*\d*:|$)",
    re.IGNORECASE | re.DOTALL,
)
TRIES = 5
"""Times a model is asked to take a task apart."""
REQUEST = (
    'Take the following request apart. Reply with JSON only, with two keys: "instruction", what is to be done in '
    'general, without the examples, and "examples", a list of {{"input": ..., "output": ...}} of the examples in '
    "it, which may be empty.\n\nRequest:\n{text}"
)


@dataclass(frozen=True, slots=True)
class DescribedTask:
    """What is to be done.

    Args:
        instruction: In words.
        examples: Pairs of input and output; perhaps none.
    """

    instruction: str
    examples: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is written into a file that may be edited."""
        examples = [{"input": text, "output": output} for text, output in self.examples]
        return {**asdict(self), "examples": examples}

    @classmethod
    def from_json(cls, value: Any) -> DescribedTask:
        """The inverse of `to_json`.

        Raises:
            ValueError: If it is something else.
        """
        if not isinstance(value, dict) or not isinstance(value.get("instruction"), str):
            raise ValueError("lacks an instruction")
        entries = value.get("examples") or []
        if not isinstance(entries, list) or not all(map(is_example, entries)):
            raise ValueError("its examples must each have an input and an output, which are texts")
        return cls(value["instruction"].strip(), tuple((str(e["input"]), str(e["output"])) for e in entries))


def is_example(entry: Any) -> bool:
    """Whether an entry has an input and an output, both texts."""
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("input", "output"))


def parse_task(text: str) -> DescribedTask:
    """A task taken apart by its marks: what stands before the first `Input:`, and the pairs behind it."""
    text = text.strip()
    mark = MARK.search(text)
    if mark is None:
        return DescribedTask(text)
    pairs = [(match["input"].strip(), match["output"].strip()) for match in EXAMPLE.finditer(text[mark.start() :])]
    return DescribedTask(text[: mark.start()].strip(), tuple(pair for pair in pairs if all(pair)))


def ask_for_task(text: str, draw: SampleFn, say: Callable[[str], Any]) -> DescribedTask:
    """A task taken apart by a model; by its marks where that does not give what was asked for in `TRIES` replies."""
    request = Request("build:parse", [{"role": "user", "content": REQUEST.format(text=text)}])
    params = SamplingParams(max_tokens=2048, temperature=0.3, n=TRIES)
    for sample in draw([request], params)["build:parse"]:
        match = re.search(r"\{.*\}", final_answer(sample.text), re.DOTALL)
        try:
            task = DescribedTask.from_json(json.loads(match[0]) if match else None)
        except (ValueError, RecursionError):
            continue
        if task.instruction:
            return task
    say(f"none of {TRIES} replies took the task apart; it is read by its marks (Input: ... Output: ...)")
    return parse_task(text)
