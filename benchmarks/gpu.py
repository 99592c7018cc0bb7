"""`make bench-gpu`: one run of at most ten minutes on one GPU, with random weights, so that nothing is downloaded.

    python benchmarks/gpu.py                 # writes benchmarks/results/gpu.json and gpu.md
    python benchmarks/gpu.py --tiny          # the same code on the smallest sizes, on a CPU too

Parts, each in a process of its own, in bf16: full fine-tuning of Qwen3-0.6B at rows of 8,192 tokens (a published
reference: 26.0 k tokens/s and 31.7 GiB on one H100 with gradient checkpointing); LoRA on a shape of 4 billion
parameters at 4,096 tokens; DPO with prompts four times as long as the answers; sampling, against `generate`. TRL runs
the same rows where it can be imported: padded with one row a batch, the rows being of one length, so that nothing is
padding. Memory is the accelerator's peak; on a CPU it is the process's. A part that fails, or does not fit, is told
with its reason, and the others go on. Parts that no time is left for (`--seconds`) are left out and told.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
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
QWEN_06B = {
    "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_4B = {
    "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": True,
}  # fmt: skip
SFT: Spec = {"shape": QWEN_06B, "length": 8192, "rows": 64, "per_step": 4, "tuner": "full", "checkpointing": False}
PARTS: dict[str, Spec] = {
    "full": SFT,
    "full, gradient checkpointing": {**SFT, "checkpointing": True},
    "lora": {"shape": QWEN_4B, "length": 4096, "rows": 32, "per_step": 2, "tuner": "lora", "checkpointing": True},
}
DPO: Spec = {"shape": QWEN_06B, "prompt": 1024, "answer": 256, "pairs": 64, "per_step": 8}
SAMPLE: Spec = {"shape": QWEN_06B, "prompts": 256, "tokens": 128, "batch": 128}
STEPS = {"warm": 2, "steps": 5}


def tiny_parts() -> tuple[dict[str, Spec], Spec, Spec]:
    """The parts at their smallest."""
    parts = {name: {**part, "shape": SMALL, "length": 64, "rows": 32} for name, part in PARTS.items()}
    pairs = {"shape": SMALL, "prompt": 16, "answer": 4, "pairs": 32, "per_step": 4}
    return parts, pairs, {"shape": SMALL, "prompts": 8, "tokens": 8, "batch": 4}


def qwen(shape: dict[str, Any], train: bool = True, frozen: bool = False) -> Any:
    """A Qwen3 with random weights: fp32 masters where all weights train, else bf16."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(**shape, max_position_embeddings=40_960, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    torch.manual_seed(0)
    dtype = torch.float32 if train and not frozen else torch.bfloat16
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def peak_gib() -> float:
    """Peak memory of the accelerator, or of this process."""
    import torch
    from common import memory_mib

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else memory_mib() / 1024


def token_table(part: Spec) -> Any:
    """Rows of one length of random tokens, half of each trained."""
    import numpy as np

    from holdfast.data.batching.batches import EncodedSequence, TokenTable

    rng = np.random.default_rng(0)
    trained = np.arange(part["length"]) >= part["length"] // 2
    ids = [rng.integers(3, part["shape"]["vocab_size"], part["length"], dtype=np.int32) for _ in range(part["rows"])]
    return TokenTable.from_sequences(
        [EncodedSequence(one, trained, row) for row, one in enumerate(ids)], fingerprint="benchmark"
    )


def sft_ours(part: Spec, warm: int, steps: int) -> Spec:
    """Holdfast's trainer."""
    from work import holdfast_steps, recipe

    rows = token_table(part)
    tuner = {"name": "lora", "r": 16, "alpha": 32} if part["tuner"] == "lora" else {"name": "full"}
    train = {"precision": "bf16", "gradient_checkpointing": part["checkpointing"]}
    made = recipe(rows, part["per_step"], warm + steps, tuner=tuner, train=train)
    found = holdfast_steps(made, qwen(part["shape"], frozen=part["tuner"] == "lora"), rows, warm)
    return {**found, "peak_gib": peak_gib()}


