"""The `holdfast` program: all verbs, in the order of a first day with it."""

from __future__ import annotations

from typing import Annotated

import typer

import holdfast
from holdfast.cli import (
    analyse,
    board,
    build,
    chat,
    check,
    compare,
    curate,
    demo,
    dial,
    env,
    evaluate,
    export,
    federate,
    import_recipe,
    init,
    lab,
    listing,
    plan,
    report,
    reproduce,
    search,
    serve,
    show,
    train,
)
from holdfast.cli.common import Verb
from holdfast.core import threads

app = typer.Typer(
    name="holdfast",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(value: bool) -> None:
    if value:
        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main_help(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """
    \b
    holdfast demo                          see it work on the bundled model
    holdfast init && holdfast train run.yaml

    Fine-tune language models and keep what they already knew.
    """
    if threads.computes_on_cpu():
        threads.tune_malloc()
    if context.invoked_subcommand is None:
        print(context.get_help())


VERBS = (
    ("demo", demo.demo, "Compare four methods on the bundled model, in minutes."),
    ("init", init.init, "Write a commented recipe to start from."),
    ("import", import_recipe.import_recipe, "Make a recipe of another tool's settings."),
    ("check", check.check, "Look at recipe, rows, mask and cost; train nothing."),
    ("plan", plan.plan, "Hours and memory on many GPUs, on paper."),
    ("train", train.train, "Run a recipe: curate, train, evaluate, report."),
    ("build", build.build, "From a task in words to data, recipes, a model and a chat."),
    ("compare", compare.compare, "Run several methods on the same work."),
    ("search", search.search, "Find the recipe that gains most and loses little."),
    ("federate", federate.federate, "Train on clients that keep their rows, by rounds."),
    ("eval", evaluate.evaluate, "Measure a model, alone or against another."),
    ("curate", curate.curate, "Only write the rows that would be trained on."),
    ("reproduce", reproduce.reproduce, "Check a paper's claim on the laboratory model."),
    ("analyse", analyse.analyse, "See why answers were lost, and what moved inside a run."),
    ("report", report.report, "Write the report pages of runs again."),
    ("chat", chat.chat, "Talk to a model or run."),
    ("serve", serve.serve, "Serve a model to clients of the OpenAI API."),
    ("board", board.board, "See, start and compare runs on a web page."),
    ("dial", dial.dial, "Measure a run on the way from its base to its weights."),
    ("export", export.export, "Write a plain model: merged, or dialled towards the base."),
    ("list", listing.list_methods, "List every method, axis by axis."),
    ("show", show.show, "Explain a method, or the recipe's settings."),
    ("env", env.env, "Versions and machine, for bug reports."),
)

for _name, _function, _help in VERBS:
    app.command(_name, short_help=_help, cls=Verb)(_function)

app.add_typer(lab.app, name="lab", short_help="Build or describe the laboratory models.")
