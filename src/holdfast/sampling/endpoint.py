"""Sampling from any server that speaks the OpenAI chat-completions protocol (vLLM, llama.cpp, Ollama, OpenAI...)."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit

from holdfast.errors import RunError, UserError
from holdfast.registry import nearest
from holdfast.sampling.base import Request, Sample, SamplingParams
from holdfast.sampling.journal import sample_seed

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
LONGEST_WAIT = 60.0
TOO_LONG = ("context length", "context_length", "context window", "maximum context", "too long")
"""Words by which servers say that a prompt does not fit; they have no common code for it."""

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
        timeout: Seconds to wait for one answer.
        key: API key; default: the environment variable OPENAI_API_KEY.

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
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"sampling.engine: {url} is not an address like http://localhost:8000/v1")
        self.url = url.rstrip("/") + ("/v1" if parts.path in ("", "/") else "")
        self.concurrency, self.attempts, self.timeout = concurrency, attempts, timeout
        self.counts: Counter[str] = Counter()
        self._key = os.environ.get("OPENAI_API_KEY", "") if key is None else key
        self._model = model
        self._known = False
        # A proxy set in the environment cannot reach a server on this very machine.
        local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))

    @property
    def model(self) -> str:
        """Name of the model at the server.

        Raises:
            UserError: If the server does not answer, or does not know the model.
        """
        if not self._known:
            self._model = self._resolve(self._model)
            self._known = True
        assert self._model is not None
        return self._model

    @property
    def fingerprint(self) -> str:
        return f"endpoint:{self.url}:{self.model}"

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as the answers come in.

        Raises:
            UserError: If the server refuses a request, or cannot be reached.
        """
        jobs: Iterator[Job] = ((request, index) for request, indexes in requests for index in indexes)
        model = self.model
        pool = ThreadPoolExecutor(self.concurrency)
        flying: set[Future[tuple[Sample, dict[str, int]]]] = set()
        try:
            while True:
                # Only as many as fly are handed out, so that an error stops the rest at once.
                while len(flying) < self.concurrency and (job := next(jobs, None)):
                    flying.add(pool.submit(self._one, model, *job, params))
                if not flying:
                    return
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in landed:
                    sample, counts = future.result()
                    self.counts.update(counts)
                    yield sample
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, model: str, request: Request, index: int, params: SamplingParams) -> tuple[Sample, dict[str, int]]:
        """One sample and what is to be counted; runs in a thread."""
        try:
            answer, retries = self._ask("/chat/completions", _body(model, request, index, params))
        except _TooLong:
            return Sample(request.key, index, "", "length", 0), {"too long": 1}
        try:
            choice = answer["choices"][0]
            text = choice["message"].get("content") or ""
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(f"{self.url} does not answer as a chat-completions server: {str(answer)[:200]}") from error
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        finish: Literal["stop", "length"] = "length" if choice.get("finish_reason") == "length" else "stop"
        return Sample(request.key, index, text, finish, tokens), {"tokens": tokens, "retries": retries}

    def _resolve(self, wanted: str | None) -> str:
        try:
            listed, _ = self._ask("/models", None)
        except _Missing as error:  # some servers list nothing; a wrong name then shows at the first request
            if wanted is None:
                raise UserError(f"{self.url} lists no models; name one: sampling.model") from error
            return wanted
        names = [entry["id"] for entry in listed.get("data") or []]
        if wanted is None and not names:
            raise UserError(f"{self.url} lists no models; name one: sampling.model")
        if wanted is not None and names and wanted not in names:
            raise UserError(f"{wanted} is not a model of {self.url}{nearest(wanted, names)}")
        return wanted or names[0]

    def _ask(self, path: str, body: dict[str, Any] | None) -> tuple[dict[str, Any], int]:
        """Send one request, again after passing failures; the answer and the number of retries."""
        pause, attempts = 0.5, self.attempts if self._known else min(4, self.attempts)
        for attempt in range(attempts):
            try:
                return self._send(path, body), attempt
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")
                if error.code not in RETRIED:
                    raise self._refused(error.code, text, path) from error
                failure = f"answers {error.code}: {text[:200]}"
                pause = max(pause, _retry_after(error))
            except (OSError, HTTPException) as error:
                failure = f"cannot be reached: {getattr(error, 'reason', error)}"
                if not self._known and isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                    break  # nothing listens there: it never worked, so waiting is no help
            if attempt + 1 < attempts:
                time.sleep(min(pause, LONGEST_WAIT))
                pause *= 2
        if self._known:
            raise RunError(f"{self.url} {failure}; what was sampled is kept, run the same command to go on")
        raise UserError(f"{self.url} {failure}; is the server running, and sampling.engine its address?")

    def _send(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        message = urllib.request.Request(self.url + path, data=data, headers=headers)
        with self._opener.open(message, timeout=self.timeout) as response:
            raw = response.read()
        try:
            return json.loads(raw)
        except ValueError as error:
            raise UserError(f"{self.url}{path} does not answer in JSON; is sampling.engine its address?") from error

    def _refused(self, code: int, text: str, path: str) -> Exception:
        """The error for an answer that trying again would not change."""
        said = _message(text)
        if code in (401, 403):
            return UserError(f"{self.url} refuses the key ({code}): set the environment variable OPENAI_API_KEY")
        if code in (404, 405) and path == "/models":
            return _Missing()
        if code == 404:
            return UserError(f"{self.url}{path} is not there (404): {said}; check sampling.engine and sampling.model")
        if code in (400, 413, 422) and any(word in said.lower() for word in TOO_LONG):
            return _TooLong()
        return UserError(f"{self.url} refuses the request ({code}): {said}")


class _TooLong(Exception):
    """The server says that the prompt does not fit into the model's context."""


class _Missing(Exception):
    """The server has no list of models."""


def _body(model: str, request: Request, index: int, params: SamplingParams) -> dict[str, Any]:
    messages = [{"role": m["role"], "content": m["content"]} for m in request.messages]
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": sample_seed(params.seed, request.key, index) >> 33,  # 31 bits: what every server takes
    }
    if params.stop:
        body["stop"] = list(params.stop)
    if params.top_k:
        body["top_k"] = params.top_k
    if request.prefill:
        # vLLM's and SGLang's names; servers that go on from a last assistant message by themselves pass over them.
        messages.append({"role": "assistant", "content": request.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _retry_after(error: urllib.error.HTTPError) -> float:
    value = (error.headers.get("Retry-After") or "") if error.headers else ""
    return float(value) if value.replace(".", "", 1).isdigit() else 0.0


def _message(text: str) -> str:
    """The server's own words, on one line."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return " ".join(str(found).split())[:300]
