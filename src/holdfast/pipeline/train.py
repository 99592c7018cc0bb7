"""`train`: one run, or one after another where a recipe has stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.core.progress import Progress
from holdfast.pipeline.multi_stage import train_stages
from holdfast.pipeline.results import RunResult
from holdfast.pipeline.run import train_one
from holdfast.recipe.loader import ResolvedRecipe, resolve_any
from holdfast.recipe.schema import Recipe


def train(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str | Path,
    *,
    ui: Progress | None = None,
    rerun_hint: str = "it again",
    restart: bool = False,
    parents: Sequence[str | Path] = (),
) -> RunResult:
    """Curate, train, measure before and after, and write the report. Killed and repeated, it goes on where it was.

    Args:
        recipe: A recipe, its mapping, or the path of its file.
        ui: Where progress is shown; default silent.
        rerun_hint: How a user runs this once more, for the message after Ctrl-C.
        restart: Begin anew where the output holds a run, which is kept as `OUTPUT.old-1`.
        parents: Journals of other runs (`RUN/samples.jsonl`), which are only read: what they hold is not sampled again.
            A recipe with stages samples for itself.
    Raises:
        UserError: If the recipe or the data cannot be used; nothing is written then.
        RunError: If training had to stop; the same call goes on from the last checkpoint.
        Interrupted: After Ctrl-C; everything is saved.
        GateRefused: If a stage with a gate of its own did not pass it; the stages after it have not run.
    """
    ui, resolved_recipe = ui or Progress.create_silent(), resolve_any(recipe)
    if resolved_recipe.recipe.stages:
        return train_stages(resolved_recipe, ui, rerun_hint, restart=restart)
    return train_one(resolved_recipe, ui, rerun_hint, restart=restart, parents=[Path(path) for path in parents])
