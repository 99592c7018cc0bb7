"""Online learning, killed at random moments: the whole command, and whether its weights end as if nobody had.

A small run of the command line is made in peace, then again with its process group killed (SIGKILL) so many times, each
a random share of what training took in peace after it begins or goes on. Sampling, judging, the steps of a round and
saving all are hit so. The final weights must be bit-equal, and no sample may be on record twice.

    python benchmarks/online_kills.py --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import kill_group_after

RECIPE = """
model: lab-small
method: {method}
data: {{train: "lab:points", limit: 64, test: 0}}
online: {{rounds: 10, prompts: 12, n: 6, updates: 2, minibatches: 2}}
sampling: {{max_tokens: 24}}
train: {{save_every: 0.1, precision: fp32}}
evaluate: {{target: none, keep: ["lab:sums"], items: 8, live_items: 0, every: 0}}
"""
ARGUMENTS = [sys.executable, "-m", "holdfast", "train", "run.yaml", "--json"]
WATCHED = ("samples.jsonl", "log.jsonl")


def start_training(place: Path, out: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, once it trains, or has ended."""
    environment, said = {**os.environ, "HOLDFAST_CACHE": str(place / f"cache-{out}")}, place / f"{out}.txt"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [*ARGUMENTS, f"output={out}"], cwd=place, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    while not trains(said) and process.poll() is None:
        time.sleep(0.02)
    return process


def trains(said: Path) -> bool:
    """Whether a run has said that it trains."""
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
    return any('"event": "phase"' in text and '"name": "train"' in text for text in lines)


def finish(place: Path, out: str) -> float:
    """Run to the end; the seconds from the first step on."""
    process, began = start_training(place, out), time.perf_counter()
    if process.wait():
        sys.exit((place / f"{out}.txt").read_text(encoding="utf-8")[-2000:])
    return time.perf_counter() - began


def kill_in_training(place: Path, out: str, seconds: float) -> bool:
    """Run, and kill the group so long after training began; whether it was not through before."""
    return kill_group_after(start_training(place, out), seconds)


def describe_state(run: Path) -> dict[str, Any]:
    """What was on disk when the run was killed."""
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*")) if run.exists() else []
    lengths = {name: len((run / name).read_bytes().splitlines()) for name in WATCHED if (run / name).exists()}
    return {"newest": steps[-1] if steps else None, **lengths}


def main() -> None:
    """Run it; exit code 1 where the weights differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--method", default="online_grpo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice, kills, number = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "run.yaml").write_text(RECIPE.format(method=options.method), encoding="utf-8")
        whole = finish(place, "calm")
        print(f"in peace: {whole:.1f} s of training", flush=True)
        weights = (place / "calm" / "model" / "model.safetensors").read_bytes()
        while kills < options.kills:
            out = f"stormy-{number}"
            wait = dice.uniform(0.01, 0.2) * whole
            if kill_in_training(place, out, wait):
                kills += 1
                print(f"kill {kills} after {wait:.2f} s: {json.dumps(describe_state(place / out))}", flush=True)
            else:  # it was through; its weights are looked at, and another one begins
                number += 1
                same = (place / out / "model" / "model.safetensors").read_bytes() == weights
                print(f"{out} came to its end, {'bit-equal' if same else 'DIFFERENT'}", flush=True)
                if not same:
                    sys.exit(1)
        out = f"stormy-{number}"
        finish(place, out)
        same = (place / out / "model" / "model.safetensors").read_bytes() == weights
        drawn = [json.loads(line) for line in (place / out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        names = [entry["id"] for entry in drawn if entry["kind"] == "sample"]
        print(f"{kills} kills: {'bit-equal' if same else 'DIFFERENT'}; {len(names)} samples, {len(set(names))} names")
        sys.exit(0 if same and len(names) == len(set(names)) else 1)


if __name__ == "__main__":
    main()
