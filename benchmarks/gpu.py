"""`make bench-gpu`: training and sampling on one GPU beside TRL, `generate` and vLLM, with random weights.

    python benchmarks/gpu.py                       # every part; adds to benchmarks/results/gpu.json and gpu.md
    python benchmarks/gpu.py --parts mixed,dpo     # some parts: what was measured of others on this card stays
    python benchmarks/gpu.py --dry                 # every line at toy size, on a CPU too

Each side of a part runs in a process of its own, in bf16: `WARM` steps, then the median of `STEPS`. TRL has the setting
in which it was fastest: padded, one row a batch or all of a step's (grouped by length where rows differ), padding-free,
packed, each with Liger's kernels too where they are installed (and flash-attn, where that is installed, for what is
flattened). QLoRA needs bitsandbytes, the line of vLLM needs vLLM; what is not installed is named. A side that fails, or
for which no time is left (`--seconds`), is told with its reason, and the others go on.

Results are kept by card and by the versions of torch and transformers: the same command in another environment (torch
2.11 with transformers 5.17, say) adds a table of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import (
    RESULTS,
    Line,
    alone,
    at_least,
    at_most,
    best,
    line,
    machine,
    options_of,
    plain,
    reason,
    run_side,
    say,
    table,
)

Spec = dict[str, Any]
Side = Callable[..., Spec]
HEADS = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936}
QWEN_06B = HEADS | {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN_4B = HEADS | {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN_8B = HEADS | {
    "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
TOY = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True,
}  # fmt: skip
SFT: Spec = {"kind": "sft", "shape": QWEN_06B, "tuner": "full", "length": 8192, "rows": 64, "per_step": 4}
LORA: Spec = {"kind": "sft", "tuner": "lora", "length": 4096, "rows": 36, "per_step": 2, "checkpointing": True}
PARTS: dict[str, Spec] = {
    "full": {**SFT, "what": "full SFT, 8,192 equal rows", "ratio": 1.3, "memory": 1.0},
    "checkpointing": {**SFT, "what": "the same, gradient checkpointing", "checkpointing": True, "ratio": 1.4},
    "mixed": {
        **SFT, "what": "full SFT, rows of 128 to 8,192, log-uniform", "shortest": 128, "rows": 256, "per_step": 16,
        "ratio": 2.0,
    },
    "short": {**SFT, "what": "full SFT, 2,048 equal rows", "length": 2048, "rows": 256, "per_step": 16, "rate": 70_000},
    "lora": {**LORA, "what": "LoRA, 4B shape, 4,096 tokens", "shape": QWEN_4B, "ratio": 1.3, "memory": 1.0},
    "lora-8b": {**LORA, "what": "LoRA, 8B shape, 4,096 tokens", "shape": QWEN_8B},
    "qlora-8b": {**LORA, "what": "QLoRA (NF4), 8B shape, 4,096 tokens", "shape": QWEN_8B, "tuner": "qlora"},
    "dpo": {
        "kind": "dpo", "what": "DPO, prompts 4 times the answers", "shape": QWEN_06B, "tuner": "full", "prompt": 1024,
        "answer": 256, "pairs": 128, "per_step": 8, "ratio": 2.0, "memory": 0.8,
    },
    "sampling": {
        "kind": "sampling", "what": "sampling, batch 128", "shape": QWEN_06B, "prompts": 256, "tokens": 128,
        "batch": 128, "ratio": 3.5, "rate": 10_000,
    },
}  # fmt: skip
"""What is measured; `ratio`, `memory` (both against the peer) and `rate` are the targets, on one H100."""
WARM, STEPS, RUNS = 2, 7, 2
SMALLEST = {"length": 48, "rows": 24, "per_step": 2, "prompt": 16, "answer": 4, "pairs": 24, "prompts": 4, "tokens": 4}
SIZES = {"micro_tokens": "tokens a micro-batch", "head_rows": "rows of logits"}
"""What our side chose by measuring, in words."""
NEEDS = {"qlora": ("bitsandbytes", "pip install bitsandbytes"), "vllm": ("vllm", "pip install vllm")}
"""By tuner or engine, the package that it needs."""


def shrink_part(part: Spec) -> Spec:
    """A part at toy size: the same code, no targets."""
    small = {key: value for key, value in SMALLEST.items() if key in part}
    small |= {"shortest": 8} if "shortest" in part else {}
    return (
        {key: value for key, value in part.items() if key not in ("ratio", "memory", "rate")} | small | {"shape": TOY}
    )


def missing_package(name: str) -> str:
    """Why what needs a package is left out; empty where it is there."""
    from importlib.util import find_spec

    package, install = NEEDS.get(name, ("", ""))
    return f"{package} is not installed ({install})" if package and find_spec(package) is None else ""


def trl_settings(part: Spec, dry: bool) -> list[Spec]:
    """What TRL may choose from, the likeliest best first."""
    from importlib.util import find_spec

    per_step, mixed = part["per_step"], "shortest" in part
    if part["kind"] == "dpo":
        settings = [{"batch": size, "config": {}} for size in (per_step, max(1, per_step // 4))]
    else:
        grouped = {"train_sampling_strategy": "group_by_length"} if mixed else {}
        settings = [
            {"batch": 4 if mixed else 1, "config": grouped},
            {"batch": 1 if mixed else per_step, "config": grouped},
            {"batch": per_step, "config": {"padding_free": True, "max_length": None}},
        ]
        if mixed:
            settings.insert(0, {"batch": 1, "config": {"packing": True, "packing_strategy": "bfd"}})
    if dry:
        return settings if mixed else settings[:1]
    liger = [{**s, "config": s["config"] | {"use_liger_kernel": True}} for s in settings]
    return (liger if find_spec("liger_kernel") is not None else []) + settings


def describe_setting(found: Spec) -> str:
    """A side's setting in a few words."""
    setting = found.get("setting", {})
    if "config" not in setting:
        return ", ".join(f"{value:,} {SIZES[k]}" if k in SIZES else str(value) for k, value in setting.items())
    config = setting["config"]
    kind = "packed" if config.get("packing") else "padding-free" if config.get("padding_free") else "padded"
    grouped = " grouped" if config.get("train_sampling_strategy") else ""
    return f"{kind} {setting['batch']}{grouped}{' Liger' if config.get('use_liger_kernel') else ''}"


