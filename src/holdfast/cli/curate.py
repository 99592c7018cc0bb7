"""`holdfast curate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Restart, Settings, Verbose, speaking

if TYPE_CHECKING:
    from holdfast.recipe.loader import Resolved

REJECTED = ("worst", "random")


def curate(
    recipe: RecipeFile,
    settings: Settings = None,
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Write pairs of the model's own answers: best and worst (or `--pairs random`)."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: curated.jsonl in the run.", show_default=False)
    ] = None,
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast curate run.yaml
    holdfast curate run.yaml --out rows.jsonl sampling.temperature=0.7
    holdfast curate run.yaml --pairs --out pairs.jsonl

    Do everything up to training: sample answers, judge them, and write the rows that would be trained on. The journal
    keeps every sample, so that a killed or repeated command draws nothing twice.
    """
    with speaking(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import resolution
        from holdfast.recipe.loader import read_recipe

        given = list(settings or ())
        rejected = next((given.pop(i) for i, word in enumerate(given) if pairs and word in REJECTED), None)
        resolved = read_recipe(recipe, given)
        if pairs:
            resolved = with_pairs(resolved, rejected)
        resolution(resolved, ui, notes=False)
        from holdfast.pipeline.run import curate_only

        path = curate_only(resolved, out=out, ui=ui, restart=restart)
        ui.result(f"rows: {path}", path=str(path))


def with_pairs(resolved: Resolved, rejected: str | None = None) -> Resolved:
    """The recipe with curator `pairs`: its own, or one more and the objective and output that go with it.

    Curators that sample answers go: both sides of a pair are sampled anew, and theirs would be thrown away.

    Args:
        rejected: "worst" or "random"; default: as the recipe has it.
    """
    from holdfast.axes.registry import name_of
    from holdfast.data.row_shapes import takes_pairs
    from holdfast.recipe.loader import as_resolved

    recipe = resolved.recipe
    used = [c for c in recipe.curate if c.effect == "pair" or not c.samples]
    curators: list[dict[str, Any]] = [
        {"name": name_of(c), **c.model_dump(mode="json", exclude_unset=True)} for c in used
    ]
    known = [curators[i] for i, c in enumerate(used) if c.effect == "pair"]
    changes = []
    if not known:
        known = [{"name": "pairs"}]
        curators += known
        changes.append(f"output={json.dumps(f'{recipe.output}-pairs')}")
        if not takes_pairs(recipe.objective.kind(), recipe.objective.columns()):
            changes.append("objective=dpo")
    if rejected:
        known[-1]["rejected"] = rejected
    return as_resolved(resolved, [f"curate={json.dumps(curators)}", *changes])
