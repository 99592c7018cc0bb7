"""A tiny Llama of 64 tokens learns to read 256: LongLoRA with and without what it adds to LoRA, YaRN in few steps."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above, quantity_below

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PreTrainedModel

SHORT, LONG = 64, 256
LETTERS, PERIOD, NOISE = 28, 8, 0.3
"""Letters, length of the motif that each document repeats, and share of letters that stray from it: one must look back
by whole periods, which is a matter of positions, and the more of them one sees, the less the strays matter."""
RATES = (2e-3, 6e-3)
"""Of which each way of extending has its better one: LoRA's is usually above that of all weights."""
PRETRAINING, EXTENSION = 400, 60
"""Steps of 64 and of 256 tokens."""


def write_documents(count: int, length: int, random: Generator) -> Tensor:
    """Documents [count, length], each a motif of its own over and over, with strays."""
    import torch

    motifs = torch.randint(LETTERS, (count, PERIOD), generator=random)
    text = motifs.repeat(1, math.ceil(length / PERIOD))[:, :length]
    strays = torch.rand(count, length, generator=random) < NOISE
    return torch.where(strays, torch.randint(LETTERS, (count, length), generator=random), text)


def train_on_documents(model: Any, steps: int, length: int, rate: float, random: Generator) -> None:
    """Minimise the cross-entropy of fresh documents, in place; 2,048 tokens a step."""
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    rule = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step in range(steps):
        for group in rule.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20)
        ids = write_documents(2048 // length, length, random)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        rule.zero_grad()
        loss.backward()
        rule.step()
    model.eval()


def compute_perplexity(model: Any, length: int, seed: int) -> float:
    """Of the same 64 documents for every model, whole attention."""
    import torch

    ids = write_documents(64, length, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        return math.exp(float(model(input_ids=ids, labels=ids, use_cache=False).loss))


def build_short_model(seed: int) -> PreTrainedModel:
    """A Llama of two layers that has read documents of 64 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(  # type: ignore[call-arg]  # takes its fields at run time
        vocab_size=LETTERS, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=SHORT, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    train_on_documents(model, PRETRAINING, SHORT, 3e-3, torch.Generator().manual_seed(seed))
    return model


def measure_longlora(seed: int) -> dict[str, float]:
    """Perplexity at four times the length, after every way of getting there."""
    import torch

    from holdfast.methods.tuners.longlora import LongLoRA
    from holdfast.models.positions import interpolate_positions

    base = build_short_model(seed)
    arms: dict[str, Any] = {
        "full": None,
        "lora": LongLoRA(length=LONG, embeddings=False, norms=False),
        "norms": LongLoRA(length=LONG, embeddings=False),
        "embeddings": LongLoRA(length=LONG, norms=False),
        "both": LongLoRA(length=LONG),
        "whole attention": LongLoRA(length=LONG, groups=1, shift=False),
    }
    out = {"short": compute_perplexity(base, SHORT, seed)}
    longer = copy.deepcopy(base)
    interpolate_positions(longer, LONG / SHORT)
    out["untrained"] = compute_perplexity(longer, LONG, seed)
    for name, tuner in arms.items():
        start = base if tuner is not None else longer
        each = []
        for rate in RATES:
            model = copy.deepcopy(start) if tuner is None else tuner.apply(copy.deepcopy(start), seed)
            train_on_documents(model, EXTENSION, LONG, rate, torch.Generator().manual_seed(seed + 1))
            each.append(compute_perplexity(model, LONG, seed))
        out[name] = min(each)
    gap = out["lora"] - out["full"]
    out["closed"] = 100 * (out["lora"] - out["both"]) / gap if gap else 0.0
    out["apart"] = 100 * (out["both"] / out["whole attention"] - 1)
    return out


LONGLORA = Study(
    claim="At four times the length LoRA alone stays behind full fine-tuning; trained embeddings and norms close most "
    "of the gap, and attention in shifted groups costs next to nothing.",
    paper="Chen et al. 2023, arXiv 2309.12307",
    measure=measure_longlora,
    figures=(
        ("perplexity at the short length, base", "not comparable", "short"),
        ("at four times, interpolated, untrained", "not given", "untrained"),
        ("at four times, full", "8.08 (Llama-2-7B, 32,768 tokens)", "full"),
        ("LoRA", "11.44", "lora"),
        ("LoRA and norms", "10.49", "norms"),
        ("LoRA and embeddings", "8.29", "embeddings"),
        ("LoRA, norms and embeddings", "8.12", "both"),
        ("the same, trained with whole attention", "8.08 to 8.12", "whole attention"),
        ("share of the gap that they close, %", "99", "closed"),
    ),
    expects=(
        quantity_above("lora", "full", "LoRA alone stays behind full fine-tuning"),
        quantity_above("closed", 70.0, "embeddings and norms close 70 % of the gap"),
        quantity_below("apart", 3.0, "groups cost less than 3 % of perplexity against whole attention"),
    ),
    seeds=3,
)


FEW = 10
"""Steps of YaRN, a sixth of the others."""


def measure_yarn(seed: int) -> dict[str, float]:
    """Perplexity at four times the length and at the old one, with YaRN's angles and with all of them interpolated."""
    import torch

    from holdfast.methods.tuners.yarn import YaRN

    base = build_short_model(seed)
    out = {"short": compute_perplexity(base, SHORT, seed)}
    for kind in ("yarn", "linear"):
        start = YaRN(length=LONG, positions=kind).apply(copy.deepcopy(base), seed)
        out[f"{kind}, untrained"] = compute_perplexity(start, LONG, seed)
        each = []
        for rate in RATES:
            model = copy.deepcopy(start)
            train_on_documents(model, FEW, LONG, rate, torch.Generator().manual_seed(seed + 1))
            each.append((compute_perplexity(model, LONG, seed), compute_perplexity(model, SHORT, seed)))
        out[kind], out[f"{kind}, short"] = min(each)
    return out


YARN = Study(
    claim="At four times the length YaRN's angles are worth more than position interpolation's, before training and "
    "after a few steps, and the old length suffers less.",
    paper="Peng et al. 2023, arXiv 2309.00071",
    measure=measure_yarn,
    figures=(
        ("perplexity at the short length, base", "not comparable", "short"),
        ("at four times, untrained, YaRN", "not comparable", "yarn, untrained"),
        ("at four times, untrained, interpolation", "not comparable", "linear, untrained"),
        ("at four times, after 10 steps, YaRN", "2.5 times fewer steps needed", "yarn"),
        ("at four times, after 10 steps, interpolation", "not comparable", "linear"),
        ("at the short length, after them, YaRN", "not comparable", "yarn, short"),
        ("at the short length, after them, interpolation", "not comparable", "linear, short"),
    ),
    expects=(
        quantity_above("linear, untrained", "yarn, untrained", "untrained, interpolation is behind YaRN"),
        quantity_above("linear", "yarn", "after 10 steps, interpolation is behind YaRN"),
        quantity_above("linear, short", "yarn, short", "at the short length, interpolation is behind YaRN"),
    ),
    seeds=3,
)
