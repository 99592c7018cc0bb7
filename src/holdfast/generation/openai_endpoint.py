"""Sampling from any server that speaks the OpenAI chat-completions protocol (vLLM, llama.cpp, Ollama, OpenAI...)."""

from __future__ import annotations

import base64
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.core.safe_text import HIDDEN_KEY, hide_keys, make_printable, published_address, split_address
from holdfast.core.spelling import suggest_name
from holdfast.data.chat.tools import TOOL_KEYS, tools_of
from holdfast.data.pictures.reader import encode_picture, read_picture
from holdfast.data.pictures.references import split_content
from holdfast.data.rows import Message, fingerprint_json
from holdfast.data.thoughts import join_thought
from holdfast.errors import RunError, UserError
from holdfast.generation.http_client import LARGEST, LARGEST_ERROR, TooLarge, build_opener, fetch_body, read_bounded
from holdfast.generation.journal import sample_seed

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
LONGEST_WAIT = 60.0
MOST_TOKENS = 10**7
"""Tokens of one answer that are believed."""
TOO_LONG = ("context length", "context_length", "context window", "maximum context", "too long")
"""Words by which servers say that a prompt does not fit; they have no common code for it."""

SHORTEST_KEY = 8
"""Characters from which on a key is hidden in what a server says; servers without keys are given words like EMPTY."""

Job = tuple[Request, int]


