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


def read_values(section: Mapping[str, Any], what: str, task: str) -> list[float]:
    """The values of one kind in the long table of `drift`."""
    return [value for name, of, _, value in section["table"]["rows"] if (name, of) == (what, task)]


def measure_drift_by_layer(seed: int) -> dict[str, float]:
    """CKA with the base of the first and the last layer's states, on the target; KL on target and kept tasks."""
    changes = {"model": "lab", "analyses": ["drift"], "evaluate": {"keep": ["lab:strings", "lab:facts"], "items": 40}}
    with tempfile.TemporaryDirectory() as folder:
        report = train_arms(folder, seed, {"sft": changes}, STORY)["sft"]
    section = section_of(report, "drift")
    target = next(task["name"] for task in report["tasks"] if task["role"] == "target")
    cka = read_values(section, "CKA", target)
    others = [value for task in ("strings", "facts") for value in read_values(section, "KL, nats a token", task)]
    return {
        "first": cka[1], "last": cka[-1], "kl target": read_values(section, "KL, nats a token", target)[0],
        "kl kept": sum(others) / len(others), "lost": float(report["loss"]["delta"]),
    }  # fmt: skip


DRIFT = Study(
    claim="Fine-tuning changes the representations of the last layers most, and of the first hardly.",
    paper="Merchant et al. 2020, arXiv 2004.14448",
    measure=measure_drift_by_layer,
    figures=(
        ("CKA with the base, after the first layer", "near 1 (BERT; by RSA)", "first"),
        ("CKA with the base, after the last layer", "far lower (MNLI, SQuAD)", "last"),
        ("KL on the target (nats a token)", "not measured", "kl target"),
        ("KL on kept tasks (nats a token)", "not measured", "kl kept"),
        ("lost elsewhere (points)", "not measured", "lost"),
    ),
    expects=(
        quantity_above("first", "last", "the last layer's states changed more than the first's", by=0.02),
        quantity_above("first", 0.9, "the first layer's states stay"),
    ),
    seeds=3,
)

RANKS = {"r 1": 1, "r 4": 4, "r 32": 32}


def measure_intruders(seed: int) -> dict[str, float]:
    """New directions a matrix, in percent of the ten leading ones, by rank and of full fine-tuning; and their gains."""
    lora = {"optimizer": {"learning_rate": 1e-2}, "evaluate": {"keep": ["lab:strings"], "items": 50}}
    arms: dict[str, dict[str, Any]] = {
        name: {**lora, "tuner": {"name": "lora", "r": rank, "alpha": 2 * rank}} for name, rank in RANKS.items()
    }
    arms["full"] = {"evaluate": lora["evaluate"]}
    with tempfile.TemporaryDirectory() as folder:
        common = {**STORY, "analyses": ["spectrum"]}
        reports = train_arms(folder, seed, arms, common)
    out = {}
    for name, report in reports.items():
        rows = [row for row in section_of(report, "spectrum")["table"]["rows"] if row[6]]
        out[name] = 100 * sum(row[2] for row in rows) / (10 * len(rows))
        out[f"{name} gain"] = float(report["gain"]["delta"])
    return out


SPECTRUM = Study(
    claim="LoRA of low rank brings leading singular directions that the base lacks; full fine-tuning hardly does.",
    paper="Shuttleworth et al. 2024, arXiv 2410.21228",
    measure=measure_intruders,
    figures=(
        ("new among the ten leading directions, LoRA of rank 1 (%)", "many", "r 1"),
        ("LoRA of rank 4", "many", "r 4"),
        ("LoRA of rank 32", "few (rank 64 and above, alpha twice the rank)", "r 32"),
        ("full fine-tuning", "almost none", "full"),
        ("gained, LoRA of rank 1 (points)", "as much", "r 1 gain"),
        ("gained, full (points)", "reference", "full gain"),
    ),
    expects=(
        quantity_above("r 1", "full", "rank 1 brings more than full fine-tuning", by=1.0),
        quantity_above("r 1", "r 32", "rank 1 brings more than rank 32", by=0.0),
    ),
    verdict=lambda values: (
        "In the laboratory's few dimensions a random vector is itself near one of the base's, so that fewer are new."
    ),
    seeds=3,
)


def measure_mended(seed: int) -> dict[str, float]:
    """Gained and lost, in points: as trained, new directions taken out, and the whole change shrunk as much."""
    from holdfast.methods.inference.mend import Mend
    from holdfast.pipeline.evaluate import evaluate

    settings = {"optimizer": {"learning_rate": 1e-2}, "tuner": {"name": "lora", "r": 1, "alpha": 2}}
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        report = train_arms(folder, seed, {"lora": settings}, STORY)["lora"]
        reports = {"trained": report}
        for name, control in (("mended", False), ("shrunk", True)):
            method = Mend(keep=0.0, epsilon=0.6, control=control)
            reports[name] = evaluate(f"{folder}/lora", against="lab-small", inference=method)
        for name, one in reports.items():
            out[f"{name} gain"], out[f"{name} lost"] = float(one["gain"]["delta"]), float(one["loss"]["delta"])
    return out


MEND = Study(
    claim="Scaling down the directions that LoRA brought in gives back what was lost elsewhere for little of the task.",
    paper="Shuttleworth et al. 2024, arXiv 2410.21228",
    measure=measure_mended,
    figures=tuple(
        (f"{what}, {how} (points)", paper, f"{name} {kind}")
        for kind, what in (("gain", "gained"), ("lost", "lost elsewhere"))
        for name, how, paper in (
            ("trained", "as trained", "reference"), ("mended", "new directions taken out", "little less, in both"),
            ("shrunk", "the whole change shrunk as much", "not measured"),
        )
    ),
    expects=(
        quantity_above("trained lost", "mended lost", "less is lost without the new directions", by=0.5),
        quantity_above("mended gain", "shrunk gain", "it keeps as much gain as shrinking the whole change", by=-2.0),
    ),
    verdict=lambda values: "Directions are new below a cosine of 0.6, which is the laboratory's few dimensions' due.",
    seeds=3,
)  # fmt: skip
