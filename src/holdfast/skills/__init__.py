"""The fourteen skills of the laboratory, by name: seeded questions with a judge, each a task like any other.

Some have variants, which ask a part of their questions: one rule of two, say, so that the other is what was not trained
on. They are sources and tasks of their own, and no part of `lab`.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.skills.base import Skill

SKILLS: dict[str, str] = {
    "sums": "Sums",
    "story": "Story",
    "points": "Points",
    "route": "Route",
    "lake": "Lake",
    "facts": "Facts",
    "reading": "Reading",
    "examples": "Examples",
    "strings": "Strings",
    "program": "Program",
    "cipher": "Cipher",
    "format": "Format",
    "revise": "Revise",
    "rephrase": "Rephrase",
}

SKILL_VARIANTS: dict[str, tuple[str, str]] = {
    "story-graded": ("story_graded", "StoryGraded"),
    "points-ten": ("points", "PointsTen"),
    "points-rank": ("points", "PointsRank"),
    "points-plain": ("points", "PointsPlain"),
    "general-points": ("general_points", "GeneralPoints"),
    "general-points-ten": ("general_points", "GeneralPointsTen"),
    "general-points-rank": ("general_points", "GeneralPointsRank"),
    "general-points-black": ("general_points", "GeneralPointsBlack"),
    "general-points-red": ("general_points", "GeneralPointsRed"),
    "general-points-black-rank": ("general_points", "GeneralPointsBlackRank"),
    "route-compass": ("route", "RouteCompass"),
    "route-relative": ("route", "RouteRelative"),
    "navigation": ("navigation", "Navigation"),
    "navigation-compass": ("navigation", "NavigationCompass"),
    "navigation-relative": ("navigation", "NavigationRelative"),
    "cards": ("pictures", "Cards"),
    "cards-black": ("pictures", "CardsBlack"),
    "cards-red": ("pictures", "CardsRed"),
    "cards-blue": ("pictures", "CardsBlue"),
    "places": ("pictures", "Places"),
    "places-night": ("pictures", "PlacesNight"),
    "points-cards": ("pictures", "PointsCards"),
    "points-cards-black": ("pictures", "PointsCardsBlack"),
    "points-cards-red": ("pictures", "PointsCardsRed"),
    "points-cards-rank": ("pictures", "PointsCardsRank"),
    "route-map": ("pictures", "RouteMap"),
    "route-map-night": ("pictures", "RouteMapNight"),
}
"""Name to the skill's module and the class in it."""

PICTURE_SKILLS = tuple(name for name, (module, _) in SKILL_VARIANTS.items() if module == "pictures")
"""Those that show a picture, which only a model with eyes can be asked."""


@cache
def load_skill(name: str) -> Skill:
    """The skill, or the variant of one, called `name`.

    Raises:
        UserError: If there is none; the nearest is suggested.
    """
    if name not in SKILLS and name not in SKILL_VARIANTS:
        raise UserError(f"lab:{name} is not a laboratory skill{suggest_name(name, [*SKILLS, *SKILL_VARIANTS])}")
    module, class_name = SKILL_VARIANTS[name] if name in SKILL_VARIANTS else (name, SKILLS[name])
    return getattr(importlib.import_module(f"holdfast.skills.{module}"), class_name)()


def describe_skill(name: str) -> str:
    """What a skill asks for, in one sentence; empty for a name that is no skill."""
    if name in SKILL_VARIANTS:
        return (type(load_skill(name)).__doc__ or "").partition("\n")[0]
    if name not in SKILLS:
        return ""
    return (importlib.import_module(f"holdfast.skills.{name}").__doc__ or "").partition("\n")[0]
