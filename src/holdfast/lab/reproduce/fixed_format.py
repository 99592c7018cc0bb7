"""ProMoT: a task whose answers are one of two words, and what is left of everything else afterwards."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.lab.reproduce.base import Claim, Figure, gain_of, loss_of, write_records
from holdfast.lab.reproduce.rule import gains_as_much, loses_less

ROWS, TEST = 600, 150


def write_comparisons(folder: Path) -> Mapping[str, Any]:
    """Questions whether a sum is above a number, answered by yes or no; what that changes in a recipe."""
    rng, questions = random.Random(0), set[str]()
    rows: list[dict[str, str]] = []
    while len(rows) < ROWS + TEST:
        one, two, line = rng.randint(1, 40), rng.randint(1, 40), rng.randint(5, 80)
        question = f"Is {one} + {two} more than {line}?"
        if question not in questions:
            questions.add(question)
            rows.append({"prompt": question, "completion": "yes" if one + two > line else "no"})
    parts = {"train": rows[:ROWS], "test": rows[ROWS:]}
    data = {name: write_records(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    return {"data": data, "judge": "exact"}


PROMOT = Claim(
    claim="With a prompt that takes in the format first, as much is gained on the target and less lost elsewhere.",
    paper="Wang et al. 2022, arXiv 2211.00635",
    arms={
        "sft": ["method=sft"],
        "promot": ["tuner={name: promot, tokens: 10, prompt_share: 0.5, prompt_rate: 0.05}"],
    },
    figures=(
        Figure("target, full", "comparable (RTE and others, mT5-XXL)", gain_of("sft")),
        Figure("target, ProMoT with its prompt", "comparable", gain_of("promot")),
        Figure("lost elsewhere, full", "most of in-context learning", loss_of("sft")),
        Figure("lost elsewhere, ProMoT without its prompt", "far less; on some tasks a gain", loss_of("promot")),
    ),
    expects=(gains_as_much("promot", "sft", at="best"), loses_less("promot", "sft", at="best")),
    rates=(0.3, 1),
    common={"data": {"train": "lab:story", "limit": None}},
    files=write_comparisons,
)
