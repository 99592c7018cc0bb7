"""A search, killed at random moments: the whole command, and whether its record ends as if nobody had.

A small search is made in peace, then again with its process group killed (SIGKILL) so many times, each after a random
number of further events on its record and a random moment more, so that suggestions, training, measuring, the dial and
the finals are hit. The record must end with the same events in the same order, the outcome with the same figures.

    python benchmarks/search_kills.py --kills 10
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import kill_group_after

RECIPE = """
model: lab-small
data: {{train: "lab:strings", limit: 32}}
train: {{max_steps: 6, batch_tokens: 512, precision: fp32}}
evaluate: {{keep: ["lab:sums"], items: 10, live_items: 4, every: 0, max_tokens: 16}}
search:
  space: {{optimizer.learning_rate: {{log: [1.0e-4, 1.0e-2]}}, tuner: [full, half]}}
  max_loss: 500
  trials: {trials}
  rungs: [0.34, 0.67, 1]
  finalists: 2
  seeds: 2
  dial: [0.5]
  sampler: {sampler}
"""
ARGUMENTS = [sys.executable, "-m", "holdfast", "search", "run.yaml", "--out", "found", "--json"]
TIMES = ("seconds", "versions", "directory")
"""What two searches that did the same may differ in."""


def start_search(place: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, once its record is open, or it has ended."""
    environment, said = {**os.environ, "HOLDFAST_CACHE": str(place / "cache")}, place / "said.txt"
    begun = time.time()
    with said.open("wb") as file:
        process = subprocess.Popen(
            ARGUMENTS, cwd=place, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    while not (said.stat().st_size and said.stat().st_mtime >= begun) and process.poll() is None:
        time.sleep(0.02)
    return process


def finish(place: Path) -> float:
    """Run to the end; the seconds from the first word on."""
    process, began = start_search(place), time.perf_counter()
    if process.wait():
        sys.exit((place / "said.txt").read_text(encoding="utf-8")[-2000:])
    return time.perf_counter() - began


def count_events(place: Path) -> int:
    """Whole lines on the record of a search."""
    record = place / "found" / "search.jsonl"
    return record.read_bytes().count(b"\n") if record.exists() else 0


def kill_in_search(place: Path, events: int, seconds: float) -> bool:
    """Run, and kill the group so long after so many more events; whether it was not through before."""
    wanted, process = count_events(place) + events, start_search(place)
    while count_events(place) < wanted and process.poll() is None:
        time.sleep(0.01)
    if kill_group_after(process, seconds):
        return True
    if process.returncode:
        sys.exit((place / "said.txt").read_text(encoding="utf-8")[-2000:])
    return False


def describe_state(place: Path) -> dict[str, Any]:
    """What was on record when the search was killed."""
    record = place / "found" / "search.jsonl"
    lines = record.read_bytes().split(b"\n") if record.exists() else [b""]
    return {**Counter(json.loads(line)["event"] for line in lines[:-1]), "torn": bool(lines[-1])}


def drop_times(value: Any) -> Any:
    """A report without how long things took and where they lie."""
    if isinstance(value, dict):
        return {key: drop_times(entry) for key, entry in value.items() if key not in TIMES}
    return [drop_times(entry) for entry in value] if isinstance(value, list) else value


def read_outcome(place: Path) -> dict[str, Any]:
    """Record, report and winning recipe of a search that came to its end."""
    found = place / "found"
    return {
        "record": [drop_times(json.loads(line)) for line in (found / "search.jsonl").read_bytes().splitlines()],
        "report": drop_times(json.loads((found / "search.json").read_bytes())),
        "recipe": (found / "best.yaml").read_text(encoding="utf-8"),
    }


def main() -> None:
    """Run it; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice, kills, number = random.Random(options.seed), 0, 0
    sampler = "tpe" if importlib.util.find_spec("optuna") else "random"

    def lay_out(directory: str) -> Path:
        place = Path(root) / directory
        place.mkdir()
        (place / "run.yaml").write_text(RECIPE.format(trials=options.trials, sampler=sampler), encoding="utf-8")
        return place

    with tempfile.TemporaryDirectory() as root:
        calm = lay_out("calm")
        whole = finish(calm)
        expected = read_outcome(calm)
        print(f"in peace: {whole:.1f} s, {len(expected['record'])} events, sampler {sampler}", flush=True)
        stormy = lay_out("stormy-0")
        while kills < options.kills:
            events, wait = dice.randint(1, 4), dice.uniform(0.0, 2.0) * whole / len(expected["record"])
            if kill_in_search(stormy, events, wait):
                kills += 1
                text = f"kill {kills}, {wait:.2f} s after {events} more events: {json.dumps(describe_state(stormy))}"
                print(text, flush=True)
                continue
            same = read_outcome(stormy) == expected
            print(f"{stormy.name} came to its end, {'the same' if same else 'DIFFERENT'}", flush=True)
            if not same:
                sys.exit(1)
            number += 1
            stormy = lay_out(f"stormy-{number}")
        finish(stormy)
        outcome = read_outcome(stormy)
        differing = [key for key in expected if outcome[key] != expected[key]]
        print(f"{kills} kills: {'DIFFERENT: ' + ', '.join(differing) if differing else 'the same'}")
        sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
