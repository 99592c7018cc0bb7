"""How the cost grows: curves of tokens (or rows) a second and of memory against one size at a time.

Row length (128 to 8,192 tokens) and vocabulary (1 k to 256 k words): the trainer on a random Llama (2 layers, 128 wide
for lengths; 2 layers, 64 wide for vocabularies), the same number of tokens a step throughout. Number of rows (1 k to 1
M): from rows in memory to packed batches, as tokenised tables of random ids, the part of the data path whose cost
could grow faster than the rows; the part `data` has the rest. Samples of a prompt (1 to 16): the engine on a random
Llama, prompts of 128 tokens and answers of 32, as many answers whatever the number of samples.

There is no peer here; the curves say whether something grows that should not. Each point is one process.
"""

from __future__ import annotations

import random
import time
from typing import Any

from common import Line, alone, main, memory_mib, reason, run_side, say

LENGTHS = (128, 512, 2048, 8192)
WORDS = (1024, 4096, 16_384, 65_536, 262_144)
ROWS = (1000, 10_000, 100_000, 1_000_000)
SAMPLES = (1, 2, 4, 8, 16)


def training(words: int, length: int, step: int, shape: dict[str, int], layout: str) -> dict[str, Any]:
    """The trainer on rows of one length, a step of `step` tokens at a time."""
    import numpy as np
    from work import holdfast_steps, random_llama, recipe

    from holdfast.data.batching.batches import EncodedSequence, TokenTable

    rng = np.random.default_rng(0)
    rows = max(4, 4 * step // length)
    ids = [rng.integers(3, words, length, dtype=np.int32) for _ in range(rows)]
    trained = np.arange(length) >= length // 2
    table = TokenTable.from_sequences(
        [EncodedSequence(one, trained, i) for i, one in enumerate(ids)], fingerprint="benchmark"
    )
    model = random_llama("tiny", 8192, vocab_size=words, **shape)
    micro = max(length, min(step, 2048))
    made = recipe(
        table, max(1, step // length), 3, train={"layout": layout, "precision": "fp32", "micro_tokens": micro}
    )
    return holdfast_steps(made, model, table, 1)


def data(rows: int) -> dict[str, Any]:
    """A table of rows of 60 tokens on average, and all its packed batches."""
    import numpy as np

    from holdfast.data.batching.batches import TokenTable

    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 91, rows)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(3, 1000, int(starts[-1]), dtype=np.int32)
    trained = np.ones(len(ids), dtype=np.bool_)
    began = time.perf_counter()
    nothing = np.zeros((rows, 0), np.float32)
    table = TokenTable(ids, trained, starts, np.ones(rows, np.float32), np.arange(rows), np.arange(rows + 1), nothing)
    sampler = table.build_sampler(batch_tokens=32768, micro_tokens=8192, layout="packed")
    seen = 0
    for step in range(sampler.count_steps(1)):
        for part in sampler.rank_micro_batches(step):
            batch = table.collate_rows(part, "packed", 0)
            seen += batch.n_sequences if batch else 0
    assert seen == rows
    return {"rate": rows / (time.perf_counter() - began), "peak_mib": memory_mib()}


def samples(n: int, answers: int) -> dict[str, Any]:
    """So many answers, `n` to a prompt."""
    from sampling import load, native, text_of

    model, chat = load("lab", ends=False)
    rng = random.Random(0)
    asked = [text_of(rng, 128) for _ in range(answers // n)]
    native(model, chat, asked[:1], {"tokens": 2, "temperature": 1.0, "n": n})
    found = native(model, chat, asked, {"tokens": 32, "temperature": 1.0, "n": n})
    return {"rate": found["rate"], "peak_mib": memory_mib()}


def curve(side: str, name: str, sizes: tuple[int, ...], **fixed: Any) -> list[tuple[int, dict[str, Any]]]:
    """A point for each size; those that fail keep their reason."""
    points = []
    for size in sizes:
        points.append((size, run_side(__file__, side, **fixed, **{name: size})))
        say(f"    {side} {name} {size}: {points[-1][1].get('rate', points[-1][1].get('error'))}")
    return points


def chart(title: str, x: str, y: str, series: dict[str, list[tuple[int, dict[str, Any]]]], key: str) -> dict[str, Any]:
    """A chart of one number of the points."""
    return {
        "title": title,
        "x": x,
        "y": y,
        "series": {name: [[size, found.get(key)] for size, found in points] for name, points in series.items()},
    }


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """All curves."""
    step = 512 if tiny else 4096
    long = {"hidden_size": 128, "intermediate_size": 344, "layers": 2, "heads": 2}
    wide = {"hidden_size": 64, "intermediate_size": 172, "layers": 2, "heads": 2}
    few = 2 if tiny else None
    lengths = {
        layout: curve("training", "length", LENGTHS[:few], words=1024, step=step, shape=long, layout=layout)
        for layout in ("padded", "packed")
    }
    short = 512 if tiny else 2048
    vocabularies = {
        "padded": curve("training", "words", WORDS[:few], length=128, step=short, shape=wide, layout="padded")
    }
    rows = {"packed": curve("data", "rows", ROWS[:few])}
    drawn = {"engine": curve("samples", "n", SAMPLES[:few], answers=8 if tiny else 128)}
    charts = [
        chart("Row length", "tokens in a row", "tokens/s", lengths, "rate"),
        chart("Row length, memory", "tokens in a row", "peak MiB", lengths, "peak_mib"),
        chart("Vocabulary", "words", "tokens/s", vocabularies, "rate"),
        chart("Vocabulary, memory", "words", "peak MiB", vocabularies, "peak_mib"),
        chart("Rows into packed batches", "rows", "rows/s", rows, "rate"),
        chart("Samples of a prompt", "samples", "tokens/s", drawn, "rate"),
    ]
    raw = {"lengths": lengths, "vocabularies": vocabularies, "rows": rows, "samples": drawn, "curves": charts}
    names = {"row length, padded": lengths["padded"], "row length, packed": lengths["packed"]}
    names |= {"vocabulary": vocabularies["padded"], "rows": rows["packed"], "samples of a prompt": drawn["engine"]}
    return [ends(name, points) for name, points in names.items()], raw


def ends(name: str, points: list[tuple[int, dict[str, Any]]]) -> Line:
    """A line with a curve's rate at its largest size against its smallest."""
    (low, first), (high, last) = points[0], points[-1]
    share = last["rate"] / first["rate"] if "rate" in first and "rate" in last else None
    note = reason(first, last) or f"rate at {high:,} as a share of that at {low:,}; see curves.svg"
    return alone(f"scale: {name}", share, "", note=note)


if __name__ == "__main__":
    main("scale", measure, {"training": training, "data": data, "samples": samples})
