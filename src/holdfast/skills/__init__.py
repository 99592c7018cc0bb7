"""The fourteen skills of the laboratory, by name: seeded questions with a judge, each a task like any other."""

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


@cache
def load_skill(name: str) -> Skill:
    """The skill called `name`.

    Raises:
        UserError: If there is none; the nearest is suggested.
    """
    if name not in SKILLS:
        raise UserError(f"lab:{name} is not a laboratory skill{suggest_name(name, SKILLS)}")
    module = importlib.import_module(f"holdfast.skills.{name}")
    return getattr(module, SKILLS[name])()


def describe_skill(name: str) -> str:
    """What a skill asks for, in one sentence; empty for a name that is no skill."""
    if name not in SKILLS:
        return ""
    return (importlib.import_module(f"holdfast.skills.{name}").__doc__ or "").partition("\n")[0]
