"""What is done at the logits: a small expert beside a large model, labels calibrated, a few first tokens given."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.data.rows import Row
from holdfast.lab.reproduce.base import Study, write_rows
from holdfast.lab.reproduce.rule import quantity_above

STEPS = 120


def train_arms(folder: str, seed: int, arms: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> Any:
    """The report of a run for each arm, by its name; later arms may name the runs of earlier ones by their folder."""
    from holdfast.lab.reproduce.base import merge_settings
    from holdfast.pipeline.train import train

    reports = {}
    for name, changes in arms.items():
        recipe = merge_settings(common, {"output": str(Path(folder) / name), "train": {"seed": seed}})
        reports[name] = train(merge_settings(recipe, changes)).report
    return reports


def target_of(report: Mapping[str, Any], when: str = "tuned") -> float:
    """The figure of the target."""
    return float(next(task[when] for task in report["tasks"] if task["role"] == "target"))


def measure_proxy(seed: int) -> dict[str, float]:
    """In points: the large model before and after its own training, with the small one's, and the small one alone."""
    common = {
        "data": {"train": "lab:story", "limit": 600}, "optimizer": {"learning_rate": 1e-3, "clip": "running"},
        "train": {"batch_tokens": 2048, "max_steps": STEPS},
        "evaluate": {"items": 150, "every": 0, "max_tokens": 80, "keep": ["lab:strings", "lab:sums"]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        proxy = {"name": "proxy", "expert": str(Path(folder) / "expert"), "antiexpert": "lab-small"}
        reports = train_arms(
            folder, seed,
            {
                "expert": {"model": "lab-small"}, "tuned": {"model": "lab"},
                "proxy": {"model": "lab", "method": "proxy", "inference": proxy, "train": {"max_steps": 0}},
            },
            common,
        )  # fmt: skip
    base, tuned, by_proxy = target_of(reports["tuned"], "base"), *(target_of(reports[n]) for n in ("tuned", "proxy"))
    return {
        "base": base, "tuned": tuned, "proxy": by_proxy, "expert": target_of(reports["expert"]),
        "gap": 100 * (by_proxy - base) / max(tuned - base, 1.0),
        "proxy lost": float(reports["proxy"]["loss"]["delta"]), "tuned lost": float(reports["tuned"]["loss"]["delta"]),
    }  # fmt: skip


PROXY = Study(
    claim="What a small model learned, added to the logits of a large one, closes most of the gap to training that.",
    paper="Liu et al. 2024, arXiv 2401.08565",
    measure=measure_proxy,
    figures=(
        ("word problems in a new style, the large model (points)", "6.6 (Llama-2-13B, GSM8K)", "base"),
        ("with the small one's difference", "26.4", "proxy"),
        ("trained itself", "32.4", "tuned"),
        ("the small one alone, trained", "42.2 (of another run, on GSM8K alone)", "expert"),
        ("share of the gap closed (%)", "88 (70B, mean of four)", "gap"),
        ("lost elsewhere, with the difference", "not measured", "proxy lost"),
        ("lost elsewhere, trained itself", "not measured", "tuned lost"),
    ),
    expects=(
        quantity_above("proxy", "base", "the large model gains by the small one's training", by=2.0),
        quantity_above("gap", 50.0, "more than half of the gap is closed"),
    ),
    verdict=lambda values: "The laboratory's two models differ little in what they know, unlike those of the paper.",
    seeds=3,
)


def fact_label_rows(relation: str, *, held_out: bool) -> list[Row]:
    """Facts of one relation that the base has seen 32 times or more, asked in a form that is new to it."""
    from holdfast.skills.facts import PHRASINGS, exposure_level, fact_object
    from holdfast.skills.lexicon import SUBJECTS

    rows = []
    for number, subject in enumerate(SUBJECTS):
        if exposure_level(subject) >= 32:
            for phrasing in range(20):
                if (phrasing % 4 == 3) == held_out:
                    answer = fact_object(subject, relation)
                    question = PHRASINGS[relation][phrasing].format(s=subject)
                    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                    rows.append(Row(messages, reference=answer, id=f"{number}/{phrasing}"))
    return rows


def write_label_files(directory: Path, relation: str = "home") -> dict[str, str]:
    """Questions with half of the labels as train file; questions with all of them, in other words, as test file."""
    rows, test = (fact_label_rows(relation, held_out=held_out) for held_out in (False, True))
    half = sorted({row.reference for row in rows})[::2]
    train = [row for row in rows if row.reference in half]
    return {
        "train": write_rows(directory / "train.jsonl", train), "test": write_rows(directory / "test.jsonl", test),
    }  # fmt: skip


def measure_calibration(seed: int) -> dict[str, float]:
    """In percent of the questions whose label was left out: before training on the others, after it, and with gamma."""
    common = {
        "model": "lab-small", "judge": "exact", "optimizer": {"learning_rate": 1e-3},
        "train": {"batch_tokens": 512, "max_steps": 60},
        "evaluate": {"items": 200, "every": 0, "max_tokens": 6, "keep": ["lab:strings"]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        common |= {"data": write_label_files(Path(folder) / "data")}
        arms = {gamma: {"inference": {"name": "calibration", "gamma": gamma}} for gamma in ("alg", "pcv")}
        reports = train_arms(folder, seed, arms, common)
    tables = {name: report["analyses"][0]["table"]["rows"] for name, report in reports.items()}
    (_, *_), (_, _, present, tuned, _, apart, area), (_, _, present_pcv, pcv, *_) = tables["pcv"]
    return {
        "base": float(tables["pcv"][0][3]), "tuned": float(tuned), "pcv": float(pcv), "alg": float(tables["alg"][2][3]),
        "apart": float(apart), "present": float(present), "present pcv": float(present_pcv), "area": float(area),
    }  # fmt: skip


CALIBRATION = Study(
    claim="Labels that fine-tuning left out are hardly forgotten: a constant added to their scores brings them back.",
    paper="Mai et al. 2024, arXiv 2409.16223",
    measure=measure_calibration,
    figures=(
        ("absent labels, before training (%)", "reference (ImageNet-R, Office-Home)", "base"),
        ("absent labels, tuned on the others (%)", "far below the base", "tuned"),
        ("absent labels, with gamma by ALG (%)", "above the base on most", "alg"),
        ("absent labels, with gamma by PCV (%)", "above the base on most", "pcv"),
        ("absent labels among themselves, tuned (%)", "as before training or better", "apart"),
        ("trained labels, tuned (%)", "above the base", "present"),
        ("trained labels, with gamma by PCV (%)", "a little less", "present pcv"),
        ("AUSUC, tuned", "above the base", "area"),
    ),
    expects=(
        quantity_above("base", "tuned", "training on other labels costs those it leaves out", by=10.0),
        quantity_above("pcv", "tuned", "gamma by PCV brings them back", by=10.0),
        quantity_above("apart", "base", "among themselves they are told apart as before", by=-10.0),
    ),
    verdict=lambda values: "The labels are the towns of people that the base knows, half of them trained on.",
    seeds=3,
)
