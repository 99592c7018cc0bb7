"""A worker process: trains one client for one round at a time, and answers when its reply is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.core.line_workers import serve_tasks


def begin_client(settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What trains a client, from the settings that all have in common."""
    from safetensors.torch import load_file

    from holdfast.pipeline.federated.aggregation import METHODS
    from holdfast.pipeline.federated.client import Client
    from holdfast.pipeline.federated.exchange import PAYLOAD, round_folder
    from holdfast.recipe.schema import Recipe

    root = Path(settings["root"])
    recipe = Recipe.model_validate(settings["recipe"])
    client = Client(root, recipe, METHODS[settings["method"]](), settings["rate_decay"])

    def train_client(task: dict[str, Any]) -> None:
        client.train_round(task["client"], task["round"], load_file(round_folder(root, task["round"]) / PAYLOAD))

    return train_client


if __name__ == "__main__":
    serve_tasks(begin_client)
