"""`holdfast build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Settings, Verbose, open_session, rerun_command

GB = 1e9
ENGINES = ("native", "transformers", "vllm")


def build(
    task: Annotated[str, typer.Argument(help="What the model is to do, with examples perhaps; or a file with it.")],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/build"),
    model: Annotated[str | None, typer.Option(help="The base; default: found in the catalogue.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="A folder or file with data; several.")] = None,
    catalogue: Annotated[str | None, typer.Option(help="A JSONL file that lists data: path, description.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Search the Hugging Face hub for data.")] = False,
    engine: Annotated[str, typer.Option(help="Who writes rows: native, or a server's URL.")] = "native",
    engine_model: Annotated[str | None, typer.Option(help="The model there; default: its first.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to write.")] = 200,
    size: Annotated[float, typer.Option(min=0.001, help="Most GB of weights that a base may have.")] = 3.0,
    until: Annotated[str, typer.Option(help="Stop after: task, data, model, rows or train.")] = "train",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast build "Solve word problems about things that are bought and sold."
    holdfast build task.txt --data my_files --engine http://localhost:8000/v1 --out runs/mine
    holdfast build task.txt --until rows     # look at what was found, edit it, run it again

    From a task in words to a model: take it apart, find data and a base model, write rows, train, measure, report.
    Every step leaves a file in --out that may be edited, ordinary recipes among them; what is there is not done again.
    Nothing is sent anywhere but to the server named as --engine, and to the hub with --hub or a base that is not here.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_report, refuse_if_gated
        from holdfast.errors import UserError
        from holdfast.pipeline.from_description.steps import STEPS, BuildOptions, build_model

        if until not in STEPS:
            raise UserError(f"--until must be {', '.join(STEPS)}, not {until}")
        if engine not in ENGINES and not engine.startswith(("http://", "https://")):
            raise UserError(f"--engine must be {', '.join(ENGINES)} or a server's address, http://..., not {engine!r}")
        options = BuildOptions(
            out, model, tuple(data or ()), catalogue, hub, engine, engine_model, rows, size * GB, tuple(settings or ())
        )
        found_steps = build_model(read_task(task), options, until, ui, rerun_command())
        report = found_steps.get("report")
        if report is None:
            files = "\n".join(f"{step}: {path}" for step, path in found_steps.items())
            ui.report_result(
                f"{files}\nedit what is not right, then run the same command without --until", **found_steps
            )
            return
        directory = Path(found_steps["directory"])
        text = f"{format_report(report, directory)}\ntalk to it: holdfast chat {directory}"
        if examples := found_steps.get("examples"):
            text += f"\nyour examples, none of them trained on: holdfast eval {directory} {examples}"
        ui.report_result(text, **found_steps)
        refuse_if_gated(report)


def read_task(task: str) -> str:
    """The task itself, or what a file of that name holds."""
    from holdfast.errors import UserError

    is_file = "\n" not in task and len(task) < 250 and Path(task).expanduser().is_file()
    text = Path(task).expanduser().read_text(encoding="utf-8") if is_file else task
    if not text.strip():
        raise UserError("the task is empty; say what the model is to do")
    return text
