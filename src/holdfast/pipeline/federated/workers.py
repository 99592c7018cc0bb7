"""Clients in processes of their own, side by side; one that dies is started again and goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.line_workers import LineWorker, LineWorkers
from holdfast.errors import RunError, UserError, UserInterrupt
from holdfast.pipeline.federated.exchange import PAYLOAD, ClientReply, round_folder, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.pipeline.federated.client import Client

ERRORS = {"UserError": UserError, "UserInterrupt": UserInterrupt}
TRIES = 3
"""How often a client is tried in a round before the round goes on without it."""


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
    pool: LineWorkers = field(init=False)

    def __post_init__(self) -> None:
        self.pool = LineWorkers("holdfast.pipeline.federated.worker", self.settings)

    def run_round(self, number: int, chosen: Sequence[str], payload: dict[str, Tensor]) -> Iterator[ClientReply]:
        place = round_folder(self.client.root, number)
        place.mkdir(parents=True, exist_ok=True)
        write_tensors(place / PAYLOAD, payload)
        waiting, tries = list(chosen), dict.fromkeys(chosen, 0)
        pending = set(chosen)
        self.pool.start_workers(min(self.count, len(chosen)))
        while pending:
            for worker in self.pool.workers:
                if not worker.task and waiting:
                    self._give_task(worker, waiting.pop(0), number)
            worker, answer = self.pool.wait_for_answer()
            name, worker.task = worker.task, ""
            if answer is None:  # it died; what the client had done is in its folder
                code = self.pool.replace_worker(worker)
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

    def _give_task(self, worker: LineWorker, name: str, number: int) -> None:
        self.pool.give_task(worker, name, {"client": name, "round": number})

    def close(self) -> None:
        """End all workers."""
        self.pool.close()


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
