"""Law 4 for the whole command: killed while curating, training or measuring, the same command ends with the same.

`HOLDFAST_KILLS` sets how often each phase is hit (default 1, 10 for a thorough proof).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processes import Process

RECIPE = """
model: lab-small
method: s3ft
data: {train: lab:strings, limit: 150}
sampling: {max_tokens: 24, slots: 8}
train: {max_steps: 24, batch_tokens: 512, save_every: 0.1, precision: fp32}
evaluate: {keep: [lab:sums, lab:cipher], items: 60, live_items: 10, every: 0.25, max_tokens: 24}
"""
PHASES = {"curate": "S3FT: sample", "train": "train", "measure": "measure tuned"}
KILLS = int(os.environ.get("HOLDFAST_KILLS", "1"))


def start(place: Path, out: str, whole: bool = False) -> Process | subprocess.Popen[str]:
    """The command; the one that is not killed is started as anything else, and orders its sets by other hashes."""
    program = ["-m", "holdfast", "train", "run.yaml", f"output={out}", "--json"]
    environment = {**os.environ, "HOLDFAST_CACHE": str(place / f"cache-{out}"), "OMP_NUM_THREADS": "1"}
    if not whole:
        return Process(program, cwd=place, env=environment)
    command = [sys.executable, *program]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(place: Path, out: str, whole: bool = False) -> dict[str, float]:
    """Run to the end; how long each phase took, in seconds."""
    process = start(place, out, whole)
    assert process.stdout is not None
    began: list[tuple[str, float]] = []
    told = []
    for line in process.stdout:
        told.append(line)
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "phase":
            began.append((event["name"], time.monotonic()))
    process.wait()
    assert process.returncode == 0, "".join(told)
    ends = [at for _, at in began[1:]] + [time.monotonic()]
    return {name: end - at for (name, at), end in zip(began, ends, strict=True)}


def kill_in(place: Path, out: str, phase: str, delay: float) -> bool:
    """Start the command and SIGKILL it `delay` seconds after `phase` began; False if it finished before."""
    process = start(place, out)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "phase" and event.get("name") == phase:
            time.sleep(delay)
            process.kill()
            break
    process.communicate()
    return process.returncode != 0


def figures(run: Path) -> dict[str, Any]:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return {key: report[key] for key in ("tasks", "gain", "loss", "curves", "curation", "training")}


def same(whole: Path, killed: Path) -> None:
    """Bit-equal weights, the same figures, and no sample drawn twice."""
    assert (whole / "model" / "model.safetensors").read_bytes() == (killed / "model" / "model.safetensors").read_bytes()
    assert figures(whole) == figures(killed)
    drawn = [json.loads(line) for line in (killed / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [entry["id"] for entry in drawn if entry["kind"] == "sample"]
    assert len(names) == len(set(names)), "a sample was drawn twice"


@pytest.fixture(scope="module")
def whole(make_once: Callable[[str, Callable[[Path], object]], Path]) -> tuple[Path, dict[str, float]]:
    """A run that nobody killed, and how long each of its phases took."""

    def make(place: Path) -> None:
        (place / "run.yaml").write_text(RECIPE, encoding="utf-8")
        (place / "lengths.json").write_text(json.dumps(finish(place, "whole", whole=True)), encoding="utf-8")

    place = make_once("whole", make)
    return place / "whole", json.loads((place / "lengths.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_killed_anywhere_it_ends_the_same(phase: str, whole: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    length = whole[1][PHASES[phase]]
    rng, hits, number = random.Random(phase), 0, 0  # a moment of its own for each phase
    for _ in range(8 * KILLS):  # how long a phase takes depends on what else runs
        delay = rng.uniform(0, length)
        if kill_in(tmp_path, f"killed-{number}", PHASES[phase], delay):
            hits += 1
        else:  # it was through with the phase, which is shorter than was thought: begin another run
            same(whole[0], tmp_path / f"killed-{number}")
            number, length = number + 1, delay
        if hits == KILLS:
            break
    assert hits == KILLS
    finish(tmp_path, f"killed-{number}")
    same(whole[0], tmp_path / f"killed-{number}")


def test_a_polite_kill_outside_training_ends_with_a_hint_and_loses_nothing(tmp_path: Path) -> None:
    """While sampling and while measuring, as Ctrl-C does; the same command goes on and draws nothing twice."""
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    for phase in ("S3FT: sample", "measure base"):
        process = start(tmp_path, "polite")
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "progress" and event.get("phase") == phase and event["done"]:
                process.kill(signal.SIGTERM)
                break
        said = "".join(lines) + process.communicate()
        assert process.returncode == 130, (phase, said)
        assert "interrupted; run holdfast train run.yaml output=polite --json to go on" in said
    finish(tmp_path, "polite")
    lines = (tmp_path / "polite" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    names = [entry["id"] for entry in map(json.loads, lines) if entry["kind"] == "sample"]
    assert len(names) == len(set(names))
