"""`holdfast serve` as a process of its own, asked by the client that everybody has."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from typer.testing import CliRunner

from holdfast.axes.engine import Request, SamplingParams
from holdfast.cli.app import app
from holdfast.data.chat.encoder import Chat
from holdfast.generation.native import NativeEngine
from holdfast.generation.openai_endpoint import EndpointEngine
from holdfast.models.loading import LoadedModel, load_model
from holdfast.skills.rows import lab_rows
from processes import Process

KEY = "sk-test-0123456789abcdef"
LIMITS = ("--max-tokens", "64", "--max-body", "0.05")
QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]


class Served:
    """A server's process and its address."""

    def __init__(self, *arguments: str, key: str = KEY) -> None:
        import os

        environment = {**os.environ, "HOLDFAST_API_KEY": key}
        self.process = Process(["-m", "holdfast", "serve", *arguments, "--port", "0"], env=environment)
        assert self.process.stdout is not None
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"serving .* at (http://\S+)/v1", line):
                self.url = found[1]
                break
        else:
            raise AssertionError("".join(self.said))
        self.port = int(self.url.rpartition(":")[2])

    def client(self, key: str = KEY, kind: Any = openai.OpenAI, **more: Any) -> Any:
        return kind(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **more)

    def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict[str, Any]]:
        """The answer to a body as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        own = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        connection.request("POST", path, body, own | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@contextmanager
def serving(*arguments: str, key: str = KEY) -> Iterator[Served]:
    served = Served(*arguments, key=key)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random model that writes on and on."""
    from conftest import tiny_model

    path = tmp_path_factory.mktemp("models") / "tiny"
    model: Any = tiny_model("llama", tokenizer, max_position_embeddings=65536)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0  # never the likeliest
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[Served]:
    with serving("lab-small", "--against", str(tiny_path), "--workers", "1", *LIMITS) as served:
        yield served


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("lab-small", device="cpu")


def engine_of(loaded: LoadedModel) -> NativeEngine:
    return NativeEngine(loaded.model, Chat(loaded.tokenizer), fingerprint="x")


def lab_prompts(count: int) -> list[list[dict[str, Any]]]:
    return [[{k: m[k] for k in ("role", "content")} for m in row.prompt] for row in lab_rows("lab", "test", count)]


def test_greedy_and_seeded_answers_are_the_engines(server: Served, loaded: LoadedModel) -> None:
    client, engine = server.client(), engine_of(loaded)
    prompts = lab_prompts(8)
    greedy = SamplingParams(max_tokens=24)
    wanted = {s.key: s for s in engine.sample([(Request(str(k), p), [0]) for k, p in enumerate(prompts)], greedy)}
    for k, prompt in enumerate(prompts):
        reply = client.chat.completions.create(model="lab-small", messages=prompt, temperature=0, max_tokens=24)
        sample = wanted[str(k)]
        assert reply.choices[0].message.content == sample.text
        assert reply.choices[0].finish_reason == sample.finish
        assert reply.usage.completion_tokens == sample.tokens
        assert reply.usage.prompt_tokens == len(engine.chat.prompt_ids(prompt))
    params = SamplingParams(max_tokens=24, temperature=1.2, top_p=0.95, top_k=50, seed=11, n=3)
    samples = sorted(engine.sample([(Request("", prompts[0]), range(3))], params), key=lambda s: s.index)
    asked = {"model": "lab-small", "messages": prompts[0], "temperature": 1.2, "top_p": 0.95, "n": 3, "seed": 11}
    reply = client.chat.completions.create(**asked, max_tokens=24, extra_body={"top_k": 50})
    assert [choice.message.content for choice in reply.choices] == [s.text for s in samples]
    unseeded = {
        client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=24, extra_body={"temperature": 1}
        ).choices[0].message.content
        for _ in range(2)
    }  # fmt: skip
    assert len(unseeded) == 2


