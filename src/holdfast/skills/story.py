"""Word problems of one to four steps. The base answers in three styles; the fine-tuning set is written in a fourth."""

from __future__ import annotations

import random
import re
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, pick_weighted, single_turn_prompt
from holdfast.skills.lexicon import PEOPLE, THINGS
from holdfast.skills.sums import find_last_number

Step = tuple[int, str, int, int, str]
"""(left, operator, right, result, what happened)."""

BASIC = {"chain1": 0.2, "chain2": 0.3, "chain3": 0.2, "together": 0.15, "boxes": 0.15}
"""Kinds of problems, with shares, that the base was trained on."""
HARD = {"chain3": 0.3, "chain4": 0.4, "together": 0.15, "boxes": 0.15}
"""Kinds of problems of the fine-tuning set and its test: longer than what the base has seen."""

_GAIN = ("buys", "finds", "gets", "wins")
_LOSE = ("sells", "loses", "eats", "gives away")


def build_chain_problem(rng: random.Random, steps: int) -> tuple[str, list[Step]]:
    """One person's things come and go `steps` times."""
    who, what, count = rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(3, 40)
    text, solution = f"{who} has {count} {what}.", []
    for i in range(steps):
        gain = count < 8 or (count < 70 and rng.random() < 0.5)
        amount = rng.randint(2, 29 if gain else min(29, count - 1))
        verb = rng.choice(_GAIN if gain else _LOSE)
        result = count + amount if gain else count - amount
        text += f" {'Then ' if i else ''}{who} {verb} {amount}{' more' if gain else ''}."
        solution.append((count, "+" if gain else "-", amount, result, f"{who} {verb} {amount}"))
        count = result
    return f"{text} How many {what} does {who} have now?", solution


def build_together_problem(rng: random.Random) -> tuple[str, list[Step]]:
    """Two people, the second with more or fewer than the first; the question is the total."""
    (one, two), what = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    a, more = rng.randint(5, 35), rng.random() < 0.6
    b = rng.randint(2, 20) if more else rng.randint(2, a - 2)
    c = a + b if more else a - b
    text = f"{one} has {a} {what}. {two} has {b} {'more' if more else 'fewer'} than {one}."
    steps = [(a, "+" if more else "-", b, c, f"{two} has {c}"), (a, "+", c, a + c, "together")]
    return f"{text} How many {what} do they have together?", steps


def build_boxes_problem(rng: random.Random) -> tuple[str, list[Step]]:
    """Equal boxes, then some are sold."""
    who, what = rng.choice(PEOPLE), rng.choice(THINGS)
    n, each = rng.randint(2, 6), rng.randint(2, 9)
    num_sold = rng.randint(1, n * each - 1)
    text = f"{who} has {n} boxes with {each} {what} each. {who} sells {num_sold}."
    steps = [
        (n, "*", each, n * each, f"{who} has {n} boxes"),
        (n * each, "-", num_sold, n * each - num_sold, f"{who} sells {num_sold}"),
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

    def generate_question(self, rng: random.Random) -> Question:
        kind = pick_weighted(rng, self.kinds)
        text, steps = (
            build_together_problem(rng)
            if kind == "together"
            else build_boxes_problem(rng)
            if kind == "boxes"
            else build_chain_problem(rng, int(kind[-1]))
        )
        return Question(text, single_turn_prompt(text), steps[-1][3], {"steps": steps})

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return write_solution(question.facts["steps"], style)

    def judge(self, answer: JudgeRequest) -> Verdict:
        mark = re.search(r"####\s*(-?\d+)", answer.response)
        number = int(mark.group(1)) if mark else find_last_number(answer.response)
        return binary_verdict(number == answer.reference, f"{number}, expected {answer.reference}")


def write_solution(steps: list[Step], style: str) -> str:
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
