"""Trackers: each library holds the figures of a run that it was told, once, also where the run was stopped between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.core.events import Event, LineWritten, RunFinished, StepFinished, StepMeasured, TaskMeasured
from holdfast.errors import UserError
from holdfast.pipeline.trackers import CLASSES, open_trackers, refuse_missing
from holdfast.pipeline.trackers.base import Tracker, flatten_settings
from holdfast.recipe.schema import TRACKERS, Recipe

RECIPE = {"model": "lab-small", "data": {"train": "lab:story"}, "output": "out"}


def step(number: int) -> StepFinished:
    return StepFinished(
        step=number, steps=4, epoch=number / 4, loss=1 / number, terms={"nll": 1 / number}, metrics={"kl": 0.5},
        grad_norm=2.0, clipped=False, learning_rate=1e-3, tokens=10 * number, trained_tokens=number,
        tokens_per_second=100.0, memory_gib=1.5, seconds=1.0, remaining=0.0,
    )  # fmt: skip


def task(when: str, figure: float | None) -> TaskMeasured:
    return TaskMeasured(when=when, task="sums", role="keep", unit="points", items=4, figure=figure)


FIRST: list[Event] = [
    LineWritten(text="x"),
    task("base", 50.0),
    step(1),
    step(2),
    StepMeasured(step=2, figures={"keep": 40.0}),
]
AFTER: list[Event] = [task("base", 50.0), step(2), step(3), task("step-000003", 1.0), step(4), task("final", 45.0)]
END: list[Event] = [RunFinished(gain=3.0, loss=5.0, passed=None)]
LOSSES = [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    (tmp_path / "out").mkdir()
    return tmp_path


def show(name: str, events: list[Event], seen: int, failed: bool = False) -> Tracker:
    warnings: list[str] = []
    (tracker,) = open_trackers(Recipe(**RECIPE, track=name), Path("out"), "0123456789abcdef", seen, warnings.append)
    for event in events:
        tracker.handle_event(event)
    tracker.close(failed)
    assert warnings == []
    return tracker


def test_every_name_has_its_tracker() -> None:
    assert tuple(CLASSES) == TRACKERS
    assert Recipe(**RECIPE, track=["wandb", "tensorboard", "wandb"]).track == ("wandb", "tensorboard")


def test_tensorboard_has_every_step_once() -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    show("tensorboard", FIRST, seen=0, failed=True)
    show("tensorboard", AFTER + END, seen=2)
    found = EventAccumulator("out/tensorboard").Reload()
    points = {name: [(e.step, round(e.value, 6)) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}
    assert points["train/loss"] == [(number, round(loss, 6)) for number, loss in LOSSES]
    assert points["train/kl"] == [(number, 0.5) for number in (1, 2, 3, 4)]
    assert points["eval/keep"] == [(2, 40.0)]
    assert (points["base/sums"], points["final/sums"]) == ([(0, 50.0)], [(4, 45.0)])
    assert (points["result/gain"], points["result/loss"]) == ([(4, 3.0)], [(4, 5.0)])
    assert "train/term/nll" not in points, "the only term is the loss"
    assert found.Tags()["tensors"] == ["recipe/text_summary"]


def test_mlflow_has_one_run_with_every_step_once() -> None:
    mlflow = pytest.importorskip("mlflow")
    first = show("mlflow", FIRST, seen=0, failed=True)
    assert first.client.get_run(first.id).info.status == "FAILED"
    tracker = show("mlflow", AFTER + END, seen=2)
    assert tracker.id == first.id
    client = mlflow.MlflowClient()
    run = client.get_run(tracker.id)
    assert [(m.step, m.value) for m in client.get_metric_history(tracker.id, "train/loss")] == LOSSES
    assert run.data.metrics["final/sums"] == 45.0
    assert (run.info.status, run.info.run_name) == ("FINISHED", "out")
    assert run.data.params["optimizer.name"] == "adamw"


def test_wandb_keeps_an_offline_run() -> None:
    pytest.importorskip("wandb")
    (tracker,) = open_trackers(Recipe(**RECIPE, track="wandb"), Path("out"), "0123456789abcdef", 0, print)
    for event in [*FIRST, step(3), *END]:
        tracker.handle_event(event)
    summary = tracker.run.summary
    assert (summary["train/loss"], summary["eval/keep"]) == (0.5, 40.0), "a step is whole when the next one begins"
    assert tracker.run.config["model"] == "lab-small"
    tracker.close()
    assert not tracker.has_failed
    (file,) = Path("out/wandb").glob("offline-run-*-0123456789abcdef/*.wandb")
    assert b"result/gain" in file.read_bytes()


def test_trackio_has_every_step_once(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackio")
    show("trackio", FIRST, seen=0, failed=True)
    show("trackio", AFTER + END, seen=2)
    assert capsys.readouterr().out == "", "standard output is for results"
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("holdfast")
    logged = [(e["step"], e["train/loss"]) for e in SQLiteStorage.get_logs("holdfast", name) if "train/loss" in e]
    assert logged == LOSSES


class Broken(Tracker):
    """A tracker whose server goes away."""

    def open_run(self, recipe: dict[str, Any]) -> None: ...

    def log_figures(self, step: int, figures: dict[str, float]) -> None:
        raise ConnectionError("no route\nto the host")

    def end_run(self, failed: bool) -> None:
        raise AssertionError("nothing is to be ended")


def test_a_tracker_that_fails_says_so_once_and_the_run_goes_on() -> None:
    warnings: list[str] = []
    tracker = Broken(Path("out"), "id", 0, warnings.append)
    for event in FIRST:
        tracker.handle_event(event)
    tracker.close()
    (line,) = warnings
    assert line.startswith("track: Broken failed (no route) and shows no more of this run; it goes on")


def test_what_cannot_be_shown_is_refused_by_check_and_train() -> None:
    missing = next((name for name in TRACKERS if not _is_there(name)), None)
    if missing is None:
        pytest.skip("every tracker is installed")
    for verb in ("check", "train"):
        for asked, line in (
            (missing, f"track: {missing} is not installed; pip install 'holdfast[{missing}]', or leave it out"),
            ("comet", "run.yaml:5: track: knows tensorboard, wandb, mlflow, trackio, not 'comet'"),
        ):
            Path("run.yaml").write_text(yaml.safe_dump({**RECIPE, "output": "new", "track": asked}), encoding="utf-8")
            done = CliRunner().invoke(app, [verb, "run.yaml"])
            assert (done.exit_code, Path("new").exists()) == (2, False), done.output
            assert done.stderr.splitlines()[-1] == f"holdfast: {line}"


def _is_there(name: str) -> bool:
    try:
        refuse_missing([name])
    except UserError:
        return False
    return True


def test_a_recipe_as_flat_settings() -> None:
    assert flatten_settings({"a": {"b": 1, "c": []}, "d": [{"e": None}]}) == {"a.b": 1, "a.c": [], "d.0.e": None}