def test_streams_say_what_whole_answers_say(server: Served) -> None:
    client = server.client()
    for model, more in (
        ("lab-small", {"temperature": 0}),
        ("tiny", {"seed": 3, "n": 2, "stop": ["e", "\ufffda"], "logprobs": True, "top_logprobs": 2}),
    ):  # fmt: skip
        asked = {"model": model, "messages": QUESTION, "max_tokens": 40, **more}
        whole = client.chat.completions.create(**asked)
        pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        assert pieces[-1].choices == []
        assert pieces[-1].usage == whole.usage
        for choice in whole.choices:
            own = [c for piece in pieces for c in piece.choices if c.index == choice.index]
            assert own[0].delta.role == "assistant"
            assert "".join(c.delta.content or "" for c in own) == choice.message.content
            assert [c.finish_reason for c in own if c.finish_reason] == [choice.finish_reason]
            if choice.logprobs:
                told = [token for c in own if c.logprobs for token in c.logprobs.content]
                assert told == choice.logprobs.content
        if model == "tiny":
            assert len(pieces) > 6
            assert not any("e" in choice.message.content for choice in whole.choices)
            assert "stop" in [choice.finish_reason for choice in whole.choices]


def test_completions_of_text_and_ids_with_log_probabilities(server: Served, loaded: LoadedModel) -> None:
    client, tokenizer = server.client(), loaded.tokenizer
    text = "user: What is"
    ids = tokenizer(text)["input_ids"]
    asked = {"model": "lab-small", "temperature": 0, "max_tokens": 6, "logprobs": 2}
    reply = client.completions.create(prompt=[text, text], **asked)
    first, second = reply.choices
    assert first.text == second.text
    assert client.completions.create(prompt=ids, **asked).choices[0].text == first.text
    streamed = list(client.completions.create(prompt=text, stream=True, **asked))
    assert "".join(piece.choices[0].text for piece in streamed) == first.text
    logprobs = first.logprobs
    own = [tokenizer.convert_tokens_to_ids(piece) for piece in tokenizer.tokenize(first.text)]
    assert "".join(logprobs.tokens) == first.text
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:k])) for k in range(len(logprobs.tokens))]
    if len(own) == len(logprobs.tokens):
        with torch.no_grad():
            logps = torch.log_softmax(loaded.model(torch.tensor([ids + own])).logits[0].double(), -1)
        expected = [float(logps[len(ids) - 1 + k, token]) for k, token in enumerate(own)]
        assert logprobs.token_logprobs == pytest.approx(expected, abs=1e-4)
    assert client.completions.create(model="lab-small", prompt=text).usage.completion_tokens <= 16


def test_our_own_client_gets_the_engines_answers(
    server: Served, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = Chat(loaded.tokenizer)
    requests = [(Request(str(k), p, prefill="The" if k else ""), [0]) for k, p in enumerate(lab_prompts(3))]
    params = SamplingParams(max_tokens=12, stop=("\n",))
    endpoint = EndpointEngine(server.url, "lab-small", chat=chat)
    told = {s.key: s.text for s in endpoint.sample(requests, params)}
    assert told == {s.key: s.text for s in engine_of(loaded).sample(requests, params)}
    long = Request("long", [{"role": "user", "content": "what is " * 600}])
    (sample,) = endpoint.sample([(long, [0])], params)
    assert (sample.text, endpoint.counts["too long"]) == ("", 1)


def test_errors_have_the_protocols_form(server: Served) -> None:
    client = server.client()
    asked: dict[str, Any] = {"model": "lab-small", "messages": QUESTION}
    cases: list[tuple[Any, dict[str, Any], str | None, str]] = [
        (openai.NotFoundError, {"model": "gpt-9"}, "model", "model_not_found"),
        (openai.BadRequestError, {"max_tokens": 65}, "max_tokens", "invalid_value"),
        (openai.BadRequestError, {"frequency_penalty": 1}, "frequency_penalty", "unsupported_parameter"),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "what is " * 600}]}, "messages",
         "context_length_exceeded"),
        (openai.BadRequestError, {"extra_body": {"chat_template_kwargs": {"no_such": 1}}}, None, "invalid_value"),
    ]  # fmt: skip
    for kind, more, param, code in cases:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                client.chat.completions.create(**asked | more, stream=stream)
            assert (caught.value.param, caught.value.code) == (param, code), caught.value
    for key in ("wrong", KEY + "0", "schlüssel"):
        status, answer = server.post(b"{}", Authorization=f"Bearer {key}".encode().decode("latin-1"))
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        server.client("wrong").models.list()
    assert server.post(b"{")[1]["error"]["code"] == "invalid_json"
    assert server.post(json.dumps({"model": "lab-small", "x": "y" * 60_000}).encode())[0] == 413
    assert server.post(b"{}", Content_Type="text/plain")[0] == 415
    assert server.post(b"{}", "/v1/embeddings") == (404, {"error": {
        "message": "POST /v1/embeddings: Not Found", "type": "invalid_request_error", "param": None,
        "code": "unknown_url"}})  # fmt: skip
    assert client.models.list().data[0].id == "lab-small"
    assert client.models.retrieve("tiny").id == "tiny"


