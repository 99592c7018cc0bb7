"""What a training comes to before its first step: its steps and their size, and what about it looks wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.axes.registry import name_of
from holdfast.data.batching.step_size import FEW_STEPS, StepSize, compute_step_size, count_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.data.batching.batches import TokenTable
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The steps of a run.

    Args:
        steps: How many.
        size: Of each, in tokens.
        learning_rate: The rate and where it comes from, in words.
        epochs: Likewise; empty where `train.max_steps` says how many steps.
        warnings: One line each, with what to do.
        remarks: What the tuner comes to, one line each.
        rounds: In online learning what a step is made of, in words; "": it is made of the rows.
    """

    steps: int
    size: StepSize
    learning_rate: str
    epochs: str
    warnings: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    rounds: str = ""

    def summary_lines(self) -> list[str]:
        """The plan in sentences, for the log."""
        if not self.steps:
            return ["nothing is trained: the model answers as it is, through the inference method"]
        steps_of = "this many answers" if self.rounds else f"{self.size.tokens:,} tokens"
        return [
            f"{self.steps:,} step{'' if self.steps == 1 else 's'}, {self.batch}",
            f"learning rate {self.learning_rate}, for steps of {steps_of}: change both together",
            *self.remarks,
        ]

    @property
    def batch(self) -> str:
        """What a step is made of."""
        return self.rounds or self.size.text

    @property
    def breakdown(self) -> str:
        """The same without the number of tokens."""
        return self.rounds or self.size.breakdown


def plan_training(
    recipe: Recipe, model: Model, table: TokenTable, report: TableReport, sources: Mapping[str, str]
) -> TrainingPlan:
    """Plan the training of `model`, before its tuner is applied, on the rows of a table.

    Args:
        report: What became of the rows on their way into the table.
        sources: Dotted setting to where it came from (`ResolvedRecipe.sources`).
    """
    train = recipe.train
    table = table.keep_first_sequences(recipe.objective.sequences_per_step())
    size = compute_step_size(train.batch_tokens, table, train.order_seed, recipe.objective.paper_settings.batch)
    steps = count_steps(train, table.build_sampler(batch_tokens=size.tokens, seed=train.order_seed))
    origins = {key: sources.get(key, "default") for key in ("optimizer.learning_rate", "train.epochs")}
    rate = f"{recipe.optimizer.learning_rate:g} ({describe_origin(origins['optimizer.learning_rate'], recipe)})"
    epochs = "" if train.max_steps is not None else f"{train.epochs:g} ({origins['train.epochs']})"
    warnings = (
        *report.warning_lines(),
        *_warn_of_few_steps(recipe, steps, size),
        *_warn_of_large_rows(size),
        *_warn_of_equal_labels(recipe, table),
    )
    cautions = (*recipe.objective.list_warnings(recipe.optimizer), *recipe.tuner.list_warnings(model))
    return TrainingPlan(steps, size, rate, epochs, (*warnings, *cautions), tuple(recipe.tuner.list_notes(model)))


def describe_origin(source: str, recipe: Recipe) -> str:
    """Where a learning rate comes from, in words."""
    return f"default of {name_of(recipe.optimizer)}" if source in ("default", "paper") else source


def _warn_of_few_steps(recipe: Recipe, steps: int, size: StepSize) -> Iterator[str]:
    """A line when the run is too short to learn much."""
    if steps >= FEW_STEPS or not steps:
        return
    mend = "a larger train.max_steps" if recipe.train.max_steps else "more train.epochs, or train.max_steps"
    smaller = "" if size.derived else ", or a smaller train.batch_tokens"
    yield (
        f"only {steps} step{'' if steps == 1 else 's'}: little will be learned; give more rows, {mend}{smaller} "
        f"(now {size.tokens:,} tokens, {round(size.rows):,} row{'' if round(size.rows) == 1 else 's'} a step)"
    )


def _warn_of_large_rows(size: StepSize) -> Iterator[str]:
    """A line when single rows do not fit into a step."""
    if size.over and not size.derived:
        yield (
            f"train.batch_tokens {size.tokens:,} is smaller than {size.over:,} of the rows, each of which is a step of "
            f"its own; rows have {round(size.row_tokens):,} tokens on average: set train.batch_tokens to auto"
        )


def _warn_of_equal_labels(recipe: Recipe, table: TokenTable) -> Iterator[str]:
    """A line when an objective that learns from true against false is given only one of the two."""
    for column in recipe.objective.value_columns():
        if column.name != "label" or not column.truth:
            continue
        values = table.values[:, table.columns.index(column.name)]
        if len(values) and (values == values[0]).all():
            one, other = ("true", "false") if values[0] else ("false", "true")
            yield (
                f"{column.name} is {one} in all {len(table):,} rows: objective {name_of(recipe.objective)} learns from "
                f"the difference; add rows with {column.name} {other}, or use objective sft"
            )


def count_steps_to_stop(share: float, steps: int) -> int:
    """The steps after which a run stops that shall do this share of `steps`; at least one of them."""
    return min(steps, max(1, round(share * steps)))


def boundary_steps(share: float, steps: int) -> set[int]:
    """The steps at which each `share` of the run is done; none for 0."""
    if not share:
        return set()
    return {min(steps, max(1, round(k * share * steps))) for k in range(1, math.floor(1 / share + 1e-9) + 1)}
