"""What analyses see in runs of the laboratory's models, beside what their papers saw."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from holdfast.lab.reproduce.at_the_logits import train_arms
from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above

STORY: Mapping[str, Any] = {
    "model": "lab-small", "data": {"train": "lab:story", "limit": 600}, "optimizer": {"learning_rate": 1e-3},
    "train": {"batch_tokens": 1024, "max_steps": 60}, "evaluate": {"items": 100, "every": 0, "max_tokens": 80},
}  # fmt: skip
"""Word problems in a new manner, of which SFT learns about half and pays for it elsewhere."""


def section_of(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an analysis added to a report."""
    return next(section for section in report["analyses"] if section["name"] == name)


def measure_flips(seed: int) -> dict[str, float]:
    """In percent of all judged answers: lost, lost less won, and of the lost ones those that lost the form alone."""
    with tempfile.TemporaryDirectory() as folder:
        report = train_arms(folder, seed, {"sft": {"analyses": ["lost_and_found"]}}, STORY)["sft"]
    n_asked = sum(task["n"] for task in report["tasks"] if task["unit"] == "points")
    counts = {"lost": 0, "won": 0, "form": 0}
    for _, _, flip, cause, count in section_of(report, "lost_and_found")["table"]["rows"]:
        counts[flip] += count
        counts["form"] += count * (flip == "lost" and cause in ("form", "never stops", "empty"))
    return {
        "gain": float(report["gain"]["delta"]), "lost": 100 * counts["lost"] / n_asked,
        "net": 100 * (counts["lost"] - counts["won"]) / n_asked, "form": 100 * counts["form"] / max(counts["lost"], 1),
    }  # fmt: skip


LOST_AND_FOUND = Study(
    claim="A model that became better answers questions wrong that it answered right before.",
    paper="Yan et al. 2021, arXiv 2011.09161",
    measure=measure_flips,
    figures=(
        ("gained on the target (points)", "the new model has the lower error", "gain"),
        ("answers lost (% of all)", "some, at any gain (ImageNet)", "lost"),
        ("answers lost less answers won (% of all)", "below 0", "net"),
        ("of the lost ones: form, no end, or empty (%)", "not measured", "form"),
    ),
    expects=(
        quantity_above("gain", 0.0, "the run gains on its target", by=5.0),
        quantity_above("lost", 0.0, "answers are lost all the same", by=1.0),
    ),
    verdict=lambda values: "Answers to the target and to the kept tasks together.",
    seeds=3,
)
