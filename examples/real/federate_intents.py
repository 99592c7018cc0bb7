"""Clients with few intents each: `python federate_intents.py MODEL OUT [SEEDS]`, beside the prepared files.

MODEL (TinyStories-656K) learns SNIPS at four clients, whose 600 rows are shared out by intent with Dirichlet(0.1), so
that each has mostly one or two: alone, by FedAvg, and by SpaFL, where thresholds alone travel; eight rounds of twelve
steps each. Of every way the mean accuracy of the clients on questions of their own mixture, and the bytes that travel;
Student's intervals over seeds. A federation that is finished is not repeated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from holdfast.lab.reproduce.rule import student_interval
from holdfast.pipeline.federated.driver import federate
from holdfast.pipeline.federated.settings import FederationSettings
from holdfast.recipe.loader import resolve_any

CLIENTS, ROUNDS, STEPS = 4, 8, 12
RATES = (1e-3, 3e-3)
WAYS: dict[str, list[str]] = {"local": [], "fedavg": [], "spafl": ["tuner=spafl"]}


def main() -> None:
    """Federate with every seed and rate, then write the table to standard output."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    model, out = sys.argv[1], Path(sys.argv[2])
    seeds = range(int(sys.argv[3]) if len(sys.argv) == 4 else 3)
    out.mkdir(parents=True, exist_ok=True)
    for name, count in (("snips-short", 600), ("snips-test", 300)):
        rows = [json.loads(line) for line in Path(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:count]]
        lines = (json.dumps(row | {"intent": row["completion"]}) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print("| way | rate | accuracy of clients, % | minus alone | rows that count | bytes |\n|---|---|---|---|---|---|")
    for rate in RATES:
        found = {way: [run_federation(model, out, way, rate, seed) for seed in seeds] for way in WAYS}
        alone = [measure_accuracy(one) for one in found["local"]]
        for way, summaries in found.items():
            scores = [measure_accuracy(one) for one in summaries]
            apart = [a - b for a, b in zip(scores, alone, strict=True)]
            shown = " | ".join(
                "{:.1f} [{:.1f}, {:.1f}]".format(*student_interval(values)) for values in (scores, apart)
            )
            sent = summaries[0]["bytes_up"] + summaries[0]["bytes_down"]
            print(f"| {way} | {rate:g} | {shown} | {summaries[0]['rounds'][-1]['density']:.2f} | {sent:,} |")


def run_federation(model: str, out: Path, way: str, rate: float, seed: int) -> dict[str, Any]:
    """Federate, if it was not done before; its summary."""
    recipe = {
        "model": model,
        "data": {"train": str(out / "snips-short.jsonl"), "test": 0},
        "judge": "choice",
        "optimizer": {"learning_rate": rate, "schedule": "constant"},
        "train": {"max_steps": STEPS, "batch_tokens": 1024, "seed": seed},
        "evaluate": {
            "target": str(out / "snips-test.jsonl"), "keep": ["none"], "items": 300, "live_items": 0, "every": 0,
            "max_tokens": 20,
        },
        "output": str(out / f"{way}-{rate:g}-seed{seed}"),
    }  # fmt: skip
    settings = FederationSettings(CLIENTS, 0, ROUNDS, way, alpha=0.1, group_by="intent", workers=0)
    run = federate(resolve_any(recipe, WAYS[way]), settings)
    summary: dict[str, Any] = json.loads((run.path / "federated.json").read_text(encoding="utf-8"))
    return summary


def measure_accuracy(summary: dict[str, Any]) -> float:
    """The mean of the clients' accuracy on their own mixture of intents, in per cent."""
    scores = [client["accuracy"] for client in summary["clients"] if client["accuracy"] is not None]
    return 100 * sum(scores) / len(scores)


if __name__ == "__main__":
    main()
