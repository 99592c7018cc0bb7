"""Twenty-one attacks on the board, each refused; and the same where a token is needed."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.testclient import TestClient

from board_runs import EVIL, form_key, open_app, open_client, send, write_lines
from holdfast.board import front_door
from holdfast.board.draft import START
from holdfast.board.front_door import LARGEST_BODY
from holdfast.board.refusal import Refusal
from holdfast.board.server import check_settings
from holdfast.errors import UserError

TOKEN = "a token that nobody guesses"
OUTSIDE = [
    "../secret", "%2e%2e/secret", "..%2fsecret", "%252e%252e/secret", "runs/../../secret", "//etc", "/etc/passwd",
    "runs/one/../../../secret", "..%5csecret", "runs/one%00", "link", "runs/loop/x", "x" * 5000, ".holdfast-board",
]  # fmt: skip


@pytest.fixture
def trap(place: Path) -> Path:
    """A run beside the directory, a link to it from inside, and a link to itself."""
    secret = place.parent / "secret"
    secret.mkdir()
    (secret / "run.json").write_text('{"recipe": "0", "finished": false, "seconds": {}, "created": "SECRET"}')
    (secret / "report.html").write_text("SECRET")
    (secret / "resolved.yaml").write_text("SECRET: 1")
    (place / "link").symlink_to(secret)
    (place / "runs" / "loop").symlink_to(place / "runs" / "loop")
    (place / "runs" / "one" / "resolved.yaml").unlink()
    (place / "runs" / "one" / "resolved.yaml").symlink_to(secret / "resolved.yaml")
    return place


@pytest.mark.parametrize("name", OUTSIDE, ids=range(len(OUTSIDE)))
def test_1_no_name_leads_outside(name: str, trap: Path) -> None:
    client = open_client(trap)
    for page in ("run", "report", "recipe", "rows", "flips", "chat", "parts/run"):
        answer = client.get(f"/{page}/{name}")
        assert answer.status_code == 404, page
        assert "SECRET" not in answer.text
    assert "SECRET" not in client.get(f"/compare?run={name}").text
    assert "secret" not in client.get("/").text


def test_2_a_link_inside_of_a_run_is_not_followed_out(trap: Path) -> None:
    answer = open_client(trap).get("/recipe/runs/one")
    assert (answer.status_code, "SECRET" in answer.text) == (404, False)


def test_3_no_other_static_file_is_served(client: TestClient) -> None:
    for name in ("../app.py", "..%2fapp.py", "htmx-LICENSE.txt", "..%2f..%2fcli%2fapp.py"):
        assert client.get(f"/static/{name}").status_code == 404


POSTS = [
    "/draft",
    "/stop/runs/going",
    "/resume/runs/going",
    "/export/runs/one",
    "/check/runs/one",
    "/open-chat/runs/one",
    "/import",
    "/queue/x",
]


@pytest.mark.parametrize("address", [*POSTS, "/chat/runs/one", "/job/x/stop"])
def test_4_a_form_without_its_key_is_refused(address: str, client: TestClient, place: Path) -> None:
    fields = {"text": START, "base": START, "do": "start"}
    for key in ({}, {"form_key": ""}, {"form_key": "0" * 64}, {"form_key": form_key(open_client(place))}):
        assert client.post(address, data={**fields, **key}).status_code == 403
    assert not (place / ".holdfast-board").exists()


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Origin": "http://127.0.0.1:8301"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_5_a_form_of_another_site_is_refused_with_its_key(headers: dict[str, str], client: TestClient) -> None:
    assert send(client, "/draft", headers=headers, text=START, base=START).status_code == 403


def test_6_forms_cannot_be_asked_for_by_a_link(client: TestClient) -> None:
    for address in POSTS:
        if address != "/import":
            assert client.get(address).status_code in (404, 405)


def test_7_another_name_for_this_machine_is_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8300", "127.0.0.1.evil.example", ""):
        assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.get("/", headers={"Host": "[::1]:8300"}).status_code == 200


@pytest.mark.parametrize("page", ["/", "/run/runs/one", "/run/runs/broken", "/compare?run=runs/one&run=runs/two",
                                  "/rows/runs/one", "/flips/runs/one", "/rows/runs/one?q=" + EVIL,
                                  "/?q=" + EVIL, "/flips/runs/one?task=" + EVIL, "/run/" + EVIL])  # fmt: skip
def test_8_what_rows_models_and_readers_wrote_is_text(page: str, client: TestClient, place: Path) -> None:
    report = json.loads((place / "runs" / "two" / "report.json").read_text())
    for key in ("method", "name"):
        report[key] = f"{key} {EVIL}"
    report["model"]["name"] = EVIL
    report["tasks"][0]["name"] = EVIL
    (place / "runs" / "two" / "report.json").write_text(json.dumps(report))
    write_lines(place / "runs" / "going" / "events.jsonl", {"event": EVIL, "text": EVIL, "method": EVIL, "model": EVIL})
    text = client.get(page).text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "alert(" not in text or "&lt;" in text


def test_9_a_draft_and_its_mistakes_are_text(client: TestClient) -> None:
    text = f'model: "{EVIL}"\ndata: {{train: "</textarea>{EVIL}"}}\n{json.dumps(EVIL)}: 1\n'
    page = send(client, "/draft", text=text, base=f"x: {json.dumps(EVIL)}", **{f"set.{EVIL}": EVIL}).text
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_10_every_page_forbids_scripts_that_are_not_ours_frames_and_guesses(client: TestClient) -> None:
    for address in ("/", "/run/runs/one", "/nothing", "/static/htmx.min.js", "/new"):
        headers = client.get(address).headers
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    cookie = open_client_cookie(client)
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def open_client_cookie(client: TestClient) -> str:
    client.cookies.clear()
    return client.get("/").headers["set-cookie"]


def test_11_a_report_cannot_run_anything_here(client: TestClient, place: Path) -> None:
    (place / "runs" / "one" / "report.html").write_text("<script>fetch('/new')</script>")
    policy = client.get("/report/runs/one").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "allow-scripts" not in policy


def test_12_a_huge_body_is_refused_before_it_is_read(client: TestClient) -> None:
    key = form_key(client)
    large = client.post("/draft", data={"form_key": key, "text": "x" * LARGEST_BODY})
    assert large.status_code == 413

    def endless() -> Any:
        yield f"form_key={key}&text=".encode()
        for _ in range(10_000):
            yield b"x" * 1024

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/draft", content=endless(), headers=headers).status_code == 413


def test_12_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "BODY_SECONDS", 0.05)

    async def receive_nothing() -> Any:
        await asyncio.sleep(60)

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "POST", "headers": headers, "session_cookie": ""}
    with pytest.raises(Refusal) as refusal:
        asyncio.run(front_door.read_form(Request(scope, receive_nothing), front_door.Sessions("")))
    assert refusal.value.status == 408


def test_13_many_fields_and_other_bodies_are_refused(client: TestClient) -> None:
    key = form_key(client)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/draft", content=f"form_key={key}" + "&a=1" * 5000, headers=headers).status_code == 400
    assert client.post("/draft", content=f"form_key={key}&text=%ff%fe", headers=headers).status_code == 400
    assert client.post("/draft", json={"form_key": key}).status_code == 415
    assert client.post("/draft", files={"form_key": b"x"}).status_code == 415


def test_14_a_recipe_that_grows_or_is_deep_is_refused_at_once(client: TestClient) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (bomb, "[" * 20_000, "x: !!python/object/apply:os.system [true]\n", "a: " + "9" * 5000):
        page = send(client, "/draft", text=text, base="", do="start")
        assert page.status_code == 422


@pytest.mark.parametrize("name", ["../../etc", "a/b", "x" * 100, "%2e%2e", "20260101-000000-zz"])
def test_15_no_job_is_read_from_elsewhere(name: str, client: TestClient) -> None:
    assert client.get(f"/job/{name}").status_code == 404
    assert client.get(f"/parts/job/{name}").status_code == 404


@pytest.mark.parametrize(
    "turns", ["[", "[[1]]", '[["q", ["a", "b", "c"]]]', "[" * 9999, '[["q", ["' + "x" * 30_000 + '", ""]]]']
)
def test_16_a_chat_that_was_not_ours_is_refused(turns: str, client: TestClient) -> None:
    assert send(client, "/chat/runs/one", question="hi", turns=turns).status_code in (400, 409)
    assert send(client, "/chat/runs/one", question="", turns="[]").status_code == 400
    assert send(client, "/chat/runs/one", question="hi", turns="[]", temperature="-1").status_code == 400


def test_17_other_tools_files_are_read_inside_only_and_never_run(trap: Path) -> None:
    client = open_client(trap)
    for name in ("/etc/passwd", "../secret/run.json", "link/run.json"):
        assert send(client, "/import", file=name, suffix=".json").status_code == 404
    program = "import os\nos.system('touch ran')\nfrom trl import SFTConfig\nSFTConfig(learning_rate=os.getpid())\n"
    page = send(client, "/import", text=program, suffix=".py")
    assert page.status_code in (200, 422)
    assert not list(trap.rglob("ran"))
    assert send(client, "/import", text="x", suffix="/../../x.py").status_code == 400
    assert not list((trap / ".holdfast-board" / "imports").iterdir()), "nothing is left"


@pytest.mark.parametrize("cookie", ["", "x", "0" * 32 + "." + "0" * 64, "a.b.c", "é"])
def test_18_without_the_token_nothing_is_seen(cookie: str, place: Path) -> None:
    client = open_client(place, TOKEN, "board.example")
    headers = {"Cookie": f"holdfast_board={cookie}".encode()}
    for address in ("/", "/run/runs/one", "/new", "/compare", "/jobs", "/nothing"):
        answer = client.get(address, headers=headers)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=/")
        assert "runs/one" not in answer.text
    assert client.get("/parts/list", headers={"HX-Request": "true"}).status_code == 401
    assert client.post("/draft", data={"text": "x"}).status_code == 401
    assert client.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 303
    assert client.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_19_only_the_token_opens_and_it_leads_nowhere_else(place: Path) -> None:
    client = open_client(place, TOKEN, "board.example")
    page = "/login?next=//evil.example"
    for wrong in ("", "x", TOKEN.upper(), TOKEN + "x"):
        answer = client.post(page, data={"form_key": form_key(client, page), "token": wrong})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    answer = client.post(page, data={"form_key": form_key(client, page), "token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert TOKEN not in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200
    another = open_client(place, "another token of length", "board.example")
    another.cookies = client.cookies
    assert another.get("/").status_code == 303, "a session is of one token"


@pytest.mark.parametrize(
    ("host", "token", "why"),
    [("0.0.0.0", "", "need a token"), ("::", "", "need a token"), ("127.0.0.1", "short", "16 characters"),
     ("192.168.1.4", "short", "16 characters")],
)  # fmt: skip
def test_20_no_board_is_open_to_others(host: str, token: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        check_settings(tmp_path, host, token)


@pytest.mark.parametrize("head", ["GET /" + "x" * 200_000, "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 200_000])
def test_21_a_head_without_an_end_is_cut_off(head: str, place: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(open_app(place), lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=20) as stream:
            stream.sendall(head.encode())
            assert re.match(rb"HTTP/1.1 4\d\d", stream.recv(64))
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
