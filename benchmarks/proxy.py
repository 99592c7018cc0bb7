"""Proxy tuning: decoding with three models at once beside the sum of their decodings one by one.

The laboratory model with its small sibling as expert and as antiexpert (with other weights), on the laboratory's test
questions, greedy; no token ends an answer, so that all four decode the same number. Runs are in turn; the best counts.
"""

from __future__ import annotations

import copy
import time
from typing import Any

from common import Line, at_most, judged, main, reason, run_side, say

SIZES = {"prompts": 256, "tokens": 48, "rounds": 4}
TINY = {"prompts": 8, "tokens": 4, "rounds": 1}


def decode(prompts: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of the three models apart and of the proxy, the best of several runs in turn, in this process."""
    import torch

    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.data.chat.encoder import Chat
    from holdfast.generation.decoder import Decoder
    from holdfast.methods.inference.proxy import Proxy
    from holdfast.models.loading import load_model
    from holdfast.skills.rows import lab_rows

    large, small = load_model("lab"), load_model("lab-small")
    expert = copy.deepcopy(small.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in expert.parameters():
            weight.add_(0.02 * weight.std() * torch.randn(weight.shape, generator=generator))
    chat = Chat(large.tokenizer)
    chat.stop_ids = set()
    requests = [(Request(str(i), list(row.prompt)), [0]) for i, row in enumerate(lab_rows("lab", "test", prompts))]
    method = Proxy(antiexpert="lab-small", expert="expert")
    ways = {
        "large": Decoder(large.model), "expert": Decoder(expert), "antiexpert": Decoder(small.model),
        "proxy": Decoder(large.model, [method], {"expert": expert, "antiexpert": small.model}),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, decoder in ways.items():
            engine = decoder.build_engine(chat, slots=128, fingerprint="benchmark")
            began = time.perf_counter()
            drawn = sum(sample.tokens for sample in engine.sample(requests, SamplingParams(max_tokens=tokens)))
            seconds[name].append(time.perf_counter() - began)
            if drawn != len(requests) * tokens:
                raise RuntimeError(f"{name} drew {drawn} tokens")
        say("      " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()))
    return {"seconds": {name: min(times) for name, times in seconds.items()}, "runs": seconds}


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """The proxy against the sum of its models."""
    result = run_side(__file__, "decode", **(TINY if tiny else SIZES))
    what, target = "proxy tuning, decoding with three models, of the sum of the three", at_most(1.15)
    if error := reason(result):
        return [judged(what, None, None, None, "s", target, note=error)], {}
    seconds = result["seconds"]
    apart = sum(seconds[name] for name in ("large", "expert", "antiexpert"))
    note = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return [judged(what, seconds["proxy"], apart, seconds["proxy"] / apart, "s", target, note=note)], {"decode": result}


if __name__ == "__main__":
    main("proxy", measure, {"decode": decode})
