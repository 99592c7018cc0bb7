"""`holdfast curate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Restart, Settings, Verbose, open_session

if TYPE_CHECKING:
    from holdfast.recipe.loader import ResolvedRecipe

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
    explain: Annotated[
        bool, typer.Option("--explain", help="Write explained.jsonl too: what became of every row, and why.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Sample only the I-th of N parts: for several machines.", show_default=False),
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Take what all parts have sampled, then curate.")] = False,
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
    holdfast curate run.yaml --explain
    holdfast curate run.yaml --shard 3/64    and, when all 64 are there, --join

    Do everything up to training: sample answers, judge them, and write the rows that would be trained on. The journal
    keeps every sample, so that a killed or repeated command draws nothing twice.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import print_recipe_notes
        from holdfast.recipe.loader import read_recipe

        words = list(settings or ())
        rejected = next((words.pop(i) for i, word in enumerate(words) if pairs and word in REJECTED), None)
        resolved_recipe = read_recipe(recipe, words)
        if pairs:
            resolved_recipe = add_pairs_curator(resolved_recipe, rejected)
        print_recipe_notes(resolved_recipe, ui, notes=False)
        from holdfast.errors import UserError
        from holdfast.pipeline.curate import curate_only, curate_shard

        if shard is not None:
            needless = {"--out": out is not None, "--explain": explain, "--join": join}
            if option := next((name for name, is_given in needless.items() if is_given), None):
                raise UserError(f"{option}: a shard only samples, and writes no rows; leave it or --shard out")
            place = curate_shard(resolved_recipe, shard, ui=ui, restart=restart)
            ui.report_result(f"samples: {place / 'samples.jsonl'}", path=str(place))
            return
        path = curate_only(resolved_recipe, out=out, ui=ui, restart=restart, explain=explain, join=join)
        ui.report_result(f"rows: {path}", path=str(path))


def add_pairs_curator(resolved_recipe: ResolvedRecipe, rejected: str | None = None) -> ResolvedRecipe:
    """The recipe with curator `pairs`: its own, or one more and the objective and output that go with it.

    Where it has none, curators that sample answers to the rows' questions go: both sides of a pair are sampled anew,
    and theirs would be thrown away.

    Args:
        rejected: "worst" or "random"; default: as the recipe has it.
    """
    from holdfast.axes.registry import name_of
    from holdfast.data.row_shapes import takes_pairs
    from holdfast.recipe.loader import resolve_any

    recipe = resolved_recipe.recipe
    has_pairs = any(c.effect == "pair" for c in recipe.curate)
    used_curators = [c for c in recipe.curate if has_pairs or not c.answers_rows()]
    curators: list[dict[str, Any]] = [
        {"name": name_of(c), **c.model_dump(mode="json", exclude_unset=True)} for c in used_curators
    ]
    pair_entries = [curators[i] for i, c in enumerate(used_curators) if c.effect == "pair"]
    changes = []
    if not pair_entries:
        pair_entries = [{"name": "pairs"}]
        curators += pair_entries
        changes.append(f"output={json.dumps(f'{recipe.output}-pairs')}")
        if not takes_pairs(recipe.objective.row_shape(), recipe.objective.value_columns()):
            changes.append("objective=dpo")
    if rejected:
        pair_entries[-1]["rejected"] = rejected
    return resolve_any(resolved_recipe, [f"curate={json.dumps(curators)}", *changes])
