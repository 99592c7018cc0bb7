"""The engines that a run's curators and judges sample from; with `sampling.workers`, pools of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from holdfast.axes.engine import Engine
from holdfast.core.line_workers import list_cards, share_machine
from holdfast.data.chat.settings import ChatSettings
from holdfast.generation.factory import HERE, EngineSpec, build_engine, is_remote
from holdfast.generation.pool.engine import Pool
from holdfast.generation.pool.events import Runner
from holdfast.generation.pool.processes import ProcessRunner
from holdfast.generation.pool.ray_actors import RayRunner
from holdfast.generation.pool.scheduler import LeaseRules

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import LoadedModel
    from holdfast.pipeline.phases import RunContext

WORKER = "holdfast.pipeline.sampling_worker"
SLOW_SILENCE = 3600.0
"""Seconds that a worker may be silent whose engine does not say how far it is."""


def build_sampling_engine(
    work: RunContext, kind: EngineSpec, base: LoadedModel, name: str | None, chat: Chat | None
) -> Engine:
    """The engine of a curator or judge.

    Args:
        kind: As a recipe names it.
        base: The model in this process, or the one whose files others load.
        name: Of the model at a server.
        chat: How it is asked.
    """
    sampling = work.recipe.sampling
    if sampling.workers > 1 and isinstance(kind, str) and not is_remote(kind) and chat is not None:
        return open_pool(work, kind, base, chat)
    # Another model has its own tokens.
    options: dict[str, Any] = {"draft": work.draft} if base is work.base and kind in HERE else {}
    engine = build_engine(
        kind, model=base.model, chat=chat, fingerprint=base.fingerprint, path=base.path, name=name,
        slots=sampling.slots, concurrency=sampling.concurrency, say=work.ui.write_once, **options,
    )  # fmt: skip
    if isinstance(engine, Pool):
        work.pools[engine.fingerprint] = engine
    return engine


def open_pool(work: RunContext, kind: str, base: LoadedModel, chat: Chat) -> Pool:
    """The run's pool of workers with this engine and model; they start at the first sample."""
    fingerprint, count = describe_engine_of(work, kind, base, chat), work.recipe.sampling.workers
    if fingerprint not in work.pools:
        runner = build_runner(work, describe_worker(work, kind, base, chat, fingerprint), base)
        silence = SLOW_SILENCE if kind == "vllm" else LeaseRules().silence
        rules = LeaseRules(first=work.recipe.sampling.slots, silence=silence)
        names = {place: f"worker {place + 1} of {count}" for place in range(count)}
        work.pools[fingerprint] = Pool(
            runner, fingerprint, dict.fromkeys(range(count), 1), rules=rules, names=names, say=work.ui.warn
        )
    return work.pools[fingerprint]


def build_runner(work: RunContext, settings: dict[str, Any], base: LoadedModel) -> Runner:
    """Where the workers live: processes of this machine, or actors of Ray.

    Args:
        settings: As `describe_worker` gives them.
    """
    count, cores = work.recipe.sampling.workers, os.cpu_count() or 1
    if work.recipe.sampling.runner == "ray":
        # Ray deals the cards of its machines, and each actor sees its own alone.
        gpus, threads = int(base.device.type == "cuda"), share_machine(0, count, cores, ())
        settings = {**settings, "path": str(base.path.resolve()), **({"device": "auto"} if gpus else {})}
        return RayRunner(
            f"{WORKER}:begin_leases", settings, count, gpus=gpus, steps=f"{WORKER}:count_steps",
            environment=lambda place: threads,
        )  # fmt: skip
    cards = list_cards() if settings["device"] == "auto" else []
    return ProcessRunner(WORKER, settings, count, lambda place: share_machine(place, count, cores, cards))


def describe_engine_of(work: RunContext, kind: str, base: LoadedModel, chat: Chat) -> str:
    """The fingerprint of one engine: of a pool of any size, and of none."""
    if kind == "vllm":
        from holdfast.generation.vllm import describe_vllm

        return describe_vllm(base.fingerprint, chat)
    engine = build_engine(
        kind, model=base.model, chat=chat, fingerprint=base.fingerprint, slots=work.recipe.sampling.slots,
        say=work.ui.write_once,
    )  # fmt: skip
    return engine.fingerprint


def describe_worker(work: RunContext, kind: str, base: LoadedModel, chat: Chat, fingerprint: str) -> dict[str, Any]:
    """What a worker builds its engine from, in plain data."""
    import torch

    sampling, device = work.recipe.sampling, base.device
    draft = sampling.draft if base is work.base else None
    several = device.type == "cuda" and torch.cuda.device_count() > 1 and work.recipe.device in ("auto", "cuda")
    return {
        "engine": kind, "path": str(base.path), "device": "auto" if several else str(device),
        "chat": asdict(ChatSettings.from_chat(chat)), "embeddings": chat.embeddings, "slots": sampling.slots,
        "draft": draft, "draft_tokens": sampling.draft_tokens, "fingerprint": fingerprint,
    }  # fmt: skip


@contextmanager
def closing_pools(work: RunContext) -> Iterator[None]:
    """Pools that are opened inside end with it: what follows has a use for their memory."""
    try:
        yield
    finally:
        while work.pools:
            work.pools.popitem()[1].close()
