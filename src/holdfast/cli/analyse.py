"""`holdfast analyse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import AsJson, Device, Quiet, Verbose, open_session

if TYPE_CHECKING:
    from holdfast.axes.analysis import Analysis

WORDS_HELP = (
    "Directories of finished runs, and analyses: NAME, {name: ...} or package.module:Class; default: all that fit."
)


def split_words(words: list[str]) -> tuple[list[str], list[Analysis]]:
    """The runs and the analyses among what was typed.

    Raises:
        UserError: If a word is neither.
    """
    from holdfast.axes.registry import method_names
    from holdfast.core.spelling import suggest_name
    from holdfast.errors import UserError
    from holdfast.recipe.method_text import parse_method

    runs, analyses = [], []
    for word in words:
        if Path(word).expanduser().is_dir() and word not in method_names("analyses"):
            runs.append(word)
        elif word.startswith("{") or ":" in word or word in method_names("analyses") or runs:
            analyses.append(parse_method("analyses", word, "analyse"))
        else:
            near = suggest_name(word, method_names("analyses"))
            raise UserError(f"{word}: is neither the directory of a run nor an analysis{near}")
    if not runs:
        raise UserError("analyse: give the directory of a finished run")
    return runs, analyses


def analyse(
    words: Annotated[list[str], typer.Argument(metavar="RUN... [NAME]...", help=WORDS_HELP)],
    out: Annotated[
        Path | None, typer.Option(help="Directory, of several runs; default: analysis beside the first.")
    ] = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast analyse runs/mine
    holdfast analyse runs/mine lost_and_found
    holdfast analyse runs/a runs/b runs/c
    holdfast analyse runs/compare stability

    Look at a finished run: why answers were lost, where the model moved. What is seen is added to its report.html and
    report.json, and stands in RUN/analyses/NAME.json. Several runs, or a comparison, are held against each other. The
    analyses: `holdfast list analyses`.
    """
    with open_session(verbose, quiet, as_json) as ui:
        runs, analyses = split_words(words)
        from holdfast.pipeline.analyse import analyse_runs

        result = analyse_runs(runs, analyses, out=out, device=device, ui=ui)
        lines = [f"{section['title']}: {section['sentence']}" for section in result["sections"]]
        ui.report_result("\n\n".join([*lines, f"report: {result['page']}"]), **result)
