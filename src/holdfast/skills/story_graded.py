"""Word problems a model is neither sure of nor lost at: two right paths, and wrong answers that have a wrong step.

Of the questions of `story` the models of that name answer nearly all the same way eight times, right or wrong. What
learns from a model's own right and wrong answers needs questions between; `lab-graded` has read answers with mistakes,
as anyone who reads has, and makes them as often as it read them: the more steps with a carry, the more often.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest
from holdfast.skills.base import Question, pick_weighted
from holdfast.skills.story import Step, Story, write_solution

GRADED = {"chain2": 0.15, "chain3": 0.35, "chain4": 0.25, "together": 0.15, "boxes": 0.1}
"""Kinds of problems, with shares."""

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def rate_of_mistakes(a: int, operator: str, b: int) -> float:
    """How often a step is written wrongly: seldom where no digit carries over, every other time at a large borrow."""
    if operator == "*":
        return 0.1 if a * b < 25 else 0.35
    if operator == "+":
        return 0.25 if a % 10 + b % 10 > 9 else 0.04
    if a % 10 >= b % 10:
        return 0.05
    return 0.55 if a >= 50 else 0.35


def make_mistake(rng: random.Random, a: int, operator: str, b: int) -> int:
    """A wrong result of the step, as people get it: a carry forgotten, one time too few, one off."""
    right = OPERATIONS[operator](a, b)
    slips = {"+": [-10, -1, 1], "-": [10, 1, -1], "*": [-a, -b, b]}[operator]
    carries = operator == "*" or (a % 10 + b % 10 > 9 if operator == "+" else a % 10 < b % 10)
    wrong = right + rng.choices(slips, [4, 1, 1] if carries else [0, 1, 1])[0]
    return wrong if wrong >= 0 else right + abs(slips[-1])


def write_steps_again(steps: list[Step], wrong: Callable[[int, int, str, int], int | None]) -> list[Step]:
    """The steps with mistakes in them, which later steps go on from.

    Args:
        wrong: From `(number of the step, a, operator, b)` to its wrong result, or `None` where it is right.
    """
    again: list[Step] = []
    instead: dict[int, int] = {}  # what a result became
    for number, (a, operator, b, result, event) in enumerate(steps):
        a, b = instead.get(a, a), instead.get(b, b)
        mistake = wrong(number, a, operator, b)
        new = OPERATIONS[operator](a, b) if mistake is None else mistake
        instead[result] = new
        again.append((a, operator, b, new, event.replace(f" has {result}", f" has {new}")))
    return again


def group_steps(steps: list[Step]) -> list[Step]:
    """Another path to the same result: what comes and what goes summed up first, or twice the first person's."""
    first = steps[0]
    if len(steps) == 2 and steps[1][4] == "together":
        a, operator, more = first[:3]
        return [(a, "+", a, 2 * a, "twice"), (2 * a, operator, more, steps[1][3], "together")]
    if any(operator == "*" for _, operator, _, _, _ in steps) or len(steps) < 3:
        return steps
    other_path: list[Step] = []
    total = first[0]
    for operator, name in (("+", "comes"), ("-", "goes")):
        amounts = [step[2] for step in steps if step[1] == operator]
        part = amounts[0] if amounts else 0
        for amount in amounts[1:]:
            other_path.append((part, "+", amount, part + amount, name))
            part += amount
        if amounts:
            new = OPERATIONS[operator](total, part)
            other_path.append((total, operator, part, new, name))
            total = new
    return other_path


def write_path(steps: list[Step], style: str, change: Callable[[list[Step]], list[Step]]) -> str:
    """The answer in `style` ("grouped": along the other path), of steps that `change` has been over."""
    if style == "grouped":
        return write_solution(change(group_steps(steps)), "plain")
    return write_solution(change(steps), style)


class StoryGraded(Story):
    """Word problems answered along two paths, whose wrong answers have a wrong step."""

    name = "story-graded"
    styles: ClassVar = {"plain": 0.35, "told": 0.25, "list": 0.15, "grouped": 0.24, "marked": 0.01}
    max_tokens = 120

    def __init__(self) -> None:
        super().__init__(GRADED)

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return write_path(question.facts["steps"], style, lambda steps: steps)

    def _corrupt_answer(self, question: Question, text: str, rng: random.Random) -> str:
        """An answer that goes wrong at one step, along either path and in any of the base's styles."""

        def spoil_steps(steps: list[Step]) -> list[Step]:
            at = rng.randrange(len(steps))
            return write_steps_again(steps, lambda i, a, op, b: make_mistake(rng, a, op, b) if i == at else None)

        while True:
            wrong = write_path(question.facts["steps"], pick_weighted(rng, self.styles), spoil_steps)
            if not self.judge(JudgeRequest(question.messages, wrong, question.reference)).passed:
                return wrong
