"""The endpoint engine against a real server on this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.data.thoughts import split_thought
from holdfast.errors import RunError, UserError
from holdfast.generation import openai_endpoint
from holdfast.generation.journal import Journal
from holdfast.generation.openai_endpoint import EndpointEngine

MODELS = ("small-1", "small-2")


class Server(ThreadingHTTPServer):
    """Answers with the last message, the seed and the end of the prompt; `fail` makes it fail first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: Counter[str] = Counter()
        self.fail: list[int] = []
        self.key: str | None = None
        self.lists = True
        self.flying = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", "0.01")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.answer(401, {"error": {"message": "bad key"}})
        elif self.path == "/v1/models" and self.server.lists:
            self.answer(200, {"data": [{"id": name} for name in MODELS]})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.flying += 1
            self.server.most = max(self.server.most, self.server.flying)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.002)  # long enough for all that may fly to be seen together
        with self.server.lock:
            self.server.bodies.append(body)
            code = self.server.fail.pop(0) if self.server.fail else 200
            self.server.flying -= 1  # before the answer, upon which the client may send its next request at once
        text = body["messages"][-1]["content"]
        if code == 0:
            self.close_connection = True  # the connection just ends
        elif code != 200:
            self.answer(code, {"error": {"message": f"code {code}"}})
        elif body["model"] not in MODELS:
            self.answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        elif len(text) > 1000:
            self.answer(400, {"error": {"message": "This model's maximum context length is 8 tokens."}})
        else:
            thought = {"reasoning_content": "Hm."} if "think" in text else {}
            said = "" if "endless" in text else f"{text}! {body['seed']}"
            choice = {
                "message": {"content": said, **thought},
                "finish_reason": "length" if "cut" in text else "stop",
            }
            self.answer(200, {"choices": [choice], "usage": {"completion_tokens": 3}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai_endpoint.time, "sleep", lambda seconds: None)
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def asked(*texts: str) -> list[tuple[Request, list[int]]]:
    return [(Request(text[:9], [{"role": "user", "content": text, "weight": 0}]), [0]) for text in texts]


def test_answers_and_what_is_sent(server: Server) -> None:
    engine = EndpointEngine(server.url)
    params = SamplingParams(max_tokens=9, temperature=0.7, top_p=0.9, top_k=5, stop=("END",), seed=3)
    found = {s.key: s for s in engine.sample(asked("one", "two", "cut three"), params)}
    assert set(found) == {"one", "two", "cut three"}
    assert found["one"].text.startswith("one! ")
    assert (found["one"].finish, found["cut three"].finish) == ("stop", "length")
    assert engine.counts["tokens"] == 9
    body = server.bodies[0]
    seed = body.pop("seed")
    assert 0 <= seed < 2**31
    assert body == {
        "model": "small-1", "messages": [{"role": "user", "content": body["messages"][0]["content"]}],
        "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "stop": ["END"],
    }  # fmt: skip
    assert engine.fingerprint == f"endpoint:{server.url}/v1:small-1"


def test_the_seed_of_a_sample_is_its_own(server: Server) -> None:
    request = Request("k", [{"role": "user", "content": "q"}])
    first = sorted(EndpointEngine(server.url).sample([(request, range(8))], SamplingParams()), key=lambda s: s.index)
    again = sorted(EndpointEngine(server.url).sample([(request, [5, 2])], SamplingParams()), key=lambda s: s.index)
    assert len({s.text for s in first}) == 8
    assert again == [first[2], first[5]]


def test_prefill_goes_on_from_the_last_message(server: Server) -> None:
    request = Request("k", [{"role": "user", "content": "q"}], prefill="So")
    list(EndpointEngine(server.url).sample([(request, [0])], SamplingParams()))
    assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": "So"}
    assert server.bodies[0]["continue_final_message"] is True


def test_passing_failures_are_tried_again(server: Server) -> None:
    engine = EndpointEngine(server.url, concurrency=1)
    server.fail = [429, 503, 0, 500]
    assert next(engine.sample(asked("one"), SamplingParams())).text.startswith("one!")
    assert engine.counts["retries"] == 4


def test_a_server_that_stays_down_stops_the_run(server: Server) -> None:
    engine = EndpointEngine(server.url, attempts=3, concurrency=2)
    server.fail = [500] * 1000
    with pytest.raises(RunError, match=r"500: .*go on"):
        list(engine.sample(asked(*"abcdefgh"), SamplingParams()))
    assert len(server.bodies) <= 3 * 4, "nothing more is asked for once one request has failed"


def test_requests_fly_together_but_not_too_many(server: Server) -> None:
    texts = [f"q{i}" for i in range(40)]
    found = list(EndpointEngine(server.url, concurrency=3).sample(asked(*texts), SamplingParams()))
    assert sorted(s.key for s in found) == sorted(texts)
    assert server.most <= 3


def test_a_prompt_that_does_not_fit_is_counted(server: Server) -> None:
    engine = EndpointEngine(server.url)
    found = list(engine.sample(asked("x" * 2000), SamplingParams()))
    assert found == [Sample("x" * 9, 0, "", "length", 0)]
    assert engine.counts["too long"] == 1


def test_errors_of_the_user(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be reached.*is the server running"):
        _ = EndpointEngine(f"http://127.0.0.1:{port}").model
    with pytest.raises(UserError, match="did you mean small-2"):
        _ = EndpointEngine(server.url, "smal-2").model
    with pytest.raises(UserError, match="not an address"):
        EndpointEngine("http:/nowhere")
    server.fail = [400]
    with pytest.raises(UserError, match=r"refuses the request \(400\): code 400"):
        list(EndpointEngine(server.url).sample(asked("one"), SamplingParams()))
    server.key = "secret"
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        _ = EndpointEngine(server.url).model
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert EndpointEngine(server.url).model == "small-1"


def test_a_server_without_a_list_of_models(server: Server) -> None:
    server.lists = False
    with pytest.raises(UserError, match=r"sampling\.model"):
        _ = EndpointEngine(server.url).model
    assert EndpointEngine(server.url + "/v1/", "small-2").model == "small-2"
    with pytest.raises(UserError, match="does not exist"):
        list(EndpointEngine(server.url, "other").sample(asked("one"), SamplingParams()))


def test_through_the_journal(server: Server, tmp_path: Path) -> None:
    requests = [request for request, _ in asked("one", "two")]
    with Journal(tmp_path / "s.jsonl") as journal:
        first = journal.build_sample_fn(EndpointEngine(server.url))(requests, SamplingParams(n=2))
        assert journal.build_sample_fn(EndpointEngine(server.url))(requests, SamplingParams(n=2)) == first
    assert len(server.bodies) == 4


def test_thoughts_the_server_tells_apart_are_put_back_and_it_is_told_how_to_ask(server: Server, tiny: Any) -> None:
    tokenizer = tiny("llama")[1]
    source = tokenizer.chat_template + "{% if enable_thinking %}<think>{% endif %}</think>"
    chat = Chat(tokenizer, "Be brief.", kwargs={"enable_thinking": True}, source=source)
    engine = EndpointEngine(server.url, chat=chat)
    params = SamplingParams(max_tokens=7, max_thinking_tokens=5)
    texts = {s.key: s.text for s in engine.sample(asked("think", "think cut", "cut endless think"), params)}
    assert texts["think"].startswith("<think>\nHm.\n</think>\n\nthink! ")
    assert split_thought(texts["think cut"]).has_ended
    assert texts["cut endle"] == "<think>\nHm."
    for body in server.bodies:
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert body["chat_template_kwargs"] == {"enable_thinking": True}
        assert body["max_tokens"] == 7  # this template never asks for a thought
    assert engine.fingerprint != EndpointEngine(server.url).fingerprint