def measure_training(name: str, part: Spec, run: Side, dry: bool) -> tuple[list[Line], Spec]:
    """Speed, memory and time to the first step of a part, ours and TRL's in its best setting."""
    if missing := missing_package(part["tuner"]):
        return [line(part["what"], None, None, "tokens/s", note=missing)], {}
    kind, steps = part["kind"], {"warm": 1 if dry else WARM, "steps": 2 if dry else STEPS}
    we = run(f"{kind}_ours", part=part, **steps)
    settings = trl_settings(part, dry)
    tried = [run(f"{kind}_theirs", part=part, setting=setting, **steps) for setting in settings]
    for setting, found in zip(settings, tried, strict=True):
        found.setdefault("setting", setting)
    they = best(tried)
    targets = [
        at_least(part["ratio"]) if "ratio" in part else None,
        at_most(part["memory"]) if "memory" in part else None,
    ]
    note = reason(we, they) or f"ours {describe_setting(we)}; TRL {describe_setting(they)}"
    what = part["what"]
    lines = [
        line(what, we.get("rate"), they.get("rate"), "tokens/s", targets[0], note=note),
        line(f"{what}, memory", we.get("peak_gib"), they.get("peak_gib"), "GiB", targets[1]),
        line(f"{what}, to the first step", we.get("first_step"), they.get("first_step"), "s", less_is_better=True),
    ]
    if "rate" in part:
        lines.append(alone(f"{what}, alone", we.get("rate"), "tokens/s", at_least(part["rate"])))
    return lines, {"ours": we, "theirs": tried}


def measure_sampling(name: str, part: Spec, run: Side, dry: bool) -> tuple[list[Line], Spec]:
    """The native engine beside `generate`, and beside vLLM."""
    runs = 1 if dry else RUNS
    raw = {engine: run("sample_answers", part=part, engine=engine, runs=runs) for engine in ("native", "generate")}
    missing = missing_package("vllm")
    raw["vllm"] = {"error": missing} if missing else run("sample_answers", part=part, engine="vllm", runs=runs)
    we, what = raw["native"], part["what"]
    target = at_least(part["ratio"]) if "ratio" in part else None
    lines = []
    for peer, wanted in (("generate", target), ("vllm", None)):
        note = reason(we, raw[peer])
        lines.append(
            line(f"{what}, against {peer}", we.get("rate"), raw[peer].get("rate"), "tokens/s", wanted, note=note)
        )
    lines.append(line(f"{what}, memory", we.get("peak_gib"), raw["generate"].get("peak_gib"), "GiB"))
    if "rate" in part:
        lines.append(alone(f"{what}, alone", we.get("rate"), "tokens/s", at_least(part["rate"])))
    return lines, raw


