"""A worker process: reads which client trains which round, a JSON line each, and answers when its reply is there."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from holdfast.core.threads import tune_malloc
from holdfast.errors import HoldfastError


def read_tasks(source: TextIO, tasks: queue.Queue[dict[str, Any]]) -> None:
    """Hand on every line; when there are no more, whoever asked is gone, and nothing here may go on."""
    for line in source:
        tasks.put(json.loads(line))
    os._exit(1)


def run_worker(source: TextIO, answers: TextIO) -> None:
    """Train clients until the input ends."""
    from safetensors.torch import load_file

    from holdfast.pipeline.federated.aggregation import METHODS
    from holdfast.pipeline.federated.client import Client
    from holdfast.pipeline.federated.exchange import PAYLOAD, round_folder
    from holdfast.recipe.schema import Recipe

    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    settings = json.loads(source.readline())
    threading.Thread(target=read_tasks, args=(source, tasks), daemon=True).start()
    root = Path(settings["root"])
    recipe = Recipe.model_validate(settings["recipe"])
    client = Client(root, recipe, METHODS[settings["method"]](), settings["rate_decay"])
    while True:
        task = tasks.get()
        try:
            client.train_round(task["client"], task["round"], load_file(round_folder(root, task["round"]) / PAYLOAD))
            answer = {"client": task["client"]}
        except HoldfastError as error:
            answer = {"client": task["client"], "error": type(error).__name__, "text": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    tune_malloc()
    answers = os.fdopen(os.dup(1), "w")  # whatever a library prints must not come between the answers
    os.dup2(2, 1)
    run_worker(sys.stdin, answers)
