"""What the curated rows of a run depend on: its curators, the rows they mix in, and what they sample and judge with."""

from __future__ import annotations

import hashlib
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
    by = judge_identity(judge) if any(curator.uses_judge() for curator in curators) else None
    beside = [fingerprint_rows(rows) for rows in work.replay_rows]
    for curator in curators:
        if curator.effect != "mix":
            beside += [fingerprint_rows(open_source(recipe, one)) for one in curator.row_sources()]
        beside += [fingerprint_of(locate_model(name)) for name in curator.named_models()]
    made_with = [work.base.fingerprint, source, list(map(identity_of, curators)), recipe.sampling, recipe.train.seed]
    own_files = [hash_own_file(curator) for curator in curators]
    task_rows = [fingerprint_rows(task.rows) for task in work.tasks] if is_decontaminated(recipe) else []
    return fingerprint_json([*made_with, work.chat.fingerprint, beside, by, *filter(None, [task_rows, own_files])])


def hash_own_file(curator: Curator) -> str | None:
    """The hash of the file of the user's own that a curator runs, if there is one."""
    file = curator.own_file()
    return hashlib.sha256(file.read_bytes()).hexdigest() if file else None


def list_curators(recipe: Recipe) -> list[Curator]:
    """The recipe's curators in their order, with what its data section adds.

    `data.replay` is one more, at the end. `data.decontaminate` is one before the first, so that nothing is sampled for
    rows that go, and one behind each that writes questions; unless the recipe says itself where it stands.
    """
    from holdfast.methods.curators.decontaminate import Decontaminate
    from holdfast.methods.curators.replay import Replay

    replay = recipe.data.replay
    again = (
        [Replay(path=replay.path, share=replay.share, columns=replay.columns, ignore=replay.ignore)] if replay else []
    )
    curators = [*recipe.curate, *again]
    if not recipe.data.decontaminate or any(isinstance(curator, Decontaminate) for curator in curators):
        return curators
    check = Decontaminate()
    return [check, *(each for c in curators for each in ([c, check] if c.effect == "generate" else [c]))]


def is_decontaminated(recipe: Recipe) -> bool:
    """Whether rows that overlap with what is measured are left out."""
    from holdfast.methods.curators.decontaminate import Decontaminate

    return any(isinstance(curator, Decontaminate) for curator in list_curators(recipe))


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
