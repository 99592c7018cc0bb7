"""Adapters, (IA)^3 and soft prompts beside LoRA and full fine-tuning: what added weights learn, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.lab.reproduce.base import (
    WIDE_RATES,
    Claim,
    Figure,
    describe_gains_and_losses,
    gain_of,
    loss_of,
    verdict_with_remark,
    write_records,
)
from holdfast.lab.reproduce.known_facts import fact_rows
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more

SETS = {"small": 200, "large": 1000}
"""Rows: a fifth of them, and all; the smaller are within the larger."""


def describe_spread(arms: Mapping[str, dict[str, Any]]) -> str:
    """Gains and losses, and how wide the interval of each gain over the seeds is."""
    widths = "; ".join(f"{name} {part['gain']['high'] - part['gain']['low']:.1f}" for name, part in arms.items())
    return f"{describe_gains_and_losses(arms)} Width of the gain's interval in points: {widths}."


ARMS = {
    "sft": ["method=sft"],
    "adapter": ["tuner=adapter", "optimizer.learning_rate=5e-3"],
    "bitfit": ["tuner={name: bitfit, add: true}", "optimizer.learning_rate=1e-2"],
}

ADAPTER = Claim(
    claim="With a few per cent of the weights adapters come near full fine-tuning.",
    paper="Houlsby et al. 2019, arXiv 1902.00751",
    arms={name: ARMS[name] for name in ("sft", "adapter")},
    figures=(
        Figure("target, full", "reference (GLUE)", gain_of("sft")),
        Figure("target, adapter", "within 0.4 points, with 3.6 % of the weights", gain_of("adapter")),
        Figure("lost elsewhere, full", "not measured", loss_of("sft")),
        Figure("lost elsewhere, adapter", "not measured", loss_of("adapter")),
    ),
    expects=(
        gains_as_much("adapter", "sft", share=0.9, at="best"),
        loses_no_more("adapter", "sft", at="gain"),
    ),
    rates=WIDE_RATES,
)

BITFIT_ADAPTER_FULL = Claim(
    claim="Biases alone gain as much as all weights with few rows and with many, adapters no more than they do.",
    paper="Doering et al. 2024, arXiv 2401.04051",
    arms={f"{name} {size}": [*arm, f"data.limit={rows}"] for size, rows in SETS.items() for name, arm in ARMS.items()},
    figures=tuple(
        Figure(f"{what}, {name} with {rows} rows", paper, of(f"{name} {size}"))
        for what, of in (("target", gain_of), ("lost elsewhere", loss_of))
        for size, rows in SETS.items()
        for name, paper in (
            ("sft", "reference (GLUE)" if what == "target" else "not measured"),
            ("bitfit", "as full; steady at 30 % of the rows" if what == "target" else "not measured"),
            ("adapter", "varies much, no consistent gain" if what == "target" else "not measured"),
        )
    ),
    expects=tuple(
        part
        for size in SETS
        for part in (
            gains_as_much(f"bitfit {size}", f"sft {size}"),
            gains_as_much(f"bitfit {size}", f"adapter {size}"),
        )
    ),
    verdict=describe_spread,
)

QUESTIONS = 32
"""Of training, about as many as the paper's (20 to 70)."""


def write_choice_files(folder: Path) -> dict[str, Any]:
    """Facts the base knows, asked in a form it does not, with four answers to choose from; what that changes."""
    from holdfast.skills.facts import OBJECTS

    rng = random.Random(0)
    paths = {}
    for split in ("train", "test"):
        records = []
        for seen_times, row in fact_rows(held_out=split == "test", one_in=2):
            if seen_times >= 8:
                others = [name for name in OBJECTS[row.meta["relation"]] if name != row.reference]
                choices = [row.reference, *rng.sample(others, 3)]
                rng.shuffle(choices)
                question, answer = row.prompt[-1]["content"], choices.index(row.reference)
                records.append({"question": question, "choices": choices, "answer": answer})
        rng.shuffle(records)
        paths[split] = write_records(folder / f"{split}.jsonl", records[:QUESTIONS] if split == "train" else records)
    data = {"train": paths["train"], "test": 0, "limit": None}
    return {"data": data, "evaluate": {"target": paths["test"]}}  # as a task of its own: choices are ranked


_LIKELIHOOD, _TFEW = "objective={name: tfew, unlikelihood: 0, choice: 0}", "objective=tfew"
_LORA_4 = ["tuner={name: lora, r: 4}", "optimizer.learning_rate=5e-3"]
_IA3 = ["tuner=ia3", "optimizer.learning_rate=3e-2"]

