"""How near the machine's limit: the share of the matrix-product peak in training, of the decode limit in sampling.

Training. The limit of a step is the time its matrix products alone take: every linear map of the model at the size of
the micro-batch, forward, for the input's gradient and for the weight's gradient, and the head over the labels; each
timed by itself, same dtype, same threads, same shapes, the best of several runs. Attention's own products are left
out, so the share is a little low. The step is the trainer's, as in the part `sft`.

Sampling. The limit of a decoding step is the larger of the time to read the weights and the cache once, at the
measured rate of a large sum over memory, and the time its matrix products alone take at the size of the batch. A run's
limit is that, times its steps, plus the products of reading the prompts. The share is of wall time.

A profile by `torch.profiler` of two training steps and of one sampling run says where the rest goes: operators with
the largest own time and their share of it. Sampling is profiled on one thread: the profiler sees no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from common import Line, alone, at_least, main, reason, run_side, say

CASES: dict[str, dict[str, Any]] = {
    "lab": {"model": "lab", "rows": 1400, "low": 0, "high": 0, "per_step": 64},
    "30m": {"model": "30m", "rows": 32, "low": 256, "high": 1024, "per_step": 4},
}
TINY = {"lab": {"model": "lab", "rows": 56, "low": 0, "high": 0, "per_step": 16}}
NAMES = {"lab": "laboratory model", "30m": "30 million parameters"}
TOP = 12


def least(work: Callable[[], Any], seconds: float = 0.15) -> float:
    """Least seconds of one call, over at least five and at most `seconds` of them."""
    work()
    found, began = float("inf"), time.perf_counter()
    count = 0
    while count < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        found, count = min(found, time.perf_counter() - start), count + 1
    return found


def shapes(model: Any) -> dict[tuple[int, int], int]:
    """How many linear maps of each (inputs, outputs) the layers have, the head apart."""
    import torch

    head = model.get_output_embeddings()
    found: dict[tuple[int, int], int] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            key = module.in_features, module.out_features
            found[key] = found.get(key, 0) + 1
    return found


def products(model: Any, tokens: int, labels: int, backward: bool = True) -> tuple[float, float]:
    """Seconds and floating-point operations of the matrix products of one pass over so many tokens and labels."""
    import torch

    head = model.get_output_embeddings().weight
    parts = [(tokens, *key, count) for key, count in shapes(model).items()]
    parts.append((labels, head.shape[1], head.shape[0], 1))
    seconds = work = 0.0
    for rows, inner, outer, count in parts:
        x, w, g = torch.randn(rows, inner), torch.randn(outer, inner), torch.randn(rows, outer)
        runs = [lambda x=x, w=w: x @ w.t()]
        if backward:
            runs += [lambda g=g, w=w: g @ w, lambda g=g, x=x: g.t() @ x]
        seconds += count * sum(least(run) for run in runs)
        work += count * len(runs) * 2.0 * rows * inner * outer
    return seconds, work


def bandwidth(mib: int = 256) -> float:
    """Bytes a second that a sum over a large tensor reads."""
    import torch

    block = torch.ones(mib << 18)
    return block.numel() * 4 / least(block.sum, 0.5)


def training(case: dict[str, Any], steps: int, rounds: int) -> dict[str, Any]:
    """The step's rate, the best of so many runs, its limit and its profile."""
    from work import Case, holdfast_steps, recipe

    work = Case(**case)
    table = work.table()
    made = recipe(table, work.per_step, steps + 2, train={"precision": "fp32"})
    runs = [holdfast_steps(made, work.load(), table, 2, lengths=table.lengths) for _ in range(rounds)]
    found = max(runs, key=lambda run: run["rate"])
    model = work.load()
    share = float(table.label_mask.mean())
    tokens = max(1, min(found["micro_tokens"], int(found["tokens_per_step"])))
    seconds, operations = products(model, tokens, max(1, int(tokens * share)))
    limit = tokens / seconds
    profile = profiled(lambda: holdfast_steps(recipe(table, work.per_step, 3), work.load(), table, 1))
    return {
        **found, "limit_rate": limit, "share": found["rate"] / limit, "profile": profile,
        "peak_gflops": operations / seconds / 1e9, "micro_batch": tokens, "trained_share": share,
    }  # fmt: skip


def sampling(name: str, prompts: int, tokens: int, slots: int) -> dict[str, Any]:
    """The engine's rate, its limit and its profile; answers have no end, so that the batch stays full."""
    import torch
    from sampling import asking, load, questions

    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.generation.native import NativeEngine

    model, chat = load(name)
    chat.stop_ids = set()
    asked = questions(name, prompts)
    requests = [(Request(str(i), asking(text)), [0]) for i, text in enumerate(asked)]
    params = SamplingParams(max_tokens=tokens)

    def run() -> NativeEngine:
        engine = NativeEngine(model, chat, slots=slots, fingerprint="benchmark")
        for _ in engine.sample(requests, params):
            pass
        return engine

    counts = run().counts
    seconds = least(run, 0)
    context = sum(len(chat.prompt_ids(asking(text))) for text in asked) / len(asked) + tokens / 2
    config = model.config
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * context
    weights = sum(p.numel() * 4 for p in model.parameters())
    batch = min(slots, prompts)
    reading = (weights + cached * batch) / bandwidth()
    computing = products(model, batch, batch, backward=False)[0]
    prefill = products(model, 1024, 1, backward=False)[0] * counts["prompt tokens"] / 1024
    limit = max(reading, computing) * counts["tokens"] / batch + prefill
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    profile = profiled(run)
    torch.set_num_threads(threads)
    return {
        "seconds": seconds, "rate": counts["tokens"] / seconds, "limit_rate": counts["tokens"] / limit,
        "share": limit / seconds, "batch": batch, "reading": reading, "computing": computing, "prefill": prefill,
        "counts": dict(counts), "profile": profile,
    }  # fmt: skip


def profiled(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """The operators with the largest own processor time, and their shares of it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events) or 1
    return [
        {"operator": event.key, "share": round(event.self_cpu_time_total / whole, 4), "calls": event.count}
        for event in events[:TOP]
    ]


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """Training and sampling of both models."""
    lines: list[Line] = []
    raw: dict[str, Any] = {}
    for name, case in (TINY if tiny else CASES).items():
        say(f"  {name}")
        often = {"steps": 6, "rounds": 2} if name == "lab" and not tiny else {"steps": 2, "rounds": 1}
        raw[f"training {name}"] = found = run_side(__file__, "training", case=case, **often)
        target = at_least(0.6) if name == "lab" else None
        lines.append(share_line(f"training, {NAMES[name]}, share of the matrix-product limit", found, target))
        size = {"prompts": 16, "tokens": 4} if tiny else {"prompts": 256 if name == "lab" else 64, "tokens": 32}
        raw[f"sampling {name}"] = found = run_side(__file__, "sampling", name=name, slots=128, **size)
        lines.append(share_line(f"sampling, {NAMES[name]}, share of the decode limit", found, None))
    return lines, raw


def share_line(what: str, found: dict[str, Any], target: Any) -> Line:
    """A line with the largest operators in its note."""
    if error := reason(found):
        return alone(what, None, "", target, note=error)
    top = ", ".join(f"{at['operator']} {at['share']:.0%}" for at in found["profile"][:4])
    note = f"{found['rate']:,.0f} of {found['limit_rate']:,.0f} tokens/s; {top}"
    return alone(what, found["share"], "", target, note=note)


if __name__ == "__main__":
    main("limit", measure, {"training": training, "sampling": sampling})
