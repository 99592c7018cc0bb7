"""`holdfast export --shard-size` and `--push`: the files, and what the hub's client sends to a hub on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.models.loading import LAB_DIRECTORY

RUN = Path(__file__).parents[1] / "pipeline" / "version01" / "finished"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as creating a repository and a commit needs."""

    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: Any, code: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        name, repo = self.path.partition("?")[0].removeprefix("/api/"), self.server.repo
        if name == "whoami-v2":
            self.answer({"name": "me", "orgs": [{"name": "lab"}]})
        elif repo is None:
            self.answer({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in name:
            self.answer([{"type": "file", "path": f, "size": 1, "oid": "0" * 40} for f in repo["files"]])
        else:
            self.answer({"id": "me/mine", "private": repo["private"], "sha": "0" * 40})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.server.repo = self.server.repo or {"private": json.loads(body)["private"], "files": {}}
            self.answer({"url": f"http://{self.headers['Host']}/me/mine"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            self.answer({"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        else:
            self.commit([json.loads(line) for line in body.splitlines()])
            self.answer({"commitUrl": f"http://{self.headers['Host']}/me/mine/commit/0", "commitOid": "0" * 40})

    def commit(self, lines: list[dict[str, Any]]) -> None:
        files = self.server.repo["files"]
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                files.pop(line["value"]["path"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repo = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with an adapter on the laboratory's model."""
    shutil.copytree(RUN, tmp_path / "run")
    settings = tmp_path / "run" / "model" / "adapter_config.json"
    settings.write_text(settings.read_text().replace("LABORATORY", str(LAB_DIRECTORY)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["export", "run", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_what_is_pushed_is_what_was_written_and_verified(hub: Any, place: Path) -> None:
    hub.repo = {"private": True, "files": {"model.safetensors": b"old", "notes.md": b"mine"}}
    said = run("out", "--merge", "--dtype", "fp32", "--shard-size", "400KB", "--push", "me/mine")
    assert "verified: log-probabilities of the written model agree to" in said
    assert f"pushed to http://127.0.0.1:{hub.server_port}/me/mine" in said
    files = {file.name: file.read_bytes() for file in Path("out").iterdir()}
    assert hub.repo["files"] == {**files, "notes.md": b"mine"}, "and weights of before are gone"
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) > 2
    assert all(len(files[name]) < 450_000 or "embed" in str(files[name][:400]) for name in shards)
    assert b"tags:\n- holdfast" in files["README.md"]
    run("whole", "--merge", "--dtype", "fp32")
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in ("out", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


REFUSED = [
    (["--push", "mine"], None, "--push: must be OWNER/NAME on the hub, not mine"),
    (["--push", "you/mine"], None, "you is neither you on the hub nor an organisation of yours; take me"),
    (["--push", "me/mine"], False, "me/mine is there and everybody may read it: add --public"),
    (["--push", "lab/mine", "--public"], True, "lab/mine is there and it is private: leave --public out"),
    (["--push", "me/a b"], None, "--push: "),
    (["--public"], None, "--public: says who may read what --push puts on the hub"),
    (["--shard-size", "5"], None, "--shard-size: must be a size as 500MB or 5GB, not 5"),
    (["--shard-size", "5MB"], None, "--shard-size: an adapter is one small file; add --merge"),
    (["--shard-size", "5MB", "--form", "gguf"], None, "--shard-size: a GGUF is one file"),
]


def test_what_cannot_be_pushed_or_cut_is_one_line(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, private, said in REFUSED:
        hub.repo = None if private is None else {"private": private, "files": {}}
        assert said in run("out", *words, code=2), words
        assert not Path("out").exists()
        assert hub.repo is None or not hub.repo["files"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = "--push: me/mine cannot be written to, because HF_HUB_OFFLINE is set; unset it, or leave --push out"
    assert offline in " ".join(run("out", "--push", "me/mine", code=2).split())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in run("out", "--push", "me/mine", code=2)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "none")
    assert "nobody is logged in; run hf auth login, or set HF_TOKEN" in run("out", "--push", "me/mine", code=2)
