"""What is said to make seeds end nearer to each other, side by side, as Du and Nguyen 2023 look at it again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from holdfast.lab.reproduce.at_the_logits import train_arms
from holdfast.lab.reproduce.base import Study, merge_settings
from holdfast.lab.reproduce.inside_models import STORY, measure_apart
from holdfast.lab.reproduce.rule import quantity_above

METHODS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "mixout": {"train": {"mixout": 0.1}},
    "layer decay": {"optimizer": {"layer_decay": 0.95}},
    "l2sp": {"objective": {"name": "l2sp", "strength": 0.01}},
}
"""Of the paper's four all but the new start of the top layers, by which a language model would forget how to speak.

Decay towards the base is as strong as decay towards zero usually is.
"""
RUNS = 3
"""Seeds of each method."""


SEEDS_STORY = merge_settings(STORY, {"evaluate": {"items": 50, "keep": ["lab:strings"]}})


def measure_methods(seed: int, work: Mapping[str, Any] = SEEDS_STORY) -> dict[str, float]:
    """Of each method the mean gain, and over its runs what differs: scores, answers, distributions, last states."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in METHODS.items():
            arms = {f"{name} {k}": merge_settings(changes, {"train": {"seed": RUNS * seed + k}}) for k in range(RUNS)}
            reports = train_arms(folder, seed, arms, work)
            out[f"{name} gain"] = sum(float(report["gain"]["delta"]) for report in reports.values()) / RUNS
            out |= measure_apart(name, [f"{folder}/{arm}" for arm in arms])
    return out


QUOTED = {
    "plain": "reference",
    "mixout": "smaller (BERT-large, small GLUE sets; Lee et al. 2020)",
    "layer decay": "looked at again, no number quoted here",
    "l2sp": "looked at again, no number quoted here",
}

SIDE_BY_SIDE = Study(
    claim="Mixout, layer-wise decay of the rate and decay towards the base make seeds differ less, at a like gain.",
    paper="Du and Nguyen 2023, arXiv 2302.07778; Lee et al. 2020, arXiv 1909.11299",
    measure=measure_methods,
    figures=tuple(
        (f"{what}, {name}", paper if key == "deviation" else "not measured", f"{name} {key}")
        for key, what in (
            ("gain", "gained (points)"),
            ("deviation", "deviation of the score (points)"),
            ("apart", "two seeds judge differently (%)"),
            ("divergence", "Jensen-Shannon divergence (nats)"),
            ("states", "last layer's states, 1 - CKA"),
        )
        for name, paper in QUOTED.items()
    ),
    expects=tuple(
        quantity_above(f"plain {key}", f"{name} {key}", f"{name}: {what}")
        for name in METHODS
        if name != "plain"
        for key, what in (("apart", "fewer answers differ"), ("divergence", "distributions differ less"))
    )
    + tuple(
        quantity_above(f"{name} gain", "plain gain", f"{name}: as much is gained", by=-5.0)
        for name in METHODS
        if name != "plain"
    ),
    verdict=lambda values: (
        "The paper's numbers are of classifiers on small GLUE sets. Shares are the paper's, l2sp is as strong as decay "
        "towards zero usually is; a start of the top layers anew is left out."
    ),
    seeds=3,
)
