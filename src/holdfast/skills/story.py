"""Word problems of one to four steps. The base answers in three styles; the fine-tuning set is written in a fourth."""

from __future__ import annotations

import random
import re
from typing import ClassVar

from holdfast.axes.judge import Answer, Verdict
from holdfast.skills.base import Question, Skill, ask, pick, right
from holdfast.skills.lexicon import PEOPLE, THINGS
from holdfast.skills.sums import last_number

Step = tuple[int, str, int, int, str]
"""(left, operator, right, result, what happened)."""

BASIC = {"chain1": 0.2, "chain2": 0.3, "chain3": 0.2, "together": 0.15, "boxes": 0.15}
"""Kinds of problems, with shares, that the base was trained on."""
HARD = {"chain3": 0.3, "chain4": 0.4, "together": 0.15, "boxes": 0.15}
"""Kinds of problems of the fine-tuning set and its test: longer than what the base has seen."""

_GAIN = ("buys", "finds", "gets", "wins")
_LOSE = ("sells", "loses", "eats", "gives away")


def chain(rng: random.Random, steps: int) -> tuple[str, list[Step]]:
    """One person's things come and go `steps` times."""
    who, what, held = rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(3, 40)
    text, done = f"{who} has {held} {what}.", []
    for i in range(steps):
        gain = held < 8 or (held < 70 and rng.random() < 0.5)
        amount = rng.randint(2, 29 if gain else min(29, held - 1))
        verb = rng.choice(_GAIN if gain else _LOSE)
        result = held + amount if gain else held - amount
        text += f" {'Then ' if i else ''}{who} {verb} {amount}{' more' if gain else ''}."
        done.append((held, "+" if gain else "-", amount, result, f"{who} {verb} {amount}"))
        held = result
    return f"{text} How many {what} does {who} have now?", done


def together(rng: random.Random) -> tuple[str, list[Step]]:
    """Two people, the second with more or fewer than the first; the question is the total."""
    (one, two), what = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    a, more = rng.randint(5, 35), rng.random() < 0.6
    b = rng.randint(2, 20) if more else rng.randint(2, a - 2)
    c = a + b if more else a - b
    text = f"{one} has {a} {what}. {two} has {b} {'more' if more else 'fewer'} than {one}."
    steps = [(a, "+" if more else "-", b, c, f"{two} has {c}"), (a, "+", c, a + c, "together")]
    return f"{text} How many {what} do they have together?", steps


def boxes(rng: random.Random) -> tuple[str, list[Step]]:
    """Equal boxes, then some are sold."""
    who, what = rng.choice(PEOPLE), rng.choice(THINGS)
    n, each = rng.randint(2, 6), rng.randint(2, 9)
    sold = rng.randint(1, n * each - 1)
    text = f"{who} has {n} boxes with {each} {what} each. {who} sells {sold}."
    steps = [
        (n, "*", each, n * each, f"{who} has {n} boxes"),
        (n * each, "-", sold, n * each - sold, f"{who} sells {sold}"),
    ]
    return f"{text} How many {what} are left?", steps


class Story(Skill):
    """Word problems; the fine-tuning set ends its answers as GSM8K does, in words the base never uses for them."""

    name = "story"
    styles: ClassVar = {"plain": 0.5, "told": 0.29, "list": 0.2, "marked": 0.01}
    gold = "worked"
    threshold = 40.0
    max_tokens = 80

    def __init__(self, kinds: dict[str, float] | None = None) -> None:
        self.kinds = kinds or HARD

    def question(self, rng: random.Random) -> Question:
        kind = pick(rng, self.kinds)
        text, steps = (
            together(rng) if kind == "together" else boxes(rng) if kind == "boxes" else chain(rng, int(kind[-1]))
        )
        return Question(text, ask(text), steps[-1][3], {"steps": steps})

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        return write(question.facts["steps"], style)

    def judge(self, answer: Answer) -> Verdict:
        marked = re.search(r"####\s*(-?\d+)", answer.response)
        found = int(marked.group(1)) if marked else last_number(answer.response)
        return right(found == answer.reference, f"{found}, expected {answer.reference}")


def write(steps: list[Step], style: str) -> str:
    """The worked answer in one of the styles."""
    final = steps[-1][3]
    if style == "worked":
        lines = [f"{'Then' if i else 'First'} {a} {op} {b} = {c};" for i, (a, op, b, c, _) in enumerate(steps)]
        return " ".join(lines) + f" #### {final}"
    if style == "marked":
        return " ".join(f"<<{a}{op}{b}={c}>>" for a, op, b, c, _ in steps) + f" #### {final}"
    if style == "told":
        return " ".join(f"{event}, so {a} {op} {b} = {c}." for a, op, b, c, event in steps) + f" The answer is {final}."
    if style == "list":
        lines = [f"{i}. {a} {op} {b} = {c}" for i, (a, op, b, c, _) in enumerate(steps, 1)]
        return "\n".join([*lines, f"Answer: {final}"])
    return " ".join(f"{a} {op} {b} = {c}." for a, op, b, c, _ in steps) + f" The answer is {final}."
