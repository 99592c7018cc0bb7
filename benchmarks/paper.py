"""Whether the formulas of `holdfast plan` hold on this processor: fitted to two sizes, they predict a third.

Two rates are fitted, each to random Llamas of two sizes, and the time of a third and larger one is predicted by the
functions that `holdfast plan` itself uses (`pipeline.cluster.cost_model`):

- operations a second, by the trainer's steps on one process (fp32, AdamW, rows of 128 tokens);
- bytes of memory a second, by the native engine writing one answer, which reads all weights for each token.

Traffic between processes is not among them: on one machine it is the processor's own work. Time is processor time of
one thread, the least of several rounds in turn, so that other work on the machine changes it little. The target is a
prediction within 25 %.
"""

from __future__ import annotations

import math
import tempfile
import time
from functools import partial
from typing import Any

from common import Line, alone, at_most, in_turn, main, reason, run_side, say

LENGTH = 128
SIZES: dict[str, dict[str, int]] = {
    "8m": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "layers": 6, "heads": 4},
    "14m": {"vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "layers": 6, "heads": 6},
    "30m": {"vocab_size": 16_384, "hidden_size": 512, "intermediate_size": 1376, "layers": 7, "heads": 8},
    "60m": {"vocab_size": 16_384, "hidden_size": 640, "intermediate_size": 1728, "layers": 10, "heads": 10},
    "131m": {"vocab_size": 16_384, "hidden_size": 896, "intermediate_size": 2432, "layers": 12, "heads": 14},
    "260m": {"vocab_size": 16_384, "hidden_size": 1280, "intermediate_size": 3456, "layers": 13, "heads": 20},
}
"""Tied embeddings, so that every weight is multiplied with."""
TRAINED, WRITING = ("8m", "14m", "30m"), ("60m", "131m", "260m")
"""Two to fit to, and the one that is predicted; what is read for an answer must be larger than the caches."""
ROUNDS, STEPS, WARM = 3, 3, 1
TOKENS, ANSWER = 512, 16
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


def write_answer(name: str) -> dict[str, Any]:
    """Processor seconds of a token of one answer, and the bytes that are read for it."""
    import torch
    from work import random_llama, word_tokenizer

    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.data.chat.encoder import Chat
    from holdfast.generation.native import NativeEngine
    from holdfast.models.shape import HALF, ModelSize

    torch.set_num_threads(1)
    model, chat = random_llama("tiny", 512, **SIZES[name]).eval(), Chat(word_tokenizer(1000))
    chat.stop_ids = set()
    engine = NativeEngine(model, chat, slots=1, fingerprint="benchmark")
    requests = [(Request("one", [{"role": "user", "content": "w5 w6 w7 w8"}]), [0])]
    took = {}
    for tokens in (8, 4, 4 + ANSWER):  # the first joins weights and warms up; what the others share falls out
        began = time.process_time()
        for _ in engine.sample(requests, SamplingParams(max_tokens=tokens)):
            pass
        took[tokens] = time.process_time() - began
    seconds = (took[4 + ANSWER] - took[4]) / ANSWER
    size = ModelSize.from_model(model)
    read = HALF * size.read_parameters(1) + size.cache_bytes * (8 + ANSWER / 2)
    return {"rate": 1 / seconds, "seconds": seconds, "parameters": size.parameters, "bytes": 2 * read}  # fp32


def predict(found: dict[str, Any], sizes: tuple[str, str, str], amount: str) -> dict[str, Any]:
    """A rate fitted to two sizes, and what it says of the third.

    Args:
        amount: What the time is in proportion to: "flops" or "bytes".
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
    """Both fits."""
    rounds = 1 if tiny else ROUNDS
    raw: dict[str, Any] = {}
    for part, sizes, run in (
        ("training", TRAINED, partial(run_side, __file__, "training", LONGEST, tokens=TOKENS)),
        ("answers", WRITING, partial(run_side, __file__, "answers", LONGEST)),
    ):
        say(f"  {part}")
        raw[part] = in_turn({name: partial(run, name=name) for name in sizes}, rounds)
    if error := reason(*(found for part in raw.values() for found in part.values())):
        return [alone("on paper", None, "", at_most(0.25), note=error)], raw
    raw["fits"] = fits = {"training": predict(raw["training"], TRAINED, "flops")}
    fits["answers"] = predict(raw["answers"], WRITING, "bytes")
    lines = [
        line_of("a step of training", fits["training"], TRAINED, "GFLOP/s"),
        line_of("a token of an answer", fits["answers"], WRITING, "GB/s"),
    ]
    return lines, raw


if __name__ == "__main__":
    main("paper", measure, {"training": train_steps, "answers": write_answer})
