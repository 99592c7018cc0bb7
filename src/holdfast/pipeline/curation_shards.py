"""Curation shared out to processes that need not know of each other: `--shard 3/64` samples a part, `--join` takes all.

A shard is a run directory of its own beneath the run's, `OUTPUT/shards/3-of-64`, with a journal that nobody else
writes; so shards may be started in any order, on any machine that sees the disk, and again after a kill. A sample's
name says all it depends on, wherever it was drawn. That is why the union of the journals is the journal of one process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.axes.curator import Curator
from holdfast.axes.registry import name_of
from holdfast.core.files import read_json
from holdfast.data.row_store import RowView
from holdfast.errors import UserError
from holdfast.methods.curators.decontaminate import Decontaminate
from holdfast.pipeline.curation_key import list_curators
from holdfast.pipeline.curation_services import open_drop_list
from holdfast.pipeline.method_sources import find_source_changes
from holdfast.pipeline.phases import RunContext, apply_curator
from holdfast.pipeline.run_dir import MARK, SHARDS, output_directory
from holdfast.pipeline.sampling_pools import closing_pools
from holdfast.pipeline.shards import Shard, find_shards, refuse_missing
from holdfast.recipe.changes import list_differences, shorten_differences
from holdfast.recipe.loader import ResolvedRecipe, read_recipe, resolve_any
from holdfast.recipe.schema import Recipe

STATE_KEY = "shard"
"""Key of a shard's `run.json`: whether it came to its end, and how many rows were its part."""
JOINED_KEY = "joined"
"""Key of the run's `run.json`: bytes of each shard's journal that were taken over."""
SAMPLED_FROM = ("model", "data", "curate", "judge", "sampling", "evaluate", "train.seed")
"""Beginnings of the settings on which it depends what is sampled; `evaluate` because rows that are measured go."""


def plan_shard(resolved_recipe: ResolvedRecipe, shard: Shard) -> tuple[ResolvedRecipe, Path]:
    """The recipe of one part, and the journal of the whole run, whose samples need not be drawn again.

    Raises:
        UserError: If the recipe's samples cannot be shared out.
    """
    recipe = resolved_recipe.recipe
    refuse_unsplittable(recipe)
    output = output_directory(recipe)
    changes = [f"output={json.dumps(str(shard.directory_in(output / SHARDS)))}"]
    return resolve_any(resolved_recipe, changes), output / "samples.jsonl"


def refuse_unsplittable(recipe: Recipe) -> None:
    """See that there is something to share out, and a place where the parts meet.

    Raises:
        UserError: If not.
    """
    if "{time}" in recipe.output:
        raise UserError(
            f"output: {recipe.output} is another directory at every start, and the shards of a run meet in one; "
            "name it without {time}"
        )
    curators = [curator for curator in list_curators(recipe) if curator.samples]
    if not curators:
        raise UserError("--shard: no curator of this recipe samples, so there is nothing to share out; leave it out")
    if not curators[0].samples_by_row():
        raise UserError(
            f"--shard: what curator {name_of(curators[0])} samples for one row depends on others, so it cannot be "
            "shared out; leave --shard out, or give sampling.engine several servers"
        )


def sample_shard(work: RunContext, shard: Shard) -> None:
    """Sample and judge what curators ask for of one part of the rows."""
    curators = list_curators(work.recipe)
    stages = list_shared_curators(curators, work.ui.write_line)
    rows, n_rows, is_part = work.sources.train, 0, False
    with open_drop_list(work.folder.path / "dropped.jsonl") as drops, closing_pools(work):
        for curator in stages:
            if curator.samples and not is_part:
                rows, is_part = RowView(rows, np.arange(shard.number - 1, len(rows), shard.count)), True
                if not (n_rows := len(rows)):
                    break
            rows = apply_curator(work, curator, rows, lambda name, n: None, drops)
    work.folder.state[STATE_KEY] = {"rows": n_rows, "finished": True}
    work.folder.save_state()
    work.ui.write_line(
        f"shard {shard}: {n_rows:,} rows, {len(work.journal):,} samples; when all are there, add --join in its place"
    )


