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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processes import Process
from processes import run as run_process

RECIPE = """
model: lab-small
method: s3ft
data: {train: lab:strings, limit: 32}
sampling: {max_tokens: 24, slots: 8}
train: {max_steps: 8, batch_tokens: 512, save_every: 0.1, precision: fp32}
evaluate: {keep: [lab:sums], items: 12, live_items: 4, every: 0.25, max_tokens: 24}
"""
PHASES = {
    "curate": ("S3FT: sample", "samples.jsonl"),
    "train": ("train", "log.jsonl"),
    "measure": ("measure tuned", "samples.jsonl"),
}
"""What a phase calls itself, and the file that grows while it is at work."""
KILLS = int(os.environ.get("HOLDFAST_KILLS", "1"))


def arguments(place: Path, out: str) -> dict[str, Any]:
    return {"cwd": place, "env": {**os.environ, "HOLDFAST_CACHE": str(place / f"cache-{out}"), "OMP_NUM_THREADS": "1"}}


def command(out: str) -> list[str]:
    return ["-m", "holdfast", "train", "run.yaml", f"output={out}", "--json"]


def finish(place: Path, out: str) -> None:
    """Run to the end."""
    done = run_process(command(out), **arguments(place, out))
    assert done.returncode == 0, done.stdout + done.stderr


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def stop_in(
    place: Path, out: str, phase: str, whole: Path, share: float, number: int = signal.SIGKILL
) -> tuple[int | None, str]:
    """Start the command and send it a signal in a phase; its exit code and what it said.

    The moment is one of the work, and not of the clock: when the phase has written a share of what it wrote to its file
    in the whole run. How long that takes depends on what else the machine does.
    """
    name, file = PHASES[phase]
    process = Process(command(out), **arguments(place, out))
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        event = json.loads(line) if line.startswith("{") else {}
        if (event.get("event"), event.get("name")) == ("phase", name):
            begin = size_of(place / out / file)
            size = begin + share * (end_of(whole, phase) - begin)
            while size_of(place / out / file) < size and not process.has_ended(0.001):
                pass
            process.kill(number)
            break
    rest = process.communicate()
    return process.returncode, "".join(said) + rest


def end_of(whole: Path, phase: str) -> int:
    """How long the file of a phase is at its end; rows are curated before anything is measured."""
    lines = (whole / PHASES[phase][1]).read_bytes().splitlines(keepends=True)
    if phase == "curate":
        measured = next(number for number, line in enumerate(lines) if b'"key": "eval/' in line)
        lines = lines[:measured]
    return sum(map(len, lines))


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
def whole(make_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A run that nobody killed, which is started as anything else, and orders its sets by other hashes."""

    def make(place: Path) -> None:
        (place / "run.yaml").write_text(RECIPE, encoding="utf-8")
        program = [sys.executable, *command("whole")]
        done = subprocess.run(program, **arguments(place, "whole"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return make_once("whole", make) / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["curate", "train", "measure"])
def test_killed_anywhere_it_ends_the_same(phase: str, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    rng, hits, number = random.Random(phase), 0, 0  # a moment of its own for each phase
    for _ in range(4 * KILLS):
        code, said = stop_in(tmp_path, f"killed-{number}", phase, whole, rng.uniform(0, 0.9))
        assert code in (0, -signal.SIGKILL), said
        hits += code != 0
        if code == 0:  # it was through before this process was given the processor: begin another run
            same(whole, tmp_path / f"killed-{number}")
            number += 1
        if hits == KILLS:
            break
    assert hits == KILLS
    finish(tmp_path, f"killed-{number}")
    same(whole, tmp_path / f"killed-{number}")


def test_a_polite_kill_outside_training_ends_with_a_hint_and_loses_nothing(whole: Path, tmp_path: Path) -> None:
    """While sampling by SIGTERM, while measuring by SIGUSR1; the same command goes on and draws nothing twice.

    In training both end the step (`test_resume.py`).
    """
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    for phase, number in (("curate", signal.SIGTERM), ("measure", signal.SIGUSR1)):
        code, said = stop_in(tmp_path, "polite", phase, whole, 0.5, number)
        assert code == 130, (phase, said)
        assert "interrupted; run holdfast train run.yaml output=polite --json to go on" in said
    finish(tmp_path, "polite")
    same(whole, tmp_path / "polite")
