"""What analyses see in runs of the laboratory's models, beside what their papers saw."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from holdfast.data.rows import Row
from holdfast.lab.reproduce.at_the_logits import scale_rate, train_arms
from holdfast.lab.reproduce.base import Study, merge_settings, write_rows
from holdfast.lab.reproduce.rule import quantity_above

STORY: Mapping[str, Any] = {
    "model": "lab-small", "data": {"train": "lab:story", "limit": 600}, "optimizer": {"learning_rate": 1e-3},
    "train": {"batch_tokens": 1024, "max_steps": 60}, "evaluate": {"items": 100, "every": 0, "max_tokens": 80},
}  # fmt: skip
"""Word problems in a new manner, of which SFT learns about half and pays for it elsewhere."""


def section_of(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an analysis added to a report."""
    return next(section for section in report["analyses"] if section["name"] == name)


def measure_flips(seed: int, work: Mapping[str, Any] = STORY) -> dict[str, float]:
    """In percent of all judged answers: lost, lost less won, and of the lost ones those that lost the form alone."""
    with tempfile.TemporaryDirectory() as folder:
        report = train_arms(folder, seed, {"sft": {"analyses": ["lost_and_found"]}}, work)["sft"]
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
        quantity_above("gain", 0.0, "the run gains on its target", by=5.0, is_premise=True),
        quantity_above("lost", 0.0, "answers are lost all the same", by=1.0),
    ),
    verdict=lambda values: "Answers to the target and to the kept tasks together.",
    seeds=3,
)


def read_values(section: Mapping[str, Any], what: str, task: str) -> list[float]:
    """The values of one kind in the long table of `drift`."""
    return [value for name, of, _, value in section["table"]["rows"] if (name, of) == (what, task)]


DEEP_STORY = merge_settings(STORY, {"model": "lab", "evaluate": {"keep": ["lab:strings", "lab:facts"], "items": 40}})
"""The same for the model of more layers."""


def measure_drift_by_layer(seed: int, work: Mapping[str, Any] = DEEP_STORY) -> dict[str, float]:
    """CKA with the base of the first and the last layer's states, on the target; KL on target and kept tasks."""
    with tempfile.TemporaryDirectory() as folder:
        report = train_arms(folder, seed, {"sft": {"analyses": ["drift"]}}, work)["sft"]
    section = section_of(report, "drift")
    target = next(task["name"] for task in report["tasks"] if task["role"] == "target")
    cka = read_values(section, "CKA", target)
    kept_tasks = [task["name"] for task in report["tasks"] if task["role"] == "keep"]
    others = [value for task in kept_tasks for value in read_values(section, "KL, nats a token", task)]
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
    asks_kept=True,
)

RANKS = {"r 1": (1, 5), "r 4": (4, 3), "r 32": (32, 1)}
"""Rank and multiple of the work's rate: each gains about as much then. At one rate higher ranks go further, and bring
more."""
FULL_RATE = 0.2
"""Where full fine-tuning gains as much as they do; at five times that it gains more, with no more new directions."""
NEAREST = 0.6
"""In the laboratory's few dimensions a random vector is itself near one of the base's: below this one is new."""


def write_fact_recipe(folder: str, keep: Sequence[str]) -> dict[str, Any]:
    """Facts that the base knows, answered in a new form: what every rank of LoRA learns half of within 160 steps."""
    from holdfast.lab.reproduce.known_facts import write_form_files

    return {
        "model": "lab-small", "data": write_form_files(Path(folder)), "judge": "exact",
        "optimizer": {"learning_rate": 1e-3}, "train": {"batch_tokens": 512, "max_steps": 160},
        "evaluate": {"items": 100, "every": 0, "max_tokens": 60, "keep": [f"lab:{name}" for name in keep]},
    }  # fmt: skip


def measure_intruders(seed: int, work: Mapping[str, Any] | None = None) -> dict[str, float]:
    """New directions a matrix, in percent of the ten leading ones, by rank and of full fine-tuning; and their gains."""
    spectrum: dict[str, Any] = {"name": "spectrum", **({} if work else {"epsilon": NEAREST})}
    with tempfile.TemporaryDirectory() as folder:
        common = merge_settings(work or write_fact_recipe(folder, ["strings"]), {"analyses": [spectrum]})
        arms: dict[str, dict[str, Any]] = {
            name: {"tuner": {"name": "lora", "r": rank, "alpha": 2 * rank}, **scale_rate(common, multiple)}
            for name, (rank, multiple) in RANKS.items()
        }
        arms["full"] = scale_rate(common, FULL_RATE)
        reports = train_arms(folder, seed, arms, common)
    out = {}
    for name, report in reports.items():
        out[name] = read_intruders(report)
        out[f"{name} gain"] = float(report["gain"]["delta"])
    return out


