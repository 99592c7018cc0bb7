"""The server: its address, its models, its beginning and its end."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import uvicorn

from holdfast.axes.inference import Inference
from holdfast.axes.registry import name_of
from holdfast.data.chat.settings import ChatSettings, settings_of
from holdfast.errors import UserError
from holdfast.generation.chosen_method import open_chosen_decoder
from holdfast.generation.live_decoder import build_live_decoder
from holdfast.generation.live_engine import AnswerEvent, LiveQuestion, call_listeners
from holdfast.generation.speculative_batch import Draft
from holdfast.models.loading import load_model
from holdfast.pipeline.inference_bench import settle_for_model
from holdfast.pipeline.readiness import open_draft, refuse_other_tokens
from holdfast.recipe.method_text import parse_method
from holdfast.serving.address import CAN_SHARE, is_loopback
from holdfast.serving.app import AnswerRoutes, ServerLimits
from holdfast.serving.failures import ApiError
from holdfast.serving.guard import Guard
from holdfast.serving.joined_writes import JoinedWritesProtocol
from holdfast.serving.open_reply import ServedModel
from holdfast.serving.workers import ServerWorkers, choose_worker_count

if TYPE_CHECKING:
    from holdfast.models.loading import Model

GRACE = 20.0
"""Seconds that answers on their way have left once the server is told to end."""
KEEP_ALIVE = 75
"""Seconds a connection without a request stays open; longer than clients keep theirs, which else meet a closed one."""
KEY_VARIABLE = "HOLDFAST_API_KEY"
SHORTEST_KEY = 16
"""Characters of a key for a server that others can reach."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server is reached and what it allows.

    Args:
        host, port: Where it listens; port 0 for any that is free.
        key: What clients must show; "" for nothing.
        limits: Of each request.
        slots: Sequences decoded together.
        device: Where models live.
        grace: Seconds that answers on their way have left at the end.
        workers: Processes that answer side by side, which share the slots and the cores; `None`: as many as a small
            model gains from.
        verbose: Whether each request is told of.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str = ""
    limits: ServerLimits = field(default_factory=ServerLimits)
    slots: int = 64
    device: str = "auto"
    grace: float = GRACE
    workers: int | None = 1
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What is served.

    Args:
        sources: Models, run directories or adapters, one or two.
        inference: Through what the first answers, beside what it was trained with, as text; "" for nothing.
        draft: Name of the small model that proposes tokens, if any.
    """

    sources: Sequence[str]
    inference: str = ""
    draft: str | None = None

    def parse_method(self) -> Inference | None:
        """The method of `inference`.

        Raises:
            UserError: If it is none.
        """
        return cast(Inference, parse_method("inference", self.inference, "--inference")) if self.inference else None

    def check_draft(self) -> None:
        """See that who proposes tokens has those of all models.

        Raises:
            UserError: If not.
        """
        for source in self.sources:
            refuse_other_tokens(self.draft, source, "--draft")

    def name_models(self) -> list[str]:
        """What clients call them.

        Raises:
            UserError: If two would have the same name.
        """
        method = self.parse_method()
        return name_models(self.sources, name_of(method) if method else "")


def check_address(settings: ServerSettings) -> None:
    """See that whoever can reach the server needs a key, if that may be others than this machine.

    Raises:
        UserError: If not, or the key cannot be sent or is easily guessed.
    """
    if (settings.workers or 1) > 1 and not CAN_SHARE:
        raise UserError("--workers: several processes share an address on Linux only; leave it out")
    if settings.key and not re.fullmatch(r"[\x21-\x7e]+", settings.key):
        raise UserError(f"--api-key, {KEY_VARIABLE}: holds characters that no header can carry (a space, an accent)")
    if is_loopback(settings.host):
        return
    if not settings.key:
        raise UserError(
            f"--host {settings.host}: others can reach this address, so clients need a key; set the environment "
            f"variable {KEY_VARIABLE} (or --api-key), or leave --host out to serve this machine only"
        )
    if len(settings.key) < SHORTEST_KEY:
        raise UserError(f"--host {settings.host}: a key of {SHORTEST_KEY} characters or more is needed there")


def name_models(names: Sequence[str], method: str = "") -> list[str]:
    """What clients call models: hub names as they are, directories by their last part.

    Args:
        method: Through which the first answers; where the second is the same model, it is a part of the first's name.
    Raises:
        UserError: If two would have the same.
    """
    short = [Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else name for name in names]
    if method and len(short) == 2 and names[0] == names[1]:
        short[0] = f"{short[0]}-{method}"
    if len(set(short)) < len(short):
        raise UserError(f"two models would be called {short[0]}; rename a directory, or copy one of them")
    return short


class ModelServer:
    """Some models behind one address.

    Args:
        settings: How.
        say: Told in lines what happens; never what is asked or answered.
        say_request: Told a line of each request: its path, model, tokens and seconds.
    """

    def __init__(self, settings: ServerSettings, say: Callable[[str], Any], say_request: Callable[[str], Any]) -> None:
        self.settings, self.say = settings, say
        self.loop = asyncio.new_event_loop()
        self.models: dict[str, ServedModel] = {}
        self.routes = AnswerRoutes(self.models, settings.limits, say_request, say)
        self.offer = ServedModels(())
        self.num_workers = settings.workers or 1

    def open_models(self, offer: ServedModels) -> None:
        """Load what is to be served; the first says how many processes answer, if the settings do not.

        Raises:
            UserError: If something cannot be loaded, or cannot answer.
        """
        self.offer = offer
        method, draft = offer.parse_method(), open_draft(offer.draft, self.settings.device)
        for number, (name, source) in enumerate(zip(offer.name_models(), offer.sources, strict=True)):
            self.add_model(name, source, None if number else method, draft)

    def add_model(self, name: str, source: str, method: Inference | None = None, draft: Draft | None = None) -> None:
        """Load a model, with whatever stands between its weights and its answers.

        Args:
            name: Of it, for clients.
            source: A model, run directory or adapter.
            method: Through which it answers, beside what it was trained with.
            draft: Who proposes tokens.
        Raises:
            UserError: If it cannot be loaded_model, or cannot answer.
        """
        loaded_model = load_model(source, device=self.settings.device)
        if not self.models:
            self._share_machine(loaded_model.model)
        chat = (settings_of(loaded_model.path) or ChatSettings()).build_chat(loaded_model.tokenizer)
        decoder = open_chosen_decoder(loaded_model, source, settle_for_model(method, loaded_model, source, chat))
        live = build_live_decoder(
            decoder, chat, fingerprint=loaded_model.fingerprint, slots=self._count_own_share(self.settings.slots),
            draft=draft, deliver=self._deliver_events, say=lambda line: self.say(f"{name}: {line}"),
        )  # fmt: skip
        if line := decoder.describe_answers():
            self.say(f"{name}: {line}")
        if live.is_whole:
            self.say(f"{name}: answers come whole, also where a stream is asked for")
        self.models[name] = ServedModel(name, live, chat, decoder.answer_fingerprint(loaded_model.fingerprint))

    def _share_machine(self, model: Model) -> None:
        """Say how many processes answer, and keep to this one's part of the cores."""
        cores = torch.get_num_threads()
        if self.settings.workers is None:
            self.num_workers = choose_worker_count(model, cores, self.settings.slots)
        limits = self.settings.limits
        self.routes.limits = replace(limits, answers=self._count_own_share(limits.answers))
        if self.num_workers > 1 and model.device.type == "cpu":
            torch.set_num_threads(max(1, cores // self.num_workers))

    def _count_own_share(self, count: int) -> int:
        return -(-count // self.num_workers)

    def describe_worker(self, listener: socket.socket) -> dict[str, Any]:
        """What a process that answers beside this one is to know, in plain data."""
        settings = replace(
            self.settings, port=listener.getsockname()[1], slots=self._count_own_share(self.settings.slots),
            limits=self.routes.limits, workers=1,
        )  # fmt: skip
        return {"server": asdict(settings), "models": asdict(self.offer)}

    def _deliver_events(self, events: list[tuple[LiveQuestion, AnswerEvent]]) -> None:
        """From a thread that decodes to the event loop's."""
        self.loop.call_soon_threadsafe(call_listeners, events)

    def run_until_signal(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM; what is on its way then is finished, or told that it will not be."""
        workers = ServerWorkers(
            self.describe_worker(listener), self.num_workers, self.settings.device, self.settings.grace, self.say
        )
        guard = Guard(self.routes.build_app(), self.settings.key)
        config = uvicorn.Config(
            guard, loop="asyncio", http=JoinedWritesProtocol, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=round(self.settings.grace) + 5,
        )  # fmt: skip
        server = _Server(config)
        asyncio.set_event_loop(self.loop)
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through all of it again and again stops everybody for 0.2 s
        workers.start()
        try:
            self.loop.run_until_complete(self._serve_until_signal(server, guard, listener, workers))
        finally:
            workers.close()
            for model in self.models.values():
                model.live.close()
            self.loop.close()

    async def _serve_until_signal(
        self, server: _Server, guard: Guard, listener: socket.socket, workers: ServerWorkers
    ) -> None:
        def begin_end() -> None:
            workers.begin_end()
            if guard.is_closing:  # asked twice
                self.routes.end_all(ApiError(503, "this server is being shut down", code="shutting_down"))
                return
            guard.is_closing = server.should_exit = True
            if waiting := len(self.routes.replies):
                self.say(f"ending: {waiting} requests have {self.settings.grace:g} seconds left")
            self.loop.call_later(
                self.settings.grace, self.routes.end_all,
                ApiError(503, "this server is being shut down", code="shutting_down"),
            )  # fmt: skip

        for number in (signal.SIGINT, signal.SIGTERM):
            self.loop.add_signal_handler(number, begin_end)
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """A server whose end its owner decides on."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
