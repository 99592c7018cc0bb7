"""Sample `report.json` and `compare.json`, made up but of the real shape and size.

`python tests/report/sample.py DIR` renders them.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

KEPT = {
    "sums": 91.5,
    "strings": 84.0,
    "facts": 68.5,
    "reading": 73.0,
    "route": 58.5,
    "lake": 66.0,
    "format": 88.0,
    "cipher": 52.5,
}
METHODS = {  # gain, mean loss, seconds of curation, origins
    "sft": (18.4, 7.6, 0, {"gold": 540}),
    "s3ft": (17.6, 1.9, 74, {"model": 338, "paraphrase": 121, "gold": 81}),
    "lora": (12.4, 3.8, 0, {"gold": 540}),
    "half": (13.8, 4.2, 0, {"gold": 540}),
    "ssr": (14.9, 1.4, 61, {"gold": 540, "replay": 60}),
}
RECIPE: dict[str, Any] = {
    "model": "lab",
    "method": "s3ft",
    "data": {"train": "lab:story", "test": 0.1, "format": "auto", "too_long": "drop"},
    "judge": {"name": "number"},
    "curate": [{"name": "s3ft", "paraphrase": True}],
    "objective": {"name": "sft"},
    "tuner": {"name": "full"},
    "optimizer": {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0, "warmup": 0.03},
    "sampling": {"engine": "native", "temperature": 0.0, "max_tokens": 128},
    "train": {"epochs": 3.0, "batch_tokens": 8192, "max_length": 512, "seed": 0},
    "evaluate": {"target": "test", "keep": ["lab"], "items": 200, "live_items": 40, "gate": {"max_loss": 2.5}},
    "output": "runs/s3ft-story",
}
VERSIONS = {
    "holdfast": "0.1.0",
    "python": "3.12.4",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "device": "cpu, 2 cores",
}


def flip(rng: random.Random, number: int, task: str, won: bool) -> dict[str, Any]:
    a, b, c = rng.randint(3, 20), rng.randint(3, 20), rng.randint(2, 6)
    good = f"There are {a} + {b} = {a + b} shells in one bucket.\n"
    good += f"{c} buckets hold {c} * {a + b} = {c * (a + b)} shells.\nThe answer is {c * (a + b)}."
    bad = f"{a} + {b} = {a + b}, so Mara has {a + b} shells.\nThe answer is {a + b}."
    prompt = f"Mara fills a bucket with {a} white and {b} brown shells. She fills {c} buckets like this. "
    prompt += "How many shells does she have?"
    reference = str(c * (a + b))
    if task != "story":
        word = "".join(rng.choice("abcdefgh") for _ in range(7))
        prompt, reference, good = f"Write this word backwards: {word}", word[::-1], word[::-1]
        bad = f"The word is {word}, read from the end it is {word[::-1][:-1]}.\nThe answer is {word[::-1][:-1]}."
    base, tuned = (bad, good) if won else (good, bad)
    return {
        "id": f"{task}-{number:03d}",
        "prompt": prompt,
        "reference": reference,
        "base": base,
        "tuned": tuned,
        "won": won,
    }


def task(rng: random.Random, name: str, role: str, base: float, delta: float, n: int = 200) -> dict[str, Any]:
    half = 1.96 * 100 * math.sqrt(max(abs(delta) / 100 * 1.6, 0.01) / n)
    lost = round(n * (0.01 + max(-delta, 0) / 100 + rng.uniform(0, 0.02)))
    won = max(0, lost + round(n * delta / 100))
    flips = [flip(rng, i, name, i < min(won, 4)) for i in range(min(won, 4) + min(lost, 4))]
    return {
        "name": name,
        "role": role,
        "kind": "generate",
        "judge": "number" if role == "target" else "exact",
        "n": n,
        "base": base,
        "tuned": round(base + delta, 2),
        "delta": delta,
        "low": round(delta - half, 2),
        "high": round(delta + half, 2),
        "p": round(math.exp(-((delta / half) ** 2) * 1.9), 5),
        "won": won,
        "lost": lost,
        "noise": round(277 / math.sqrt(n) * math.sqrt(base / 100 * (1 - base / 100)), 2),
        "stop_base": 0.985,
        "stop_tuned": 0.995,
        "length_base": 31.4,
        "length_tuned": 38.2,
        "flips": flips,
        "extra": {},
    }


def curves(
    rng: random.Random, gain: float, loss: float, steps: int = 240, base: float = 31.5, keep: float = 72.8
) -> list[dict[str, Any]]:
    out = []
    for step in range(steps + 1):
        part = 1 - math.exp(-4 * step / steps)
        live = step % (steps // 8) == 0
        out.append(
            {
                "step": step,
                "tokens": step * 8192,
                "loss": round(1.9 * math.exp(-5 * step / steps) + 0.42 + rng.gauss(0, 0.05), 4),
                "target": round(base + gain * part + rng.gauss(0, 1.1) * (step > 0), 2) if live else None,
                "keep": round(keep - loss * part**2 + rng.gauss(0, 0.5) * (step > 0), 2) if live else None,
                "learning_rate": 1e-4 * (1 - step / steps),
            }
        )
    return out


def example(rng: random.Random, number: int, origin: str) -> dict[str, Any]:
    one = flip(rng, number, "story", True)
    reason = {
        "model": "own answer judged right",
        "paraphrase": "own answer wrong; gold rephrased, still right",
        "gold": "own answer and rephrasing both wrong",
    }
    gold = one["tuned"].replace("There are", "Step 1:").replace("buckets hold", "buckets, so")
    answer = {"model": one["tuned"], "paraphrase": one["tuned"].replace("hold", "together hold"), "gold": gold}[origin]
    attempts = [{"kind": "model", "response": one["base"], "passed": False, "reason": "wrong number"}]
    if origin == "model":
        attempts = [{"kind": "model", "response": answer, "passed": True, "reason": reason[origin]}]
    elif origin == "paraphrase":
        attempts.append({"kind": "paraphrase", "response": answer, "passed": True, "reason": "right number"})
    return {
        "prompt": one["prompt"], "answer": answer, "gold": gold, "origin": origin, "reason": reason[origin],
        "attempts": attempts,
    }  # fmt: skip


def report(seed: int = 0) -> dict[str, Any]:
    rng = random.Random(seed)
    shifts = {
        "strings": -7.5,
        "format": -4.0,
        "cipher": -2.5,
        "sums": -1.0,
        "facts": -1.5,
        "reading": 0.5,
        "route": 0.0,
        "lake": 1.0,
    }
    tasks = [task(rng, "story", "target", 31.5, 17.5)]
    tasks += [task(rng, name, "keep", base, shifts[name]) for name, base in KEPT.items()]
    text = task(rng, "text:prose.txt", "keep", 21.3, -0.4)
    text |= {
        "kind": "perplexity",
        "judge": None,
        "low": -0.52,
        "high": -0.29,
        "p": None,
        "won": None,
        "lost": None,
        "noise": 1.1,
        "flips": [],
        "stop_base": None,
        "stop_tuned": None,
        "length_base": None,
        "length_tuned": None,
        "extra": {"perplexity_base": 4.69, "perplexity_tuned": 4.78},
    }
    tasks.append(text)
    kept = [t["delta"] for t in tasks if t["role"] == "keep"]
    loss = round(-sum(kept) / len(kept), 2)
    return {
        "holdfast": "0.1.0",
        "name": "s3ft-story",
        "created": "2025-11-21T14:32:05Z",
        "recipe": RECIPE,
        "versions": VERSIONS,
        "model": {"name": "lab", "fingerprint": "9f2c51d07ab3e4d8", "parameters": 4_120_576, "trainable": 4_120_576},
        "tasks": tasks,
        "gain": {"delta": 17.5, "low": tasks[0]["low"], "high": tasks[0]["high"], "n": 200},
        "loss": {"delta": loss, "low": round(loss - 1.05, 2), "high": round(loss + 1.1, 2), "worst": "strings"},
        "gate": {"passed": True, "reasons": []},
        "curves": curves(rng, 17.0, loss),
        "curation": {
            "counts": {"model": 338, "paraphrase": 121, "gold": 81},
            "notes": {"rephrasing judged wrong": 64, "own answer not finished": 17},
            "examples": [example(rng, i, origin) for i, origin in enumerate(("model", "paraphrase", "gold"))],
        },
        "training": {
            "rows": 540,
            "steps": 240,
            "tokens": 1_966_080,
            "trained_tokens": 71_204,
            "dropped": {"longer than max_length": 3},
            "epochs": 3.0,
        },
        "cost": {
            "seconds": {"load": 1.2, "curate": 74.3, "train": 311.8, "evaluate": 96.0},
            "tokens_per_second": 6305.0,
            "peak_memory_gib": 0.9,
            "sampled_tokens": 41_870,
        },
    }


def free_text(seed: int = 0) -> dict[str, Any]:
    """A run on free text: the target is the loss of the held-out answers, and all that is kept is a text."""
    whole = report(seed)
    bits = {"better": "lower", "judge": None, "p": None, "won": None, "lost": None, "flips": [], "extra": {}}
    bits |= {"stop_base": None, "stop_tuned": None, "length_base": None, "length_tuned": None}
    target = {
        **whole["tasks"][0], **bits, "name": "held-out loss", "kind": "held_out", "unit": "bits per token", "n": 40,
        "base": 2.0, "tuned": 1.75, "delta": -0.25, "low": -0.375, "high": -0.125, "percent": -12.5, "noise": 0.2,
    }  # fmt: skip
    text = {
        **target, "name": "prose", "kind": "perplexity", "role": "keep", "unit": "bits per byte", "n": 7,
        "base": 1.25, "tuned": 1.5, "delta": 0.25, "low": 0.125, "high": 0.375, "percent": 20.0,
        "extra": {"perplexity_base": 12.5, "perplexity_tuned": 20.25},
    }  # fmt: skip
    shown = ("base", "tuned", "delta", "low", "high", "n", "unit", "percent")
    steps = [
        {"step": s, "tokens": s, "loss": 3.0, "target": b, "held_out": b, "keep": None, "text": t}
        for s, b, t in ((0, 2.0, 1.25), (5, 1.875, 1.375), (10, 1.75, 1.5))
    ]
    return {
        **whole, "recipe": {"model": "m", "method": "sft", "data": {"train": "alpaca.json", "test": 0.1}},
        "tasks": [target, text],
        "gain": {"delta": 0.25, "low": 0.125, "high": 0.375, "percent": 12.5, "n": 40, "unit": "bits per token"},
        "loss": None, "text": {"percent": 20.0, "low": 10.0, "high": 30.0, "worst": "prose"},
        "held_out": {key: target[key] for key in shown}, "curves": steps,
    }  # fmt: skip


def probed(seed: int = 0) -> dict[str, Any]:
    """A run on free text by which the probe is what was kept."""
    whole = free_text(seed)
    row = {"n": 30, "kl": 0.125, "agreement": 87.5, "same_answers": 0.5, "stop_base": 1.0, "stop_tuned": 0.8}
    row |= {"length_base": 20.0, "length_tuned": 31.5}
    task = {
        **whole["tasks"][0], "name": "probe", "kind": "probe", "role": "keep", "unit": "% agreement",
        "better": "higher", "n": 60, "base": 100.0, "tuned": 87.5, "delta": -12.5, "low": -15.0, "high": -10.0,
        "percent": None, "noise": 0.0,
    }  # fmt: skip
    changed = {"id": "code-3", "prompt": "Write", "base": "one", "tuned": "two", "kl": 1.25, "agreement": 20.0}
    return {
        **whole, "tasks": [whole["tasks"][0], task],
        "loss": {"delta": 12.5, "low": 10.0, "high": 15.0, "worst": "probe", "unit": "points", "of": "probe"},
        "text": None,
        "probe": {
            **row, "n": 60,
            "kl": {"value": 0.125, "low": 0.1, "high": 0.15, "unit": "bits per token", "noise": 1e-9},
            "agreement": {"value": 87.5, "low": 85.0, "high": 90.0, "unit": "%", "noise": 0.0},
            "by": {"kind": [{**row, "name": "code"}], "language": [{**row, "name": "ja"}]}, "changed": [changed],
        },
    }  # fmt: skip


def compared(rng: random.Random, method: str) -> dict[str, Any]:
    gain, loss, curate, origins = METHODS[method]
    weights = {name: rng.uniform(0.0, 2.0) for name in KEPT}
    scale = len(KEPT) / sum(weights.values())
    deltas = {"story": gain} | {name: round(-loss * weight * scale, 2) for name, weight in weights.items()}
    bases = {"story": 31.5} | KEPT
    tasks = {
        n: {
            "base": bases[n],
            "tuned": round(bases[n] + d, 2),
            "delta": d,
            "low": round(d - 2.9, 2),
            "high": round(d + 3.1, 2),
        }
        for n, d in deltas.items()
    }
    return {
        "method": method,
        "seeds": [0, 1, 2],
        "dirs": [f"runs/story/{method}-seed{seed}" for seed in range(3)],
        "gain": {"delta": gain, "low": round(gain - 2.6, 2), "high": round(gain + 2.4, 2)},
        "loss": {"delta": loss, "low": round(loss - 1.1, 2), "high": round(loss + 1.2, 2)},
        "points": [
            {"seed": s, "gain": round(gain + rng.gauss(0, 1.2), 2), "loss": round(loss + rng.gauss(0, 0.6), 2)}
            for s in range(3)
        ],
        "target": 31.5 + gain,
        "keep": round(sum(KEPT.values()) / len(KEPT) - loss, 2),
        "tasks": tasks,
        "origins": origins,
        "cost": {
            "seconds": {"load": 1.1, "curate": float(curate), "train": 300 + rng.uniform(-40, 40), "evaluate": 95.0},
            "tokens_per_second": 6200.0,
            "peak_memory_gib": 0.5 if method in ("lora", "half") else 0.9,
            "sampled_tokens": 600 * curate,
        },
        "curves": [curves(rng, gain, loss) for _ in range(3)],
        "pareto": method in ("sft", "s3ft", "ssr"),
    }


def divided(rng: random.Random, number: int, task: str) -> dict[str, Any]:
    """A question that the methods answered differently."""
    one = flip(rng, number, task, won=True)
    passed = {"base": False} | {method: method in ("sft", "s3ft") for method in METHODS}
    return {key: one[key] for key in ("id", "prompt", "reference")} | {
        "task": task,
        "role": "target" if task == "story" else "keep",
        "answers": [{"method": m, "text": one["tuned" if ok else "base"], "passed": ok} for m, ok in passed.items()],
    }


def compare(seed: int = 0) -> dict[str, Any]:
    rng = random.Random(seed)
    tasks = [{"name": "story", "role": "target", "n": 200, "base": 31.5}]
    tasks += [{"name": name, "role": "keep", "n": 200, "base": base} for name, base in KEPT.items()]
    return {
        "name": "story",
        "created": "2025-11-21T15:10:44Z",
        "recipe": RECIPE,
        "budget": "540 rows, 3 epochs, 240 steps of 8,192 tokens; 3 seeds",
        "versions": VERSIONS,
        "model": {"name": "lab", "fingerprint": "9f2c51d07ab3e4d8", "parameters": 4_120_576, "trainable": 4_120_576},
        "tasks": tasks,
        "runs": [compared(rng, method) for method in METHODS],
        "answers": [divided(rng, i, task) for task in ("story", "strings") for i in range(2)],
    }


def main(directory: str) -> None:
    from holdfast.report.html import render_compare, render_run, write_page
    from holdfast.report.model_card import render_card

    out = Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "run.html", render_run(report()))
    write_page(out / "compare.html", render_compare(compare()))
    (out / "README.md").write_text(render_card(report()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
