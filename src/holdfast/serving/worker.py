"""A further process of a server: the same models at the same address, until the one that started it says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from holdfast.core.line_workers import serve_tasks
from holdfast.core.progress import ignore_call
from holdfast.core.quiet import quiet_process
from holdfast.core.safe_text import make_printable


def answer_beside(settings: dict[str, Any]) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """What answers beside the process that wrote `settings`.

    Args:
        settings: As `ModelServer.describe_worker` gives them.
    """

    def answer_until_signal(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        from holdfast.serving.address import listen_at
        from holdfast.serving.app import ServerLimits
        from holdfast.serving.server import ModelServer, ServedModels, ServerSettings

        if not settings["server"]["verbose"]:
            quiet_process()
        how = {**settings["server"], "limits": ServerLimits(**settings["server"]["limits"])}
        server = ModelServer(ServerSettings(**how), ignore_call, print_line if how["verbose"] else ignore_call)
        server.open_models(ServedModels(**settings["models"]))  # what is to be said of them the first has said
        server.say = print_line
        with listen_at(how["host"], how["port"], joins=True) as listener:
            yield {"ready": True}
            server.run_until_signal(listener)

    return answer_until_signal


def print_line(line: str) -> None:
    """Say something on standard error, which both processes share."""
    print(make_printable(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.setpgid(0, 0)  # Ctrl-C in a terminal is for the first process, which says when to end
    serve_tasks(answer_beside)
