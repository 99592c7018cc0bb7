"""`holdfast train`."""

from __future__ import annotations

from holdfast.cli.common import AsJson, Quiet, Restart, Settings, Verbose, open_session, rerun_command
from holdfast.cli.one_line import Columns, Data, MethodName, Model, RecipeOrSetting, Target, read_recipe_or_options


def train(
    recipe: RecipeOrSetting = None,
    settings: Settings = None,
    model: Model = None,
    data: Data = None,
    method: MethodName = None,
    target: Target = None,
    columns: Columns = None,
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast train run.yaml
    holdfast train --model Qwen/Qwen3-0.6B --data train.csv --map prompt=question answer=reply
    holdfast train run.yaml optimizer.learning_rate=3e-5 train.seed=1
    accelerate launch --num_processes 2 -m holdfast train run.yaml

    Measure the base, curate the rows, train, measure again, and write the report. Killed or interrupted, the same
    command goes on where it was. All settings: `holdfast show recipe`.

    \b
    Exit codes: 0 fine, 1 failed while running, 2 bad usage, recipe or data,
    3 the gate said no, 130 interrupted and resumable.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_report, print_recipe_notes, refuse_if_gated

        options = {"model": model, "data": data, "method": method, "target": target}
        resolved_recipe = read_recipe_or_options(recipe, settings, options, columns, ui)
        print_recipe_notes(resolved_recipe, ui, notes=False)
        from holdfast.pipeline.train import train as train_run

        run = train_run(resolved_recipe, ui=ui, rerun_hint=rerun_command(), restart=restart)
        if run.report:  # only the first process of several has one
            ui.report_result(format_report(run.report, run.path), directory=str(run.path), report=run.report)
            refuse_if_gated(run.report)
