"""`holdfast check`."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Settings, Verbose, open_session
from holdfast.cli.one_line import Columns, Data, MethodName, Model, RecipeOrSetting, Target, read_recipe_or_options


def check(
    recipe: RecipeOrSetting = None,
    settings: Settings = None,
    model: Model = None,
    data: Data = None,
    method: MethodName = None,
    target: Target = None,
    columns: Columns = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Show how the judge reads the first 100 rows' answers.")
    ] = False,
    device_memory: Annotated[
        float | None,
        typer.Option("--device-memory", help="Plan the training for a GPU with this many GiB, which need not be here."),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast check run.yaml
    holdfast check --model Qwen/Qwen3-0.6B --data train.csv --map prompt=question answer=reply
    holdfast check run.yaml train.max_length=512
    holdfast check run.yaml --judge
    holdfast check run.yaml --device-memory 80

    Read the recipe strictly, validate every row, and show what training would see: the chat template with the trained
    part of three rows coloured, a histogram of lengths, what is dropped and why, steps, how it is computed (attention,
    compiling, types, micro-batch), memory and for what, time. Trains nothing.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_check, print_recipe_notes

        options = {"model": model, "data": data, "method": method, "target": target}
        resolved_recipe = read_recipe_or_options(recipe, settings, options, columns, ui)
        print_recipe_notes(resolved_recipe, ui)
        from holdfast.pipeline.check import check as check_run

        findings = check_run(resolved_recipe, ui=ui, judge=judge, device_gib=device_memory)
        ui.report_result(format_check(findings), **findings)
