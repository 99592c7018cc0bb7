"""A server that redirects, lies, stalls, echoes and floods: the key stays here, and the journal stays whole."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.core.safe_text import hide_keys, published_address
from holdfast.errors import HoldfastError, RunError, UserError
from holdfast.generation import http_client, openai_endpoint
from holdfast.generation.journal import Journal
from holdfast.generation.openai_endpoint import EndpointEngine
from hostile_server import KEY, answering, completion, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as found:
        yield found


def ask(server: Any, url: str = "", **options: Any) -> Sample:
    requests = [(Request("k", [{"role": "user", "content": "q"}]), [0])]
    return next(EndpointEngine(url or server.url, **{"attempts": 1, **options}).sample(requests, SamplingParams()))


def said(server: Any, kind: type[HoldfastError] = UserError, **options: Any) -> str:
    """The one line of the error."""
    with pytest.raises(kind) as error:
        ask(server, **options)
    text = str(error.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert KEY not in text
    assert "127.0.0.1" in text
    return text


def test_no_redirect_is_followed(server: Any) -> None:
    with serving() as thief:
        for code in (301, 302, 303, 307, 308):
            server.chat = answering({}, code, Location=f"{thief.url}/v1/chat/completions")
            assert f"sends to another address ({code}: {thief.url}" in said(server)
        server.models = answering({}, 302, Location=f"{thief.url}/v1/models")
        assert "sends to another address (302" in said(server)
        assert not thief.seen, "neither the key nor a prompt arrives there"
    assert server.seen[0] == ("/v1/models", f"Bearer {KEY}")


def test_a_bad_answer_is_never_recorded(server: Any, tmp_path: Path) -> None:
    bad: list[Any] = [
        completion(5), completion(["x"]), completion({"a": 1}), completion(True), {"choices": "x"}, {"choices": [5]},
        {"choices": [{"message": "x"}]}, {"choices": []}, [], "x", 5, None, b"[" * 200_000, b"<html>", b"9" * 5000,
    ]  # fmt: skip
    request = Request("k", [{"role": "user", "content": "q"}])
    for value in bad:
        server.chat = answering(value)
        with Journal(tmp_path / "s.jsonl") as journal, pytest.raises(UserError, match="does not answer"):
            journal.build_sample_fn(EndpointEngine(server.url))([request], SamplingParams())
    assert (tmp_path / "s.jsonl").read_bytes() == b""
    server.chat = answering(completion("well"))
    with Journal(tmp_path / "s.jsonl") as journal:
        assert journal.build_sample_fn(EndpointEngine(server.url))([request], SamplingParams())["k"][0].text == "well"


def test_a_journal_that_holds_a_bad_answer_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    good = {"kind": "sample", "id": "a-0", "key": "a", "index": 0, "text": "yes", "finish": "stop", "tokens": 1}
    wrong = {"text": 5, "tokens": "1", "finish": "end", "index": -1, "key": None}
    bad = [{**good, "id": f"b-{n}", name: value} for n, (name, value) in enumerate(wrong.items())]
    lines = [json.dumps(line) for line in (bad[0], good, *bad[1:], {**good, "id": 7}, {**good, "id": "c-0"})]
    path.write_text("\n".join([*lines, '{"torn']), encoding="utf-8")
    for _ in range(2):
        with Journal(path) as journal:
            assert (len(journal), journal.sampled_tokens) == (2, 2)
        assert path.read_text(encoding="utf-8").splitlines() == [lines[1], lines[-1]]
    assert [p.name for p in tmp_path.iterdir()] == ["s.jsonl"]


def test_odd_types_beside_the_answer(server: Any) -> None:
    for usage in ("text", [3], {"completion_tokens": "3"}, {"completion_tokens": True}, {"completion_tokens": -1}, 7):
        server.chat = answering(completion("well", usage=usage))
        assert ask(server) == Sample("k", 0, "well", "stop", 0)
    server.chat = answering(b'{"choices": [{"message": {"content": "w"}}], "usage": {"completion_tokens": 1e999}}')
    assert ask(server).tokens == 0
    server.chat = answering({}, 503, Retry_After="\xb2")
    assert "answers 503" in said(server, RunError)
    for listed in ([], "x", 5, {"data": "x"}, {"data": {"a": 1}}):
        server.models = answering(listed)
        assert "models" in said(server)
    server.models = answering({"data": [{"name": "m"}, {"id": 5}, "x", {"id": "real"}]})
    assert EndpointEngine(server.url).model == "real"


def test_what_a_server_repeats_of_the_key_is_hidden(server: Any) -> None:
    server.chat = answering(
        {"error": f"you sent Authorization: Bearer {KEY}\x1b[2J\x1b]0;title\x07\nholdfast: well"}, 400
    )
    assert "you sent Authorization: Bearer ***" in said(server)
    server.chat = answering({"error": f"busy {KEY} \x9b2J"}, 503)
    assert "busy ***" in said(server, RunError)
    server.chat = answering(completion(f"your key is {KEY}!"))
    assert ask(server).text == "your key is ***!"


def test_size_and_time_have_limits(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 65536)

    def drip(handler: BaseHTTPRequestHandler, *, head: bool) -> None:
        if not head:
            handler.send_response(200)
            handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" if head else b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    monkeypatch.setattr(http_client, "LARGEST", 2**20)
    server.chat = endless
    assert "answers with more than" in said(server)
    for head in (False, True):
        server.chat = lambda handler, head=head: drip(handler, head=head)
        assert "gives no whole answer within 0.2 seconds" in said(server, RunError, timeout=0.2)
    server.chat = answering(b'{"choices"', Content_Length="500")
    assert "cannot be reached" in said(server, RunError, timeout=5)
    asked = len(server.seen)
    server.chat = lambda handler: threading.Event().wait(1)
    monkeypatch.setattr(openai_endpoint.time, "sleep", lambda seconds: None)
    assert "no whole answer" in said(server, RunError, timeout=0.1, attempts=7)
    assert len(server.seen) - asked <= 1 + 3, "twice the time of one answer is waited, not seven times"


def test_keys_in_the_address(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "v4riable-from-outside")
    where = server.url.removeprefix("http://")
    for address, path, header in (
        (f"http://{where}/v1?api-key={KEY}", f"/v1/models?api-key={KEY}", f"Bearer {KEY}"),
        (f"http://{where}/{KEY}/v1", f"/{KEY}/v1/models", f"Bearer {KEY}"),
        (f"http://me:{KEY}@{where}", "/v1/models", "Basic bWU6c2stQ0FOQVJZS0VZ"),
        (f"http://{where}/v1?key=${{MY_KEY}}", "/v1/models?key=v4riable-from-outside", f"Bearer {KEY}"),
    ):
        server.seen.clear()
        engine = EndpointEngine(address)
        assert engine.model == "m"
        assert server.seen == [(path, header)]
        assert not any(key in engine.fingerprint for key in (KEY, "v4riable"))
        server.chat = answering({"error": f"{KEY} v4riable-from-outside bWU6c2stQ0FOQVJZS0VZ"}, 400)
        assert KEY not in said(server, url=address)
    with pytest.raises(UserError, match=r"the key was left out of http://h/v1\?key=\*\*\*"):
        EndpointEngine("http://h/v1?key=***")
    with pytest.raises(UserError, match="the environment has no MISSING_ONE"):
        EndpointEngine("http://h/v1?key=${MISSING_ONE}")
    monkeypatch.setenv("OPENAI_API_KEY", "two\nlines")
    with pytest.raises(UserError, match="OPENAI_API_KEY: holds characters"):
        EndpointEngine("http://h/v1")


def test_addresses_as_they_are_published() -> None:
    for address, shown in {
        "http://localhost:8000/v1": "http://localhost:8000/v1",
        "http://[::1]:8000/v1": "http://[::1]:8000/v1",
        "https://h/openai/deployments/gpt-4o-mini/?api-version=2024-02-01":
            "https://h/openai/deployments/gpt-4o-mini/?api-version=2024-02-01",
        "https://h/api/Meta-Llama-3.1-8B-Instruct": "https://h/api/Meta-Llama-3.1-8B-Instruct",
        "https://me:secret@h/v1": "https://***@h/v1",
        "https://me:${PASS}@h/v1": "https://me:${PASS}@h/v1",
        "https://h/sk-abc/v1": "https://h/***/v1",
        "https://h/3f9aD02bb71/v1#x": "https://h/***/v1",
        "https://h/v1?key=abc&user=me": "https://h/v1?key=***&user=me",
        "https://h/v1?3f9aD02bb71": "https://h/v1?***",
    }.items():  # fmt: skip
        assert published_address(address) == published_address(shown) == shown
    assert hide_keys("look at https://me:pw@h/v1, or (http://h/v1).") == "look at https://***@h/v1, or (http://h/v1)."