class EndpointEngine:
    """Samples from a server, many requests at a time.

    Whether the same seed gives the same sample is up to the server. Samples of a prompt are asked for one by one, so
    that each has its own seed and is on record as soon as it is there.

    Args:
        url: Of the server, with or without `/v1`.
        model: Its name there; default: the first the server lists.
        concurrency: Requests in flight.
        attempts: Tries of one request before giving up; waits double from half a second between them.
        timeout: Seconds to wait for one whole answer.
        chat: How the model is to be asked: its system message, and `chat_template_kwargs` (vLLM's and SGLang's name).
        key: API key; default: user and password of the address, else the environment variable OPENAI_API_KEY.

    Attributes:
        counts: Running totals: "tokens" sampled (as far as the server says), "retries", "too long" prompts.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        concurrency: int = 16,
        attempts: int = 7,
        timeout: float = 600.0,
        key: str | None = None,
        chat: Chat | None = None,
    ) -> None:
        parts = split_address(url, "sampling.engine")
        path = parts.path.rstrip("/") or "/v1"
        self._query = f"?{parts.query}" if parts.query else ""
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"
        self.url = published_address(f"{url.partition('?')[0].rstrip('/')}{'/v1' if parts.path in ('', '/') else ''}")
        self.concurrency, self.attempts, self.timeout = concurrency, attempts, timeout
        self.counts: Counter[str] = Counter()
        self._model, self._chat = model, chat
        self._is_resolved = False
        self._authorization, self._keys = _build_authorization(parts.username, parts.password, key)
        # What the published address leaves out is hidden wherever else it may turn up.
        public_parts = re.split(r"[/?&=@:]", published_address(url))
        inside = re.split(r"[/?&=]", f"{parts.path}?{parts.query}")
        self._keys += [part for part in inside if len(part) >= SHORTEST_KEY and part not in public_parts]
        self._opener = build_opener(parts.hostname or "")

    @property
    def model(self) -> str:
        """Name of the model at the server.

        Raises:
            UserError: If the server does not answer, or does not know the model.
        """
        if not self._is_resolved:
            self._model = self._resolve_model(self._model)
            self._is_resolved = True
        assert self._model is not None
        return self._model

    @property
    def fingerprint(self) -> str:
        return self.describe_source(self.model)

    def describe_source(self, model: str) -> str:
        """The fingerprint of a model of this server."""
        prompt_settings = [self._chat.system, self._chat.template.kwargs] if self._chat else [None, {}]
        return f"endpoint:{self.url}:{model}" + (
            f":{fingerprint_json(prompt_settings)[:16]}" if any(prompt_settings) else ""
        )

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as the answers come in.

        Raises:
            UserError: If the server refuses a request, or cannot be reached.
        """
        if params.keep_ids:
            raise UserError("an endpoint gives no token ids, and training needs what was sampled: use a local engine")
        jobs: Iterator[Job] = ((request, index) for request, indexes in requests for index in indexes)
        model = self.model
        pool = ThreadPoolExecutor(self.concurrency)
        flying: set[Future[tuple[Sample, dict[str, int]]]] = set()
        try:
            while True:
                # Only as many as fly are handed out, so that an error stops the rest at once.
                while len(flying) < self.concurrency and (job := next(jobs, None)):
                    flying.add(pool.submit(self.sample_one, model, *job, params))
                if not flying:
                    return
                ready, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    sample, counts = future.result()
                    self.counts.update(counts)
                    yield sample
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def sample_one(
        self, model: str, request: Request, index: int, params: SamplingParams
    ) -> tuple[Sample, dict[str, int]]:
        """One sample and what is to be counted; runs in a thread."""
        try:
            answer, retries = self._send_with_retries(
                "/chat/completions", _build_body(model, request, index, params, self._chat)
            )
        except _TooLong:
            return Sample(request.key, index, "", "length", 0), {"too long": 1}
        text, finish = self._parse_answer(answer)
        usage = answer.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        tokens = tokens if type(tokens) is int and 0 <= tokens <= MOST_TOKENS else 0  # what servers say is theirs
        return Sample(request.key, index, text, finish, tokens), {"tokens": tokens, "retries": retries}

    def _parse_answer(self, answer: Any) -> tuple[str, Literal["stop", "length"]]:
        """The text of an answer and why it ended; looked at before it is recorded, so that no journal holds another.

        Raises:
            UserError: If it is not an answer of a chat-completions server.
        """
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        text = (message.get("content") or "") if isinstance(message, dict) else None
        if not isinstance(choice, dict) or not isinstance(text, str):
            excerpt = self._sanitize_line(json.dumps(answer)[:200])
            raise UserError(f"{self.url} does not answer as a chat-completions server: {excerpt}")
        if len(choices or ()) > 1 or choice.get("index") not in (None, 0):
            raise UserError(
                f"{self.url} answers with {len(choices or ())} choices, or another, where one was asked for"
            )
        return self._hide_keys(_with_thought(message or {}, text)), "length" if choice.get(
            "finish_reason"
        ) == "length" else "stop"

    def _resolve_model(self, model_name: str | None) -> str:
        try:
            reply, _ = self._send_with_retries("/models", None)
        except _Missing as error:  # some servers list nothing; a wrong name then shows at the first request
            if model_name is None:
                raise UserError(f"{self.url} lists no models; name one: sampling.model") from error
            return model_name
        entries = (reply.get("data") or []) if isinstance(reply, dict) else None
        if not isinstance(entries, list):
            excerpt = self._sanitize_line(json.dumps(reply)[:200])
            raise UserError(f"{self.url}/models does not list models as a chat-completions server does: {excerpt}")
        names = [e["id"] for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str) and e["id"]]
        if model_name is None and not names:
            raise UserError(f"{self.url} lists no models; name one: sampling.model")
        if model_name is not None and names and model_name not in names:
            raise UserError(
                f"{model_name} is not a model of {self.url}{suggest_name(model_name, map(self._sanitize_line, names))}"
            )
        return model_name or names[0]

    def _send_with_retries(self, path: str, body: dict[str, Any] | None) -> tuple[dict[str, Any], int]:
        """Send one request, again after passing failures; the answer and the number of retries."""
        pause, attempts = 0.5, self.attempts if self._is_resolved else min(4, self.attempts)
        patience = time.monotonic() + 2 * self.timeout  # a server that never answers is not asked seven times
        for attempt in range(attempts):
            try:
                return self._send_request(path, body), attempt
            except urllib.error.HTTPError as error:
                text = _error_text(error)
                if error.code not in RETRIED:
                    raise self._refusal_error(error, text, path) from error
                failure = f"answers {error.code}: {self._sanitize_line(text[:200])}"
                pause = max(pause, _retry_after(error))
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                failure = f"cannot be reached: {self._sanitize_line(str(reason))}"
                if isinstance(reason, TimeoutError):
                    failure = f"gives no whole answer within {self.timeout:g} seconds"
                if not self._is_resolved and isinstance(reason, ConnectionRefusedError):
                    break  # nothing listens there: it never worked, so waiting is no help
            if time.monotonic() > patience:
                break
            if attempt + 1 < attempts:
                time.sleep(min(pause, LONGEST_WAIT))
                pause *= 2
        if self._is_resolved:
            raise NoAnswer(self.url, failure)
        raise Unreachable(self.url, failure)

    def _send_request(self, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._authorization}
        data = None if body is None else json.dumps(body).encode()
        message = urllib.request.Request(self._address + path + self._query, data=data, headers=headers)
        try:
            return json.loads(fetch_body(self._opener, message, self.timeout))
        except TooLarge as error:
            raise UserError(
                f"{self.url}{path} answers with more than {LARGEST >> 20} MiB, which no model does; is sampling.engine "
                "its address?"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.url}{path} does not answer in JSON; is that its address?") from error

    def _hide_keys(self, text: str) -> str:
        """Text of the server without the key, should it repeat that."""
        for key in self._keys:
            text = text.replace(key, HIDDEN_KEY)
        return text

    def _sanitize_line(self, text: str) -> str:
        """Text of the server as a part of one line."""
        return hide_keys(make_printable(" ".join(self._hide_keys(text).split()), one_line=True))

    def _refusal_error(self, error: urllib.error.HTTPError, text: str, path: str) -> Exception:
        """The error for an answer that trying again would not change."""
        reason, code = self._sanitize_line(_error_message(text)), error.code
        if 300 <= code < 400:
            target = self._sanitize_line(error.headers.get("Location") or "nowhere")[:200]
            return UserError(
                f"{self.url}{path} sends to another address ({code}: {target}), where the key and the prompts would "
                "go; if that is the server you mean, set sampling.engine to it"
            )
        if code in (401, 403):
            return UserError(f"{self.url} refuses the key ({code}): set the environment variable OPENAI_API_KEY")
        if code in (404, 405) and path == "/models":
            return _Missing()
        if code == 404:
            return UserError(f"{self.url}{path} is not there (404): {reason}; check sampling.engine and sampling.model")
        if code in (400, 413, 422) and any(word in reason.lower() for word in TOO_LONG):
            return _TooLong()
        return UserError(f"{self.url} refuses the request ({code}): {reason}")


