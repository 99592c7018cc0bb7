"""Skills that show a picture: cards to be read or played with, places of a route to be read or walked.

They are no part of `lab`, which text models are asked; `lab-vl` knows them. What a picture shows stands in its key
(`data.pictures.drawings`), and the question without the picture is that of the skill in text.
"""

from __future__ import annotations

import random
import re
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.data.pictures.references import PLACEHOLDER
from holdfast.skills.base import Question, Skill, binary_verdict
from holdfast.skills.lexicon import PLACES
from holdfast.skills.points import Points
from holdfast.skills.route import Route

RANKS = [*map(str, range(1, 10)), "J", "Q", "K"]
BLACK, RED = "SC", "HD"
HAND = re.compile(r"Cards: ([^.]*)\.")
PASSED = re.compile(r"You pass: ([\w ]+)\.")


def show_picture(text: str, key: str) -> list[dict[str, object]]:
    """A conversation of one user turn with one picture, which stands where the text has its placeholder."""
    return [{"role": "user", "content": text, "images": [key]}]


def hand_key(cards: list[str], suits: str, rng: random.Random, style: str = "") -> str:
    """The picture of these ranks, each of a random suit."""
    return f"lab:cards/{'.'.join(card + rng.choice(suits) for card in cards)}{style and '/' + style}"


class _Reading(Skill):
    """Say what a picture shows, in order."""

    styles: ClassVar = {"list": 1.0}
    threshold = 90.0
    max_tokens = 16

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return " ".join(question.reference)

    def judge(self, answer: JudgeRequest) -> Verdict:
        words = answer.response.replace(".", " ").replace(",", " ").split()
        return binary_verdict(words == answer.reference, " ".join(words))


class Cards(_Reading):
    """Read the ranks of two to four cards from a picture."""

    name = "cards"
    suits: ClassVar[str] = BLACK + RED
    style: ClassVar[str] = ""

    def generate_question(self, rng: random.Random) -> Question:
        cards = [rng.choice(RANKS) for _ in range(rng.choice((2, 3, 4, 4)))]
        key = hand_key(cards, self.suits, rng, self.style)
        return Question(key, show_picture(f"Cards: {PLACEHOLDER}.", key), cards)


class CardsBlack(Cards):
    """Read the ranks of black cards."""

    name = "cards-black"
    suits: ClassVar = BLACK


class CardsRed(Cards):
    """Read the ranks of red cards."""

    name = "cards-red"
    suits: ClassVar = RED


class CardsBlue(Cards):
    """Read the ranks of cards on a blue table."""

    name = "cards-blue"
    style: ClassVar = "blue"


class Places(_Reading):
    """Read the places along a road from a map."""

    name = "places"
    style: ClassVar[str] = ""

    def generate_question(self, rng: random.Random) -> Question:
        places = rng.sample(PLACES, rng.randint(3, 5))
        key = map_key(places, self.style)
        return Question(key, show_picture(f"You pass: {PLACEHOLDER}.", key), places)


class PlacesNight(Places):
    """Read the places along a road from a map at night."""

    name = "places-night"
    style: ClassVar = "night"


def map_key(places: list[str], style: str = "") -> str:
    """The map of these places."""
    return f"lab:map/{'.'.join(places)}{style and '/' + style}"


class PointsCards(Points):
    """Make the number with + and - from a picture of cards, each card once."""

    name = "points-cards"
    suits: ClassVar[str] = BLACK + RED

    def generate_question(self, rng: random.Random) -> Question:
        question = super().generate_question(rng)
        match = HAND.search(question.key)
        assert match is not None  # it is how `Points` begins
        key = hand_key(match[1].split(), self.suits, rng)
        question.messages = show_picture(question.key.replace(match[1], PLACEHOLDER, 1), key)
        return question


class PointsCardsBlack(PointsCards):
    """Black cards, of which face cards count 10."""

    name = "points-cards-black"
    suits: ClassVar = BLACK
    rules: ClassVar = ("ten",)


class PointsCardsRed(PointsCardsBlack):
    """Red cards, of which face cards count 10."""

    name = "points-cards-red"
    suits: ClassVar = RED


class PointsCardsRank(PointsCardsBlack):
    """Black cards, of which face cards count 11, 12 and 13, and every hand has one."""

    name = "points-cards-rank"
    rules: ClassVar = ("rank",)
    faces: ClassVar = True


class RouteMap(Route):
    """One action for each landmark on a map."""

    name = "route-map"
    style: ClassVar[str] = ""

    def generate_question(self, rng: random.Random) -> Question:
        question = super().generate_question(rng)
        match = PASSED.search(question.key)
        assert match is not None  # it is how `Route` asks
        text = question.key.replace(match[0], f"You pass: {PLACEHOLDER}.", 1)
        question.messages = show_picture(text, map_key(match[1].split(), self.style))
        return question


class RouteMapNight(RouteMap):
    """One action for each landmark on a map at night."""

    name = "route-map-night"
    style: ClassVar = "night"
