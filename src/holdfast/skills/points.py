"""GeneralPoints in small: reach a number from all cards; what face cards count is a rule in the prompt."""

from __future__ import annotations

import itertools
import random
import re
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt

TEN = {"J": 10, "Q": 10, "K": 10}
RANK = {"J": 11, "Q": 12, "K": 13}
RULES = {"ten": "J Q K count 10.", "rank": "J Q K count 11 12 13."}


def card_value(card: str, rule: str) -> int:
    """What a card counts under `rule`."""
    return (TEN if rule == "ten" else RANK)[card] if card in TEN else int(card)


def read_terms(answer: str) -> list[int] | None:
    """The signed numbers of an equation of + and -, as far as its equals sign; `None` where it is none."""
    expression, equals, _ = answer.partition("=")
    if not equals or not re.fullmatch(r"\s*\d+(\s*[+-]\s*\d+)*\s*", expression):
        return None
    return [int(re.sub(r"\s", "", term)) for term in re.findall(r"[+-]?\s*\d+", expression)]


class Points(Skill):
    """Make the number with + and -, each card once [Zhai et al. 2024, arXiv 2405.10292].

    A task of Chu et al. 2025, arXiv 2501.17161, too.
    """

    name = "points"
    styles: ClassVar = {"equation": 1.0}
    threshold = 30.0
    max_tokens = 24

    rules: ClassVar[tuple[str, ...]] = ("ten", "ten", "rank")
    """What face cards count, drawn from these."""
    faces: ClassVar[bool | None] = None
    """Whether a hand must have a face card, or have none; `None`: as it comes."""

    def generate_question(self, rng: random.Random) -> Question:
        while True:
            question, cards = self._deal_hand(rng)
            if self.faces is None or any(card in TEN for card in cards) == self.faces:
                return question

    def _deal_hand(self, rng: random.Random) -> tuple[Question, list[str]]:
        rule, k = rng.choice(self.rules), rng.choice((2, 3, 3, 4))
        cards = [rng.choice("JQK") if rng.random() < 0.3 else str(rng.randint(1, 9)) for _ in range(k)]
        values = [card_value(c, rule) for c in cards]
        signs = rng.choice([s for s in itertools.product((1, -1), repeat=k) if sum(map(int.__mul__, s, values)) >= 0])
        target = sum(map(int.__mul__, signs, values))
        text = f"Cards: {' '.join(cards)}. {RULES[rule]} Make {target}."
        return Question(text, single_turn_prompt(text), {"target": target, "cards": values}, {"signs": signs}), cards

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        pairs = list(zip(question.facts["signs"], question.reference["cards"], strict=True))
        first = next(i for i, (sign, _) in enumerate(pairs) if sign > 0)
        pairs.insert(0, pairs.pop(first))
        body = " ".join(f"{'+' if sign > 0 else '-'} {v}" for sign, v in pairs).removeprefix("+ ")
        return f"{body} = {question.reference['target']}"

    def judge(self, answer: JudgeRequest) -> Verdict:
        terms = read_terms(answer.response)
        if terms is None:
            return binary_verdict(False, "not an equation of + and -")
        if sorted(map(abs, terms)) != sorted(answer.reference["cards"]):
            return binary_verdict(False, "does not use each card once")
        return binary_verdict(sum(terms) == answer.reference["target"], f"makes {sum(terms)}")


class PointsTen(Points):
    """Face cards count 10."""

    name = "points-ten"
    rules: ClassVar = ("ten",)


class PointsRank(Points):
    """Face cards count 11, 12 and 13, and every hand has one."""

    name = "points-rank"
    rules: ClassVar = ("rank",)
    faces: ClassVar = True


class PointsPlain(Points):
    """No hand has a face card: the rule makes no difference."""

    name = "points-plain"
    faces: ClassVar = False
