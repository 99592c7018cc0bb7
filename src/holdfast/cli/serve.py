"""`holdfast serve`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from holdfast.cli.common import Device, DraftName, InferenceText, Verbose, open_session

KEY_HELP = (
    "Clients must send it; better by the environment variable HOLDFAST_API_KEY, which no list of processes shows."
)

WORKERS_HELP = (
    "Processes that answer side by side, each with the models; by itself one, or of a small model one for each core."
)


def serve(
    model: Annotated[str, typer.Argument(help="Model, run directory or adapter.")],
    against: Annotated[str | None, typer.Option(help="A second model, under its own name.", show_default=False)] = None,
    inference: InferenceText = None,
    draft: DraftName = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine's own need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    api_key: Annotated[str | None, typer.Option(help=KEY_HELP, show_default=False)] = None,
    slots: Annotated[int, typer.Option(min=1, help="Answers decoded together.")] = 64,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP, show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer a client may ask for.")] = 4096,
    max_body: Annotated[float, typer.Option(min=0.001, help="Largest request, in MiB.")] = 4.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a whole answer.")] = 600.0,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """
    \b
    holdfast serve runs/mine --against lab
    HOLDFAST_API_KEY=... holdfast serve runs/mine --host 0.0.0.0

    Serve a model, or tuned and base, to any client of the OpenAI API; through an inference method, if one is named (the
    model given with --against answers as it is). Ends with Ctrl-C.
    """
    with open_session(verbose) as ui:
        from holdfast.serving.address import describe_place, listen_at
        from holdfast.serving.app import ServerLimits
        from holdfast.serving.server import KEY_VARIABLE, ModelServer, ServedModels, ServerSettings, check_address

        key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        limits = ServerLimits(tokens=max_tokens, body=int(max_body * 2**20), seconds=timeout)
        settings = ServerSettings(host, port, key, limits, slots, device, workers=workers, verbose=verbose)
        check_address(settings)
        offer = ServedModels([model] if against is None else [model, against], inference or "", draft)
        offer.check_draft()
        names = offer.name_models()
        with listen_at(host, port) as listener:  # before the models, which may take minutes
            ui.start_phase("loading")
            server = ModelServer(settings, ui.write_line, ui.write_detail)
            server.open_models(offer)
            ui.close()
            ui.report_result(f"serving {', '.join(names)} at {describe_place(listener, host)}")
            server.run_until_signal(listener)
