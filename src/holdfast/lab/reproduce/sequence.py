"""Half fine-tuning in a sequence of trainings: what is left of the first tasks, and how it is drawn."""

from __future__ import annotations

from typing import Any

from holdfast.lab.reproduce.base import RATES, Claim, Figure, gain_of, loss_of
from holdfast.lab.reproduce.rule import gains_as_much, loses_less

_UNMEASURED: dict[str, Any] = {"target": "none", "keep": [], "live_items": 0}
_STAGES = [
    {"name": skill, "data": {"train": f"lab:{skill}", "limit": 400, "test": 0}, "evaluate": _UNMEASURED}
    for skill in ("points", "cipher", "story")
]

HALF = Claim(
    claim="Three tasks in sequence, each with a new half, leave more of all else than full fine-tuning does, and gain "
    "as much on the last.",
    paper="Hui et al. 2024, arXiv 2404.18466",
    arms={
        "sft": ["method=sft"],
        "half": ["tuner=half"],
        "by layer": ["tuner={name: half, level: layer}"],
        "by model": ["tuner={name: half, level: model}"],
        "one half": ["tuner={name: half, redraw: run}"],
    },
    figures=(
        Figure("target, full", "45.7 (TRACE in sequence, Llama-2-7B)", gain_of("sft")),
        Figure("target, by category", "51.3", gain_of("half")),
        Figure("target, by layer", "47.9", gain_of("by layer")),
        Figure("target, by model", "46.9", gain_of("by model")),
        Figure("target, one half for all", "not given", gain_of("one half")),
        Figure("lost elsewhere, full", "10.2 (backward transfer)", loss_of("sft")),
        Figure("lost elsewhere, by category", "5.6", loss_of("half")),
        Figure("lost elsewhere, by layer", "not given", loss_of("by layer")),
        Figure("lost elsewhere, by model", "not given", loss_of("by model")),
        Figure("lost elsewhere, one half for all", "not given", loss_of("one half")),
    ),
    expects=(gains_as_much("half", "sft", at="best"), loses_less("half", "sft", at="gain")),
    rates=RATES,
    common={"model": "lab-small", "train": {"max_steps": 60}, "evaluate": {"items": 100}, "stages": _STAGES},
)
