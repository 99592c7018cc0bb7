"""`holdfast eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Verbose, speaking


def evaluate(
    model: Annotated[str, typer.Argument(help="Model, run directory or adapter.")],
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK]...", help="File, lab, lab:SKILL, text:FILE, or an lm-eval task.", show_default=False
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Model to compare with, on the same items.", show_default=False)
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Judge for files; default: found from the rows.", show_default=False)
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Questions per task.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    max_loss: Annotated[
        float | None, typer.Option(min=0, help="Gate: largest mean drop, in points.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for items and report.", show_default=False)] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast eval runs/mine --against lab
    holdfast eval Qwen/Qwen3-0.6B test.jsonl text:prose.txt --judge number

    Measure a model on tasks, paired with another model on the same items: differences with 95 % intervals, answers won
    and lost. Without tasks a run is measured on its own, a laboratory model on all skills.
    """
    with speaking(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import refuse_if_gated, summary
        from holdfast.registry import find

        chosen = find("judges", judge)() if judge else None
        from holdfast.measure import evaluate as evaluate_run

        found = evaluate_run(
            model,
            against=against,
            tasks=tasks,
            judge=chosen,
            items=items,
            max_tokens=max_tokens,
            max_loss=max_loss,
            out=out,
            ui=ui,
        )
        ui.result(summary(found, out if against else None), report=found)
        refuse_if_gated(found)
