"""Clients in processes of their own, side by side; one that dies is started again and goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import TYPE_CHECKING, Any

from holdfast.errors import RunError, UserError, UserInterrupt
from holdfast.pipeline.federated.exchange import PAYLOAD, ClientReply, round_folder, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.pipeline.federated.client import Client

ERRORS = {"UserError": UserError, "UserInterrupt": UserInterrupt}
TRIES = 3
"""How often a client is tried in a round before the round goes on without it."""


@dataclass(slots=True)
class ClientWorker:
    """A process that trains one client at a time, and what it is at."""

    process: subprocess.Popen[str]
    client: str = ""


@dataclass(slots=True)
class WorkerExchange:
    """Clients in worker processes.

    A worker reads a line for each client it is to train and answers with a line when the client's folder holds the
    reply. Workers end when this process does, however that ends.

    Args:
        client: As the workers make it, too; replies are read with it.
        count: Processes, at most one for each client of a round.
        settings: Of the client, as a mapping that JSON can hold.
    """

    client: Client
    count: int
    settings: dict[str, Any]
    workers: list[ClientWorker] = field(default_factory=list)

    def run_round(self, number: int, chosen: Sequence[str], payload: dict[str, Tensor]) -> Iterator[ClientReply]:
        place = round_folder(self.client.root, number)
        place.mkdir(parents=True, exist_ok=True)
        write_tensors(place / PAYLOAD, payload)
        waiting, tries = list(chosen), dict.fromkeys(chosen, 0)
        pending = set(chosen)
        self.workers += [self._start_worker() for _ in range(min(self.count, len(chosen)) - len(self.workers))]
        while pending:
            for worker in self.workers:
                if not worker.client and waiting:
                    self._give_task(worker, waiting.pop(0), number)
            worker, answer = self._wait_for_answer()
            name, worker.client = worker.client, ""
            if answer is None:  # it died; what the client had done is in its folder
                code = self._replace_worker(worker)
                tries[name] += 1
                if tries[name] < TRIES:
                    waiting.insert(0, name)
                    continue
                pending.discard(name)
                yield ClientReply(name, failure=f"its process ended with exit code {code}, {TRIES} times")
                continue
            if kind := answer.get("error"):
                raise ERRORS.get(kind, RunError)(f"client {name}: {answer['text']}")
            pending.discard(name)
            yield self.client.read_reply(name, number)

    def _start_worker(self) -> ClientWorker:
        command = [sys.executable, "-m", "holdfast.pipeline.federated.worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        worker = ClientWorker(process)
        self._write_line(worker, self.settings)
        return worker

    def _give_task(self, worker: ClientWorker, name: str, number: int) -> None:
        worker.client = name
        self._write_line(worker, {"client": name, "round": number})

    def _write_line(self, worker: ClientWorker, value: dict[str, Any]) -> None:
        """Send a line; of one that died meanwhile the end of its output says so."""
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(value) + "\n")
            worker.process.stdin.flush()
        except BrokenPipeError:
            return

    def _wait_for_answer(self) -> tuple[ClientWorker, dict[str, Any] | None]:
        """The next worker that says something, and what; `None` where it died."""
        with DefaultSelector() as selector:
            for worker in self.workers:
                if worker.client:
                    assert worker.process.stdout is not None
                    selector.register(worker.process.stdout, EVENT_READ, worker)
            ready: ClientWorker = selector.select()[0][0].data
        assert ready.process.stdout is not None
        line = ready.process.stdout.readline()
        return ready, json.loads(line) if line.endswith("\n") else None

    def _replace_worker(self, worker: ClientWorker) -> int:
        """Start another in the place of one that died; the exit code of that."""
        code = worker.process.wait()
        _close_pipes(worker)
        self.workers[self.workers.index(worker)] = self._start_worker()
        return code

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
            _close_pipes(worker)
        self.workers.clear()


def _close_pipes(worker: ClientWorker) -> None:
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            pipe.close()


def client_settings(client: Client, method: str) -> dict[str, Any]:
    """What `worker` makes the same client of."""
    from holdfast.recipe.schema import WITH_KEYS

    recipe = client.recipe.model_dump(mode="json", context=WITH_KEYS)
    return {
        "root": str(Path(client.root).resolve()),
        "recipe": recipe,
        "method": method,
        "rate_decay": client.rate_decay,
    }
