"""`holdfast search` as a user types it: what it tries, what it returns, and that a kill changes nothing of that."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli.app import app
from holdfast.pipeline.search.side_by_side import TrialJob, TrialWorkers, describe_job
from holdfast.pipeline.search.worker import begin_trials
from holdfast.recipe.loader import read_recipe
from processes import Process

RECIPE = """
model: lab-small
method: half
data: {train: lab:strings, limit: 32}
train: {max_steps: 4, batch_tokens: 512, precision: fp32}
evaluate: {keep: [lab:sums], items: 6, live_items: 3, every: 0, max_tokens: 16}
search:
  space: {optimizer.learning_rate: [1.0e-3, 1.0e+30], train.seed: {int: [0, 3]}}
  sampler: random
  seed: 1
  rungs: [0.5, 1]
  finalists: 1
  seeds: 2
  dial: [0.5]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh directory with its own cache, and the recipe in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def history_of(root: Path) -> list[dict[str, Any]]:
    """What is on record, without how long it took."""
    events = [json.loads(line) for line in (root / "search.jsonl").read_text().splitlines()]
    return [{key: value for key, value in event.items() if key != "seconds"} for event in events]


ARGUMENTS = ("search", "run.yaml", "--trials", "5", "--out", "s", "--max-loss", "500")


def test_it_finds_a_recipe_and_goes_on_after_kills(place: Path) -> None:
    result = cli(*ARGUMENTS)
    assert result.exit_code == 0, result.output
    report, history = json.loads((place / "s" / "search.json").read_text()), history_of(place / "s")
    trials = {trial["trial"]: trial for trial in report["trials"]}
    assert [trial["what"] for trial in report["trials"][:2]] == ["plain SFT", "the recipe as it is"]
    assert len(trials) == 5
    failed = [n for n, trial in trials.items() if trial["rungs"][0]["failure"]]
    rates = {e["trial"]: e["values"]["optimizer.learning_rate"] for e in history if e["event"] == "ask"}
    assert failed == [n for n, rate in rates.items() if rate > 1] != []  # counted, and the search went on
    assert f"5 trials, {len(failed)} failed" in result.output
    assert {e["trial"] for e in history if e["event"] == "result" and e["rung"] == 1} >= {0, 1}
    assert report["best"]["trial"] in trials
    assert len(report["best"]["seeds"]) == 2
    assert {entry["trial"] for entry in report["references"]} == {0, 1}
    best = read_recipe(place / "s" / "best.yaml").recipe
    assert (best.search, best.train.stop_at) == (None, 1.0)
    assert (best.inference is None) == (report["best"]["point"] == 1)
    page = (place / "s" / "search.html").read_text()
    assert "Finalists" in page
    assert "at most 500 lost" in page
    assert "another search" in cli(*ARGUMENTS, "search.seed=2").output
    lines = (place / "s" / "search.jsonl").read_bytes().splitlines(keepends=True)
    kept = next(n for n, event in enumerate(history) if event["event"] == "ask") + 1
    # As if it had been killed after its first suggestion, the next line half written.
    (place / "s" / "search.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:5])
    shutil.rmtree(place / "s" / "trial-002", ignore_errors=True)
    again = cli(*ARGUMENTS)
    assert again.exit_code == 0, again.output
    assert history_of(place / "s") == history
    assert json.loads((place / "s" / "search.json").read_text())["best"] == report["best"]


def train_backwards(workers: TrialWorkers, jobs: Sequence[TrialJob]) -> dict[str, float]:
    """What two workers do, in this process, where starting them would take longer than all else; the last one first."""
    train_trial = begin_trials({})
    for job in reversed(jobs):
        train_trial(json.loads(json.dumps(describe_job(job))))
    return dict.fromkeys([job.name for job in jobs], 1.0)


def test_killed_while_a_trial_trains_it_ends_with_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*ARGUMENTS, "search.dial=[]", "search.batch=2", "search.space.optimizer.learning_rate=[1e-3, 3e-3]"]
    arguments += ["--trials", "4", "search.seeds=1"]  # after the kill there is another batch
    calm = cli(*[a if a != "s" else "calm" for a in arguments])
    assert calm.exit_code == 0, calm.output
    process = Process(["-m", "holdfast", *arguments, "--json"], cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"})
    record = place / "s" / "search.jsonl"
    while not (record.exists() and record.read_bytes().count(b"\n") >= 4) and not process.has_ended(0.01):
        pass
    process.kill(signal.SIGKILL)
    process.communicate()
    monkeypatch.setattr(TrialWorkers, "train_trials", train_backwards)
    stormy = cli(*arguments, "--workers", "2")  # the rest side by side, which changes nothing
    assert stormy.exit_code == 0, stormy.output
    assert "side by side" in stormy.output
    assert history_of(place / "s")[1:] == history_of(place / "calm")[1:]


def test_without_a_feasible_recipe_it_exits_3_and_names_the_nearest(place: Path) -> None:
    result = cli("search", "run.yaml", "--trials", "1", "--out", "s", "--max-loss", "0", "search.dial=[]")
    assert result.exit_code == 3, result.output
    assert "no recipe keeps to search.max_loss 0; nearest is trial 1 at point 1 (the recipe as it is)" in result.output
    assert not (place / "s" / "best.yaml").exists()
    assert (place / "s" / "search.html").exists()


def test_what_a_user_gets_wrong_is_one_line_before_anything_runs(place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken" / "run.json").write_text("{}")
    for change, text in [
        ("search.space={train.epoch: [1, 2]}", "search.space.train.epoch: 1: train.epoch is not a setting"),
        ("search.space={tuner: [full, loraa]}", 'search.space.tuner: "loraa": tuner: loraa is not one of the tuners'),
        ("search.space={optimizer.learning_rate: [0.001, -1]}", "search.space.optimizer.learning_rate: -1:"),
        ("search.space={method: [sft, zephyr]}", 'search.space.method: "zephyr":'),
        ("search.space={evaluate.items: [1, 2]}", "must not vary evaluate.items"),
        ("search.trial=3", "search.trial is not a setting"),
        ("search.budget=soon", "must be a time such as 1h"),
        ("evaluate.target=none", "evaluate.target is none"),
        ("evaluate.keep=none", "search.max_loss needs something to keep"),
    ]:
        result = cli("search", "run.yaml", "--max-loss", "1", "--out", "s", change)
        assert result.exit_code == 2, (change, result.output)
        assert text in result.output, (change, result.output)
        assert result.output.count("holdfast: ") == 1, result.output
        assert not (place / "s").exists()
    assert "holds something else" in cli("search", "run.yaml", "--out", "taken").output
    note = cli("check", "run.yaml", "search.seed=3")
    assert "search: only `holdfast search` reads this section" in note.output
