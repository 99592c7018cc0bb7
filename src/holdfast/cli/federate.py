"""`holdfast federate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Restart, Settings, Verbose, open_session


def federate(
    recipe: RecipeFile,
    settings: Settings = None,
    clients: Annotated[int, typer.Option(help="Clients that the rows are shared out to.")] = 10,
    sample: Annotated[int, typer.Option(help="Clients that train in a round, drawn anew; 0 = all.")] = 0,
    rounds: Annotated[int, typer.Option(help="Rounds; in each a client trains as the recipe says.")] = 10,
    method: Annotated[
        str, typer.Option(help="fedavg: trained weights travel; spafl: thresholds only; local: nothing.")
    ] = "fedavg",
    alpha: Annotated[
        float, typer.Option(help="How evenly the rows of a group are shared out: Dirichlet(alpha); 0 = evenly.")
    ] = 0.0,
    group_by: Annotated[str, typer.Option(help="Key of a row's meta that names its group.")] = "skill",
    rate_decay: Annotated[float, typer.Option(help="Factor of the learning rate from round to round.")] = 1.0,
    workers: Annotated[int, typer.Option(help="Processes that train clients side by side; 0 = in this one.")] = 1,
    exchange: Annotated[
        str, typer.Option(help="workers: processes of this program; flower: Flower's simulation, which needs Ray.")
    ] = "workers",
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast federate run.yaml --clients 10 --sample 3 --rounds 50
    holdfast federate run.yaml --clients 8 --method spafl --alpha 0.1 train.max_steps=10
    holdfast federate run.yaml --method local

    Train on clients that keep their rows, simulated on this machine: share the rows out, let the clients of a round
    train, average what travels, and report what was gained and lost as for every run, with the bytes sent. Killed or
    interrupted, the same command goes on where it was.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_report, print_recipe_notes, refuse_if_gated
        from holdfast.core.files import read_json
        from holdfast.pipeline.federated.settings import FederationSettings
        from holdfast.recipe.loader import read_recipe

        federation = FederationSettings(clients, sample, rounds, method, alpha, group_by, rate_decay, workers, exchange)
        resolved_recipe = read_recipe(recipe, settings or ())
        print_recipe_notes(resolved_recipe, ui, notes=False)
        from holdfast.pipeline.federated.driver import federate as run_federation

        run = run_federation(resolved_recipe, federation, ui=ui, restart=restart)
        summary = read_json(run.path / "federated.json")
        text = f"{format_report(run.report, run.path)}\n{format_federation(summary)}"
        ui.report_result(text, directory=str(run.path), report=run.report, federation=summary)
        refuse_if_gated(run.report)


def format_federation(summary: dict[str, Any]) -> str:
    """What travelled, and how well each client's model does on questions of its own mixture."""
    rounds, clients = summary["rounds"], summary["clients"]
    failures = sum(len(each["failed"]) for each in rounds)
    scores = [client["accuracy"] for client in clients if client["accuracy"] is not None]
    lines = [
        f"{summary['method']}: {len(rounds)} rounds, {summary['bytes_down']:,} bytes to clients and "
        f"{summary['bytes_up']:,} bytes back" + (f"; {failures} replies missing" if failures else "")
    ]
    if rounds[-1]["density"] < 1:
        lines.append(f"rows that count: {rounds[-1]['density']:.1%}")
    if scores:
        lines.append(
            f"clients on questions of their own mixture: mean {100 * sum(scores) / len(scores):.1f} points, "
            f"{100 * min(scores):.1f} to {100 * max(scores):.1f}"
        )
    return "\n".join(lines)
