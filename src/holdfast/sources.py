"""From the recipe's data names to rows: files, data sets, and the skills of the laboratory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.data.formats import duplicates, open_rows, split
from holdfast.data.kinds import takes_pairs
from holdfast.data.rows import Rows
from holdfast.errors import UserError
from holdfast.judges.base import Judge
from holdfast.judges.fit import check_fit, guess
from holdfast.lab.skills.base import Form, SkillJudge
from holdfast.lab.tasks import FRESH, lab_rows, skill_of
from holdfast.objectives.base import Objective
from holdfast.recipe import Recipe
from holdfast.registry import name_of


@dataclass(frozen=True, slots=True)
class Sources:
    """The rows of a run.

    Args:
        train: To train on, before curation.
        test: Held out; may be empty.
        judge: Decides whether an answer to them is right; `None` where the references are free text and the recipe
            names no judge.
    """

    train: Rows
    test: Rows
    judge: Judge | None


def is_lab(source: str) -> bool:
    """Whether a data name means the laboratory."""
    return source == "lab" or source.startswith("lab:")


def open_source(
    source: str, *, limit: int | None = None, format: str = "auto", form: Form = "answer", **more: Any
) -> Rows:
    """The rows of a data name: `lab`, `lab:SKILL` (in the form asked for), a file or a data set.

    Args:
        more: What else `open_rows` should know of a file.
    """
    return lab_rows(source, "train", limit, form=form) if is_lab(source) else open_rows(source, format, limit, **more)


def lab_form(recipe: Recipe) -> Form:
    """What laboratory rows must hold: what the objective trains on, unless a curator makes that of answers."""
    return "answer" if makes_pairs(recipe) else _form(recipe.objective)


def makes_pairs(recipe: Recipe) -> bool:
    """Whether a curator makes the pairs that are trained on."""
    return any(curator.writes == "pairs" for curator in recipe.curate)


def _form(objective: Objective) -> Form:
    """What laboratory rows must hold for an objective. Single answers to be judged are made of pairs."""
    kind = objective.kind()
    if kind == "triple" or kind == "choices":
        return kind
    return "pair" if takes_pairs(kind, objective.columns()) else "answer"


def open_beside(recipe: Recipe, source: str, columns: Mapping[str, str | int] | None = None) -> Rows:
    """Rows to train on beside the recipe's own: they must be what its objective takes.

    Args:
        columns: Which column is what, as in `data.columns`.
    """
    taken = _taken(recipe.objective)
    return open_source(source, form=_form(recipe.objective), rejected=recipe.data.rejected, mapping=columns, **taken)


def _taken(objective: Objective) -> dict[str, Any]:
    """What rows of a file must be to be trained on as they are."""
    return {"kind": objective.kind(), "columns": objective.columns()}


def read_sources(recipe: Recipe, say: Callable[[str], Any], warn: Callable[[str], Any]) -> Sources:
    """Open and split the recipe's data, and settle its judge.

    Args:
        say, warn: Called with one line each for what the user should know.
    """
    data = recipe.data
    asked: dict[str, Any] = {"rejected": data.rejected, "mapping": data.columns, "say": say}
    if not recipe.curate and data.replay is None:
        asked |= _taken(recipe.objective)  # with curators the rows are not yet those that are trained on
    train = open_source(data.train, limit=data.limit, format=data.format, form=lab_form(recipe), **asked)
    test: Rows = []
    if isinstance(data.test, str):
        test = open_source(data.test, format=data.format, rejected=data.rejected, mapping=data.columns, say=say)
    elif data.test > 0 and is_lab(data.train):
        test = lab_rows(data.train, "test", recipe.evaluate.items, seed=FRESH)
    elif data.test > 0:
        train, test = split(train, data.test, seed=0)
    shared = duplicates(train, test)
    if shared:
        warn(f"{data.train}: {shared} of the {len(test)} test questions also stand among the training rows")
    return Sources(train, test, settle_judge(recipe, train, say, warn, needed=_needs_judge(recipe)))


def _needs_judge(recipe: Recipe) -> bool:
    return any(c.judges for c in recipe.curate) or recipe.evaluate.target == "test"


def settle_judge(
    recipe: Recipe, rows: Rows, say: Callable[[str], Any], warn: Callable[[str], Any], needed: bool = True
) -> Judge | None:
    """The recipe's judge, the skill's own, or the one the references call for; checked against the rows if needed.

    Raises:
        UserError: If the references are free text, no judge is named, and a curator needs one.
    """
    skill = skill_of(recipe.data.train)
    judge = recipe.judge or (SkillJudge(skill=skill) if skill else None)
    if judge is None:
        judge, why = guess(rows)
        if judge is None:
            _refuse_to_guess(recipe)
        elif needed:
            say(f"{why}; name another under judge if that is wrong")
    if needed and judge is not None and (text := check_fit(judge, rows)):
        warn(text)
    return judge


def _refuse_to_guess(recipe: Recipe) -> None:
    """A curator that keeps the answers a judge passes cannot do without one."""
    needing = next((curator for curator in recipe.curate if curator.judges), None)
    if needing is None:
        return
    raise UserError(
        f"{recipe.data.train}: the references are free text, and curator {name_of(needing)} keeps the answers that a "
        "judge passes; name one: judge: overlap (words in common), judge: {name: llm} (a model decides), "
        "judge: {name: python, function: FILE.py:FUNCTION}, or judge: exact if an answer must equal its reference"
    )
