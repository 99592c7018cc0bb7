"""Everything up to training, in one process or shared out: the rows that would be trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from holdfast.core.files import fresh_file
from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.pipeline.curation_shards import join_shards, plan_shard, sample_shard, select_joined
from holdfast.pipeline.explanation import describe_drops, explain_rows
from holdfast.pipeline.phases import curate_rows
from holdfast.pipeline.run import Ranks, prepare_run
from holdfast.pipeline.shards import Shard
from holdfast.recipe.loader import ResolvedRecipe, resolve_any
from holdfast.recipe.schema import Recipe


def curate_shard(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str | Path, shard: str, *,
    ui: Progress | None = None, restart: bool = False,
) -> Path:  # fmt: skip
    """Sample and judge one part of what curation asks for; the directory of what was sampled.

    Args:
        shard: Which of how many: "3/64".
        restart: Begin the part anew; what is there of it is kept as `.old-1`.
    """
    resolved_recipe, part = resolve_any(recipe), Shard.parse(shard)
    refuse_stages(resolved_recipe)
    own_recipe, journal = plan_shard(resolved_recipe, part)
    ranks = Ranks(resolved_recipe.recipe.device)
    silent = ui or Progress.create_silent()
    work = prepare_run(own_recipe, silent, ranks, trains=False, restart=restart, parents=[journal])
    with work.journal, work.folder.time_phase("curate"):
        sample_shard(work, part)
    return work.folder.path


def refuse_stages(resolved_recipe: ResolvedRecipe) -> None:
    """See that a recipe that is only to be curated is one run.

    Raises:
        UserError: If it has stages.
    """
    if resolved_recipe.recipe.stages:
        raise UserError(
            f"{resolved_recipe.name}: has stages, and each curates rows with the model of the one before; train it, "
            "then look at OUTPUT/stages/*/curated.jsonl"
        )


def curate_only(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    ui: Progress | None = None,
    restart: bool = False,
    explain: bool = False,
    join: bool = False,
) -> Path:
    """Do everything up to training: the file of rows that would be trained on.

    Args:
        out: A copy of it; default: only `curated.jsonl` in the run's directory.
        explain: Write `explained.jsonl` in the run's directory too: what became of every row, and why.
        restart: Begin anew where the output holds a run, which is kept as `OUTPUT.old-1`.
        join: Take over what shards of this recipe sampled, all of which must be there.
    """
    resolved_recipe = resolve_any(recipe)
    refuse_stages(resolved_recipe)
    ranks, ui = Ranks(resolved_recipe.recipe.device), ui or Progress.create_silent()
    shards = select_joined(resolved_recipe.recipe) if join else []
    work = prepare_run(resolved_recipe, ui, ranks, trains=False, restart=restart, joins=join)
    with work.journal, work.folder.time_phase("curate"):
        if join:
            join_shards(work, shards)
        curate_rows(work)
    if explain:
        for line in describe_drops(work.folder.read_json("data.json")):
            work.ui.write_line(line)
        work.ui.write_line(f"why each row: {explain_rows(work.sources.train, work.folder.path)}")
    path = work.folder.path / "curated.jsonl"
    if out is None:
        return path
    with fresh_file(Path(out)) as side:
        shutil.copyfile(path, side)
    return Path(out)
