"""`holdfast curate` killed while a model reads the rows: what it had read is kept, and the choice is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from processes import run

RECIPE = """
model: lab-small
device: cpu
data: {train: train.jsonl, test: 0}
curate: {name: delift, n: 9}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
evaluate: {keep: [lab:strings], target: none, items: 4, live_items: 0, every: 0, max_tokens: 16}
"""
ROWS = [{"question": f"What is {n} + {n % 7}?", "answer": f"It is {n + n % 7}"} for n in range(64)]
READING = "delift: rows behind examples"


def command(out: str) -> list[str]:
    return ["-m", "holdfast", "curate", "run.yaml", f"output={out}", "--json"]


def count_pairs(said: str) -> int:
    """How many pairs a run said it would read."""
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    (total,) = [event["total"] for event in events if (event["event"], event.get("name")) == ("phase", READING)]
    return int(total)


def kill_when_it_grows(place: Path, file: Path) -> None:
    """Start the command, and kill it with all its processes as soon as a file has anything in it."""
    with subprocess.Popen(
        [sys.executable, *command("killed")], cwd=place, start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not (file.exists() and file.stat().st_size):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_killed_while_rows_are_read_behind_examples_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RECIPE)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    whole = run(command("whole"), cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert count_pairs(whole.stdout) == len(ROWS) ** 2

    file = tmp_path / "killed/cache/in_context/arrays.bin"
    kill_when_it_grows(tmp_path, file)
    assert not (tmp_path / "killed/curated.jsonl").exists()
    with file.open("ab") as torn:
        torn.write(file.read_bytes()[:100])  # as if it had been killed while it wrote
    resumed = run(command("killed"), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert 0 < count_pairs(resumed.stdout) < len(ROWS) ** 2
    for name in ("curated.jsonl", "dropped.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