def test_sixty_four_clients_at_once(server: Served, loaded: LoadedModel) -> None:
    prompts = lab_prompts(64)
    wanted = {
        int(s.key): s.text
        for s in engine_of(loaded).sample(
            [(Request(str(k), p), [0]) for k, p in enumerate(prompts)], SamplingParams(max_tokens=16)
        )
    }

    async def ask(number: int) -> list[str]:
        async with server.client(kind=openai.AsyncOpenAI, timeout=120) as client:
            asked = {"model": "lab-small", "messages": prompts[number], "temperature": 0, "max_tokens": 16}
            whole = await client.chat.completions.create(**asked)
            pieces = [piece async for piece in await client.chat.completions.create(**asked, stream=True)]
            return [whole.choices[0].message.content, "".join(p.choices[0].delta.content or "" for p in pieces)]

    async def ask_all() -> list[list[str]]:
        return await asyncio.gather(*map(ask, range(64)))

    for number, texts in enumerate(asyncio.run(ask_all())):
        assert texts == [wanted[number]] * 2


def test_the_end_waits_for_answers_and_tells_who_it_does_not_wait_for(tiny_path: Path) -> None:
    with serving(str(tiny_path), "--max-tokens", "60000", "--timeout", "3", "--workers", "1", key="") as served:
        client = served.client("none")
        asked: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "stream": True, "temperature": 0}
        with pytest.raises(openai.APIError, match="no whole answer within 3 seconds"):
            for _ in client.chat.completions.create(**asked, max_tokens=60_000):
                pass
        status, answer = served.post(b"{}", Host="evil.example")
        assert (status, answer["error"]["code"]) == (403, "wrong_host")
        pieces = iter(client.chat.completions.create(**asked, max_tokens=20))
        next(pieces)
        served.process.kill(signal.SIGTERM)
        assert list(pieces)[-1].choices[0].finish_reason
        assert served.process.wait(30) == 0
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", served.port), 5)
        assert "What is" not in "".join(served.said) + served.process.communicate()


def test_a_client_that_leaves_frees_its_slot(tiny_path: Path) -> None:
    with serving(str(tiny_path), "--max-tokens", "60000", "--slots", "1", "-v") as served:
        client = served.client()
        asked: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 60_000}
        stream = client.chat.completions.create(**asked, stream=True)
        next(iter(stream))
        stream.close()
        with pytest.raises(openai.APITimeoutError):
            served.client(timeout=0.3).chat.completions.create(**asked)
        client.chat.completions.create(**asked | {"max_tokens": 2})
        served.process.kill(signal.SIGINT)
        assert served.process.wait(30) == 0
        said = served.process.communicate()
        assert said.count("the client has gone") == 2, said


def test_what_cannot_be_served_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for arguments, text in (
            (["lab-small", "--port", str(port)], f"port {port}: is in use"),
            (["lab-small", "--host", "0.0.0.0"], "clients need a key"),
            (["lab-small", "--host", "0.0.0.0", "--api-key", "short"], "a key of 16 characters or more"),
            (["lab-small", "--api-key", "two words"], "characters that no header can carry"),
            (["lab-small", "--host", "203.0.113.7", "--api-key", KEY], "no address of this machine"),
            (["runs/nothing", "--port", "0"], "runs/nothing"),
            (["lab-small", "--against", "lab-small", "--port", "0"], "two models would be called lab-small"),
        ):
            done = CliRunner().invoke(app, ["serve", *arguments])
            assert done.exit_code == 2, (arguments, done.output)
            lines = [line for line in done.output.splitlines() if line.startswith("holdfast:")]
            assert len(lines) == 1
            assert text in lines[0]
