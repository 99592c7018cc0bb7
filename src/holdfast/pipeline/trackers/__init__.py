"""Trackers of experiments: each shows a run in a library of its own, and only where the recipe asks for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

from holdfast.errors import UserError, first_line
from holdfast.pipeline.trackers.base import Tracker
from holdfast.recipe.schema import Recipe

CLASSES = {
    "tensorboard": "TensorBoard",
    "wandb": "WeightsAndBiases",
    "mlflow": "MLflow",
    "trackio": "Trackio",
}
"""The class of each name in `recipe.schema.TRACKERS`, in the module of that name."""


def refuse_missing(names: Iterable[str]) -> None:
    """See that the libraries of trackers are installed.

    Raises:
        UserError: If one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"track: {name} is not installed; pip install 'holdfast[{name}]', or leave it out")


def open_trackers(
    recipe: Recipe, path: Path, run_id: str, resume_step: int, warn: Callable[[str], Any]
) -> list[Tracker]:
    """Start the trackers of a recipe.

    Args:
        path: The run's directory.
        run_id: What this run is called for good, so that one that was stopped goes on in its curves.
        resume_step: Steps that were shown before it was stopped.
        warn: Told when a tracker fails later on; the run goes on without it.
    Raises:
        UserError: If a library is missing or does not start.
    """
    refuse_missing(recipe.track)
    out: list[Tracker] = []
    for name in recipe.track:
        kind: type[Tracker] = getattr(import_module(f"{__name__}.{name}"), CLASSES[name])
        tracker = kind(path, run_id, resume_step, warn)
        try:
            tracker.open_run(recipe.model_dump(mode="json"))
        except Exception as error:  # whatever the library raises where nobody is logged in, or no server answers
            for other in out:
                other.close(has_failed=True)
            reason = shorten(first_line(error), 160)
            raise UserError(f"track: {name} does not start ({reason}); mend that, or leave it out") from error
        out.append(tracker)
    return out
