"""`holdfast search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Restart, Settings, Verbose, open_session


def search(
    recipe: RecipeFile,
    settings: Settings = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Most that may be lost elsewhere, in points.", show_default=False)
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time after which nothing new is tried: 1h, 90m.", show_default=False)
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Recipes tried at most.", show_default=False)] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train trials side by side; see search.batch.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Directory; default: runs/search-DATA.", show_default=False)] = None,
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast search run.yaml --max-loss 1.0 --budget 1h
    holdfast search run.yaml --max-loss 1.0 --trials 20 search.space.method='[sft, s3ft, ssr]'

    Find the recipe that gains most on the target among those that lose at most so much elsewhere. What varies stands in
    the recipe's section `search`; default: learning rate and half of the weights. The winner is confirmed on questions
    that nothing was chosen by; OUT/best.yaml is its recipe. Killed or interrupted, the same command goes on.

    Exit code 3: no recipe keeps to the limit; the others as of `train`.
    """
    with open_session(verbose, quiet, as_json) as ui:
        import json

        from holdfast.cli.render import print_recipe_notes
        from holdfast.errors import GateRefused
        from holdfast.recipe.loader import read_recipe

        options = {"max_loss": max_loss, "budget": budget, "trials": trials}
        words = [f"search.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
        resolved_recipe = read_recipe(recipe, [*(settings or ()), *words])
        print_recipe_notes(resolved_recipe, ui, notes=False)
        batch = resolved_recipe.recipe.search.batch if resolved_recipe.recipe.search else 1
        if workers > batch:
            text = f"suggestions are made {batch} at a time; set search.batch={workers} to share them too"
            ui.warn(f"--workers {workers}: {text}")
        from holdfast.pipeline.search.driver import describe_miss, search_recipes

        report = search_recipes(resolved_recipe, out=out, ui=ui, restart=restart, workers=workers)
        ui.report_result(format_search(report), **report)
        if report["best"] is None:
            raise GateRefused(describe_miss(report))


def format_search(report: dict[str, Any]) -> str:
    """The outcome, the winner beside plain SFT and the recipe as it is, and where to read on."""
    from holdfast.report.search_page import describe_search, format_change, format_point

    failures = sum(any(rung["failure"] for rung in trial["rungs"]) for trial in report["trials"])
    count = len(report["trials"])
    lines = [f"{count} trial{'' if count == 1 else 's'}" + (f", {failures} failed" if failures else "")]
    lines.append(describe_search(report))
    entries = [*([report["best"]] if report["best"] else report["finalists"]), *report["references"]]
    for entry in entries:
        label = f"{entry['what']}{format_point(entry['point'])}"
        lines.append(f"  {label}: {format_change(entry['fresh'])}, on held-out questions")
    if report["best"]:
        lines.append(f"recipe: {report['directory']}/best.yaml")
    return "\n".join([*lines, f"report: {report['directory']}/search.html"])
