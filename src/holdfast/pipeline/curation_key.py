"""What the curated rows of a run depend on: its curators, the rows they mix in, and what they sample and judge with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.axes.curator import Curator, RowSource
from holdfast.axes.registry import identity_of
from holdfast.data.rows import Rows, fingerprint_json, fingerprint_rows
from holdfast.evaluation.subject import judge_identity
from holdfast.pipeline.sources import open_extra_rows
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.pipeline.phases import RunContext


def compute_curation_key(work: RunContext, source: str) -> str:
    """What curated rows depend on beside `source`, the rows as they came; training may change without touching them."""
    from holdfast.models.loading import fingerprint_of, locate_model

    recipe, judge, curators = work.recipe, work.sources.judge, list_curators(work.recipe)
    by = judge_identity(judge) if any(curator.judges for curator in curators) else None
    beside = [fingerprint_rows(rows) for rows in work.replay_rows]
    for curator in curators:
        if curator.effect != "mix":
            beside += [fingerprint_rows(open_source(recipe, one)) for one in curator.row_sources()]
        beside += [fingerprint_of(locate_model(name)) for name in curator.named_models()]
    made_with = [work.base.fingerprint, source, list(map(identity_of, curators)), recipe.sampling, recipe.train.seed]
    return fingerprint_json([*made_with, work.chat.fingerprint, beside, by])


def list_curators(recipe: Recipe) -> list[Curator]:
    """The recipe's curators, and `data.replay` as one more."""
    from holdfast.methods.curators.replay import Replay

    replay = recipe.data.replay
    again = (
        [Replay(path=replay.path, share=replay.share, columns=replay.columns, ignore=replay.ignore)] if replay else []
    )
    return [*recipe.curate, *again]


def open_replay_rows(recipe: Recipe, say: Callable[[str], Any] = len) -> list[Rows]:
    """The rows that curators mix in as they are.

    Args:
        say: Called with a line on how each file was read.
    """
    mixers = [curator for curator in list_curators(recipe) if curator.effect == "mix"]
    return [open_source(recipe, source, say) for curator in mixers for source in curator.row_sources()]


def open_source(recipe: Recipe, source: RowSource, say: Callable[[str], Any] = len) -> Rows:
    """The rows of a source, as the recipe's objective takes them."""
    return open_extra_rows(recipe, source.path, source.columns, source.ignore, say)
