"""Several servers at once: whether slow, dying or lying, they lose nothing, and each sample comes once."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from holdfast.axes.engine import Request, SamplingParams
from holdfast.errors import RunError, UserError
from holdfast.generation.journal import Journal
from holdfast.generation.pool.endpoints import ONE_BY_ONE, open_endpoints
from holdfast.generation.pool.engine import Pool
from holdfast.pipeline.readiness import check_engine
from hostile_server import Manner, answering, completion, serving

PARAMS = SamplingParams()
SLEEP = time.sleep
RULES = replace(ONE_BY_ONE, shortest_wait=0.1)


def asked(count: int) -> list[Request]:
    return [Request(f"key {number}", [{"role": "user", "content": f"{number}"}]) for number in range(count)]


def echo(handler: Any) -> None:
    answering(completion(f"{handler.body['messages'][-1]['content']}!"))(handler)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Three that echo."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(serving()) for _ in range(3)]
        for server in some:
            server.chat = echo
        yield some


def sample_all(pool: Pool, count: int, path: Path) -> None:
    """Each once, in the journal, and what was asked."""
    with Journal(path) as journal:
        samples = journal.build_sample_fn(pool)(asked(count), PARAMS)
    pool.close()
    assert {key: one.text for key, (one,) in samples.items()} == {f"key {n}": f"{n}!" for n in range(count)}
    assert len(path.read_bytes().splitlines()) == count


def count_posts(server: Any) -> int:
    return sum(path.endswith("/chat/completions") for path, _ in server.seen)


def after(good: int, then: Manner) -> Manner:
    """Echo so many requests, then do something else."""
    lock, numbers = threading.Lock(), iter(range(10**6))

    def act(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            number = next(numbers)
        (echo if number < good else then)(handler)

    return act


def break_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


@pytest.mark.parametrize(
    ("manner", "line"),
    [
        (answering({"error": "overloaded"}, code=503), ""),
        (break_off, ""),
        (answering(b"<html>", code=200), "does not answer in JSON"),
        (answering({"choices": [{"message": {"content": None, "role": 7}}] * 2}), "answers with 2 choices"),
        (answering({"choices": [{"index": 3, "message": {"content": "x"}}]}), "or another, where one was asked for"),
        (answering({"nothing": 1}), "does not answer as a chat-completions server"),
        (answering({"error": {"message": "bad key"}}, code=401), "refuses the key (401)"),
    ],
    ids=["overloaded", "breaks off", "garbage", "wrong count", "wrong ids", "no answer", "refuses"],
)
def test_a_bad_server_costs_nothing(manner: Manner, line: str, servers: list[Any], tmp_path: Path) -> None:
    servers[1].chat = after(3, manner)
    said: list[str] = []
    urls = [server.url for server in servers]
    pool = open_endpoints(urls, None, concurrency=2, say=said.append, rules=RULES)
    sample_all(pool, 60, tmp_path / "s.jsonl")
    assert [text.startswith(f"sampling: {urls[1]}/v1 is left out") and line in text for text in said] == [True] * bool(
        line
    )
    if line:
        assert count_posts(servers[1]) <= 3 + 2, "it is asked nothing more"


def test_what_a_slow_server_is_late_with_is_asked_of_others(servers: list[Any], tmp_path: Path) -> None:
    is_asked_no_more, answers = threading.Event(), []

    def wait_long(handler: Any) -> None:
        is_asked_no_more.wait(60)
        answers.append(handler)
        echo(handler)

    servers[2].chat = wait_long
    pool = open_endpoints([server.url for server in servers], "m", concurrency=2, rules=RULES)
    sample_all(pool, 40, tmp_path / "s.jsonl")
    assert answers == [], "nobody waits for it"
    is_asked_no_more.set()
    assert count_posts(servers[2]) == 2
    assert pool.scheduler.counts["hedged"] >= 2


def test_a_server_that_is_down_is_left_out_and_comes_back(servers: list[Any], tmp_path: Path) -> None:
    servers[0].models = answering({}, code=503)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.generation.openai_endpoint.time.sleep", lambda seconds: SLEEP(seconds / 100))
        pool = open_endpoints([server.url for server in servers[:2]], None, concurrency=1, say=said.append)
        assert said == [
            f"sampling.engine: {servers[0].url}/v1 answers 503: {{}}; is the server running, and is that its address?; "
            "the others do its work until it answers"
        ]
        assert pool.fingerprint == f"endpoint:{servers[0].url}/v1:m", "samples are called by the first address"
        servers[1].chat = lambda handler: (SLEEP(0.01), echo(handler))
        stream = pool.sample([(request, [0]) for request in asked(100)], PARAMS)
        texts = Counter(next(stream).text for _ in range(5))
        servers[0].models = answering({"data": [{"id": "m"}]})
        texts.update(sample.text for sample in stream)
    pool.close()
    assert texts == Counter(f"{n}!" for n in range(100))
    assert count_posts(servers[0]) > 0


def test_the_end_of_the_last_server_is_the_end(servers: list[Any]) -> None:
    urls = [server.url for server in servers]
    for server in servers:
        server.chat = answering({"error": {"message": "no such template"}}, code=400)
    with pytest.raises(UserError, match=r"refuses the request \(400\): no such template"):
        list(open_endpoints(urls, None, concurrency=1).sample([(r, [0]) for r in asked(9)], PARAMS))
    for server in servers:
        server.chat = answering({"error": "overloaded"}, code=503)
    pool = open_endpoints(urls, None, concurrency=1, rules=replace(RULES, failures=1))
    with pytest.raises(RunError, match=r"no worker is left \(answers 503: .*overloaded.*\); what was sampled is kept"):
        list(pool.sample([(r, [0]) for r in asked(9)], PARAMS))


def test_check_refuses_what_a_run_would(servers: list[Any]) -> None:
    urls, said = tuple(server.url for server in servers), list[str]()
    check_engine(urls, None, said.append)
    assert said == []
    servers[1].models = answering({"data": [{"id": "other"}]})
    with pytest.raises(UserError, match=f"m is not a model of {urls[1]}/v1"):
        check_engine(urls, None)
    servers[1].models = answering({"error": "bad key"}, code=401)
    with pytest.raises(UserError, match="refuses the key"):
        check_engine(urls, None)
    with pytest.raises(UserError, match="cannot be reached"):
        check_engine(("http://127.0.0.1:9", "http://127.0.0.1:19"), None)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"engine": ["http://a", "native"]}, "each of several, not 'native'"),
        ({"engine": ["http://a", "http://a"]}, "must be different addresses"),
        ({"engine": []}, "must be an engine, or some addresses"),
        ({"engine": ["http://a", "http://b"], "workers": 2}, "workers: are processes of this machine"),
    ],
)
def test_what_no_recipe_may_say(sampling: dict[str, Any], said: str) -> None:
    from holdfast.recipe.schema import Sampling

    with pytest.raises(ValueError, match=said):
        Sampling.model_validate(sampling)
    assert json.loads(Sampling(engine=("http://a",)).model_dump_json())["engine"] == "http://a"
