"""Runs as they lie on the disk, and a browser that looks at them."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from holdfast.board.app import Board, BoardSettings
from holdfast.board.folder import RunsFolder
from holdfast.board.front_door import FrontDoor
from holdfast.board.jobs import Jobs
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.task import ItemResult, TaskInfo

EVIL = "<script>alert('row')</script><img src=x onerror=alert(1)>"


def load_sample() -> Any:
    spec = importlib.util.spec_from_file_location("report_sample", Path(__file__).parent / "report" / "sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLE = load_sample()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, *values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def write_run(path: Path, created: str, right: str, **more: Any) -> None:
    """A finished run whose tuned model is right on the questions that `right` marks with 1."""
    report = {**SAMPLE.report(), "created": created, **more}
    write_json(path / "run.json", {"recipe": "0", "finished": True, "seconds": {"train": 3.0}, "created": created})
    write_json(path / "report.json", report)
    (path / "report.html").write_text("<!doctype html><title>r</title><p>the report</p>", encoding="utf-8")
    (path / "resolved.yaml").write_text("model: lab-small\nmethod: sft\n", encoding="utf-8")
    write_lines(path / "events.jsonl", {"time": 1.0, "event": "run_started", "name": "x", "method": "m", "model": "l"})
    for when, marks in (("base", "0" * len(right)), ("final", right)):
        for name, role in (("target", "target"), ("kept", "keep")):
            items = [
                ItemResult(
                    f"q{n}", f"question {n} {EVIL}", f"{when} {mark} {EVIL}", "7", float(mark), mark == "1", True, 3
                )
                for n, mark in enumerate(marks)
            ]
            ResultsStore(path / "eval" / when).write_items(TaskInfo(name, "generate", role), "f", items)  # type: ignore[arg-type]
    meta = {"trace": [{"attempts": [{"kind": "model", "response": EVIL, "passed": False, "reason": EVIL}]}]}
    rows = [
        {"messages": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": f"say {n} {EVIL}"}],
         "origin": "model" if n % 2 else "gold", "meta": meta}
        for n in range(45)
    ]  # fmt: skip
    write_lines(path / "curated.jsonl", *rows)


def write_unfinished(path: Path, *last: dict[str, Any]) -> None:
    """A run that has trained three of nine steps."""
    created = "2026-01-03T00:00:00+00:00"
    write_json(path / "run.json", {"recipe": "0", "finished": False, "seconds": {}, "created": created})
    steps = [{"time": 2.0, "event": "step_finished", "step": n, "steps": 9, "loss": 3.0 - n} for n in (1, 2, 3)]
    first = {"time": 1.0, "event": "run_started", "name": "going", "method": "sft", "model": "lab"}
    measured = {"time": 3.0, "event": "step_measured", "step": 3, "figures": {"target": 40.0, "keep": 80.0}}
    write_lines(path / "events.jsonl", first, *steps, measured, *last)


def open_app(place: Path, token: str = "") -> FrontDoor:
    return Board(BoardSettings(place, token)).build_app()


def open_client(place: Path, token: str = "", host: str = "127.0.0.1") -> TestClient:
    return TestClient(open_app(place, token), base_url=f"http://{host}:8300", follow_redirects=False)


def form_key(client: TestClient, page: str = "/new") -> str:
    """What a form of this browser's session carries."""
    match = re.search(r'name="form_key" value="([0-9a-f]+)"', client.get(page).text)
    assert match is not None
    return match[1]


def send(client: TestClient, address: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
    """Send a form as a page of the board does."""
    return client.post(address, data={"form_key": form_key(client), **fields}, headers=headers)


def wait_for(is_so: Any) -> None:
    ended = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < ended
        time.sleep(0.05)


def stop_all(place: Path) -> None:
    """End what a test started, and wait for it."""
    jobs = Jobs(RunsFolder(place))
    for job in jobs.list_jobs():
        jobs.stop_job(job)
    ended = time.monotonic() + 20
    while any(jobs.is_alive(job) for job in jobs.list_jobs()) and time.monotonic() < ended:
        time.sleep(0.02)
    assert not any(jobs.is_alive(job) for job in jobs.list_jobs())
