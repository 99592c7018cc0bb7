"""`holdfast init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import open_session

if TYPE_CHECKING:
    from holdfast.core.progress import Progress
    from holdfast.pipeline.first_look import FirstLook

MODEL, DATA = "lab", "lab:story"

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE ROLE=COLUMN", help="Recipe to write; default: run.yaml.", show_default=False),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", "--columns", help="What a column is: prompt=question answer=label.", show_default=False),
]


def init(
    words: Words = None,
    model: Annotated[str | None, typer.Option(help="Path, Hugging Face name, or lab.", show_default=False)] = None,
    data: Annotated[str | None, typer.Option(help="Rows: file, data set, lab:SKILL.", show_default=False)] = None,
    columns: Columns = None,
    judge: Annotated[str | None, typer.Option(help="See `holdfast list judges`.", show_default=False)] = None,
    method: Annotated[str | None, typer.Option(help="See `holdfast list`.", show_default=False)] = None,
    force: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
) -> None:
    """
    \b
    holdfast init
    holdfast init mine.yaml --model Qwen/Qwen3-0.6B --data train.jsonl
    holdfast init --data train.csv --map prompt=question answer=label --judge exact

    Write a minimal recipe with every other setting in comments, each with its default and what it does. A file is
    looked at: how its columns are read, which judge and method its rows call for. On a terminal it asks for what is
    not given.
    """
    with open_session() as ui:
        from holdfast.errors import UserError
        from holdfast.recipe.shorthand import LAB_MODELS
        from holdfast.recipe.template import build_template

        file, mapping = parse_words([*(columns or ()), *(words or ())])
        if file.exists() and not force:
            raise UserError(f"{file} exists; give another name, or --force to replace it")
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        model = model or (ask_question("Model: a folder, a Hugging Face name, or lab", MODEL) if asks else MODEL)
        data = data or (ask_question("Training rows: a file, a data set, or lab:SKILL", DATA) if asks else DATA)
        look, mapping = inspect_data(data, mapping, asks, ui)
        if asks and judge is None and look.judge:
            judge = ask_question("Judge of the answers", look.judge)
        method = method or look.method
        text = build_template(model, data, method, str(file), columns=mapping, judge=judge or look.judge)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        keep_text = "the laboratory's other skills" if model in LAB_MODELS else "the probe, bundled prompts and text"
        ui.report_result(
            f"{file} written; what training may lose is measured on {keep_text}; next: holdfast check {file}"
        )


def ask_question(question: str, default: str) -> str:
    """An answer typed on the terminal; Enter takes the default. Questions go to standard error."""
    return str(typer.prompt(question, default=default, err=True))


def parse_words(words: list[str]) -> tuple[Path, dict[str, str]]:
    """The file to write, and role to column of every ROLE=COLUMN.

    Raises:
        UserError: If there are two files, or a role is none.
    """
    from holdfast.errors import UserError

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise UserError(f"one recipe at a time, not {' and '.join(files)}; columns are given as ROLE=COLUMN")
    mapping = parse_columns([word for word in words if "=" in word], "--map")
    return Path(files[0] if files else "run.yaml"), mapping


def parse_columns(words: list[str], option: str) -> dict[str, str]:
    """Role to column of every ROLE=COLUMN.

    Raises:
        UserError: If one is not of this form, or a role is none; the line begins with the option.
    """
    from holdfast.data.reading.columns import ColumnMap
    from holdfast.errors import UserError

    if wrong := [word for word in words if "=" not in word]:
        raise UserError(f"{option}: {wrong[0]} is not ROLE=COLUMN, as in prompt=question")
    mapping = {role.strip(): column for role, _, column in (word.partition("=") for word in words)}
    if mapping:
        try:
            ColumnMap.from_mapping(mapping)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from None
    return mapping


def inspect_data(data: str, mapping: dict[str, str], asks: bool, ui: Progress) -> tuple[FirstLook, dict[str, str]]:
    """What is in the data, which is said; on a terminal the columns are asked for if no format has them."""
    from holdfast.data.reading.detection import UnknownColumns
    from holdfast.data.reading.readers import suggest_file
    from holdfast.errors import UserError
    from holdfast.pipeline.first_look import FirstLook, first_look, is_here, unknown_columns

    if data == "lab" or data.startswith("lab:"):
        return FirstLook(), mapping
    if not is_here(data):
        near = suggest_file(data)
        ui.write_line(f"{data}: not here, so not looked at; {near or '`holdfast check` will'}")
        return FirstLook(), mapping
    if asks and not mapping and (names := unknown_columns(data)):
        ui.write_line(f"{data}: its columns are {', '.join(names)}")
        mapping = {
            "prompt": ask_question("Which one is the prompt", names[0]),
            "answer": ask_question("Which one the answer", names[-1]),
        }
    try:
        look = first_look(data, mapping)
    except UnknownColumns as error:
        names = [] if mapping else unknown_columns(data)
        how = f"; on the command line: --map prompt={names[0]} answer={names[-1]}" if len(names) > 1 else ""
        raise UserError(f"{error}{how}") from None
    for line in look.lines:
        ui.write_line(line)
    return look, mapping
