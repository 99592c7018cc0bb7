"""`holdfast plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Settings, Verbose, open_session


def plan(
    recipe: RecipeFile,
    settings: Settings = None,
    gpus: Annotated[int, typer.Option(help="How many.")] = 8,
    kind: Annotated[str, typer.Option(help="a100-40, a100, h100, h200, b200, mi300x, l40s, l4 or a10.")] = "h100",
    nodes: Annotated[
        int | None, typer.Option(help="Machines they stand in; default: as few as there can be.", show_default=False)
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", metavar="NAME=VALUE", help="Change an assumption; may be given several times."),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast plan run.yaml --gpus 64 --kind h100
    holdfast plan run.yaml --gpus 64 --kind h100 --nodes 16 model=path/to/70b
    holdfast plan run.yaml --gpus 8 --kind l40s --assume utilisation=0.3

    Say on paper what a recipe takes on GPUs that need not be here: memory of each, hours of sampling, training and
    evaluation, and what these wait for. The model may be a folder with config.json alone. Every assumption is shown.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import print_recipe_notes
        from holdfast.cli.render_plan import format_cluster_plan
        from holdfast.recipe.loader import read_recipe

        resolved_recipe = read_recipe(recipe, settings or ())
        print_recipe_notes(resolved_recipe, ui)
        from holdfast.pipeline.cluster.plan import plan_cluster

        findings = plan_cluster(resolved_recipe, gpus, kind, nodes, assume or (), ui=ui)
        ui.report_result(format_cluster_plan(findings), **findings)
