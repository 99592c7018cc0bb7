"""Two tasks in one model, without training on both: `python combine_tasks.py MODEL OUT [SEEDS]`.

MODEL (TinyStories-656K) learns the intents of SNIPS in one run and a bank's in another, from bare labels, at two rates;
then the changes of both runs are added to it at several scales (task arithmetic), and with signs elected (TIES). Of
each model the score on either task, 300 questions each, with Student's interval over seeds. It is run where the
prepared files are; a run that is finished is not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from holdfast import compare
from holdfast.lab.reproduce.rule import student_interval

TASKS = {"snips": "snips-short.jsonl", "bank": "banking-labels.jsonl"}
RATES = (5e-4, 2e-3)
SCALES = {"combine": (0.3, 0.5, 0.7, 1.0), "ties": (0.7, 1.0, 1.4)}


def main() -> None:
    """Train and combine with every seed, then write the table to standard output."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    seeds = range(int(sys.argv[3]) if len(sys.argv) == 4 else 3)
    print("| rate | model | SNIPS, % | bank, % |\n|---|---|---|---|")
    for rate in RATES:
        out = Path(sys.argv[2]) / f"{rate:g}"
        scores = [measure_models(sys.argv[1], out / f"seed{seed}", rate, seed) for seed in seeds]
        for name in scores[0]:
            cells = [
                "{:.1f} [{:.1f}, {:.1f}]".format(*student_interval([of_seed[name][task] for of_seed in scores]))
                for task in (0, 1)
            ]
            print(f"| {rate:g} | {name} | {' | '.join(cells)} |")


def measure_models(model: str, out: Path, rate: float, seed: int) -> dict[str, tuple[float, float]]:
    """What the base, both runs and their combinations solve of SNIPS and of the bank's questions, in per cent."""
    recipe: dict[str, Any] = {
        "model": model,
        "data": {"train": TASKS["snips"], "limit": 600, "test": "snips-test.jsonl"},
        "judge": "choice",
        "optimizer": {"learning_rate": rate},
        "train": {"max_steps": 100, "batch_tokens": 1024},
        "evaluate": {"keep": ["banking-test.jsonl"], "items": 300, "live_items": 0, "every": 0, "max_tokens": 20},
    }
    tuned = compare(recipe, {task: [f"data.train={path}"] for task, path in TASKS.items()}, seeds=[seed], out=out)
    runs = [run["dirs"][0] for run in tuned["runs"]]
    arms = {
        f"{name} at {scale:g}": ["train.max_steps=0", f"inference={{name: {name}, scale: {scale}, runs: {runs}}}"]
        for name, scales in SCALES.items()
        for scale in scales
    }
    combined = compare(recipe, arms, seeds=[seed], out=out / "combined")
    shown = [(run["method"], run["tasks"], "tuned") for run in (*tuned["runs"], *combined["runs"])]
    shown.insert(0, ("base", tuned["runs"][0]["tasks"], "base"))
    return {name: (tasks["test"][when], tasks["banking-test"][when]) for name, tasks, when in shown}


if __name__ == "__main__":
    main()
