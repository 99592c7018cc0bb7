"""Ways to four times a model's context: `python read_longer.py MODEL plays.jsonl OUT [SEEDS]`.

MODEL read 512 tokens at a time (TinyStories-656K); plays are passages of some 1,900. All weights, LoRA, and LoRA with
the embeddings and norms that LongLoRA trains beside it, in groups of attention and in whole: 40 steps of 8,192 tokens
with interpolated positions, each at two rates of its kind, of which the better one is shown. Then the loss of held-out
passages read in one piece, all tokens and those beyond the old context. Then YaRN's angles against interpolated ones:
untrained, and after 10 steps of all weights; also the loss of as many tokens as the model read before. A run that is
finished is not repeated.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from holdfast import train
from holdfast.lab.reproduce.rule import student_interval
from holdfast.methods.tuners.yarn import YaRN
from holdfast.models.loading import LoadedModel, load_model

CONTEXT, LENGTH = 512, 2048
STEPS, FEW_STEPS = 40, 10
HELD_OUT = 25
FULL_RATES, ADDED_RATES = (1e-3, 3e-3), (5e-3, 1.5e-2)
POSITIONS = {"YaRN": {"name": "yarn"}, "interpolation": {"name": "yarn", "positions": "linear"}}
WAYS: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
    "full": ({"name": "yarn", "positions": "linear"}, FULL_RATES),
    "LoRA": ({"name": "longlora", "embeddings": False, "norms": False}, ADDED_RATES),
    "LoRA and norms": ({"name": "longlora", "embeddings": False}, ADDED_RATES),
    "LoRA and embeddings": ({"name": "longlora", "norms": False}, ADDED_RATES),
    "LongLoRA": ({"name": "longlora"}, ADDED_RATES),
    "LongLoRA, whole attention": ({"name": "longlora", "groups": 1, "shift": False}, ADDED_RATES),
}


def main() -> None:
    """Train every way with every seed, then write the table to standard output."""
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    model, out = sys.argv[1], Path(sys.argv[3])
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines(keepends=True)
    seeds = range(int(sys.argv[4]) if len(sys.argv) == 5 else 3)
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.jsonl").write_text("".join(lines[:-HELD_OUT]), encoding="utf-8")
    passages = [json.loads(line)["text"] for line in lines[-HELD_OUT:]]
    print(f"before: {' and '.join(f'{value:.3f}' for value in measure_loss(load_model(model), passages))} nats\n")
    losses = {
        way: {
            rate: [measure_loss(load_model(train_way(model, out, way, tuner, rate, seed)), passages) for seed in seeds]
            for rate in rates
        }
        for way, (tuner, rates) in WAYS.items()
    }
    best = {way: min(by_rate, key=lambda rate: sum(map(sum, by_rate[rate]))) for way, by_rate in losses.items()}
    print("| way | rate | perplexity | minus full, nats | beyond the old context | minus full, nats |")
    print("|---|---|---|---|---|---|")
    for way, rate in best.items():
        cells = []
        for part in (0, 1):
            values, others = ([one[part] for one in losses[name][best[name]]] for name in (way, "full"))
            change = student_interval([a - b for a, b in zip(values, others, strict=True)])
            cells += [f"{math.exp(sum(values) / len(values)):.1f}", "{:+.3f} [{:+.3f}, {:+.3f}]".format(*change)]
        print(f"| {way} | {rate:g} | {' | '.join(cells)} |")
    compare_positions(model, out, passages, seeds)


def compare_positions(model: str, out: Path, passages: list[str], seeds: range) -> None:
    """Write the table of YaRN's angles and of interpolated ones."""

    def measure_both(way: str, rate: float, seed: int, steps: int) -> tuple[float, float]:
        if steps:
            changed = load_model(train_way(model, out, f"{way}, {steps} steps", POSITIONS[way], rate, seed, steps))
        else:
            changed = load_model(model)
            YaRN(length=LENGTH, positions=POSITIONS[way].get("positions", "yarn")).apply(changed.model, seed)
        return measure_loss(changed, passages)[0], measure_loss(changed, passages, CONTEXT)[0]

    print("\n| steps | rate | length | YaRN, nats | interpolation | minus YaRN |\n|---|---|---|---|---|---|")
    for steps, rates in ((0, FULL_RATES[:1]), (FEW_STEPS, FULL_RATES)):
        by_rate = {
            way: {rate: [measure_both(way, rate, seed, steps) for seed in (seeds if steps else (0,))] for rate in rates}
            for way in POSITIONS
        }
        best = {way: min(of, key=lambda rate: sum(long for long, _ in of[rate])) for way, of in by_rate.items()}
        for part, length in ((0, LENGTH), (1, CONTEXT)):
            yarn, linear = ([one[part] for one in by_rate[way][best[way]]] for way in POSITIONS)
            apart = [b - a for a, b in zip(yarn, linear, strict=True)]
            shown = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*student_interval(apart)) if steps else f"{apart[0]:+.3f}"
            rates_shown = " and ".join(f"{best[way]:g}" for way in POSITIONS) if steps else ""
            means = " | ".join(f"{sum(values) / len(values):.3f}" for values in (yarn, linear))
            print(f"| {steps} | {rates_shown} | {length} | {means} | {shown} |")


def train_way(
    model: str, out: Path, way: str, tuner: dict[str, Any], rate: float, seed: int, steps: int = STEPS
) -> str:
    """Train, if it was not before; the directory of the run."""
    run = out / f"{way} at {rate:g}, seed {seed}".replace(", ", "-").replace(" ", "-")
    if not (run / "report.json").exists():
        recipe = {
            "model": model,
            "seed": seed,
            "data": {"train": str(out / "train.jsonl"), "test": 0},
            "tuner": tuner,
            "optimizer": {"learning_rate": rate},
            "train": {"max_length": LENGTH, "batch_tokens": 8192, "max_steps": steps},
            "evaluate": {"target": "none", "keep": ["none"], "live_items": 0, "every": 0},
            "output": str(run),
        }
        train(recipe)
    return str(run)


@torch.no_grad()
def measure_loss(loaded: LoadedModel, passages: list[str], length: int = LENGTH) -> tuple[float, float]:
    """Mean loss of a token of the passages in nats: the first `length`, and those of them beyond the old context."""
    total, beyond, counts = 0.0, 0.0, [0, 0]
    for passage in passages:
        ids = loaded.tokenizer(passage, return_tensors="pt").input_ids[:, :length]  # [1, L]
        logps = loaded.model.eval()(ids).logits[0, :-1].float().log_softmax(-1)
        losses = -logps.gather(-1, ids[0, 1:, None])[:, 0]  # [L - 1]
        total, beyond = total + float(losses.sum()), beyond + float(losses[CONTEXT:].sum())
        counts = [counts[0] + len(losses), counts[1] + len(losses[CONTEXT:])]
    return total / counts[0], beyond / max(counts[1], 1)


if __name__ == "__main__":
    main()
