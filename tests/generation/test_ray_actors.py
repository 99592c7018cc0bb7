"""A pool of Ray's actors draws what one of processes does, whatever becomes of them; it needs Ray."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.axes.engine import Request, SamplingParams
from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.generation.journal import Journal
from holdfast.generation.pool.engine import Pool
from holdfast.generation.pool.ray_actors import RayRunner
from holdfast.generation.pool.scheduler import LeaseRules
from holdfast.pipeline.curate import curate_only
from holdfast.recipe.loader import resolve_any

HERE = importlib.util.find_spec("ray") is not None
RECIPE = """
model: lab-small
data: {train: lab:sums, limit: 8, test: 0}
curate: {name: s3ft}
sampling: {max_tokens: 12, temperature: 0.7}
evaluate: {keep: [none], target: none}
"""
FAULTS = {
    "SIGKILL": "",
    "wrong ids": "it gave sample 0 of 'not key",
    "wrong count": "it gave 2 of ",
    "refuses": "row 7 has a picture",
}
"""What an actor does wrong, and what is said of it when it is left out; one that dies is replaced."""


@pytest.mark.skipif(HERE, reason="Ray is installed")
def test_without_ray_it_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{RECIPE}output: {tmp_path}/run\n", encoding="utf-8")
    for verb in ("check", "curate"):
        words = [verb, str(tmp_path / "run.yaml"), "sampling.workers=2", "sampling.runner=ray"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "sampling.runner: ray needs Ray: pip install 'holdfast[ray]'" in done.stderr


def test_one_actor_is_no_pool() -> None:
    with pytest.raises(UserError, match=r"set sampling.workers to 2 or more"):
        resolve_any({"model": "lab-small", "data": {"train": "lab:sums"}, "sampling": {"runner": "ray"}})


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs Ray")
def test_bad_actors_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    said: list[str] = []
    settings = {"faults": dict(enumerate(FAULTS)), "mark": str(tmp_path), "always": (), "seconds": 0.001}
    count = len(FAULTS) + 1
    runner = RayRunner("pool_worker:begin", settings, count, environment=lambda place: {"PLACE": str(place)})
    rules = LeaseRules(first=8, most=8)
    pool = Pool(runner, "engine", dict.fromkeys(range(count), 1), rules=rules, say=said.append)
    requests = [Request(f"key {number}", [{"role": "user", "content": "?"}]) for number in range(200)]
    try:
        with Journal(tmp_path / "s.jsonl") as journal:
            samples = journal.build_sample_fn(pool)(requests, SamplingParams())
    finally:
        pool.close()
    assert {key: one.text for key, (one,) in samples.items()} == {r.key: f"{r.key}!" for r in requests}
    assert len((tmp_path / "s.jsonl").read_bytes().splitlines()) == 200
    for number, line in enumerate(FAULTS.values(), 1):
        of_it = [text for text in said if text.startswith(f"sampling: worker {number} is left out, ")]
        assert [line in text for text in of_it] == ([True] if line else []), said


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs Ray")
def test_actors_sample_what_one_process_does(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    journals = []
    for out, changes in (("one", []), ("ray", ["sampling.workers=2", "sampling.runner=ray"])):
        curate_only(resolve_any(tmp_path / "run.yaml", [*changes, f"output={tmp_path / out}"]))
        journals.append(sorted((tmp_path / out / "samples.jsonl").read_text(encoding="utf-8").splitlines()))
    assert journals[0] == journals[1]
    assert (tmp_path / "one/curated.jsonl").read_bytes() == (tmp_path / "ray/curated.jsonl").read_bytes()
