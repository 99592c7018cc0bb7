"""What a training comes to before its first step: its steps and their size, and what about it looks wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.axes.registry import name_of
from holdfast.data.batching.step_size import FEW_STEPS, StepSize, count_steps, step_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.data.batching.batches import TokenTable
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run.

    Args:
        steps: How many.
        size: Of each, in tokens.
        learning_rate: The rate and where it comes from, in words.
        epochs: Likewise; empty where `train.max_steps` says how many steps.
        warnings: One line each, with what to do.
        remarks: What the tuner comes to, one line each.
    """

    steps: int
    size: StepSize
    learning_rate: str
    epochs: str
    warnings: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The plan in sentences, for the log."""
        return [
            f"{self.steps:,} step{'' if self.steps == 1 else 's'}, {self.size.text}",
            f"learning rate {self.learning_rate}, for steps of {self.size.tokens:,} tokens: change both together",
            *self.remarks,
        ]


def plan_training(
    recipe: Recipe, model: Model, table: TokenTable, report: TableReport, sources: Mapping[str, str]
) -> Plan:
    """Plan the training of `model`, before its tuner is applied, on the rows of a table.

    Args:
        report: What became of the rows on their way into the table.
        sources: Dotted setting to where it came from (`Resolved.sources`).
    """
    train = recipe.train
    table = table.firsts(recipe.objective.in_steps())
    size = step_size(train.batch_tokens, table, train.seed, recipe.objective.usual.batch)
    steps = count_steps(train, table.sampler(batch_tokens=size.tokens, seed=train.seed))
    origins = {key: sources.get(key, "default") for key in ("optimizer.learning_rate", "train.epochs")}
    rate = f"{recipe.optimizer.learning_rate:g} ({_origin(origins['optimizer.learning_rate'], recipe)})"
    epochs = "" if train.max_steps else f"{train.epochs:g} ({origins['train.epochs']})"
    warnings = (*report.warnings(), *_few_steps(recipe, steps, size), *_large_rows(size), *_labels_alike(recipe, table))
    cautions = (*recipe.objective.cautions(recipe.optimizer), *recipe.tuner.cautions(model))
    return Plan(steps, size, rate, epochs, (*warnings, *cautions), tuple(recipe.tuner.remarks(model)))


def _origin(source: str, recipe: Recipe) -> str:
    return f"default of {name_of(recipe.optimizer)}" if source in ("default", "paper") else source


def _few_steps(recipe: Recipe, steps: int, size: StepSize) -> Iterator[str]:
    """A line when the run is too short to learn much."""
    if steps >= FEW_STEPS:
        return
    mend = "a larger train.max_steps" if recipe.train.max_steps else "more train.epochs, or train.max_steps"
    smaller = "" if size.derived else ", or a smaller train.batch_tokens"
    yield (
        f"only {steps} step{'' if steps == 1 else 's'}: little will be learned; give more rows, {mend}{smaller} "
        f"(now {size.tokens:,} tokens, {round(size.rows):,} row{'' if round(size.rows) == 1 else 's'} a step)"
    )


def _large_rows(size: StepSize) -> Iterator[str]:
    """A line when single rows do not fit into a step."""
    if size.over and not size.derived:
        yield (
            f"train.batch_tokens {size.tokens:,} is smaller than {size.over:,} of the rows, each of which is a step of "
            f"its own; rows have {round(size.row_tokens):,} tokens on average: set train.batch_tokens to auto"
        )


def _labels_alike(recipe: Recipe, table: TokenTable) -> Iterator[str]:
    """A line when an objective that learns from true against false is given only one of the two."""
    for column in recipe.objective.columns():
        if column.name != "label" or not column.truth:
            continue
        values = table.values[:, table.columns.index(column.name)]
        if len(values) and (values == values[0]).all():
            one, other = ("true", "false") if values[0] else ("false", "true")
            yield (
                f"{column.name} is {one} in all {len(table):,} rows: objective {name_of(recipe.objective)} learns from "
                f"the difference; add rows with {column.name} {other}, or use objective sft"
            )


def boundaries(share: float, steps: int) -> set[int]:
    """The steps at which each `share` of the run is done; none for 0."""
    if not share:
        return set()
    return {min(steps, max(1, round(k * share * steps))) for k in range(1, math.floor(1 / share + 1e-9) + 1)}
