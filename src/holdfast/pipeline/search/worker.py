"""A worker process of a search: trains one trial at a time as far as its recipe says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.core.line_workers import serve_tasks


def begin_trials(settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What trains a trial."""
    from holdfast.errors import RunError
    from holdfast.models.placement import is_out_of_memory
    from holdfast.pipeline.train import train
    from holdfast.recipe.loader import ResolvedRecipe
    from holdfast.recipe.schema import Recipe

    def train_trial(task: dict[str, Any]) -> None:
        recipe = Recipe.model_validate(task["recipe"])
        try:
            train(ResolvedRecipe(recipe, task["sources"], name=task["name"]), parents=task["parents"])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(str(error)) from error

    return train_trial


if __name__ == "__main__":
    serve_tasks(begin_trials)
