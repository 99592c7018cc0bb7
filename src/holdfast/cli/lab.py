"""`holdfast lab build` and `holdfast lab describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Verbose, open_session

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def lab(context: typer.Context) -> None:
    """
    \b
    holdfast lab describe
    holdfast lab build lab-small

    The laboratory: tiny chat models that know a dozen small skills, to measure gain and forgetting in minutes.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(short_help="Train a laboratory model from nothing.")
def build(
    name: Annotated[str, typer.Argument(help="lab, lab-small, lab-graded or lab-vl.")] = "lab",
    out: Annotated[Path, typer.Option(help="Working folder; resumable.")] = Path("runs/lab-build"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Fewer steps, to try the machinery.", show_default=False)
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast lab build
    holdfast lab build lab-small --out runs/lab-build

    Train a laboratory model as the shipped one was trained: seeded, repeatable, resumable when killed.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.lab.build import build_lab_model as build_model

        path = build_model(name, out, steps=steps, ui=ui)
        ui.report_result(f"model: {path}", path=str(path))


@app.command(short_help="Measure what a laboratory model knows.")
def describe(
    name: Annotated[str, typer.Argument(help="lab, lab-small, lab-graded, lab-vl, or any model or run.")] = "lab",
    items: Annotated[int, typer.Option(min=1, help="Questions per skill.")] = 200,
    skill: Annotated[
        list[str] | None, typer.Option(help="Only this skill, such as story-graded; repeatable.", show_default=False)
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Answers sampled for each question: a histogram of how many are right.")
    ] = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast lab describe
    holdfast lab describe runs/mine --items 50
    holdfast lab describe lab-graded --skill story-graded --samples 8

    Ask a model fresh questions of every skill, greedily, and print the share it answers rightly; with --samples also
    how many of a question's sampled answers are right, which is what learning from one's own answers needs to differ.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_skills
        from holdfast.lab.describe import measure_skills as describe_model

        skill_report = describe_model(name, skills=skill or (), items=items, samples=samples, ui=ui)
        ui.report_result(format_skills(skill_report), **skill_report)
