"""A worker of a pool: a process with an engine of its own that draws the samples of one lease at a time."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from holdfast.axes.engine import Engine, Request, SamplingParams
from holdfast.core.line_workers import serve_tasks
from holdfast.errors import UserError
from holdfast.generation.journal import describe_sample


class StepCount:
    """How many tokens were decoded: a worker whose count grows is alive."""

    tokens = 0


class LeaseDrawer:
    """An engine as a pool describes it, and what it draws.

    Args:
        settings: As `pipeline.sampling_pools.describe_worker` gives them.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        """The engine, with a model of its own.

        Raises:
            UserError: If it is not the one that the pool is named after.
        """
        from holdfast.data.chat.settings import ChatSettings
        from holdfast.generation.factory import HERE, build_engine
        from holdfast.models.loading import load_model
        from holdfast.pipeline.readiness import open_draft

        its = self.settings
        base = load_model(its["path"], device=its["device"])
        chat = ChatSettings(**its["chat"]).build_chat(base.tokenizer)
        if its["embeddings"] is not None:
            chat.limit_to(its["embeddings"])
        draft = open_draft(its["draft"], its["device"], its["draft_tokens"])
        options: dict[str, Any] = {"draft": draft} if its["engine"] in HERE else {}
        engine = build_engine(
            its["engine"], model=base.model, chat=chat, fingerprint=base.fingerprint, path=its["path"],
            slots=its["slots"], progress=count_tokens, **options,
        )  # fmt: skip
        if engine.fingerprint != its["fingerprint"]:
            raise UserError(f"it would sample from {engine.fingerprint}, not from {its['fingerprint']}")
        return engine

    def draw_lease(self, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The samples of a lease, in plain data; none for the task of getting ready."""
        engine = self.engine
        requests: dict[str, Request] = {}
        indexes: dict[str, list[int]] = defaultdict(list)
        for job in task.get("jobs", ()):
            requests.setdefault(job["key"], Request(job["key"], job["messages"], job["prefill"]))
            indexes[job["key"]].append(job["index"])
        if requests:
            params = SamplingParams.model_validate(task["params"])
            for sample in engine.sample([(request, indexes[key]) for key, request in requests.items()], params):
                yield describe_sample(sample)


def count_tokens(tokens: int) -> None:
    """Count what a step decoded."""
    StepCount.tokens += tokens


def count_steps() -> int:
    """Tokens that were decoded in this process."""
    return StepCount.tokens


def begin_leases(settings: dict[str, Any]) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """What does a lease, from what all have in common."""
    return LeaseDrawer(settings).draw_lease


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a whole group; this process ends with the one that started it
    serve_tasks(begin_leases, count_steps)