def sft_theirs(part: Spec, warm: int, steps: int) -> Spec:
    """TRL's SFTTrainer, one row a batch."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer
    from work import Ticks, memory_mib, trl_arguments, word_tokenizer

    rows = [sequence for row in range(part["rows"]) for sequence in token_table(part).sequences(row)]
    ids = [row.ids.tolist() for row in rows]
    labels = [[int(i) if t else -100 for i, t in zip(row.ids, row.label_mask, strict=True)] for row in rows]
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    ticks = Ticks(warm, float("inf"), memory_mib(peak=False))
    with tempfile.TemporaryDirectory() as directory:
        arguments = trl_arguments(directory, warm + steps, 1, part["per_step"], "bf16")
        arguments |= {"gradient_checkpointing": part["checkpointing"], "max_length": part["length"]}
        trainer = SFTTrainer(
            qwen(part["shape"], frozen=part["tuner"] == "lora"), args=SFTConfig(**arguments),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}), processing_class=word_tokenizer(),
            peft_config=lora if part["tuner"] == "lora" else None, callbacks=[ticks],
        )  # fmt: skip
        trainer.train()
    return {**ticks.clock.result(), "peak_gib": peak_gib()}


def pairs_of(part: Spec) -> tuple[list[Any], Any]:
    """Pairs of random words and their tokenizer."""
    from work import word_pairs, word_tokenizer

    words = min(part["shape"]["vocab_size"], 16_384)
    return word_pairs(part["pairs"], part["prompt"], part["answer"], words), word_tokenizer(words)


def dpo_ours(part: Spec, warm: int, steps: int) -> Spec:
    """Holdfast's trainer on pairs; a pair counts for the tokens of its two sequences."""
    import numpy as np
    from dpo import whole_length
    from work import holdfast_steps, recipe

    from holdfast.data.batching.tokenize import build_table
    from holdfast.data.chat.encoder import Chat

    rows, tokenizer = pairs_of(part)
    chat = Chat(tokenizer)
    rows_table, _ = build_table(rows, chat, max_length=8192, kind="pair")
    lengths = np.array([whole_length(chat, row) for row in rows])
    made = recipe(rows_table, part["per_step"], warm + steps, objective="dpo", train={"precision": "bf16"})
    found = holdfast_steps(made, qwen(part["shape"]), rows_table, warm, lengths=lengths)
    return {**found, "peak_gib": peak_gib()}


