"""The server: its address, its models, its beginning and its end."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from holdfast.axes.inference import Inference
from holdfast.data.chat.settings import ChatSettings, settings_of
from holdfast.errors import UserError
from holdfast.generation.chosen_method import open_chosen_decoder
from holdfast.generation.live_decoder import build_live_decoder
from holdfast.generation.live_engine import AnswerEvent, LiveQuestion, call_listeners
from holdfast.generation.speculative_batch import Draft
from holdfast.models.loading import load_model
from holdfast.pipeline.inference_bench import settle_for_model
from holdfast.serving.address import is_loopback
from holdfast.serving.app import AnswerRoutes, ServerLimits
from holdfast.serving.failures import ApiError
from holdfast.serving.guard import Guard
from holdfast.serving.joined_writes import JoinedWritesProtocol
from holdfast.serving.open_reply import ServedModel

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
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str = ""
    limits: ServerLimits = field(default_factory=ServerLimits)
    slots: int = 64
    device: str = "auto"
    grace: float = GRACE


def check_address(settings: ServerSettings) -> None:
    """See that whoever can reach the server needs a key, if that may be others than this machine.

    Raises:
        UserError: If not, or the key cannot be sent or is easily guessed.
    """
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
        chat = (settings_of(loaded_model.path) or ChatSettings()).build_chat(loaded_model.tokenizer)
        decoder = open_chosen_decoder(loaded_model, source, settle_for_model(method, loaded_model, source, chat))
        live = build_live_decoder(
            decoder, chat, fingerprint=loaded_model.fingerprint, slots=self.settings.slots, draft=draft,
            deliver=self._deliver_events, say=lambda line: self.say(f"{name}: {line}"),
        )  # fmt: skip
        if line := decoder.describe_answers():
            self.say(f"{name}: {line}")
        if live.is_whole:
            self.say(f"{name}: answers come whole, also where a stream is asked for")
        self.models[name] = ServedModel(name, live, chat, decoder.answer_fingerprint(loaded_model.fingerprint))

    def _deliver_events(self, events: list[tuple[LiveQuestion, AnswerEvent]]) -> None:
        """From a thread that decodes to the event loop's."""
        self.loop.call_soon_threadsafe(call_listeners, events)

    def run_until_signal(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM; what is on its way then is finished, or told that it will not be."""
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
        try:
            self.loop.run_until_complete(self._serve_until_signal(server, guard, listener))
        finally:
            for model in self.models.values():
                model.live.close()
            self.loop.close()

    async def _serve_until_signal(self, server: _Server, guard: Guard, listener: socket.socket) -> None:
        def begin_end() -> None:
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