def list_shared_curators(curators: Sequence[Curator], say: Callable[[str], Any] = len) -> list[Curator]:
    """The curators up to the last that samples for each row by itself, and whose rows come so from the first on.

    Args:
        say: Called with a line where a curator behind them samples, too.
    """
    first = next(i for i, curator in enumerate(curators) if curator.samples)
    end = first
    while end < len(curators) and works_by_row(curators[end]):
        end += 1
    last = max(i for i in range(end) if curators[i].samples)
    if later := next((curator for curator in curators[end:] if curator.samples), None):
        say(f"what curator {name_of(later)} samples is left to the join: it, or one before it, looks at all rows")
    return list(curators[: last + 1])


def works_by_row(curator: Curator) -> bool:
    """Whether what a curator makes of a row depends on that row alone."""
    if curator.samples:
        return curator.samples_by_row()
    return curator.effect in ("rewrite", "add", "pair") or isinstance(curator, Decontaminate)


def list_shard_journals(output: Path, state: dict[str, Any]) -> list[Path]:
    """The journals of shards that were not taken over yet as they are: what they hold is not drawn again either."""
    sizes = state.get(JOINED_KEY) or {}
    journals = [path / "samples.jsonl" for path in find_shards(output / SHARDS, MARK).values()]
    return [path for path in journals if path.is_file() and sizes.get(path.parent.name) != path.stat().st_size]


def select_joined(recipe: Recipe) -> list[Path]:
    """The shards that `--join` takes, after a look at all of them.

    Raises:
        UserError: If one is of another recipe, or is missing.
    """
    refuse_unsplittable(recipe)
    output = output_directory(recipe)
    shards = find_shards(output / SHARDS, MARK)
    if not shards:
        raise UserError(
            f"{output / SHARDS}: there are no shards; run holdfast curate RECIPE --shard 1/2 and --shard 2/2, or as "
            "many as there are machines"
        )
    for path in shards.values():
        if changes := describe_other_recipe(path, recipe):
            raise UserError(
                f"{path}: is a shard of another recipe: {changes}; run it again with this one, or remove it"
            )
    refuse_missing(output / SHARDS, shards, is_finished, "curate RECIPE")
    return list(shards.values())


def is_finished(path: Path) -> bool:
    """Whether the shard in a directory came to its end."""
    state = read_json(path / MARK)
    entry = state.get(STATE_KEY) if isinstance(state, dict) else None
    return isinstance(entry, dict) and entry.get("finished") is True


def describe_other_recipe(path: Path, recipe: Recipe) -> str:
    """How what a shard sampled from differs from this recipe, in a few words; "" where it is the same."""
    state = read_json(path / MARK)
    own = find_source_changes(state, recipe) if isinstance(state, dict) else [f"{MARK} is damaged"]
    lines = list_differences(recipe, read_recipe(path).recipe)
    return shorten_differences([*own, *(line for line in lines if line.startswith(SAMPLED_FROM))])


def join_shards(work: RunContext, paths: Sequence[Path]) -> None:
    """Take the samples and judgements of shards into the run's journal: each once, the first of several."""
    journals = [path / "samples.jsonl" for path in paths]
    counts = work.journal.take_over([path for path in journals if path.exists()])
    work.folder.state[JOINED_KEY] = {path.parent.name: path.stat().st_size for path in journals if path.exists()}
    work.folder.save_state()
    again = f"; {counts['again']:,} were there before" if counts["again"] else ""
    work.ui.write_line(f"{len(paths)} shards: {counts['samples']:,} samples taken over{again}")
    if counts["unequal"]:
        work.ui.warn(
            f"{counts['unequal']:,} samples were drawn twice and differ: the first is taken; the engine does not give "
            "the same answer to the same seed"
        )
