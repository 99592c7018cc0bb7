"""Memory and time of dedup, decontaminate and filter on 100,000 rows: `python benchmarks/rows.py [ROWS]`.

Rows are read from a file as a run reads them, go through the three curators, and are written; the peak is that of the
whole process.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import SamplingParams
from holdfast.axes.registry import find_method
from holdfast.data.reading.formats import open_rows

ROWS = 100_000
WORDS = 20_000
"""Of the vocabulary from which questions and answers are drawn."""
STEPS = (
    ("decontaminate", {}), ("dedup", {}),
    ("filter", {"min_words": 5, "max_words": 400, "lacks": r"(?i)as an ai\b", "matches": r"\w+"}),
)  # fmt: skip


def write_rows(path: Path, count: int) -> None:
    """Questions of about 40 words with answers of about 120; a tenth nearly the same as one before, a fifth short."""
    rng, names = random.Random(0), [f"w{i}" for i in range(WORDS)]
    recent: list[tuple[list[str], list[str]]] = []
    with path.open("w") as handle:
        for _ in range(count):
            if recent and rng.random() < 0.1:
                question, answer = rng.choice(recent)
                answer = [*answer[:-2], rng.choice(names)]
            else:
                question = rng.choices(names, k=rng.randint(20, 60))
                answer = rng.choices(names, k=3 if rng.random() < 0.2 else rng.randint(60, 180))
                recent = [*recent[-200:], (question, answer)]
            handle.write(json.dumps({"prompt": " ".join(question), "answer": " ".join(answer)}) + "\n")


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, count)
        rows = open_rows(path)
        measured = {"test": [rows[i] for i in range(0, len(rows), max(1, len(rows) // 500))]}
        notes: Counter[str] = Counter()
        context = CurationContext(
            curator="benchmark", sample=None, judge=None, sampling=SamplingParams(), seed=0, load=None,  # type: ignore[arg-type]
            note=lambda name, n: notes.update({name: n}), drop=lambda row, reason: None, evaluated=measured,
        )  # fmt: skip
        print(f"{count:,} rows, {path.stat().st_size / 2**20:.0f} MiB")
        for name, knobs in STEPS:
            began = time.perf_counter()
            rows = find_method("curators", name)(**knobs).curate(rows, context)  # type: ignore[attr-defined]
            seconds = time.perf_counter() - began
            print(f"{name}: {len(rows):,} stay, {seconds:.1f} s, peak {peak_gib():.2f} GiB")
        began = time.perf_counter()
        with (Path(folder) / "out.jsonl").open("w") as handle:
            for row in rows:
                handle.write(row.to_line())
        print(f"written: {time.perf_counter() - began:.1f} s, peak {peak_gib():.2f} GiB")
        print(dict(notes))


def peak_gib() -> float:
    """The most memory the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
