"""`holdfast init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import speaking


def init(
    file: Annotated[Path, typer.Argument(help="Recipe to write.")] = Path("run.yaml"),
    model: Annotated[str, typer.Option(help="Model: path, Hugging Face name, or `lab`.")] = "lab",
    data: Annotated[str, typer.Option(help="Training rows: file, data set name, or `lab:SKILL`.")] = "lab:story",
    method: Annotated[str, typer.Option(help="Method; see `holdfast list`.")] = "s3ft",
    force: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
) -> None:
    """
    \b
    holdfast init
    holdfast init mine.yaml --model Qwen/Qwen3-0.6B --data train.jsonl --method s3ft

    Write a minimal recipe with every other setting in comments, each with its default and what it does.
    """
    with speaking() as ui:
        from holdfast.errors import UserError
        from holdfast.recipe_template import template
        from holdfast.shorthand import LAB_MODELS

        text = template(model, data, method, str(file))
        if file.exists() and not force:
            raise UserError(f"{file} exists; give another name, or --force to replace it")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        kept = "the laboratory's other skills" if model in LAB_MODELS else "the probe, bundled prompts and text"
        ui.result(f"{file} written; what training may lose is measured on {kept}; next: holdfast check {file}")