def start_sides(seconds: float) -> Side:
    """A function that runs a side in a process of its own while there is time."""
    began = time.perf_counter()

    def run(side: str, **spec: Any) -> Spec:
        left = seconds - (time.perf_counter() - began)
        return run_side(__file__, side, left, **spec) if left > 20 else {"error": "no time left"}

    return run


def run_forked(side: str, **spec: Any) -> Spec:
    """A side in a fork of this process, which has imported what it needs and computed nothing: quick, but CPU only."""
    import multiprocessing

    import gpu_work

    with contextlib.suppress(ImportError):  # which each fork would take seconds to import again
        from trl import DPOTrainer, SFTTrainer  # noqa: F401

    mine, its = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        try:
            found = gpu_work.SIDES[side](**spec)
        except Exception as error:  # told, whatever the reason, and the others go on
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        its.send(found)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    its.close()
    try:
        return mine.recv()
    except EOFError:
        return {"error": f"{side} died"}
    finally:
        process.join()


def measure_parts(names: list[str], run: Side, dry: bool) -> Spec:
    """By part: its lines and its raw numbers."""
    found: Spec = {}
    for name in names:
        part = shrink_part(PARTS[name]) if dry else PARTS[name]
        measure = measure_sampling if part["kind"] == "sampling" else measure_training
        lines, raw = measure(name, part, run, dry)
        found[name] = {"lines": lines, "raw": raw}
        say(table(lines))
    return found


def write_results(path: Path, found: Spec, about: Spec) -> None:
    """Add what was measured to a file, by card and versions, and write all tables beside it."""
    versions = about["versions"]
    key = f"{about['device']}, torch {versions['torch']}, transformers {versions['transformers']}"
    results: Spec = json.loads(path.read_text()) if path.exists() else {}
    entry = results.setdefault(key, {"parts": {}})
    entry["machine"] = about
    for name, part in found.items():
        entry["parts"][name] = {**part, "date": about["date"]}
    path.write_text(json.dumps(results, default=plain, indent=1) + "\n")
    results = json.loads(path.read_text())  # lines as JSON objects, those of before and those of now
    tables = ["# On a GPU"]
    for card, entry in results.items():
        parts = [entry["parts"][name] for name in PARTS if name in entry["parts"]]
        dates = sorted({part["date"][:10] for part in parts})
        tables.append(
            f"## {card}\n\n{table([line for part in parts for line in part['lines']])}\n\nMeasured {', '.join(dates)}."
        )
    path.with_suffix(".md").write_text("\n\n".join(tables) + "\n")


def main() -> None:
    """Measure, print the tables and write them; or be one side's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="start nothing after this long")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas; default all")
    parser.add_argument("--dry", action="store_true", help="every line at toy size")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu.json, with gpu.md beside it")
    options = options_of(parser, LazySides())
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"--parts: {unknown[0]} is not {', '.join(PARTS)}")
    import torch

    if not (options.dry or options.tiny or torch.cuda.is_available()):
        sys.exit("torch finds no CUDA device here; --dry runs every line at toy size")
    dry = options.dry or options.tiny
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    forks = dry and not torch.cuda.is_available()
    found = measure_parts(names, run_forked if forks else start_sides(options.seconds), dry)
    out = options.out or (None if dry else RESULTS / "gpu.json")
    if out is not None:
        write_results(out, found, {**machine(), "device": device})


class LazySides(dict[str, Side]):
    """The sides by name; what they need is imported when one is run, not in the process that starts the others."""

    def __init__(self) -> None:
        names = ("sft_ours", "sft_theirs", "dpo_ours", "dpo_theirs", "sample_answers")
        super().__init__({name: lambda name=name, **spec: self._run(name, spec) for name in names})

    @staticmethod
    def _run(name: str, spec: Spec) -> Spec:
        from gpu_work import SIDES

        return SIDES[name](**spec)


if __name__ == "__main__":
    main()