IA3 = Claim(
    claim="(IA)^3 learns from 32 questions at least what LoRA does, with a tenth of its weights, by the likelihood "
    "alone and by T-Few's losses.",
    paper="Liu et al. 2022, arXiv 2205.05638",
    arms={
        "lora": [*_LORA_4, _LIKELIHOOD],
        "ia3": [*_IA3, _LIKELIHOOD],
        "lora tfew": [*_LORA_4, _TFEW],
        "ia3 tfew": [*_IA3, _TFEW],
    },
    figures=(
        Figure("right choices, LoRA, likelihood alone", "not given", gain_of("lora")),
        Figure("right choices, (IA)^3, likelihood alone", "not given", gain_of("ia3")),
        Figure("right choices, LoRA, T-Few's losses", "below (IA)^3 (Figure 2, T0-3B)", gain_of("lora tfew")),
        Figure("right choices, (IA)^3, T-Few's losses", "above LoRA and full fine-tuning", gain_of("ia3 tfew")),
        *(
            Figure(f"lost elsewhere, {label}", "not measured", loss_of(label))
            for label in ("lora", "ia3", "lora tfew", "ia3 tfew")
        ),
    ),
    expects=(
        gains_as_much("ia3", "lora", at="best"),
        gains_as_much("ia3 tfew", "lora tfew", at="best"),
        gains_more("ia3 tfew", at="best"),
    ),
    verdict=verdict_with_remark("Pre-training of the vectors on other tasks, as in the paper, is left out."),
    rates=WIDE_RATES,
    common={"model": "lab", "train": {"batch_tokens": 1024, "max_steps": 60}, "evaluate": {"items": 150}},
    files=write_choice_files,
)

PROMPT = Claim(
    claim="In small models prompt tuning learns far less than full fine-tuning.",
    paper="Lester et al. 2021, arXiv 2104.08691",
    arms={"sft": ["method=sft"], "prompt": ["tuner={name: prompt, tokens: 20}", "optimizer.learning_rate=1e-1"]},
    figures=(
        Figure("target, full", "above prompt tuning below 10 billion parameters (T5)", gain_of("sft")),
        Figure("target, prompt", "far below at the sizes of T5 small and base", gain_of("prompt")),
        Figure("lost elsewhere, full", "not measured", loss_of("sft")),
        Figure("lost elsewhere, prompt", "nothing, without the prompt", loss_of("prompt")),
    ),
    expects=(gains_more("sft", "prompt", at="best"),),
    rates=WIDE_RATES,
    verdict=verdict_with_remark("What is lost elsewhere is asked with the prompt; without it the model is the base."),
)

PTUNING = Claim(
    claim="A network that makes the virtual tokens helps them to learn: p-tuning gains no less than prompt tuning.",
    paper="Liu et al. 2021, arXiv 2103.10385",
    arms={
        "prompt": ["tuner={name: prompt, tokens: 20}", "optimizer.learning_rate=1e-1"],
        "ptuning": ["tuner={name: ptuning, tokens: 20}", "optimizer.learning_rate=1e-2"],
    },
    figures=(
        Figure("target, prompt", "below p-tuning", gain_of("prompt")),
        Figure("target, p-tuning", "above prompts of words (LAMA, SuperGLUE)", gain_of("ptuning")),
        Figure("lost elsewhere, prompt", "not measured", loss_of("prompt")),
        Figure("lost elsewhere, p-tuning", "not measured", loss_of("ptuning")),
    ),
    expects=(gains_as_much("ptuning", "prompt", at="best"),),
    rates=WIDE_RATES,
)

PEFT = Claim(
    claim="VeRA, through PEFT, gains as much as LoRA with a tenth of its weights.",
    paper="Kopiczko et al. 2023, arXiv 2310.11454",
    arms={
        "lora": ["method=lora", "optimizer.learning_rate=5e-3"],
        "vera": [
            "tuner={name: peft, method: vera, settings: {target_modules: all-linear}}",
            "optimizer.learning_rate=5e-2",
        ],
    },
    figures=(
        Figure("target, LoRA", "reference (GLUE, E2E)", gain_of("lora")),
        Figure("target, VeRA", "as much, a tenth of the weights", gain_of("vera")),
        Figure("lost elsewhere, LoRA", "not measured", loss_of("lora")),
        Figure("lost elsewhere, VeRA", "not measured", loss_of("vera")),
    ),
    expects=(gains_as_much("vera", "lora", at="best"),),
    rates=WIDE_RATES,
)

LORA_MODULES = Claim(
    claim="LoRA beside the MLP's maps learns more than beside attention's, and no less than beside all.",
    paper="Schulman et al. 2025, LoRA Without Regret; Biderman et al. 2024, arXiv 2405.09673",
    arms={
        "attention": ["tuner={name: lora, target_modules: attention}", "optimizer.learning_rate=5e-3"],
        "mlp": ["tuner={name: lora, target_modules: mlp}", "optimizer.learning_rate=5e-3"],
        "lora": [
            "method=lora",
            "optimizer.learning_rate=5e-3",
        ],  # all of them, as in other claims, which share its runs
    },
    figures=tuple(
        Figure(f"{what}, {where}", paper, of(arm))
        for what, of in (("target", gain_of), ("lost elsewhere", loss_of))
        for arm, where, paper in (
            ("attention", "attention", "worse"),
            ("mlp", "mlp", "better"),
            ("lora", "all", "as the MLP's alone"),
        )
    ),
    expects=(
        gains_more("mlp", "attention", at="best"),
        gains_as_much("mlp", "lora", at="best"),
        loses_no_more("mlp", "attention", at="gain"),
    ),
    rates=WIDE_RATES,
    verdict=verdict_with_remark("The papers say who learns more; what is lost at equal gain is asked here beside it."),
)
