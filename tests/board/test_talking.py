"""Rows with what is trained, flipped answers, two models side by side, and other tools' recipes."""

from __future__ import annotations

import re
import time
from html import unescape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from board_runs import EVIL, send
from holdfast.board.folder import RunsFolder
from holdfast.board.jobs import Jobs

SERVER = """
import http.server, json, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        allowed = self.headers["authorization"] == "Bearer " + os.environ["HOLDFAST_API_KEY"]
        text = f"{body['model']} heard {len(body['messages'])}: {body['messages'][-1]['content']}" if allowed else "no"
        data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print(" ".join(sys.argv[1:]), flush=True)
print(f"serving one, lab-small at http://127.0.0.1:{server.server_port}/v1", flush=True)
server.serve_forever()
"""


def test_rows_show_what_is_trained(client: TestClient) -> None:
    page = client.get("/rows/runs/one").text
    assert page.count("<article") == 20
    marks = re.findall(r'<mark class="text">(.*?)</mark>', page)
    assert len(marks) == 20
    assert all(mark.startswith("say ") for mark in marks)
    assert "1 tried" in page
    assert client.get("/rows/runs/one?start=40").text.count("<article") == 5
    assert client.get("/rows/runs/one?origin=model&start=20").text.count("<article") == 2
    assert client.get("/rows/runs/one?q=ask+44").text.count("<article") == 1
    assert client.get("/rows/runs/one?start=-5").text.count("<article") == 20
    assert "no such row" in client.get("/rows/runs/going").text


def test_flips_are_those_of_the_measured_items(client: TestClient) -> None:
    page = client.get("/flips/runs/one").text
    assert page.count("<article") == 6, "three questions of two tasks"
    assert client.get("/flips/runs/one?task=kept&kind=won").text.count("<article") == 3
    assert client.get("/flips/runs/one?kind=lost").text.count("<article") == 0
    assert client.get("/flips/runs/going").status_code == 200


def test_two_models_answer_side_by_side(
    client: TestClient, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other" / "holdfast"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    assert send(client, "/open-chat/runs/going").status_code == 409
    assert send(client, "/chat/runs/one", question="hi").status_code == 409
    (place / "runs" / "one" / "model").mkdir()
    assert send(client, "/open-chat/runs/one").headers["location"] == "/chat/runs/one"
    ended = time.monotonic() + 20
    while 'id="question"' not in (page := client.get("/chat/runs/one").text):
        assert "being loaded" in page
        assert time.monotonic() < ended
        time.sleep(0.05)
    jobs = Jobs(RunsFolder(place))
    job = jobs.list_jobs()[0]
    assert list(job.words) == ["serve", str(place / "runs" / "one"), "--against=lab-small", "--port=0", "--slots=4"]
    page = send(client, "/chat/runs/one", question=EVIL, turns="[]").text
    assert "one heard 1: &lt;script&gt;" in page
    assert "lab-small heard 1: &lt;script&gt;" in page
    kept = re.search(r'<textarea name="turns" hidden>(.*?)</textarea>', page, re.S)
    assert kept is not None
    page = send(client, "/chat/runs/one", question="again", turns=unescape(kept[1]), temperature="0.7").text
    assert "one heard 3: again" in page
    assert "<script>alert" not in page
    jobs.stop_job(job)
    while jobs.is_alive(job):
        time.sleep(0.02)
    assert "has ended" in client.get("/chat/runs/one").text
    assert send(client, "/chat/runs/one", question="hi").status_code in (400, 409)


def test_another_tools_settings_become_a_draft(client: TestClient, place: Path) -> None:
    text = "base_model: Qwen/Qwen3-0.6B\nlearning_rate: 3e-5\nnum_epochs: 2\n"
    text += "datasets:\n  - {path: a.jsonl, type: alpaca}\n"
    (place / "rows.yaml").write_text(text)
    page = send(client, "/import", file="rows.yaml", suffix=".yaml")
    assert page.status_code == 200, page.text
    assert "model: Qwen/Qwen3-0.6B" in page.text
    assert "epochs: 2" in page.text
    wrong = send(client, "/import", text="hello: 1", suffix=".yaml")
    assert wrong.status_code == 422
    assert "pasted.yaml" in wrong.text
    assert str(place) not in wrong.text
