"""Dedup, decontaminate, filter and FLAN: what it is worth which rows are trained on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.data.rows import Row
from holdfast.lab.reproduce.base import Claim, Figure, gain_of, loss_of, points_gained, write_rows
from holdfast.lab.reproduce.rule import gains_more, loses_less
from holdfast.skills import load_skill

TARGET_ALONE: dict[str, Any] = {"data": {"limit": None}, "evaluate": {"keep": ["none"]}}
"""Where only the target counts."""
MIXTURE = ("sums", "story", "points", "route", "strings", "format")
HELD_OUT = ("lab:cipher", "lab:facts", "lab:reading", "lab:revise")
JUDGED = {"judge": {"name": "lab", "skill": "story"}}


def build_story_rows(count: int, split: Any = "train", seed: int = 0) -> list[Row]:
    """Word problems in the gold style."""
    return load_skill("story").generate_rows(count, split, seed, style="gold")


def write_duplicates(folder: Path) -> Mapping[str, Any]:
    """300 different problems, of which 20 stand 40 times and more."""
    rows = build_story_rows(300)
    many = [*rows, *(replace(row) for row in rows[:20] for _ in range(40))]
    random.Random(0).shuffle(many)
    test = write_rows(folder / "test.jsonl", build_story_rows(200, "test", seed=7))
    return {"data": {"train": write_rows(folder / "train.jsonl", many), "test": test}, **JUDGED}


def write_leaks(folder: Path) -> Mapping[str, Any]:
    """200 problems to train on, and of the 200 that are measured every second one, six times."""
    test_rows = build_story_rows(200, "test", seed=7)
    many = [*build_story_rows(200), *(replace(row) for row in test_rows[::2] for _ in range(6))]
    random.Random(0).shuffle(many)
    files = {"train": write_rows(folder / "train.jsonl", many), "test": write_rows(folder / "test.jsonl", test_rows)}
    return {"data": files, **JUDGED}


def write_wrong_answers(folder: Path) -> Mapping[str, Any]:
    """600 problems, of which half have the answer of another; their references are right."""
    rows, rng = build_story_rows(600), random.Random(0)
    spoilt = [
        replace(row, messages=[*row.prompt, {"role": "assistant", "content": rng.choice(rows).answer}], id="")
        if rng.random() < 0.5
        else row
        for row in rows
    ]
    test = write_rows(folder / "test.jsonl", build_story_rows(200, "test", seed=7))
    return {"data": {"train": write_rows(folder / "train.jsonl", spoilt), "test": test}, **JUDGED}


# Where one arm stays at the base, or falls, by the claim itself, the other is held against the base: the rule calls a
# comparison with an arm that did not rise undecided.


def describe_gains(arms: Mapping[str, dict[str, Any]]) -> str:
    """What each arm gained on the target, where nothing else is measured."""
    return "; ".join(f"{label} gained {points_gained(arms, label):.1f} points" for label in arms) + "."


DEDUP = Claim(
    claim="Without duplicates the same number of steps leads further.",
    paper="Lee et al. 2022, arXiv 2107.06499",
    arms={"all": ["method=sft"], "dedup": ["method=dedup", "curate={near: null}"]},
    figures=(
        Figure("target, all rows", "perplexity 22.8 (C4, near duplicates of it)", gain_of("all")),
        Figure("target, without duplicates", "about the same or better, in fewer steps", gain_of("dedup")),
    ),
    expects=(gains_more("dedup", "all"),),
    common=TARGET_ALONE,
    verdict=describe_gains,
    files=write_duplicates,
)

DECONTAMINATE = Claim(
    claim="Measured questions among the training rows raise the score; leaving them out takes that away.",
    paper="Brown et al. 2020, arXiv 2005.14165",
    arms={"contaminated": ["method=sft", "data.decontaminate=false"], "decontaminated": ["method=decontaminate"]},
    figures=(
        Figure("target, measured questions trained on", "small for most of their tasks", gain_of("contaminated")),
        Figure("target, without them", "the clean score", gain_of("decontaminated")),
    ),
    expects=(gains_more("contaminated"),),
    common=TARGET_ALONE,
    verdict=describe_gains,
    files=write_leaks,
)

FILTER = Claim(
    claim="Rows that a check finds wrong are better left out: fewer rows, a better model.",
    paper="Rae et al. 2021, arXiv 2112.11446",
    arms={"all": ["method=sft"], "filter": ["method=filter", "curate={judge: true}"]},
    figures=(
        Figure("target, all rows", "worse (loss of pages without filters)", gain_of("all")),
        Figure("target, right rows", "better", gain_of("filter")),
    ),
    expects=(gains_more("filter"),),
    common=TARGET_ALONE,
    verdict=describe_gains,
    files=write_wrong_answers,
)

OTHERS = [name for name in MIXTURE if name != "story"]
FLAN = Claim(
    claim="Trained on more tasks, a model is better on clusters of tasks that were held out.",
    paper="Chung et al. 2022, arXiv 2210.11416",
    arms={
        "one task": ["method=flan", f"curate.held_out={json.dumps(OTHERS)}"],
        "six tasks": ["method=flan"],
    },
    figures=(
        Figure("target (one of the six tasks), trained on alone", "not given", gain_of("one task")),
        Figure("target, one of six tasks", "not given", gain_of("six tasks")),
        Figure("lost on held-out clusters, one task", "more", loss_of("one task")),
        Figure("lost on held-out clusters, six tasks", "none: +9.4 (540B, 1,836 tasks)", loss_of("six tasks")),
    ),
    expects=(loses_less("six tasks", "one task"),),
    common={
        "data": {"train": [f"lab:{name}" for name in MIXTURE], "limit": None, "test": 0},
        "evaluate": {"target": "lab:story", "keep": list(HELD_OUT)},
    },
)
