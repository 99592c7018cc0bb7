"""GeneralPoints as published: four cards make 24 with + - * /; what face cards count is one sentence of the prompt."""

from __future__ import annotations

import json
import random
import re
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.data.pictures.references import PLACEHOLDER
from holdfast.skills.base import Question, Skill, Split, binary_verdict, single_turn_prompt
from holdfast.skills.formulas import find_faults, is_solvable, list_solutions
from holdfast.skills.json_fields import read_text_field
from holdfast.skills.pictures import BLACK, RED, hand_key, show_picture

CARDS = ["A", *map(str, range(2, 11)), "J", "Q", "K"]
"""By rank, from 1."""
RULES = {
    "ten": "'J', 'Q', and 'K' count as '10'",
    "rank": "'J', 'Q', and 'K' count as '11', '12', and '13' respectively",
}
TARGET = 24
PROMPT = """\
[Task]
You are an expert player of the {target} points card game. {hand}
Note that {rule}, and each card must be used once.
Write a formula, without spaces, that makes {target} of the numbers with '+', '-', '*', '/', '(', ')' and '='.

[Input]
Cards: {cards}

[Output]
{{
  "cards": [x, y, z, w], the four cards,
  "number": [a, b, c, d], the numbers that they count,
  "formula": "an equation that equals {target}"
}}"""
SEEN = re.compile(r"""["']cards["']\s*:\s*\[([^\]]*)""")


def card_number(rank: int, rule: str) -> int:
    """What a card of a rank from 1 to 13 counts."""
    return min(rank, 10) if rule == "ten" else rank


def read_formula(answer: str) -> str | None:
    """The formula of an answer, as far as its equals sign; `None` where there is none. It need not be sound JSON."""
    text = read_text_field(answer, "formula")
    return None if text is None else text.replace("\\/", "/").partition("=")[0]


def read_cards(answer: str) -> list[str]:
    """The cards that an answer lists, in order."""
    match = SEEN.search(answer)
    return [card.strip(" \n'\"").upper() for card in match[1].split(",")] if match else []


class GeneralPoints(Skill):
    """Make 24 of four cards with + - * /, each card once, either rule for face cards [Chu et al. 2025, 2501.17161]."""

    name = "general-points"
    styles: ClassVar = {"json": 1.0}
    threshold = 0.0  # no laboratory model is taught it
    max_tokens = 256

    rules: ClassVar[tuple[str, ...]] = ("ten", "rank")
    """What face cards count, drawn from these."""
    has_face: ClassVar[bool] = False
    """Whether every hand has a face card."""
    suits: ClassVar[str] = ""
    """Of the cards in the picture that is shown; none: the cards stand in the text."""

    def generate_question(self, rng: random.Random) -> Question:
        rule = rng.choice(self.rules)
        while True:
            ranks = [rng.randint(1, 13) for _ in range(3)] + [rng.randint(11 if self.has_face else 1, 13)]
            rng.shuffle(ranks)
            numbers = [card_number(rank, rule) for rank in ranks]
            if is_solvable(numbers, TARGET):
                return self.write_question([CARDS[rank - 1] for rank in ranks], numbers, rule, rng)

    def write_question(self, cards: list[str], numbers: list[int], rule: str, rng: random.Random) -> Question:
        hand = "You see four cards in a picture." if self.suits else "You receive four cards."
        listing = PLACEHOLDER if self.suits else f"[{', '.join(cards)}]"
        text = PROMPT.format(target=TARGET, hand=hand, rule=RULES[rule], cards=listing)
        reference = {"cards": cards, "numbers": numbers, "target": TARGET}
        messages = show_picture(text, hand_key(cards, self.suits, rng)) if self.suits else single_turn_prompt(text)
        return Question(f"{' '.join(cards)} {rule}", messages, reference)

    def draw_question(self, rng: random.Random, split: Split) -> Question:
        """A random question of `split`: a hand is of one split in whatever order, and by whatever rule, it comes."""
        while True:
            question = self.generate_question(rng)
            if Question(" ".join(sorted(question.reference["cards"])), [], None).split == split:
                return question

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        cards, numbers, target = (question.reference[key] for key in ("cards", "numbers", "target"))
        formula = rng.choice(list_solutions(numbers, target))
        lines = {"cards": cards, "number": numbers, "formula": f"{formula}={target}"}
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in lines.items()) + "\n}"

    def judge(self, answer: JudgeRequest) -> Verdict:
        formula = read_formula(answer.response)
        if formula is None:
            return binary_verdict(False, "no formula")
        faults = find_faults(formula, answer.reference["numbers"], answer.reference["target"])
        return binary_verdict(not faults, ", ".join(fault.message for fault in faults))


class GeneralPointsTen(GeneralPoints):
    """Make 24 of four cards, of which face cards count 10."""

    name = "general-points-ten"
    rules: ClassVar = ("ten",)


class GeneralPointsRank(GeneralPoints):
    """Make 24 of four cards, of which face cards count 11, 12 and 13, and every hand has one."""

    name = "general-points-rank"
    rules: ClassVar = ("rank",)
    has_face: ClassVar = True


class GeneralPointsBlack(GeneralPointsTen):
    """Make 24 of a picture of four black cards, of which face cards count 10."""

    name = "general-points-black"
    suits: ClassVar = BLACK


class GeneralPointsRed(GeneralPointsTen):
    """Make 24 of a picture of four red cards, of which face cards count 10."""

    name = "general-points-red"
    suits: ClassVar = RED


class GeneralPointsBlackRank(GeneralPointsRank):
    """Make 24 of a picture of four black cards, of which face cards count 11, 12 and 13, and every hand has one."""

    name = "general-points-black-rank"
    suits: ClassVar = BLACK
