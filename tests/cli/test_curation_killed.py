"""`holdfast curate` killed while a model reads the rows: what it had read is kept, and the choice is the same."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from processes import Process, run

RECIPE = """
model: lab-small
device: cpu
data: {train: train.jsonl, test: 0}
curate:
  - {name: ifd, n: 48, experience: 0}
  - {name: lima, n: 40, min_characters: 0, clusters: 4}
  - {name: delift, n: 9}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
evaluate: {keep: [lab:strings], target: none, items: 4, live_items: 0, every: 0, max_tokens: 16}
"""
ROWS = [{"question": f"What is {n} + {n % 7}?", "answer": f"It is {n + n % 7}"} for n in range(64)]
CACHES = {
    "ifd: log-probabilities": "logps",
    "lima: embeddings": "embeddings",
    "delift: rows behind examples": "in_context",
}
"""What is asked of the model, in its order, and where the answers are kept."""
PAIRS = 40**2


def command(out: str) -> list[str]:
    return ["-m", "holdfast", "curate", "run.yaml", f"output={out}", "--json"]


def count_asked(said: str) -> dict[str, int]:
    """How many rows or pairs a run said it would read, by what for."""
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{") and line.endswith("}")]
    asked: dict[str, int] = {}
    for event in events:
        if event["event"] == "phase" and event.get("name") in CACHES:
            asked[event["name"]] = asked.get(event["name"], 0) + int(event["total"])
    return asked


def kill_when_it_grows(place: Path, file: Path) -> dict[str, int]:
    """Start the command, kill it as soon as a file has anything in it, and say what it read."""
    with (place / "said.txt").open("w") as said:
        process = Process(command("killed"), cwd=place, stdout=said.fileno())
        while not process.has_ended() and not (file.exists() and file.stat().st_size):
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    return count_asked((place / "said.txt").read_text())


def test_killed_while_the_model_reads_it_goes_on(tmp_path: Path) -> None:
    """Killed with log-probabilities kept, then with embeddings, then with some scores behind examples."""
    (tmp_path / "run.yaml").write_text(RECIPE)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    whole = run(command("whole"), cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    everything = count_asked(whole.stdout)
    assert list(everything) == list(CACHES)
    assert everything["delift: rows behind examples"] == PAIRS

    for number, kind in enumerate(CACHES.values()):
        file = tmp_path / "killed/cache" / kind / "arrays.bin"
        asked = kill_when_it_grows(tmp_path, file)
        assert all(asked.get(name, 0) < everything[name] for name in list(CACHES)[:number]), (
            "what was kept is asked again"
        )
        assert not (tmp_path / "killed/curated.jsonl").exists()
    with file.open("ab") as torn:
        torn.write(file.read_bytes()[:100])  # as if it had been killed while it wrote
    resumed = run(command("killed"), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    asked = count_asked(resumed.stdout)
    assert "ifd: log-probabilities" not in asked
    # A fast machine may have kept all of them before it was killed.
    assert asked.get("delift: rows behind examples", 0) < PAIRS
    for name in ("curated.jsonl", "dropped.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
