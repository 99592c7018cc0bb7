"""The routes: requests in, answers out."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from holdfast.axes.engine import Request
from holdfast.core.progress import ignore_call
from holdfast.core.spelling import suggest_name
from holdfast.generation.live_engine import LiveQuestion
from holdfast.serving.failures import ApiError, to_api_error
from holdfast.serving.mailbox import Mailbox
from holdfast.serving.open_reply import OpenReply, ServedModel
from holdfast.serving.protocol import MOST_CHOICES, AnswerBody, ChatBody, CompletionBody, parse_body, parse_json
from holdfast.serving.replies import ChatForm, CompletionForm

COMPLETION_TOKENS = 16
"""Longest completion where a request names none, as in OpenAI's API."""
BODY_SECONDS = 30.0
"""Time to send a whole body in."""
THREADS = 8
"""Prompts that are made at once: methods may look something up for them."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may take.

    Args:
        tokens: Longest answer; also of a chat that names none.
        body: Bytes of a request.
        seconds: From a request to the end of its answer.
        answers: Answers that are on their way at once; who comes then is told to come again.
    """

    tokens: int = 4096
    body: int = 4 << 20
    seconds: float = 600.0
    answers: int = 1024


class AnswerRoutes:
    """The protocol's routes over some models.

    Args:
        models: By name.
        limits: Of each request.
        say: Told in a line what was asked for and how it went, never the words.
        warn: Told the same of what went wrong here.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        limits: ServerLimits,
        say: Callable[[str], Any] = ignore_call,
        warn: Callable[[str], Any] = ignore_call,
    ) -> None:
        self.models, self.limits, self.say, self.warn = models, limits, say, warn
        self.replies: set[OpenReply] = set()
        # The system's own random numbers let other threads run, and the event loop waits to be let in again.
        self.random = random.Random(secrets.randbits(256))
        self.pool = ThreadPoolExecutor(THREADS, "holdfast-prompts")

    def build_app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/health", self._show_health, methods=["GET"]),
            Route("/v1/models", self._list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", self._show_model, methods=["GET"]),
            Route("/v1/chat/completions", self._answer_chat, methods=["POST"]),
            Route("/v1/completions", self._complete_text, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={ApiError: _tell_error, HTTPException: _tell_http_error})

    def end_all(self, error: ApiError) -> None:
        """Tell everybody who still waits that there will be no more."""
        for reply in tuple(self.replies):
            reply.box.fail_all(error)

    async def _show_health(self, request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def _list_models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [model.to_json() for model in self.models.values()]})

    async def _show_model(self, request: HttpRequest) -> Response:
        return JSONResponse(self._find_model(request.path_params["name"]).to_json())

    def _find_model(self, name: str) -> ServedModel:
        if name not in self.models:
            what = f"model: {name[:200]} is not served here{suggest_name(name, self.models)}"
            raise ApiError(404, what, param="model", code="model_not_found")
        return self.models[name]

    async def _answer_chat(self, request: HttpRequest) -> Response:
        body = parse_body(ChatBody, await self._read_body(request))
        model = self._find_model(body.model)
        try:
            messages, prefill = body.read_conversation()
        except ValueError as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from error
        conversation = Request("", messages, prefill)
        question = self._build_question(body, self.limits.tokens, request=conversation)
        question.template_kwargs = body.chat_template_kwargs
        return await self._answer_questions(request, model, body, ChatForm(model.read_token), [question])

    async def _complete_text(self, request: HttpRequest) -> Response:
        body = parse_body(CompletionBody, await self._read_body(request))
        model = self._find_model(body.model)
        tokens = min(COMPLETION_TOKENS, self.limits.tokens)
        questions = [
            self._build_question(body, tokens, **({"text": prompt} if isinstance(prompt, str) else {"prompt": prompt}))
            for prompt in body.list_prompts()
        ]
        if not questions:
            raise ApiError(400, "prompt: is empty; give a text or token ids", param="prompt", code="invalid_value")
        return await self._answer_questions(request, model, body, CompletionForm(model.read_token), questions)

    async def _read_body(self, request: HttpRequest) -> dict[str, Any]:
        """The JSON object of a request, within the limits of size and time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a web page elsewhere can send other types without asking
            raise ApiError(415, "Content-Type: application/json is what this server reads", code="invalid_content_type")
        too_large = ApiError(
            413, f"the body is larger than this server reads ({self.limits.body >> 10:,} KiB)", code="body_too_large"
        )
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.body:
            raise too_large

        async def collect_parts() -> bytes:
            parts, size = [], 0
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > self.limits.body:
                    raise too_large
            return b"".join(parts)

        try:
            return parse_json(await asyncio.wait_for(collect_parts(), BODY_SECONDS))
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} seconds", code="timeout") from error

    def _build_question(self, body: AnswerBody, tokens: int, **source: Any) -> LiveQuestion:
        """A question by the parameters of a request.

        Args:
            tokens: Longest answer, where the request names none.
            source: The conversation, text or ids.
        """
        most = self.limits.tokens
        if (body.asked_tokens or 0) > most:
            name = "max_tokens" if body.max_tokens else "max_completion_tokens"
            what = f"{name}: at most {most:,} tokens an answer here (--max-tokens of the server)"
            raise ApiError(400, what, param=name, code="invalid_value")
        params = body.build_params(tokens, self.random.getrandbits(63))
        return LiveQuestion(
            params, ignore_call, streams=bool(body.stream), top_logprobs=body.top_logprobs_asked, **source
        )  # fmt: skip

    async def _answer_questions(
        self, request: HttpRequest, model: ServedModel, body: AnswerBody, form: ChatForm, questions: list[LiveQuestion]
    ) -> Response:
        """The answers to the questions of a request, whole or as a stream."""
        each, waiting = body.n or 1, sum(reply.box.num_open for reply in self.replies)
        if each * len(questions) > MOST_CHOICES:
            what = f"n: at most {MOST_CHOICES} answers to one request, over all its prompts"
            raise ApiError(400, what, param="n", code="invalid_value")
        if waiting + each * len(questions) > self.limits.answers:
            what = f"this server is busy: {waiting:,} answers are on their way; come again in a moment"
            raise ApiError(429, what, code="server_busy")
        identity = f"{form.prefix}-{self.random.getrandbits(128):032x}"
        reply = OpenReply(request, model, body, form, Mailbox(questions, each), identity)
        reply.begin_reply(self.limits.seconds, self.replies, self.say, self.warn)
        try:
            await reply.ask_questions(self.pool)
            if body.stream:
                headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
                return StreamingResponse(reply.stream_pieces(), media_type="text/event-stream", headers=headers)
            whole = await reply.build_whole()
        except Exception as error:
            reply.end_reply(error)
            raise to_api_error(error) from error
        except BaseException:  # the server ends
            reply.end_reply()
            raise
        reply.end_reply()
        return JSONResponse(whole)


def _tell_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}
    return JSONResponse(error.to_json(), error.status, headers.get(error.status))


def _tell_http_error(request: HttpRequest, error: Exception) -> Response:
    """What is no route, or not by that method."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}: {error.detail}"
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    return JSONResponse(ApiError(error.status_code, what, code=code).to_json(), error.status_code, error.headers)
