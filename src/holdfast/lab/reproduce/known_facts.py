"""Facts the base knows or does not: what few questions open, what unknown answers cost, and form against facts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.data.rows import Row
from holdfast.lab.reproduce.base import (
    Claim,
    Figure,
    Study,
    gain_of,
    loss_of,
    task_change_of,
    verdict_with_remark,
    write_rows,
)
from holdfast.lab.reproduce.rule import Expectation, gains_as_much, gains_more, quantity_above

HELD_OUT = 4
"""One subject in this many is asked about in the test alone; of memory levels every other, for more questions."""

FORM = "[{s}] [{r}] [ ]"
"""A form of which the base makes nothing: it answers 4 % of the facts in it that it answers all in plain words."""

PROBES = ("{plain}", "{other}")
"""The two ways in which the base is probed: as it was asked in pre-training."""


def fact_rows(*, held_out: bool, one_in: int = HELD_OUT) -> Iterable[tuple[int, Row]]:
    """How often each fact was seen in pre-training, and the fact as a question of a form that is new to the model.

    Args:
        held_out: Of the subjects of the test, or of the others.
        one_in: How many subjects there are for each of the test.
    """
    from holdfast.skills.facts import OBJECTS, PHRASINGS, exposure_level, fact_object
    from holdfast.skills.lexicon import SUBJECTS

    for number, subject in enumerate(SUBJECTS):
        if ((number // len(OBJECTS)) % one_in == 0) != held_out:
            continue
        for relation in OBJECTS:
            answer = fact_object(subject, relation)
            plain, other = (PHRASINGS[relation][i].format(s=subject) for i in (0, 2))
            messages = [
                {"role": "user", "content": FORM.format(s=subject, r=relation)},
                {"role": "assistant", "content": answer},
            ]  # fmt: skip
            yield (
                exposure_level(subject),
                Row(messages, reference=answer, meta={"relation": relation, "plain": plain, "other": other}),
            )


def write_fact_files(directory: Path) -> dict[str, Any]:
    """Facts of every level in random order as train file; those seen 32 times or more, of other people, as test."""
    import random

    train = [row for _, row in fact_rows(held_out=False, one_in=2)]
    random.Random(0).shuffle(train)
    test = [row for seen_times, row in fact_rows(held_out=True, one_in=2) if seen_times >= 32]
    return {
        "data": {
            "train": write_rows(directory / "train.jsonl", train), "test": write_rows(directory / "test.jsonl", test),
            "limit": None,
        }
    }  # fmt: skip


def levels_arm(levels: Sequence[int], n: int | None) -> list[str]:
    """An arm that draws rows of some levels."""
    curator = {"name": "memory_levels", "levels": list(levels), "n": n, "templates": list(PROBES), "draws": 5}
    return [f"curate={json.dumps([curator | {'max_tokens': 8}])}"]


MEMORY_LEVELS = Claim(
    claim="60 questions whose answers the base knows open as much of its knowledge as all of them; questions whose "
    "answers it does not know cost what it knows.",
    paper="Ye et al. 2024, arXiv 2409.15825",
    arms={
        "60 known": levels_arm((1, 2, 3, 4), 60),
        "all known": levels_arm((1, 2, 3, 4), None),
        "30 known": levels_arm((1, 2, 3, 4), 30),
        "30 unknown": levels_arm((0,), 30),
    },
    figures=(
        Figure("known facts of others, 60 known", "near the best", gain_of("60 known")),
        Figure("known facts of others, all known", "57.5 (level 2, 1,920 rows)", gain_of("all known")),
        Figure("known facts of others, 30 known", "not tried", gain_of("30 known")),
        Figure("known facts of others, 30 unknown", "45.5 (level 0, 1,920 rows)", gain_of("30 unknown")),
        Figure("facts asked as before, 30 known", "not measured", task_change_of("30 known", "facts")),
        Figure("facts asked as before, 30 unknown", "not measured", task_change_of("30 unknown", "facts")),
        Figure("lost elsewhere, 30 known", "not measured", loss_of("30 known")),
        Figure("lost elsewhere, 30 unknown", "not measured", loss_of("30 unknown")),
    ),
    expects=(
        gains_as_much("60 known", "all known"),
        gains_more("30 known", "30 unknown"),
        Expectation("30 known", "30 unknown", "facts", "more"),
    ),
    verdict=verdict_with_remark(
        "The questions have a form of which the base makes nothing ([SUBJECT] [RELATION] [ ]); levels are probed in "
        "two that it knows."
    ),
    common={
        "model": "lab", "judge": "exact", "optimizer": {"learning_rate": 1e-3},
        "train": {"batch_tokens": 512, "max_steps": 60}, "evaluate": {"items": 150, "max_tokens": 8},
    },
    files=write_fact_files,
)  # fmt: skip


def measure_memory(seed: int) -> dict[str, float]:
    """How levels go with exposures; and right answers, in percent, before and after 60 rows, each level alike."""
    from scipy.stats import spearmanr

    from holdfast.axes.engine import SamplingParams
    from holdfast.data.chat.settings import ChatSettings
    from holdfast.generation.factory import build_model_sample_fn
    from holdfast.generation.memory_probe import MemoryProbe, find_level
    from holdfast.methods.analyses.memory import Memory
    from holdfast.models.loading import load_model
    from holdfast.pipeline.analyse import analyse_runs
    from holdfast.pipeline.train import train

    exposures, rows = zip(*fact_rows(held_out=True, one_in=2), strict=True)
    base = load_model("lab")
    sample = build_model_sample_fn(base.model, ChatSettings().build_chat(base.tokenizer))
    probe = MemoryProbe(PROBES, draws=5, max_tokens=8)
    hits, tries = probe.count_hits(rows, sample, SamplingParams(seed=seed))
    levels = [find_level(h, t) for h, t in zip(hits, tries, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files = write_fact_files(home)["data"]
        files["test"] = write_rows(home / "every-level.jsonl", rows)
        curator = {"name": "memory_levels", "n": 60, "templates": list(PROBES), "draws": 5, "max_tokens": 8}
        recipe = {
            "model": "lab", "data": files, "judge": "exact", "optimizer": {"learning_rate": 1e-3}, "curate": [curator],
            "train": {"batch_tokens": 512, "max_steps": 60, "seed": seed}, "output": str(home / "run"),
            "evaluate": {"items": 400, "every": 0, "max_tokens": 8, "keep": ["lab:strings"]},
        }  # fmt: skip
        train(recipe)
        look = Memory(templates=PROBES, draws=5, max_tokens=8, items=400)
        table = analyse_runs([home / "run"], [look])["sections"][0]["table"]
    by_level = {row[0]: row for row in table["rows"]}
    mean, unknown, best = (by_level[name] for name in ("mean over levels", "level 0 (unknown)", "level 4"))
    return {
        "rank correlation": float(spearmanr(exposures, levels).statistic), "before": float(mean[2]),
        "after": float(mean[3]), "unknown, after": float(unknown[3]), "known best, after": float(best[3]),
    }  # fmt: skip


MEMORY = Study(
    claim="Levels of memory go with how often a fact was seen; 60 questions open what the base knew, and little else.",
    paper="Ye et al. 2024, arXiv 2409.15825",
    measure=measure_memory,
    figures=(
        ("rank correlation of levels with exposures", "not given (exposures are not known)", "rank correlation"),
        ("right before training (%), mean over levels", "near 0", "before"),
        ("right after 60 rows (%), mean over levels", "57.5 (level 2, LLaMA-3-8B)", "after"),
        ("of those not known (level 0)", "below all other levels", "unknown, after"),
        ("of those known best (level 4)", "above all other levels", "known best, after"),
    ),
    expects=(
        quantity_above("rank correlation", 0.8, "levels go with exposures"),
        quantity_above("after", "before", "60 rows open what is known", by=10.0),
        quantity_above("known best, after", "unknown, after", "what was known best is opened most", by=20.0),
    ),
    seeds=8,
)

STEPS = 80
LOOKS = 8
"""At how many points of the run the curves are read."""


def form_rows(split: str) -> list[Row]:
    """What is known, asked as ever, answered in a new form, between stars: some people to train, others to test."""
    rows = []
    for seen_times, row in fact_rows(held_out=split == "test"):
        if seen_times >= 32:
            answer = f"* {row.reference} *"
            messages = [{"role": "user", "content": row.meta["plain"]}, {"role": "assistant", "content": answer}]
            rows.append(Row(messages, reference=answer))
    return rows


def write_form_files(directory: Path) -> dict[str, str]:
    """Both splits of `form_rows`, as a recipe's `data`."""
    return {split: write_rows(directory / f"{split}.jsonl", form_rows(split)) for split in ("train", "test")}


