"""`holdfast eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Device, DraftName, InferenceText, Quiet, Verbose, open_session

TASK_HELP = "File, probe, lab, lab:SKILL, text:FILE, lm-eval task."
JUDGE_HELP = "Judge for files; default: found from rows."

Tasks = Annotated[list[str] | None, typer.Argument(metavar="[TASK]...", help=TASK_HELP, show_default=False)]
Against = Annotated[str | None, typer.Option(help="Model to compare with, on the same items.", show_default=False)]
JudgeName = Annotated[str | None, typer.Option(help=JUDGE_HELP, show_default=False)]
MaxLoss = Annotated[float | None, typer.Option(min=0, help="Gate: largest mean drop, in points.", show_default=False)]
MaxBits = Annotated[
    float | None,
    typer.Option(min=0, help="Gate: rise of texts' bits, in %.", show_default=False),
]
MaxKl = Annotated[
    float | None,
    typer.Option(min=0, help="Gate: KL on the probe, in bits.", show_default=False),
]
Out = Annotated[Path | None, typer.Option(help="Directory for items and report.", show_default=False)]
ShardText = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Ask only part I of N (several machines).", show_default=False),
]


def evaluate(
    model: Annotated[str, typer.Argument(help="Model, run directory or adapter.")],
    tasks: Tasks = None,
    against: Against = None,
    judge: JudgeName = None,
    inference: InferenceText = None,
    draft: DraftName = None,
    items: Annotated[int, typer.Option(min=1, help="Questions per task.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    max_thinking_tokens: Annotated[int, typer.Option(min=1, help="Longest thought before it.")] = 1024,
    max_loss: MaxLoss = None,
    max_bits: MaxBits = None,
    max_kl: MaxKl = None,
    out: Out = None,
    shard: ShardText = None,
    join: Annotated[bool, typer.Option("--join", help="Report what all parts have measured.")] = False,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast eval runs/mine --against lab
    holdfast eval Qwen/Qwen3-0.6B test.jsonl text:prose.txt --judge number
    holdfast eval runs/mine --inference "{name: dial, point: 0.5}"
    holdfast eval runs/mine --against lab --out eval --shard 3/64    and, when all 64 are there, --join

    Measure a model on tasks, paired with another on the same items. Without tasks a run is measured on its own, a
    laboratory model on all skills, any other on the probe; one with --inference against itself without.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_report, refuse_if_gated
        from holdfast.errors import UserError
        from holdfast.recipe.method_text import parse_method

        chosen = parse_method("judges", judge, "--judge") if judge else None
        method = parse_method("inference", inference, "--inference") if inference else None
        from holdfast.pipeline.evaluate import evaluate as measure

        gates = {"--max-loss": max_loss, "--max-bits": max_bits, "--max-kl": max_kl, "--join": join or None}
        if shard is not None and (option := next((name for name, value in gates.items() if value is not None), None)):
            raise UserError(f"{option}: a shard only measures, and writes no report; leave it or --shard out")
        report = measure(
            model, against=against, tasks=tasks, judge=chosen, inference=method, draft=draft, items=items,
            max_tokens=max_tokens, max_thinking_tokens=max_thinking_tokens, max_loss=max_loss, max_bits=max_bits,
            max_kl=max_kl, out=out, shard=shard, join=join, device=device, ui=ui,
        )  # fmt: skip
        if shard is not None:
            line = f"shard {report['shard']}: {report['items']:,} items; when all are there, add --join in its place"
            ui.report_result(line, **report)
            return
        ui.report_result(format_report(report, out if against or method else None), report=report)
        refuse_if_gated(report)
