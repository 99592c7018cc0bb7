"""Whether the formulas of `holdfast plan` hold on this processor: fitted to two sizes, they predict a third.

Operations a second are fitted to the trainer's steps on random Llamas of two sizes (one process, fp32, AdamW, rows of
128 tokens), and the time of a third and larger one is predicted by the function that `holdfast plan` itself uses
(`pipeline.cluster.cost_model.count_training_flops`). Time is processor time of one thread, the least of several steps,
so that other work on the machine changes it little. The target is a prediction within 25 %. Not tried here are the
bytes that answers read, and traffic between processes.
"""

from __future__ import annotations

import math
import tempfile
import time
from functools import partial
from typing import Any

from common import Line, alone, at_most, in_turn, main, reason, run_side

LENGTH = 128
SIZES: dict[str, dict[str, int]] = {
    "8m": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "layers": 6, "heads": 4},
    "14m": {"vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "layers": 6, "heads": 6},
    "30m": {"vocab_size": 16_384, "hidden_size": 512, "intermediate_size": 1376, "layers": 7, "heads": 8},
}
"""Tied embeddings, so that every weight is multiplied with."""
TRAINED = ("8m", "14m", "30m")
"""Two to fit to, and the one that is predicted."""
ROUNDS, STEPS, WARM = 3, 3, 1
TOKENS = 512
LONGEST = 1200
"""Seconds that a process may take; on a busy machine most of them are others'."""


def train_steps(name: str, tokens: int) -> dict[str, Any]:
    """Processor seconds of a step, the least of those after the first ones; what the cost model says of it."""
    import numpy as np
    import torch
    from work import random_llama, recipe

    from holdfast.data.batching.batches import EncodedSequence, TokenTable
    from holdfast.models.shape import ModelSize
    from holdfast.pipeline.cluster.cost_model import count_training_flops
    from holdfast.training.callbacks import Hooks
    from holdfast.training.trainer import Trainer

    torch.set_num_threads(1)
    rng, rows = np.random.default_rng(0), tokens // LENGTH
    ids = [rng.integers(3, SIZES[name]["vocab_size"], LENGTH, dtype=np.int32) for _ in range(rows * (STEPS + WARM))]
    sequences = [EncodedSequence(one, np.ones(LENGTH, bool), i) for i, one in enumerate(ids)]
    table = TokenTable.from_sequences(sequences, fingerprint="benchmark")
    model = random_llama("tiny", LENGTH, **SIZES[name])
    size = ModelSize.from_model(model)
    train = {"layout": "padded", "precision": "fp32", "micro_tokens": tokens, "batch_tokens": tokens}
    times: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        hooks = Hooks(on_step=lambda log: times.append(time.process_time()))
        Trainer(recipe(table, rows, STEPS + WARM, train=train), model, table, directory, pad_id=0, hooks=hooks).fit()
    seconds = min(b - a for a, b in zip(times[WARM - 1 :], times[WARM:], strict=False))
    return {
        "rate": 1 / seconds, "seconds": seconds, "parameters": size.parameters,
        "flops": tokens * count_training_flops(size, LENGTH, False),
    }  # fmt: skip


def predict(found: dict[str, Any], sizes: tuple[str, str, str], amount: str) -> dict[str, Any]:
    """A rate fitted to two sizes, and what it says of the third.

    Args:
        amount: What the time is in proportion to, by its key.
    """
    rates = [found[name][amount] / found[name]["seconds"] for name in sizes[:2]]
    last, rate = found[sizes[2]], math.sqrt(rates[0] * rates[1])
    return {"rates": rates, "rate": rate, "predicted": last[amount] / rate, "measured": last["seconds"]}


def line_of(what: str, fit: dict[str, Any], sizes: tuple[str, str, str], unit: str) -> Line:
    """The share by which a prediction misses."""
    miss = abs(fit["predicted"] / fit["measured"] - 1)
    rates = ", ".join(f"{rate / 1e9:.3g} {unit} at {name}" for rate, name in zip(fit["rates"], sizes, strict=False))
    note = f"{fit['predicted']:.3g} s predicted of {sizes[2]}, {fit['measured']:.3g} s measured; {rates}"
    return alone(f"on paper: {what}, share by which it misses", miss, "", at_most(0.25), note=note)


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """The fit."""

    def run(name: str) -> dict[str, Any]:
        return run_side(__file__, "training", LONGEST, name=name, tokens=TOKENS)

    raw: dict[str, Any] = {"training": in_turn({name: partial(run, name) for name in TRAINED}, 1 if tiny else ROUNDS)}
    if error := reason(*raw["training"].values()):
        return [alone("on paper: a step of training", None, "", at_most(0.25), note=error)], raw
    raw["fit"] = fit = predict(raw["training"], TRAINED, "flops")
    return [line_of("a step of training", fit, TRAINED, "GFLOP/s")], raw


if __name__ == "__main__":
    main("paper", measure, {"training": train_steps})
