"""`holdfast import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Verbose, open_session


def import_recipe(
    file: Annotated[Path, typer.Argument(help="YAML, JSON, shell script, Python script or notebook.")],
    out: Annotated[Path, typer.Argument(metavar="[RECIPE]", help="Recipe to write.")] = Path("run.yaml"),
    force: Annotated[bool, typer.Option(help="Replace the recipe if it exists.")] = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast import sft.yaml                     LLaMA-Factory, Axolotl, TRL
    holdfast import train.sh mine.yaml           trl sft ..., llamafactory-cli train ..., axolotl train ...
    holdfast import notebook.ipynb               Unsloth, TRL; read, never run

    Write the recipe that another tool's settings come to, and say what has no counterpart here. Behind each line stands
    what it was. Data sets of LLaMA-Factory are looked up in its dataset_info.json.
    """
    with open_session(verbose, as_json=as_json) as ui:
        from holdfast.errors import UserError, UserErrors
        from holdfast.recipe.imports.conversion import convert_recipe, format_imported
        from holdfast.recipe.imports.readers import read_foreign
        from holdfast.recipe.loader import read_recipe

        if out.exists() and not force:
            raise UserError(f"{out} exists; give another name, or --force to replace it")
        recipe = convert_recipe(read_foreign(file), file)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(format_imported(recipe, file), encoding="utf-8")
        for line in (*recipe.remarks, *(f"not taken over: {line}" for line in recipe.left_out)):
            ui.write_line(line)
        left_out = f", {len(recipe.left_out)} of its settings not taken over" if recipe.left_out else ""
        try:
            read_recipe(out)
        except UserError as error:
            raise UserErrors(f"{out} written{left_out}; it must be mended before it runs:\n{error}") from None
        ui.report_result(
            f"{out} written, of {recipe.tool}'s {file}{left_out}; next: holdfast check {out}",
            recipe=str(out),
            tool=recipe.tool,
            left_out=recipe.left_out,
        )