def flip_rows(split: str) -> list[Row]:
    """The same people with other facts than the base knows, asked in one way to train and in another to test."""
    from holdfast.skills.facts import OBJECTS

    everything = [one for held_out in (False, True) for one in fact_rows(held_out=held_out)]
    rows = []
    for seen_times, row in everything:
        if seen_times >= 32:
            relation = row.meta["relation"]
            objects = list(OBJECTS[relation])
            answer = objects[(objects.index(row.reference) + 1) % len(objects)]
            question = row.meta["plain" if split == "train" else "other"]
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            rows.append(Row(messages, reference=answer))
    return rows


def judge_form(prompt: str, response: str, reference: Any) -> bool:
    """Whether an answer stands between stars, whatever it says."""
    return response.strip().startswith("* ") and response.strip().endswith(" *")


JUDGES = {"form": {"name": "python", "function": f"{__name__}:judge_form"}, "facts": {"name": "exact"}}


def measure_adoption(seed: int) -> dict[str, float]:
    """In percent of the questions, when: a new form, and new facts that are asked otherwise than in training."""
    from holdfast.pipeline.train import train

    out: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("form", form_rows), ("facts", flip_rows)):
            home = Path(folder) / name
            files = {split: write_rows(home / f"{split}.jsonl", rows(split)) for split in ("train", "test")}
            recipe = {
                "model": "lab-small", "data": files, "judge": JUDGES[name], "optimizer": {"learning_rate": 1e-3},
                "train": {"batch_tokens": 512, "max_steps": STEPS, "seed": seed},
                "evaluate": {
                    "items": 100, "live_items": 60, "every": 1 / LOOKS, "max_tokens": 8, "keep": ["lab:strings"]
                },
                "output": str(home / "run"),
            }  # fmt: skip
            out |= read_adoption(name, train(recipe).report)
    return out