class NoAnswer(RunError):
    """A server that answered before does not any more."""

    def __init__(self, url: str, failure: str) -> None:
        super().__init__(f"{url} {failure}; what was sampled is kept, run the same command to go on")
        self.failure = failure


class Unreachable(UserError):
    """A server has never answered."""

    def __init__(self, url: str, failure: str) -> None:
        super().__init__(f"{url} {failure}; is the server running, and is that its address?")
        self.failure = failure


class _TooLong(Exception):
    """The server says that the prompt does not fit into the model's context."""


class _Missing(Exception):
    """The server has no list of models."""


def _encode_message(message: Message) -> dict[str, Any]:
    """A message in the API's manner, which has the arguments of calls as JSON text."""
    fields = {
        "role": message["role"],
        "content": message["content"],
        **{k: message[k] for k in TOOL_KEYS if k in message},
    }
    if "images" in message:
        urls = iter([encode_picture(read_picture(reference)) for reference in message["images"]])
        fields["content"] = [
            {"type": "image_url", "image_url": {"url": next(urls)}} if part["type"] == "image" else part
            for part in split_content(message)
        ]
    for number, call in enumerate(fields.pop("tool_calls", [])):
        function = {**call["function"], "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}
        fields.setdefault("tool_calls", []).append({"id": f"call-{number}", **call, "function": function})
    return fields


def _build_body(
    model: str, request: Request, index: int, params: SamplingParams, chat: Chat | None = None
) -> dict[str, Any]:
    messages = [_encode_message(m) for m in request.messages]
    if chat is not None and chat.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": chat.system})
    thinks = chat is not None and chat.template.thoughts.allows_thought
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        # Servers count thought and answer together.
        "max_tokens": params.max_tokens + (params.max_thinking_tokens or 0 if thinks else 0),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": sample_seed(params.seed, request.key, index) >> 33,  # 31 bits: what every server takes
    }
    if tools := tools_of(request.messages):
        body["tools"] = tools
    if chat is not None and chat.template.kwargs:
        body["chat_template_kwargs"] = chat.template.kwargs
    if params.stop:
        body["stop"] = list(params.stop)
    if params.top_k:
        body["top_k"] = params.top_k
    if request.prefill:
        # vLLM's and SGLang's names; servers that go on from a last assistant message by themselves pass over them.
        messages.append({"role": "assistant", "content": request.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _with_thought(message: dict[str, Any], text: str) -> str:
    """An answer with its thought before it, which servers with a reasoning parser tell apart; without an answer, that
    thought never ended."""
    thoughts = [message.get(key) for key in ("reasoning_content", "reasoning")]
    thought = next((candidate for candidate in thoughts if isinstance(candidate, str) and candidate.strip()), "")
    if not thought:
        return text
    return join_thought(thought, text) if text.strip() else f"<think>\n{thought}"


def _retry_after(error: urllib.error.HTTPError) -> float:
    value = (error.headers.get("Retry-After") or "") if error.headers else ""
    return float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", value) else 0.0


def _error_text(error: urllib.error.HTTPError) -> str:
    """The beginning of an error page; "" where the server breaks off or writes on and on."""
    try:
        return read_bounded(error, LARGEST_ERROR).decode(errors="replace")
    except (OSError, HTTPException, TooLarge):
        return ""


def _build_authorization(user: str | None, password: str | None, key: str | None) -> tuple[dict[str, str], list[str]]:
    """The header that says who asks, and what of it is hidden wherever a server repeats it."""
    if user and key is None:
        pair = f"{unquote(user)}:{unquote(password or '')}"
        code = base64.b64encode(pair.encode()).decode()
        return {"Authorization": f"Basic {code}"}, [code, *(p for p in pair.split(":") if len(p) >= SHORTEST_KEY)]
    key = os.environ.get("OPENAI_API_KEY", "") if key is None else key
    if not key:
        return {}, []
    if not re.fullmatch(r"[\x21-\x7e]+", key.strip()):
        raise UserError("OPENAI_API_KEY: holds characters that no key has (a line end, a space, an accent); mend it")
    return {"Authorization": f"Bearer {key.strip()}"}, [key.strip()] if len(key.strip()) >= SHORTEST_KEY else []


def _error_message(text: str) -> str:
    """The server's own words, on one line."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = text
    for name in ("error", "message", "detail"):
        if isinstance(content, dict) and name in content:
            content = content[name]
    return " ".join(str(content).split())[:300]