def dpo_theirs(part: Spec, warm: int, steps: int) -> Spec:
    """TRL's DPOTrainer with the reference computed beforehand, as many pairs a batch as a step has."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from work import Ticks, memory_mib, trl_arguments

    rows, tokenizer = pairs_of(part)
    columns = {
        "prompt": [row.prompt[-1]["content"] for row in rows],
        "chosen": [f" {row.chosen}" for row in rows],
        "rejected": [f" {row.rejected}" for row in rows],
    }
    ticks = Ticks(warm, float("inf"), memory_mib(peak=False))
    with tempfile.TemporaryDirectory() as directory:
        arguments = trl_arguments(directory, warm + steps, part["per_step"], part["per_step"], "bf16")
        config = DPOConfig(**arguments, max_length=None, precompute_ref_log_probs=True)
        trainer = DPOTrainer(
            qwen(part["shape"]), args=config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer,
            callbacks=[ticks],
        )  # fmt: skip
        trainer.train()
    return {**ticks.clock.result(), "peak_gib": peak_gib()}


def sampling_side(part: Spec, ours: bool) -> Spec:
    """Answers of one length to random prompts: the native engine, or `generate`; the second of two runs."""
    import random

    import sampling
    from work import word_tokenizer

    from holdfast.data.chat.encoder import Chat

    chat = Chat(word_tokenizer(sampling.WORDS if part["shape"]["vocab_size"] > sampling.WORDS else 512))
    chat.stop_ids = set()
    words, rng = len(chat.tokenizer), random.Random(0)
    asked = [
        " ".join(f"w{rng.randrange(3, words)}" for _ in range(rng.randint(16, 256))) for _ in range(part["prompts"])
    ]
    model = qwen(part["shape"], train=False).eval()
    how = {"tokens": part["tokens"], "temperature": 1.0, "n": 1}
    way = (lambda: sampling.native(model, chat, asked, how, part["batch"])) if ours else None
    way = way or (lambda: sampling.generate(model, chat, asked, how, part["batch"]))
    found = best([way() for _ in range(2)])
    found.pop("answers")
    return {**found, "peak_gib": peak_gib()}


SIDES = {
    "sft_ours": sft_ours,
    "sft_theirs": sft_theirs,
    "dpo_ours": dpo_ours,
    "dpo_theirs": dpo_theirs,
    "sampling": sampling_side,
}


def measure(tiny: bool, seconds: float) -> tuple[list[Line], Spec]:
    """All parts while there is time."""
    began = time.perf_counter()
    parts, pairs, sample = tiny_parts() if tiny else (PARTS, DPO, SAMPLE)
    raw: Spec = {}

    def side(name: str, **spec: Any) -> Spec:
        left = seconds - (time.perf_counter() - began)
        raw_name = f"{name} {len(raw)}"
        raw[raw_name] = run_side(__file__, name, left, **spec) if left > 20 else {"error": "no time left"}
        say(f"  {raw_name}: {raw[raw_name].get('rate', raw[raw_name].get('error'))}")
        return raw[raw_name]

    lines: list[Line] = []
    for name, part in parts.items():
        we, they = (side(f"sft_{who}", part=part, **STEPS) for who in ("ours", "theirs"))
        lines += both(f"GPU: {part['tuner']} SFT, {name}, {part['length']} tokens", we, they)
    full = [raw[name] for name in raw if name.startswith("sft_ours")][:2]
    fitting = best([run for run in full if run.get("peak_gib", 99) <= 28] or full)
    lines.append(alone("GPU: Qwen3-0.6B full SFT at 8,192", fitting.get("rate"), "tokens/s", at_least(60_000)))
    lines.append(alone("GPU: its memory", fitting.get("peak_gib"), "GiB", at_most(28)))
    we, they = (side(f"dpo_{who}", part=pairs, **STEPS) for who in ("ours", "theirs"))
    lines += both("GPU: DPO, prompts 4 times the answers", we, they)
    we, they = (side("sampling", part=sample, ours=ours) for ours in (True, False))
    lines += both("GPU: sampling against generate", we, they)
    return lines, raw


def both(what: str, we: Spec, they: Spec) -> list[Line]:
    """Speed and memory of two sides."""
    note = reason(we, they)
    return [
        line(what, we.get("rate"), they.get("rate"), "tokens/s", note=note),
        line(f"{what}, memory", we.get("peak_gib"), they.get("peak_gib"), "GiB"),
    ]


def main() -> None:
    """Measure, print the table and write it; or be one side's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=570, help="start nothing after this long")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu.json, with gpu.md beside it")
    options = options_of(parser, SIDES)
    lines, raw = measure(options.tiny, options.seconds)
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    about = {**machine(), "device": device}
    print(table(lines))
    out = options.out or (None if options.tiny else RESULTS / "gpu.json")
    if out is None:
        sys.exit(0)
    out.write_text(json.dumps({"machine": about, "lines": lines, "raw": raw}, default=plain, indent=1) + "\n")
    out.with_suffix(".md").write_text(f"{table(lines)}\n\nMeasured {about['date'][:10]} on {device}.\n")


if __name__ == "__main__":
    main()