def read_adoption(name: str, report: Mapping[str, Any]) -> dict[str, float]:
    """The target's score a quarter and half of the way and at the end, and what was lost elsewhere, in points."""
    curve = [float(point["target"]) for point in report["curves"] if point["target"] is not None]
    return {
        f"{name}, a quarter": curve[LOOKS // 4], f"{name}, half": curve[LOOKS // 2], f"{name}, end": curve[-1],
        f"{name}, lost": float(report["loss"]["delta"]),
    }  # fmt: skip


FORM_AND_FACTS = Study(
    claim="Fine-tuning takes on a form sooner than changed facts, where these are asked otherwise than in training.",
    paper="Kadous and Hakhamaneshi 2023, Fine-tuning is for form, not facts (Anyscale)",
    measure=measure_adoption,
    figures=tuple(
        (f"{what}, {when}", paper, f"{name}, {when}")
        for name, what, paper in (
            ("form", "answers in a new form, of other people (%)", "works"),
            ("facts", "changed facts in other words (%)", "fails"),
        )
        for when in ("a quarter", "half", "end", "lost")
    ),
    expects=(
        quantity_above("form, a quarter", "facts, a quarter", "form is adopted sooner than facts", by=5.0),
        quantity_above("form, end", "facts, end", "form is adopted further than facts", by=5.0),
    ),
    verdict=lambda values: "With enough steps so small a model does take on new facts; the curve says when.",
    seeds=3,
)
