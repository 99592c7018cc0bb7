"""The laboratory's skills as data sets and tasks, by the names recipes use: `lab` and `lab:SKILL`."""

from __future__ import annotations

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.skills import SKILLS, load_skill
from holdfast.skills.base import Form, Split

TRAIN_ROWS = 1000
"""Rows of `data.train: lab:SKILL` unless `data.limit` says otherwise."""
FRESH = 7
"""Seed of evaluation questions: the same for every run, so that results are paired."""


def skill_names() -> list[str]:
    """The names of all skills."""
    return list(SKILLS)


def parse_skill_source(source: str) -> str | None:
    """The skill named by `lab:SKILL`, or `None` for any other source.

    Raises:
        UserError: If the skill does not exist.
    """
    if not source.startswith("lab:"):
        return None
    name = source.removeprefix("lab:")
    load_skill(name)
    return name


def lab_rows(
    source: str, split: Split = "train", n: int | None = None, seed: int = 0, form: Form = "answer"
) -> list[Row]:
    """Rows of `lab:SKILL` in its gold style, or of `lab` (all skills in turn, answered as the base answers).

    Args:
        n: How many rows; default 1,000, or all a smaller skill has.
        form: What the rows hold.
    """
    n = n or TRAIN_ROWS
    if source == "lab":
        share = -(-n // len(SKILLS))
        return [row for name in SKILLS for row in load_skill(name).generate_rows(share, split, seed, form=form)][:n]
    name = parse_skill_source(source)
    if name is None:
        raise UserError(f"{source} is not a laboratory source; write lab or lab:SKILL")
    return load_skill(name).generate_rows(n, split, seed, style="gold", form=form)
