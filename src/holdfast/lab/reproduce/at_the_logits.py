"""What is done at the logits: a small expert beside a large model, labels calibrated, a few first tokens given."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data.rows import Message, Row
from holdfast.lab.reproduce.base import Study, write_rows
from holdfast.lab.reproduce.rule import quantity_above

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.policy import Policy

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


def scale_rate(work: Mapping[str, Any], multiple: float) -> dict[str, Any]:
    """Settings with a multiple of the learning rate that full fine-tuning has on a work."""
    from holdfast.lab.reproduce.sweep import spread_rates

    (rate,) = spread_rates((), work, (multiple,))
    return {"optimizer": {"learning_rate": rate}}


def target_of(report: Mapping[str, Any], when: str = "tuned") -> float:
    """The figure of the target."""
    return float(next(task[when] for task in report["tasks"] if task["role"] == "target"))


def measure_proxy(seed: int) -> dict[str, float]:
    """In points: the large model before and after its own training, with the small one's, and the small one alone."""
    from holdfast.lab.reproduce.known_facts import write_form_files

    common = {
        "judge": "exact", "optimizer": {"learning_rate": 1e-3}, "train": {"batch_tokens": 512, "max_steps": 60},
        "evaluate": {"items": 100, "every": 0, "max_tokens": 8, "keep": ["lab:strings"]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        common |= {"data": write_form_files(home)}
        proxy = {"name": "proxy", "expert": str(home / "expert"), "antiexpert": "lab-small"}
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
        ("facts in a new form, the large model (points)", "6.6 (Llama-2-13B, GSM8K)", "base"),
        ("with the small one's difference", "26.4", "proxy"),
        ("trained itself", "32.4", "tuned"),
        ("the small one alone, trained", "42.2 (an expert of GSM8K alone)", "expert"),
        ("share of the gap closed (%)", "88 (70B, mean of four)", "gap"),
        ("lost elsewhere, with the difference", "not measured", "proxy lost"),
        ("lost elsewhere, trained itself", "not measured", "tuned lost"),
    ),
    expects=(
        quantity_above("proxy", "base", "the large model gains by the small one's training", by=2.0),
        quantity_above("gap", 50.0, "more than half of the gap is closed"),
    ),
    verdict=lambda values: (
        "The laboratory's two models know equally much and are very sure of it, also where one of them is wrong: the "
        "difference then carries the small one's errors over, most of all in word problems."
    ),
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


def measure_calibration(seed: int, work: Mapping[str, Any] | None = None) -> dict[str, float]:
    """In percent of the questions whose label was left out: before training on the others, after it, and with gamma."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = work or {
            "model": "lab-small", "judge": "exact", "optimizer": {"learning_rate": 1e-3},
            "train": {"batch_tokens": 512, "max_steps": 60},
            "evaluate": {"items": 200, "every": 0, "max_tokens": 6, "keep": ["lab:strings"]},
            "data": write_label_files(Path(folder) / "data"),
        }  # fmt: skip
        arms = {gamma: {"inference": {"name": "calibration", "gamma": gamma}} for gamma in ("alg", "pcv")}
        reports = train_arms(folder, seed, arms, recipe)
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


SCALES = (0.3, 0.5, 0.7, 1.0, 1.4)
"""Of what is added; the one that keeps most of what both runs reach, on other questions, is judged."""


def write_combination_files(home: Path) -> dict[str, dict[str, Any]]:
    """Of each of two tasks the rows to train on, and two hundred questions: half to judge by, half to choose by."""
    from holdfast.lab.reproduce.known_facts import form_rows
    from holdfast.skills.rows import lab_rows

    facts = form_rows("test")
    random.Random(0).shuffle(facts)
    questions = {"facts": facts[:200], "story": lab_rows("lab:story", "test", 200)}
    rows = {"facts": form_rows("train"), "story": lab_rows("lab:story", "train", 600)}
    works: dict[str, dict[str, Any]] = {}
    for task, judge in (("facts", "exact"), ("story", "number")):
        train = write_rows(home / f"{task}.jsonl", rows[task])
        for part, some in (("", questions[task][::2]), (" choice", questions[task][1::2])):
            test = write_rows(home / f"{task}{part or ' test'}.jsonl", some)
            works[task + part] = {"data": {"train": train, "test": test}, "judge": judge}
    return works


def measure_combination(seed: int) -> dict[str, float]:
    """In points: facts in a new form and word problems in a new style, before, tuned on one of them, and combined."""
    common = {
        "model": "lab-small", "optimizer": {"learning_rate": 1e-3}, "train": {"batch_tokens": 1024, "max_steps": 60},
        "evaluate": {"items": 100, "every": 0, "max_tokens": 80, "keep": ["lab:strings"]},
    }  # fmt: skip
    tasks = ("facts", "story")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        works = write_combination_files(home)
        tuned = train_arms(folder, seed, {task: works[task] for task in tasks}, common)
        score_alone = {task: target_of(tuned[task]) for task in tasks}

        def measure_both(name: str, scale: float, part: str) -> dict[str, float]:
            method = {"name": name, "scale": scale, "runs": [str(home / task) for task in tasks]}
            no_training = {"method": name, "inference": method, "train": {"max_steps": 0}}
            arms = {f"{name} {scale} {task}{part}": works[task + part] | no_training for task in tasks}
            reports = train_arms(folder, seed, arms, common)
            return {task: target_of(reports[f"{name} {scale} {task}{part}"]) for task in tasks}

        figures: dict[str, float] = {}
        for name in ("combine", "ties"):
            scores = {scale: measure_both(name, scale, " choice") for scale in SCALES}
            best = max(SCALES, key=lambda scale: sum(scores[scale][task] / score_alone[task] for task in tasks))
            figures |= {f"{name} {task}": value for task, value in measure_both(name, best, "").items()}
            figures[f"{name} scale"] = best
    for task in tasks:
        figures |= {task: score_alone[task], f"base {task}": target_of(tuned[task], "base")}
    return figures


COMBINE = Study(
    claim="The changes of two runs, added up, give one model that gains on both of their tasks, without training.",
    paper="Ilharco et al. 2022, arXiv 2212.04089",
    measure=measure_combination,
    figures=(
        *(
            (f"{what}, {how}", paper, f"{name}{task}")
            for task, what in (("facts", "facts in a new form"), ("story", "word problems in a new style"))
            for name, how, paper in (
                ("base ", "base", "reference"),
                ("", "tuned on them alone", "100 %"),
                ("combine ", "both runs added", "98.9 % of tuned (pairs of tasks, CLIP)"),
                ("ties ", "both runs by TIES", "better than adding (2306.01708)"),
            )
        ),
        ("scale chosen on other questions, adding", "0.3 to 0.5", "combine scale"),
        ("scale chosen on other questions, TIES", "0.8 to 1.8, 1 without other questions", "ties scale"),
    ),
    expects=(
        quantity_above("combine facts", "base facts", "added up they gain on the facts", by=5.0),
        quantity_above("combine story", "base story", "added up they gain on the word problems", by=5.0),
    ),
    verdict=lambda values: "The scale of each was chosen on other questions, for both tasks at once, as in the papers.",
    seeds=3,
)


def translation_rows(n: int, split: Any, seed: int) -> list[Row]:
    """Sentences to be translated, asked in a form that the base does not know."""
    from holdfast.skills.cipher import Cipher

    rows = []
    for row in Cipher().generate_rows(n, split, seed):
        direction, _, source = str(row.prompt[0]["content"]).partition(": ")
        question = f"What is {source} in {direction.split()[-1]}?"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row.reference}]
        rows.append(Row(messages, reference=row.reference))
    return rows


FIRST_TOKENS = (0, 1, 2)


def measure_agreement(
    base: Policy, tuned: Policy, conversations: Sequence[Sequence[Message]], chat: Chat
) -> list[float]:
    """Share of answers at whose t-th token both models would say the same, for each t, once all before it is given.

    Args:
        conversations: Each ends with an answer of the tuned model; those shorter than t do not count there.
    """
    from holdfast.methods.analyses.answer_tokens import encode_conversations
    from holdfast.models.layer_states import collect_divergence

    sequences = encode_conversations(conversations, chat)
    _, before, after = collect_divergence(base, tuned, sequences, chat.pad_id)  # [N] each
    counts = [int(sequence.label_mask[1:].sum()) for sequence in sequences]
    agrees = (before == after).split(counts)
    places = range(max(counts))
    by_place = [[float(own[place]) for own in agrees if len(own) > place] for place in places]
    return [sum(some) / len(some) for some in by_place]


def measure_agreement_of_run(run: Path, base: str, report: Mapping[str, Any]) -> list[float]:
    """The same of a run's answers to its target, with a model that was not tuned."""
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import load_model
    from holdfast.models.policy import Policy

    target = next(task["name"] for task in report["tasks"] if task["role"] == "target")
    lines = (run / "eval" / "final" / f"{target}.jsonl").read_text(encoding="utf-8").splitlines()
    conversations: list[list[Message]] = [
        [{"role": "user", "content": item["prompt"]}, {"role": "assistant", "content": item["response"]}]
        for item in map(json.loads, lines) if item["response"]
    ]  # fmt: skip
    plain, tuned = load_model(base), load_model(run)
    return measure_agreement(Policy(plain.model), Policy(tuned.model), conversations, Chat(plain.tokenizer))


def write_translation_recipe(folder: str) -> dict[str, Any]:
    """Translations, which a small model is to be taught."""
    return {
        "model": "lab-small", "judge": "exact", "optimizer": {"learning_rate": 1e-3},
        "train": {"batch_tokens": 1024, "max_steps": 200},
        "evaluate": {"items": 150, "every": 0, "max_tokens": 12, "keep": ["lab:strings"]},
        "data": {
            "train": write_rows(Path(folder) / "train.jsonl", translation_rows(600, "train", 0)),
            "test": write_rows(Path(folder) / "test.jsonl", translation_rows(150, "test", 0)),
        },
    }  # fmt: skip


def measure_first_tokens(seed: int, work: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Answers right, in percent: with none, one and two tokens of a tuned model, and of that model.

    In the laboratory the tuned model is a small one and the other large; on another work they are the same before.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = work or write_translation_recipe(folder)
        model = recipe["model"] if work else "lab"
        runs: dict[str, dict[str, Any]] = {"tuned": {}}
        for k in FIRST_TOKENS:
            prior = {"name": "pretty", "teacher": f"{folder}/tuned", "tokens": k}
            runs[f"{k}"] = {"model": model, "method": "pretty", "inference": prior, "train": {"max_steps": 0}}
        reports = train_arms(folder, seed, runs, recipe)
        agreement = measure_agreement_of_run(Path(folder) / "tuned", model, reports["tuned"])
    figures = {name: target_of(report) for name, report in reports.items()}
    return figures | {f"agrees {k}": 100 * agreement[k] for k in FIRST_TOKENS}


PRETTY = Study(
    claim="One or two tokens of a tuned model at the beginning of an answer give an untuned one most of its skill.",
    paper="Zhan et al. 2024, arXiv 2404.16766",
    measure=measure_first_tokens,
    figures=(
        ("answers right (%), the untuned model", "far below the tuned one (Llama-2-7B, 8 languages)", "0"),
        ("with one token given", "near the tuned one", "1"),
        ("with two tokens given", "up to 98 % of the tuned one", "2"),
        ("the tuned model, of which they are", "reference", "tuned"),
        ("both would say the same token (%), the first", "low", "agrees 0"),
        ("the second, the first being the tuned one's", "rises sharply", "agrees 1"),
        ("the third, two being the tuned one's", "high", "agrees 2"),
    ),
    expects=(
        quantity_above("1", "0", "one token helps", by=5.0),
        quantity_above("2", "0", "two tokens help", by=10.0),
    ),
    verdict=lambda values: (
        "Two invented languages that the base knows, asked for in a form it does not know: the laboratory's models "
        "know a skill by its form, of which a few tokens remind them less than a large model."
    ),
    seeds=3,
)
