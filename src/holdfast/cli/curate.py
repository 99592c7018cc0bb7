"""`holdfast curate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Settings, Verbose, speaking


def curate(
    recipe: RecipeFile,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: curated.jsonl in the run.", show_default=False)
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast curate run.yaml
    holdfast curate run.yaml --out rows.jsonl sampling.temperature=0.7

    Do everything up to training: sample answers, judge them, and write the rows that would be trained on. The journal
    keeps every sample, so that a killed or repeated command draws nothing twice.
    """
    with speaking(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import resolution
        from holdfast.recipe_file import read_recipe

        resolved = read_recipe(recipe, settings or ())
        resolution(resolved, ui, notes=False)
        from holdfast.run import curate_only

        path = curate_only(resolved, out=out, ui=ui)
        ui.result(f"rows: {path}", path=str(path))
