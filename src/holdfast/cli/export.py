"""`holdfast export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Device, Quiet, Verbose, open_session


def export(
    run: Annotated[Path, typer.Argument(help="Directory of a run.")],
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    dial: Annotated[
        float | None, typer.Option(min=0, max=1, help="Point between base (0) and tuned (1).", show_default=False)
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Fold an adapter into the base weights.")] = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="fp32, bf16 or fp16 (GGUF: q8_0 too); default: as the run saved it.", show_default=False),
    ] = None,
    form: Annotated[str, typer.Option(help="folder, or gguf: for llama.cpp and Ollama.")] = "folder",
    shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most of one file of weights: 500MB, 5GB.", show_default=False)
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Put it on the hub too, private.", show_default=False)
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: let everybody read it.")] = False,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast export runs/mine mine-model --merge
    holdfast export runs/mine mine-06 --dial 0.6
    holdfast export runs/mine mine-gguf --form gguf --dtype q8_0
    holdfast export runs/mine mine-model --push me/mine

    Write a model that transformers, PEFT and vLLM load as it is; or, an adapter folded in, model.gguf with its
    Modelfile (ollama create NAME -f mine-gguf/Modelfile). With --dial the weights lie on the line from base to
    tuned, so that after any run a point on its gain/loss curve can be picked. What was written is loaded again and
    compared with the live model on 32 prompts before it counts. Nothing leaves this machine without --push.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.errors import UserError

        if not run.is_dir():
            raise UserError(f"{run}: no such run directory")
        from holdfast.pipeline.export import export_model as export_run

        path = export_run(
            run, out, dial=dial, merge=merge, dtype=dtype, form=form, shard_size=shard_size, push=push, public=public,
            device=device, ui=ui,
        )  # fmt: skip
        ui.report_result(f"model: {path}", path=str(path))
