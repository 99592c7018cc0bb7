"""`events.jsonl`: what happened in a run, typed and with its time, also where it was stopped and went on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.core.events import Event, RunFinished, StepFinished, Warned
from holdfast.core.progress import Progress
from holdfast.errors import RunError
from holdfast.pipeline.train import train

CONTENT: dict[str, Any] = {
    "model": "lab-small", "data": {"train": "lab:story", "limit": 48},
    "evaluate": {"keep": ["lab:sums"], "items": 4, "live_items": 2, "every": 0.5, "max_tokens": 8},
    "train": {"max_steps": 4, "batch_tokens": 512, "save_every": 0.5, "precision": "fp32"}, "output": "out",
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    Path("run.yaml").write_text(yaml.safe_dump(CONTENT), encoding="utf-8")


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


class Acts:
    """A listener that does something at a step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self.step, self.act = step, act

    def handle_event(self, event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == self.step:
            self.act()


def stop() -> None:
    raise KeyboardInterrupt


def test_a_run_that_was_stopped_has_one_record_of_both_parts() -> None:
    ui = Progress.create_silent()
    ui.listeners.append(Acts(3, stop))
    with pytest.raises(KeyboardInterrupt):
        train("run.yaml", ui=ui)
    first = lines("out/events.jsonl")
    assert (first[-1]["event"], first[-1]["error"]) == ("run_interrupted", "KeyboardInterrupt")
    assert [len(ui.listeners), any(e["event"] == "run_finished" for e in first)] == [1, False]
    done = CliRunner().invoke(app, ["train", "run.yaml", "--json"])
    assert done.exit_code == 0, done.output
    every = lines("out/events.jsonl")
    assert every[: len(first)] == first
    assert [e["time"] for e in every[1 : len(first)]] == sorted(e["time"] for e in every[1 : len(first)])
    starts = [e for e in every if e["event"] == "run_started"]
    assert [(e["name"], e["method"], e["again"]) for e in starts] == [("out", "sft", False), ("out", "sft", True)]
    steps = [e for e in every if e["event"] == "step_finished"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4]
    assert all(e["tokens_per_second"] > 0 and e["memory_gib"] > 0 and e["steps"] == 4 for e in steps)
    logged = {e["step"]: e for e in lines("out/log.jsonl") if "loss" in e}
    assert {e["step"]: (e["loss"], e["grad_norm"]) for e in steps} == {
        number: (e["loss"], e["grad_norm"]) for number, e in logged.items()
    }
    report = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    finals = {e["task"]: e["figure"] for e in every if e["event"] == "task_measured" and e["when"] == "final"}
    assert finals == {task["name"]: task["tuned"] for task in report["tasks"]}
    ended = [e for e in every if e["event"] == "run_finished"]
    assert [(e["gain"], e["loss"]) for e in ended] == [(report["gain"]["delta"], report["loss"]["delta"])]
    (curated, *_) = [e for e in every if e["event"] == "rows_curated"]
    assert (curated["rows"], curated["curated"], curated["counts"]) == (48, 48, {"gold": 48})
    said = [json.loads(line) for line in done.stdout.splitlines()]
    warned = {e["text"] for e in every if e["event"] == "warned"}
    assert {e["text"] for e in said if e["event"] == "warning"} <= warned
    assert [e["event"] for e in said][-1] == "result"


def test_a_refused_run_leaves_no_record() -> None:
    done = CliRunner().invoke(app, ["train", "run.yaml", "evaluate.gate.max_bits=1"])
    assert (done.exit_code, Path("out").exists()) == (2, False)


def test_a_run_whose_directory_is_removed_ends_with_that_line() -> None:
    import shutil

    ui = Progress.create_silent()
    ui.listeners.append(Acts(1, lambda: shutil.rmtree("out")))
    with pytest.raises(RunError, match="out: was removed while the run worked in it; the same command begins anew"):
        train("run.yaml", ui=ui)


def test_events_are_plain_json() -> None:
    assert StepFinished.kind_name() == "step_finished"
    assert Warned(text="x", time=1.23456).to_json() == {"time": 1.235, "event": "warned", "text": "x"}
    odd = RunFinished(gain=float("nan"), loss=None, passed=None, time=0.0)
    assert json.loads(json.dumps(odd.to_json(), allow_nan=False))["gain"] is None
