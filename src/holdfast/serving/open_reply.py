"""An answer that is being made: asked for, waited for, ended by whatever comes first."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from starlette.requests import Request as HttpRequest

from holdfast.data.chat.encoder import Chat
from holdfast.errors import first_line
from holdfast.generation.live_decoder import LiveDecoder
from holdfast.generation.live_engine import AnswerEvent
from holdfast.serving.failures import ApiError, to_api_error
from holdfast.serving.mailbox import Mailbox
from holdfast.serving.protocol import AnswerBody
from holdfast.serving.replies import ChatForm, ChoiceStream, Json, describe_trace
from holdfast.serving.token_pieces import read_token

SHORT = 4096
"""Bytes of a request below which making its prompt does not keep others waiting."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class ServedModel:
    """A model under its name.

    Args:
        name: As clients write it.
        live: Its answers.
        chat: Its tokenizer.
        fingerprint: Of all that its answers depend on.
    """

    def __init__(self, name: str, live: LiveDecoder, chat: Chat, fingerprint: str) -> None:
        self.name, self.live, self.fingerprint = name, live, f"fp_{fingerprint[:16]}"
        self.created = int(time.time())
        self.read_token = lru_cache(1 << 16)(partial(read_token, chat.tokenizer))

    def to_json(self) -> Json:
        """Its entry in the list of models."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "holdfast"}


class OpenReply:
    """One request's answers on their way.

    Args:
        request: Whose connection is watched.
        model: Who answers.
        body: What is asked for.
        form: The protocol's form of it.
        box: Where the answers arrive.
        identity: What the protocol calls the reply.
    """

    def __init__(
        self, request: HttpRequest, model: ServedModel, body: AnswerBody, form: ChatForm, box: Mailbox, identity: str
    ) -> None:
        self.request, self.model, self.body, self.form, self.box = request, model, body, form, box
        self.identity, self.created = identity, int(time.time())
        self.endings: dict[int, AnswerEvent] = {}
        self._began, self._end_calls = time.monotonic(), list[Callable[[], Any]]()

    def begin_reply(
        self, seconds: float, replies: set[OpenReply], say: Callable[[str], Any], warn: Callable[[str], Any]
    ) -> None:
        """Watch the clock and the connection.

        Args:
            seconds: Most that it may take.
            replies: Where it stands as long as it is open.
            say: Told in a line how it went.
            warn: Told in a line what went wrong here.
        """
        loop = asyncio.get_running_loop()
        too_late = ApiError(
            504, f"no whole answer within {seconds:g} seconds (--timeout of the server)", code="timeout"
        )
        timer = loop.call_later(seconds, self.box.fail_all, too_late)
        watcher = loop.create_task(self._watch_connection())
        replies.add(self)
        self._end_calls = [
            timer.cancel,
            watcher.cancel,
            partial(replies.discard, self),
            partial(self._log_end, say, warn),
        ]
        self._failure: BaseException | None = None

    def end_reply(self, failure: BaseException | None = None) -> None:
        """Let go of everything; what is still being answered is not any more. Safe to call twice."""
        self._failure = failure
        calls, self._end_calls = self._end_calls, []
        for call in calls:
            call()
        for question in self.box.questions:
            question.cancel_answer()

    def _log_end(self, say: Callable[[str], Any], warn: Callable[[str], Any]) -> None:
        usage, failure = self.count_usage(), self._failure
        is_ours = isinstance(failure, Exception) and to_api_error(failure).status == 500
        how = "done" if failure is None else first_line(failure)
        tokens = f"{usage['prompt_tokens']}+{usage['completion_tokens']} tokens"
        path, seconds = self.request.scope["path"], time.monotonic() - self._began
        line = f"{path} {self.model.name}: {tokens}, {seconds:.2f} s, {how}"
        if is_ours and not isinstance(failure, ClientGone):
            warn(f"{line} ({type(failure).__name__})")
        else:
            say(line)

    async def _watch_connection(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.box.fail_all(ClientGone("the client has gone"))

    async def ask_questions(self, pool: ThreadPoolExecutor) -> None:
        """Ask what is to be asked, in a thread: a prompt may take a while.

        Raises:
            UserError: If something cannot be asked.
        """
        loop, live = asyncio.get_running_loop(), self.model.live
        is_short = int(self.request.headers.get("content-length", SHORT)) < SHORT
        for question in self.box.questions:
            if live.is_quick and is_short:  # to hand it to a thread and back would take longer
                live.ask_question(question)
            else:
                await loop.run_in_executor(pool, live.ask_question, question)

    async def build_whole(self) -> Json:
        """The answers, once all are whole."""
        while self.box.num_open or self.box.newest:
            self._keep_endings(await self.box.wait_events())
        has_details = self.body.top_logprobs_asked is not None
        choices = [
            self.form.build_choice(
                index, self.form.split_text(event.text, True, ()), event.sample.finish if event.sample else "",
                event.details if has_details else None,
            ) | describe_trace(event)
            for index, event in sorted(self.endings.items())
        ]  # fmt: skip
        return self._wrap_choices(self.form.whole, choices, usage=self.count_usage())

    async def stream_pieces(self) -> AsyncIterator[bytes]:
        """The answers as they grow, as server-sent events; an error is an event, too."""
        stop = self.box.questions[0].params.stop
        has_details = self.body.top_logprobs_asked is not None
        streams = [ChoiceStream(self.form, index, stop, has_details) for index in range(self.box.count)]
        failure: BaseException | None = ClientGone("the client has gone")  # unless it comes to its end
        try:
            starts = [start for stream in streams if (start := self.form.build_start(stream.index))]
            yield b"".join(map(self._encode_piece, starts))
            while self.box.num_open or self.box.newest:
                events = await self.box.wait_events()
                self._keep_endings(events)
                pieces = [piece for index, event in events.items() if (piece := streams[index].take_event(event))]
                if pieces:
                    yield b"".join(map(self._encode_piece, pieces))
            if self.body.stream_options and self.body.stream_options.include_usage:
                yield encode_event(self._wrap_choices(self.form.piece, [], usage=self.count_usage()))
            yield b"data: [DONE]\n\n"
            failure = None
        except ClientGone as error:
            failure = error
        except Exception as error:
            failure = error
            yield encode_event(to_api_error(error).to_json())
        finally:
            self.end_reply(failure)

    def _encode_piece(self, choice: Json) -> bytes:
        return encode_event(self._wrap_choices(self.form.piece, [choice]))

    def _keep_endings(self, events: dict[int, AnswerEvent]) -> None:
        self.endings |= {index: event for index, event in events.items() if event.sample}

    def _wrap_choices(self, kind: str, choices: list[Json], **more: Any) -> Json:
        """Choices as an object of the protocol."""
        return {
            "id": self.identity, "object": kind, "created": self.created, "model": self.model.name,
            "system_fingerprint": self.model.fingerprint, "choices": choices, **more,
        }  # fmt: skip

    def count_usage(self) -> Json:
        """Tokens read and sampled; of answers made by several attempts, those of all attempts."""
        samples = [event.sample for event in self.endings.values() if event.sample]
        prompts = sum(question.prompt_tokens for question in self.box.questions)
        own = sum(question.answer_tokens for question in self.box.questions)
        answers = own or sum(sample.tokens for sample in samples)
        return {"prompt_tokens": prompts, "completion_tokens": answers, "total_tokens": prompts + answers}


def encode_event(value: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
