"""Tuners that choose among the model's own weights: some layers, one block, biases."""

from __future__ import annotations

from holdfast.lab.reproduce.base import WIDE_RATES, Claim, Figure, gain_of, loss_of
from holdfast.lab.reproduce.rule import gains_as_much, gains_more

_SFT = ["method=sft"]

FREEZE = Claim(
    claim="The last quarter of the layers alone reaches nine tenths of what all layers gain.",
    paper="Lee et al. 2019, arXiv 1911.03090",
    arms={"sft": _SFT, "last quarter": ["tuner=freeze"], "first quarter": ["tuner={name: freeze, side: first}"]},
    figures=(
        Figure("target, all layers", "100 % (GLUE, BERT and RoBERTa)", gain_of("sft")),
        Figure("target, last quarter", "90 %", gain_of("last quarter")),
        Figure("target, first quarter", "not given", gain_of("first quarter")),
        Figure("lost elsewhere, all layers", "not measured", loss_of("sft")),
        Figure("lost elsewhere, last quarter", "not measured", loss_of("last quarter")),
    ),
    expects=(gains_as_much("last quarter", "sft", share=0.9, at="best"),),
    rates=WIDE_RATES,
)

LISA = Claim(
    claim="Layers drawn anew every few steps gain as much as LoRA and as training everything.",
    paper="Pan et al. 2024, arXiv 2403.17919",
    arms={
        "sft": _SFT,
        "lora": ["method=lora", "optimizer.learning_rate=5e-3"],
        "lisa": ["tuner={name: lisa, layers: 1, every: 10}"],
    },
    figures=(
        Figure("target, full", "below LISA (MT-Bench)", gain_of("sft")),
        Figure("target, LoRA", "10 to 35 % below LISA (MT-Bench)", gain_of("lora")),
        Figure("target, LISA", "reference", gain_of("lisa")),
        Figure("lost elsewhere, full", "not measured", loss_of("sft")),
        Figure("lost elsewhere, LISA", "not measured", loss_of("lisa")),
    ),
    expects=(gains_as_much("lisa", "sft", at="best"), gains_as_much("lisa", "lora", at="best")),
    rates=WIDE_RATES,
)

SURGICAL = Claim(
    claim="Where answers look otherwise, the last block alone gains as much as everything, and more than the first.",
    paper="Lee et al. 2022, arXiv 2210.11466",
    arms={
        "sft": _SFT,
        "last block": [r"tuner={name: surgical, modules: [self_attn, mlp], layers: [-1]}"],
        "first block": [r"tuner={name: surgical, modules: [self_attn, mlp], layers: [0]}"],
    },
    figures=(
        Figure("target, everything", "below the block that fits (image shifts)", gain_of("sft")),
        Figure("target, last block", "best where outputs shift", gain_of("last block")),
        Figure("target, first block", "best where inputs shift", gain_of("first block")),
        Figure("lost elsewhere, everything", "not measured", loss_of("sft")),
        Figure("lost elsewhere, last block", "not measured", loss_of("last block")),
    ),
    expects=(
        gains_as_much("last block", "sft", at="best"),
        gains_more("last block", "first block", at="best"),
    ),
    rates=WIDE_RATES,
)

BITFIT = Claim(
    claim="Biases alone gain as much as all weights where there is little data.",
    paper="Ben Zaken et al. 2021, arXiv 2106.10199",
    arms={"sft": _SFT, "bitfit": ["tuner={name: bitfit, add: true}", "optimizer.learning_rate=1e-2"]},
    figures=(
        Figure("target, full", "reference (GLUE, BERT)", gain_of("sft")),
        Figure("target, biases", "competitive, at times better, with few rows", gain_of("bitfit")),
        Figure("lost elsewhere, full", "not measured", loss_of("sft")),
        Figure("lost elsewhere, biases", "not measured", loss_of("bitfit")),
    ),
    expects=(gains_as_much("bitfit", "sft", at="best"),),
    rates=WIDE_RATES,
    common={"data": {"train": "lab:story", "limit": 250}},
)
