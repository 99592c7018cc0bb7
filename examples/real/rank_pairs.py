"""A reward model on real pairs: `python rank_pairs.py MODEL snips-pairs.jsonl OUT [SEEDS]`, beside the prepared files.

MODEL learns from 900 of the pairs which of two sentences names the intent of a request, at three rates, 300 steps of
1,024 tokens; of the 300 others, how many does it rank as they are labelled? Beside it how many of them the untouched
model ranks so by likelihood. Student's intervals over seeds. A run that is finished is not repeated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from holdfast import train
from holdfast.data.chat.encoder import Chat
from holdfast.lab.reproduce.rule import student_interval
from holdfast.models.loading import load_model
from holdfast.models.reward_model import load_reward_model

HELD_OUT, RATES, STEPS = 300, (3e-4, 1e-3, 3e-3), 300


def main() -> None:
    """Train with every seed at every rate, then write the table to standard output."""
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    model, out = sys.argv[1], Path(sys.argv[3])
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines(keepends=True)
    seeds = range(int(sys.argv[4]) if len(sys.argv) == 5 else 3)
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.jsonl").write_text("".join(lines[:-HELD_OUT]), encoding="utf-8")
    pairs = [json.loads(line) for line in lines[-HELD_OUT:]]
    print("| way | held-out pairs ranked as labelled, % |\n|---|---|")
    print(f"| likelihood under the untouched model | {rank_by_likelihood(model, pairs):.1f} |")
    for rate in RATES:
        shares = [rank_by_reward(train_reward(model, out, rate, seed), pairs) for seed in seeds]
        print("| reward, {:g} | {:.1f} [{:.1f}, {:.1f}] |".format(rate, *student_interval(shares)))


def train_reward(model: str, out: Path, rate: float, seed: int) -> str:
    """Train, if it was not before; the directory of the run."""
    run = out / f"{rate:g}-seed{seed}"
    if not (run / "report.json").exists():
        recipe = {
            "model": model,
            "seed": seed,
            "data": {"train": str(out / "train.jsonl"), "test": 0},
            "method": "reward",
            "optimizer": {"learning_rate": rate},
            "train": {"max_steps": STEPS, "batch_tokens": 1024},
            "evaluate": {"target": "none", "keep": ["none"], "live_items": 0, "every": 0},
            "output": str(run),
        }
        train(recipe)
    return str(run)


def converse(pair: dict[str, Any], answer: str) -> list[dict[str, str]]:
    """The request with one of its two answers."""
    return [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair[answer]}]


def rank_by_reward(run: str, pairs: list[dict[str, Any]]) -> float:
    """Of the pairs, whose chosen answer has the higher reward, in per cent."""
    rewards = load_reward_model(run).score_conversations(
        [converse(pair, answer) for answer in ("chosen", "rejected") for pair in pairs]
    )
    return 100 * sum(a > b for a, b in zip(rewards[: len(pairs)], rewards[len(pairs) :], strict=True)) / len(pairs)


@torch.no_grad()
def rank_by_likelihood(name: str, pairs: list[dict[str, Any]]) -> float:
    """Of the pairs, whose chosen answer is likelier, in per cent."""
    loaded = load_model(name)
    chat = Chat(loaded.tokenizer)

    def measure(pair: dict[str, Any], answer: str) -> float:
        ids, labels = (torch.from_numpy(part.astype("int64")) for part in chat.encode(converse(pair, answer)))  # [L]
        logps = loaded.model.eval()(ids[None]).logits[0, :-1].log_softmax(-1)
        return float(logps.gather(-1, ids[1:, None])[labels[1:] > 0].sum())

    return 100 * sum(measure(pair, "chosen") > measure(pair, "rejected") for pair in pairs) / len(pairs)


if __name__ == "__main__":
    main()
