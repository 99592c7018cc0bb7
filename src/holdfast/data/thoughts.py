"""Where a reasoning model's thought ends and its answer begins.

An answer of such a model is `<think>` thought `</think>` answer, in one text; other families use other marks. Where
the prompt itself opens the thought, the engines put the opening mark back in front of what was sampled, so that a
text alone says whether its thought came to an end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MARKS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, QwQ, GLM-4.5, LFM2.5, Nemotron, SmolLM3, Phi-4 reasoning, Olmo 3
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A reasoning
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel>thought\n", "<channel|>"),  # Gemma 4
    ("to=self<|message|>", "to=user<|message|>"),  # Muse
)
"""Opening and closing mark of a thought, by family."""

STRAY = frozenset(
    {"</think>", "</seed:think>", "[/THINK]", "◁/think▷", "<|END_THINKING|>"}
    | {"<|channel|>final<|message|>", "to=user<|message|>"}
)
"""Closing marks that end a thought though none was opened: data and servers often leave out what the prompt wrote."""
TURN = re.compile(r"(?:<\|e[a-z]+\|>)?<\|start\|>assistant *\Z")
"""What gpt-oss and its like write between thought and answer besides the marks: a thought is a turn of its own."""
CLOSE = {"<channel|>": ""}
"""What stands between the closing mark and the answer, where that is not an empty line."""
BLANK = "\n\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """A text of a model, taken apart.

    Args:
        thought: What it thought, without the marks; "" where it did not think.
        answer: What it says after the thought; the whole text where it did not think, "" where the thought never ended.
        has_ended: Whether the thought, if there is one, came to an end.
        marks: Opening and closing mark of the thought, `None` where there is none.
    """

    thought: str
    answer: str
    has_ended: bool = True
    marks: tuple[str, str] | None = None


def split_thought(text: str) -> Reply:
    """Take a model's text apart into thought and answer.

    A thought is opened at the beginning of the text, or at the beginning of a line after an earlier thought; marks
    elsewhere are what the text speaks of. The answer keeps its own indentation, without the empty lines before it.

    Args:
        text: What was sampled or what a row holds.
    """
    marks = opened_by(text)
    if marks is None:
        marks = next(((begin, end) for begin, end in MARKS if end in STRAY and _closes_thought(text, begin, end)), None)
        if marks is None:
            return Reply("", text)
        body = text
    else:
        body = text.lstrip()[len(marks[0]) :]
    thoughts: list[str] = []
    while True:
        thought, separator, rest = body.partition(marks[1])
        thoughts.append(without_turn(thought).strip())
        if not separator:
            return Reply("\n\n".join(thoughts), "", has_ended=False, marks=marks)
        following = rest.lstrip()
        if not following.startswith(marks[0]):
            return Reply("\n\n".join(filter(None, thoughts)), without_blank_lines(rest), marks=marks)
        body = following[len(marks[0]) :]  # some models think again before they answer


def final_answer(text: str) -> str:
    """What a text says after its thought; the whole text where there is none, "" where the thought never ended."""
    return split_thought(text).answer


def join_thought(thought: str, answer: str, marks: tuple[str, str] = MARKS[0]) -> str:
    """Thought and answer as one text, in the form in which rows hold them."""
    begin, end = marks
    return f"{begin.rstrip()}\n{thought.strip()}\n{end}{CLOSE.get(end, BLANK)}{answer}"


def without_turn(thought: str) -> str:
    """A thought without the beginning of the next turn at its end."""
    tail = thought[-64:]
    return thought[: len(thought) - len(tail)] + TURN.sub("", tail)


def opened_by(text: str) -> tuple[str, str] | None:
    """The marks of the thought that a text begins with."""
    start = text.lstrip()
    return next(((begin, end) for begin, end in MARKS if start.startswith(begin)), None)


def _closes_thought(text: str, begin: str, end: str) -> bool:
    """Whether a closing mark stands in the text with no opening one before it."""
    at = text.find(end)
    return at >= 0 and begin not in text[:at]


def without_blank_lines(text: str) -> str:
    """`text` from its first line that is not empty, the indentation of that line kept."""
    bare = text.lstrip()
    space = text[: len(text) - len(bare)]
    return space[space.rfind("\n") + 1 :] + bare