def read_intruders(report: Mapping[str, Any]) -> float:
    """New directions in percent of the ten leading ones of every matrix that moved."""
    rows = [row for row in section_of(report, "spectrum")["table"]["rows"] if row[6]]
    return 100 * sum(row[2] for row in rows) / (10 * len(rows))


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
        quantity_above("r 1 gain", "full gain", "rank 1 gains as much as full fine-tuning", by=-10.0),
        quantity_above("r 1", "full", "rank 1 brings more than full fine-tuning", by=1.0),
        quantity_above("r 1", "r 32", "rank 1 brings more than rank 32", by=0.0),
    ),
    verdict=lambda values: (
        "In the laboratory's few dimensions a random vector is itself near one of the base's: new is below 0.6 here. "
        "Ranks have learning rates at which they gain alike; at one rate higher ranks bring more new directions."
    ),
    seeds=3,
)


def measure_mended(seed: int, work: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Gained and lost, in points: as trained, new directions scaled down, and the whole change shrunk as much."""
    from holdfast.methods.inference.mend import Mend
    from holdfast.pipeline.evaluate import evaluate

    keep = ("sums", "strings", "points", "reading", "story")
    with tempfile.TemporaryDirectory() as folder:
        recipe = work or write_fact_recipe(folder, keep)
        rank, multiple = RANKS["r 1"]
        nearest = {} if work else {"epsilon": NEAREST}
        lora = {"tuner": {"name": "lora", "r": rank, "alpha": 2 * rank}, **scale_rate(recipe, multiple)}
        lora |= {"analyses": [{"name": "spectrum", **nearest}]}
        reports = {"trained": train_arms(folder, seed, {"lora": lora}, recipe)["lora"]}
        out = {"new": read_intruders(reports["trained"])}
        for name, control in (("mended", False), ("shrunk", True)):
            method = Mend(keep=0.75, control=control, **nearest)
            reports[name] = evaluate(f"{folder}/lora", against=recipe["model"], inference=method)
        for name, one in reports.items():
            out[f"{name} gain"], out[f"{name} lost"] = float(one["gain"]["delta"]), float(one["loss"]["delta"])
    return out


MEND = Study(
    claim="Scaling down the directions that LoRA brought in gives back what was lost elsewhere for little of the task.",
    paper="Shuttleworth et al. 2024, arXiv 2410.21228",
    measure=measure_mended,
    figures=(
        ("new among the ten leading directions (%)", "many", "new"),
        *(
            (f"{what}, {how} (points)", paper, f"{name} {kind}")
            for kind, what in (("gain", "gained"), ("lost", "lost elsewhere"))
            for name, how, paper in (
                ("trained", "as trained", "reference"),
                ("mended", "new directions at 0.75", "nearly as much, and less"),
                ("shrunk", "the whole change shrunk as much", "not measured"),
            )
        ),
    ),
    expects=(
        quantity_above("trained gain", 0.0, "the run gains on its target", by=5.0, is_premise=True),
        quantity_above("new", 0.0, "LoRA brought in new directions", is_premise=True),
        quantity_above("trained lost", "mended lost", "less is lost with the new directions scaled down", by=0.5),
        quantity_above("mended gain", "shrunk gain", "it keeps as much gain as shrinking the whole change", by=-2.0),
    ),
    verdict=lambda values: "Directions are new below a cosine of 0.6, which is the laboratory's few dimensions' due.",
    seeds=3,
    asks_kept=True,
)  # fmt: skip


def lettered_rows(*, held_out: bool) -> list[Row]:
    """Towns of people whom the base knows, to be answered by one of four letters that a town has."""
    from holdfast.lab.reproduce.at_the_logits import fact_label_rows

    rows = fact_label_rows("home", held_out=held_out)
    towns = sorted({str(row.reference) for row in rows})
    answers = [f"({'ABCD'[towns.index(str(row.reference)) % 4]})" for row in rows]
    return [
        Row([*row.prompt, {"role": "assistant", "content": answer}], reference=answer)
        for row, answer in zip(rows, answers, strict=True)
    ]


def write_letter_recipe(folder: str) -> dict[str, Any]:
    """Towns answered by letters; few questions are told apart by few neighbours."""
    files = {
        split: write_rows(Path(folder) / f"{split}.jsonl", lettered_rows(held_out=split == "test"))
        for split in ("train", "test")
    }
    return {
        "model": "lab", "data": files, "judge": "exact", "optimizer": {"learning_rate": 1e-3},
        "train": {"batch_tokens": 1024, "max_steps": 200},
        "evaluate": {"items": 200, "every": 0, "max_tokens": 8, "keep": ["none"]},
    }  # fmt: skip


def measure_answer_neighbours(seed: int, work: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Of a question's nearest ones at the first and last layer those with its answer (%): few-shot, and fine-tuned."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = work or write_letter_recipe(folder)
        report = train_arms(folder, seed, {"sft": {"analyses": [{"name": "landscape", "k": 8}]}}, recipe)["sft"]
    by_model: dict[str, list[list[Any]]] = {}
    for row in section_of(report, "landscape")["table"]["rows"]:
        if row[8] is not None:
            by_model.setdefault("shots" if "shots" in row[0] else row[0], []).append(row)
    return {
        f"{name} {where}": float(rows[place][8])
        for name, rows in by_model.items() for where, place in (("first", 0), ("last", -1))
    }  # fmt: skip


LANDSCAPE = Study(
    claim="Late layers of a fine-tuned model lay questions with one answer together, more than few-shot prompts do.",
    paper="Doimo et al. 2024, arXiv 2409.03662",
    measure=measure_answer_neighbours,
    figures=tuple(
        (f"neighbours with the same answer, {where} layer, {how} (%)", paper, f"{name} {where}")
        for where in ("first", "last")
        for name, how, paper in (
            ("base", "base", "not compared"), ("shots", "four shots", "few"),
            ("tuned", "fine-tuned", "few" if where == "first" else "most (ARI with answers, Llama-3-8B, MMLU)"),
        )
    ),
    expects=(
        quantity_above("tuned last", "shots last", "fine-tuning tells answers apart better than shots do", by=2.0),
        quantity_above("tuned last", "tuned first", "late layers tell answers apart better than the first", by=5.0),
    ),
    verdict=lambda values: "Each town of people whom the model knows has one of four letters, which are the answers.",
    seeds=3,
)  # fmt: skip


SHORT_STORY = merge_settings(
    STORY,
    {"evaluate": {"items": 50, "max_tokens": 40, "keep": ["lab:strings"]}, "train": {"max_steps": 40}},
)
"""Two thirds of the same, for many seeds."""
LOW, HIGH = 0.3, 2
"""Multiples of the work's learning rate."""


def measure_instability(seed: int, work: Mapping[str, Any] = SHORT_STORY) -> dict[str, float]:
    """Questions that two runs judge differently (%), and the scores' deviation (points), at a low and a high rate; and
    the same of adapters that differ in the order of their rows alone, and in their start alone.
    """
    out: dict[str, float] = {}
    arms: dict[str, Mapping[str, Any]]
    one, other = 10 * seed, 10 * seed + 1
    with tempfile.TemporaryDirectory() as folder:
        for name, multiple in (("low", LOW), ("high", HIGH)):
            arms = {f"{name} {k}": {"train": {"seed": 10 * seed + k}} for k in range(3)}
            train_arms(folder, seed, arms, merge_settings(work, scale_rate(work, multiple)))
            out |= measure_apart(name, [f"{folder}/{arm}" for arm in arms])
        arms = {
            "plain": {"train": {"seed": one}},
            "order": {"train": {"seed": other, "seeds": {"init": one, "noise": one}}},
            "start": {"train": {"seed": other, "seeds": {"order": one, "noise": one}}},
        }
        train_arms(folder, seed, arms, merge_settings(work, {"tuner": "lora", **scale_rate(work, HIGH)}))
        for name in ("order", "start"):
            out |= measure_apart(name, [f"{folder}/plain", f"{folder}/{name}"])
    return out


def measure_apart(name: str, runs: Sequence[str]) -> dict[str, float]:
    """What `stability` says of runs: judgements, scores, distributions and the last layer's states."""
    import torch

    from holdfast.methods.analyses.stability import Stability
    from holdfast.pipeline.analyse import open_context

    with torch.no_grad():
        section = Stability().measure(open_context(runs))
    values = {(where, what): cast("float", value) for _, where, what, value in section.table.rows}
    deviations = [value for (_, what), value in values.items() if what == "score, deviation"]
    return {
        f"{name} apart": 100 * values["all", "judged differently"],
        f"{name} deviation": sum(deviations) / len(deviations),
        f"{name} divergence": values["all", "Jensen-Shannon divergence, nats"],
        f"{name} states": [value for (_, what), value in values.items() if what == "1 - CKA"][-1],
    }


STABILITY = Study(
    claim="Seeds differ more in their answers than in their scores, and the more the higher the learning rate is.",
    paper="Du and Nguyen 2023, arXiv 2302.07778",
    measure=measure_instability,
    figures=tuple(
        (f"{what}, {name} learning rate", paper, f"{name} {key}")
        for key, what, paper in (
            ("apart", "two seeds judge differently (%)", "tells what the deviation does not"),
            ("deviation", "deviation of the score (points)", "too coarse alone"),
            ("divergence", "Jensen-Shannon divergence (nats)", "goes with the disagreement"),
        )
        for name in ("low", "high")
    )
    + tuple(
        (f"{what}, adapters of another {name} alone", paper, f"{name} {key}")
        for key, what, paper in (
            ("apart", "two seeds judge differently (%)", "both count alike (Dodge et al. 2020, arXiv 2002.06305)"),
            ("divergence", "Jensen-Shannon divergence (nats)", "not measured"),
        )
        for name in ("order", "start")
    ),
    expects=(
        quantity_above("high apart", "high deviation", "answers differ more than scores", by=0.5),
        quantity_above("high divergence", "low divergence", "more at the higher rate, in distributions"),
        quantity_above("high apart", "low apart", "more at the higher rate, in answers"),
    ),
    seeds=3,
)  # fmt: skip
