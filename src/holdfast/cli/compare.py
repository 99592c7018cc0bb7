"""`holdfast compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, RecipeFile, Restart, Settings, Verbose, open_session, parse_count_or_list

METHODS_HELP = "Methods, separated by commas; `+` joins axes."
ARMS_HELP = "YAML file instead: LABEL: [SETTING=VALUE, ...] for each arm."
STEPS_HELP = "Steps of every arm that sets none itself; default: those of the recipe's epochs."

Methods = Annotated[str, typer.Option("--methods", "-m", help=METHODS_HELP)]
Arms = Annotated[Path | None, typer.Option(help=ARMS_HELP, show_default=False)]
Steps = Annotated[int | None, typer.Option(min=1, help=STEPS_HELP, show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(help="Directory; default: the recipe's output, else runs/compare-DATA.", show_default=False),
]


def _parse_learning_rates(text: str) -> list[float]:
    """`3e-4,1e-3` as numbers; those that are no learning rate are refused where they are used."""
    from holdfast.errors import UserError

    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"--learning-rates must be numbers, such as 1e-5,3e-5, not {text}") from error


def _split_names(methods: str) -> list[str]:
    """`sft,s3ft` as names, each once."""
    from holdfast.errors import UserError

    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise UserError("--methods is empty; give names such as sft,s3ft (see `holdfast list`)")
    return names


def _read_arms(file: Path) -> dict[str, list[str]]:
    """The arms in a file: label to the settings that make it, each a line or a mapping of dotted names."""
    import json

    from holdfast.errors import UserError
    from holdfast.recipe.yaml_reader import parse_yaml

    try:
        text = file.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--arms {file}: cannot be read ({error})") from error
    tree, problems = parse_yaml(text, str(file))
    data = tree.plain_data()
    if problems or not isinstance(data, dict) or not data:
        raise UserError(f"{file}: {problems[0][1] if problems else 'must be a mapping: LABEL: [SETTING=VALUE, ...]'}")
    arms = {}
    for label, settings in data.items():
        if isinstance(settings, dict):
            settings = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        if not isinstance(settings, list) or not all(isinstance(one, str) and "=" in one for one in settings):
            raise UserError(f"{file}: {label}: must be a list of SETTING=VALUE, or a mapping of settings")
        arms[str(label)] = settings
    return arms


def compare(
    recipe: RecipeFile,
    settings: Settings = None,
    methods: Methods = "sft,s3ft",
    arms: Arms = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list of them: 0,1,7.")] = "1",
    steps: Steps = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Run each method at each of these (3e-4,1e-3,3e-3) and compare losses at equal gain.",
            show_default=False,
        ),
    ] = None,
    out: Out = None,
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast compare run.yaml --methods sft,sdft,ssr,s3ft --seeds 3
    holdfast compare run.yaml -m sft,half,s3ft+half train.epochs=2
    holdfast compare run.yaml -m sft,half --seeds 3 --learning-rates 1e-5,3e-5,1e-4

    Run each method with each seed on the same data, budget and evaluation; one table, one report with the gain/loss
    plane and its Pareto front. Finished runs are skipped when the command is repeated.

    The recipe's gate is held against every run, and a method passes it if all its seeds do. Exit code 3: no method
    passed; the others as of `train`.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_comparison, print_recipe_notes, refuse_if_none_passed
        from holdfast.recipe.loader import read_recipe
        from holdfast.recipe.shorthand import expand_method

        resolved_recipe = read_recipe(recipe, settings or ())
        print_recipe_notes(resolved_recipe, ui)
        names: list[str] | dict[str, list[str]] = _read_arms(arms) if arms else _split_names(methods)
        for name in names if not arms else ():
            expand_method(name)
        chosen = parse_count_or_list(seeds, "--seeds")
        rates = _parse_learning_rates(learning_rates) if learning_rates is not None else []
        from holdfast.pipeline.compare import compare as compare_runs

        report = compare_runs(
            resolved_recipe, names, seeds=chosen, out=out, steps=steps, learning_rates=rates, ui=ui, restart=restart
        )
        ui.report_result(format_comparison(report, report["directory"]), **report)
        refuse_if_none_passed(report)
