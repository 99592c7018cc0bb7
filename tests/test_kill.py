"""Law 4 for the whole command: killed while curating, training or measuring, the same command ends with the same.

`HOLDFAST_KILLS` sets how often each phase is hit (default 1, 10 for a thorough proof).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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


def start(place: Path, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "holdfast", "train", "run.yaml", f"output={out}", "--json"]
    environment = {**os.environ, "HOLDFAST_CACHE": str(place / f"cache-{out}"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(place: Path, out: str) -> None:
    process = start(place, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def kill_in(place: Path, out: str, phase: str, rng: random.Random) -> bool:
    """Start the command and SIGKILL it at a random moment after `phase` began; False if it finished before."""
    process = start(place, out)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "phase" and event.get("name") == phase:
            time.sleep(rng.uniform(0, 0.4))
            process.kill()
            break
    process.communicate()
    return process.returncode != 0


def figures(run: Path) -> dict[str, Any]:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return {key: report[key] for key in ("tasks", "gain", "loss", "curves", "curation", "training")}


@pytest.mark.slow
def test_killed_anywhere_it_ends_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    finish(tmp_path, "whole")
    rng, hits = random.Random(0), 0
    for phase in PHASES.values():
        for _ in range(KILLS):
            hits += kill_in(tmp_path, "killed", phase, rng)
    finish(tmp_path, "killed")
    assert hits >= 2 * KILLS  # a phase that is already done cannot be hit again
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert (whole / "model" / "model.safetensors").read_bytes() == (killed / "model" / "model.safetensors").read_bytes()
    assert figures(whole) == figures(killed)
    drawn = [json.loads(line) for line in (killed / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [entry["id"] for entry in drawn if entry["kind"] == "sample"]
    assert len(names) == len(set(names)), "a sample was drawn twice"
