"""The recipes of a search: its trials, and what is refused before the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.axes.registry import name_of
from holdfast.errors import UserError
from holdfast.pipeline.budget import Budget, compute_budget
from holdfast.pipeline.compare import require_measurement
from holdfast.pipeline.run_dir import data_name
from holdfast.recipe.loader import ResolvedRecipe, resolve_any, switch_method
from holdfast.recipe.schema import Recipe
from holdfast.recipe.search_section import Search, parse_budget
from holdfast.recipe.search_space import Dimension, format_value, parse_space
from holdfast.recipe.shorthand import trains_nothing

PLAIN, OWN = 0, 1
"""Numbers of the trials that every search has: plain SFT, and the recipe as it is."""
TARGET = "target"


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search that was looked at.

    Args:
        resolved_recipe: The recipe without its section `search`. search: That section.
        space: What varies.
        root: The directory.
        budget: What every trial gets, unless the space says otherwise.
    """

    resolved_recipe: ResolvedRecipe
    search: Search
    space: tuple[Dimension, ...]
    root: Path
    budget: Budget

    @property
    def recipe(self) -> Recipe:
        """The recipe that the search starts from."""
        return self.resolved_recipe.recipe

    @property
    def max_loss(self) -> float | None:
        """The limit, in points."""
        return self.recipe.evaluate.gate.max_loss if self.search.max_loss is None else self.search.max_loss

    @property
    def seconds(self) -> float | None:
        """The limit of time."""
        return None if self.search.budget is None else parse_budget(self.search.budget)

    @property
    def has_own_value(self) -> bool:
        """Whether trials are chosen by another task than the target."""
        return self.search.value != TARGET

    @property
    def first_trials(self) -> list[int]:
        """The trials that no sampler suggests."""
        if self.search.trials == 1:
            return [OWN]
        return [OWN] if self.build_trial(PLAIN, {}).recipe == self.build_trial(OWN, {}).recipe else [PLAIN, OWN]

    def build_trial(self, number: int, values: Mapping[str, Any], **changes: Any) -> ResolvedRecipe:
        """The recipe of a trial, with its place in the search's directory left to `changes`.

        Args:
            number: `PLAIN`, `OWN`, or that of a suggestion.
            values: Of the suggestion.
            changes: Further settings, `__` for dots.
        """
        method = "sft" if number == PLAIN else values.get("method")
        among = next((d.choices for d in self.space if d.key == "method"), ())
        resolved_recipe = self.resolved_recipe
        if method is not None:
            resolved_recipe = switch_method(resolved_recipe, method, among=[*among, "sft", method])
        settings = [f"{key}={format_value(value)}" for key, value in values.items() if key != "method"]
        trial = resolve_any(resolved_recipe, settings) if settings else resolved_recipe
        common_settings = {} if trial.recipe.credit is not None else self._budget_settings(trial.recipe, values)
        common_settings |= {"evaluate.target": self.search.value} if self.has_own_value else {}
        common_settings |= {key.replace("__", "."): value for key, value in changes.items()}
        last = [f"{key}={format_value(value)}" for key, value in common_settings.items() if value is not None]
        return replace(resolve_any(trial, last) if last else trial, notes=())

    def _budget_settings(self, recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
        """Steps and their size as all trials have them, but for those that vary."""
        own = {key.removeprefix("train.") for key in values if key.startswith("train.")}
        out: dict[str, Any] = {}
        if self.budget.steps and not own & {"epochs", "max_steps"}:
            out["train.max_steps"] = 0 if recipe.train.max_steps == 0 else self.budget.steps
        if recipe.train.batch_tokens == "auto" and "batch_tokens" not in own and self.budget.batch_tokens:
            out["train.batch_tokens"] = self.budget.batch_tokens
        return out


def plan_search(resolved_recipe: ResolvedRecipe, out: str | Path | None) -> SearchPlan:
    """Look at everything that can be refused before the first trial.

    Raises:
        UserError: With the key of the space, the value, and what is wrong with it.
    """
    search = resolved_recipe.recipe.search or Search()
    own = resolve_any(resolved_recipe, ["search=null"]) if resolved_recipe.recipe.search else resolved_recipe
    recipe = own.recipe
    if recipe.stages:
        raise UserError(f"{own.name}: has stages, which a search cannot stop half way; search over one of them")
    require_measurement(recipe)
    if recipe.evaluate.target == "none" and search.value == TARGET:
        raise UserError("search.value is target, but evaluate.target is none; name a target, or a task in search.value")
    if search.max_loss is not None and not [name for name in recipe.evaluate.keep if name != "none"]:
        raise UserError("search.max_loss needs something to keep, but evaluate.keep is empty")
    root = Path(out).expanduser() if out else default_directory(recipe)
    space = parse_space(search.space or _default_space(recipe))
    plan = SearchPlan(own, search, space, root, Budget(0, 0))
    _check_space(plan)
    return replace(plan, budget=compute_budget(recipe, None))


def default_directory(recipe: Recipe) -> Path:
    """Where a search goes that was not told: `runs/search-DATA`."""
    return Path(f"runs/search-{data_name(recipe)}")


def _default_space(recipe: Recipe) -> dict[str, Any]:
    """What the objective names, or the learning rate, and half of the weights beside all of them.

    These decide most between gain and loss.
    """
    if own := recipe.objective.search_space(recipe.optimizer):
        return own
    rate, tuner = recipe.optimizer.learning_rate, name_of(recipe.tuner)
    tuners = {"tuner": [tuner, "half"]} if tuner == "full" and not trains_nothing(recipe.method) else {}
    return {"optimizer.learning_rate": {"log": [rate / 10, rate * 10]}, **tuners}


def _check_space(plan: SearchPlan) -> None:
    """See that every value of every setting makes a recipe, with the recipe's own method or with one of the space."""
    methods = next(([d] for d in plan.space if d.key == "method"), [])
    for dimension in plan.space:
        for value in dimension.list_corners():
            problems: list[str] = []
            for method in [None] if dimension.key == "method" or not methods else methods[0].choices:
                values = {dimension.key: value, **({} if method is None else {"method": method})}
                try:
                    if plan.build_trial(OWN + 1, values).recipe.stages:
                        raise UserError("has stages, which a search cannot stop half way")
                    problems.clear()
                    break
                except UserError as error:
                    problems.append(str(error))
            if problems:
                text = problems[0].split("\n")[0].removeprefix("command line: ")
                raise UserError(f"search.space.{dimension.key}: {format_value(value)}: {text}")
