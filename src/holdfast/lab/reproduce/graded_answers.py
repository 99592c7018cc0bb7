"""Claims about gold answers, beside the model's own or others' pairs, on word problems of graded difficulty."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.lab.reproduce.base import FIXED_CLIPPING, Claim, Figure, gain_of, loss_of, verdict_with_remark, write_rows
from holdfast.lab.reproduce.rule import Expectation, gains_as_much, gains_more, loses_no_more
from holdfast.lab.reproduce.sweep import SWEEP

SKILL = "story-graded"
GOLD = 300
"""Few gold answers, each seen five or six times: noise, more paths and preferences are all said to help then."""

GRADED: dict[str, Any] = {
    "model": "lab-graded",
    "data": {"train": f"lab:{SKILL}", "limit": GOLD},
    "sampling": {"max_tokens": 120},
    "train": {"max_steps": 120},
    "evaluate": {
        "max_tokens": 120,
        "keep": [f"lab:{name}" for name in ("sums", "points", "reading", "strings", "program", "facts")],
    },
}
"""Questions that the model is neither sure of nor lost at, with two right paths; what it could do of six skills."""

SFT = ["method=sft"]
PAIR_RATE = "1e-4"
"""Losses of pairs are swept about a tenth of the rate that SFT is swept about."""


def graded_claim(
    claim: str,
    paper: str,
    arms: Mapping[str, tuple[list[str], str, str]],
    expects: Sequence[Expectation],
    remark: str,
    figures: Sequence[Figure] = (),
    common: Mapping[str, Any] = GRADED,
    files: Callable[[Path], Mapping[str, Any]] | None = None,
) -> Claim:
    """A claim on graded questions, each arm at the learning rate that a sweep on other questions chose.

    Args:
        arms: Of each its overrides, and the paper's numbers of target and loss elsewhere.
        remark: What else to say of the result.
        figures: What is shown beside gains and losses.
    """
    return Claim(
        claim=claim,
        paper=paper,
        arms={label: overrides for label, (overrides, _, _) in arms.items()},
        figures=(
            *figures,
            *(Figure(f"target, {label}", number, gain_of(label)) for label, (_, number, _) in arms.items()),
            *(Figure(f"lost elsewhere, {label}", number, loss_of(label)) for label, (_, _, number) in arms.items()),
        ),
        expects=expects,
        verdict=verdict_with_remark(remark),
        rates=SWEEP,
        validation=SKILL,
        common=common,
        files=files,
    )


NEFTUNE = graded_claim(
    "Noise on the embeddings helps a small fine-tuning set without changing what the model knows.",
    "Jain et al. 2023, arXiv 2310.05914",
    {
        "sft": (SFT, "29.8 (AlpacaEval)", "unchanged"),
        "neftune": (["method=neftune"], "64.7 (AlpacaEval)", "unchanged"),
    },
    (gains_more("neftune", "sft", at="validated"), loses_no_more("neftune", "sft", at="validated")),
    "The paper's gain is in how a judge likes longer answers; here an answer is right or wrong.",
)

RFT = graded_claim(
    "RFT gains more on the target than SFT on the gold answers alone, at equal steps.",
    "Yuan et al. 2023, arXiv 2308.01825",
    {
        "sft": (SFT, "35.9 (LLaMA-7B, GSM8K)", "not measured"),
        "rft": (["method=rft", "curate={name: rft, k: 8}"], "41.7 (k = 100; here k = 8)", "not measured"),
    },
    (gains_more("rft", "sft", at="validated"),),
    "The paper's gain follows the number of different reasoning paths; a problem of this skill has two, and the model "
    "takes both. The paper samples from a model that was fine-tuned on the gold answers first; this one samples as it "
    "is.",
)

IFT = graded_claim(
    "IFT as printed (Eq. 21), from the same gold answers and without a reference model, does at least as well as SFT "
    "on target and elsewhere.",
    "Hua et al. 2024, arXiv 2405.11870",
    {
        "sft": (SFT, "42.84 (GSM8K)", "Open-LLM mean 58.65"),
        "sft, every step clipped": (
            ["method=sft", "optimizer.clip=fixed", "optimizer.max_grad_norm=0.01"], "not tried", "not tried",
        ),
        "ift": (
            ["objective={name: ift, form: eq21}", *FIXED_CLIPPING], "44.73 (GSM8K)", "Open-LLM mean 59.61",
        ),
    },
    (
        gains_as_much("ift", "sft, every step clipped", at="validated"),
        loses_no_more("ift", "sft, every step clipped", at="validated"),
    ),
    "The sum of Eq. 21 is so large that every step is clipped; so is every step of the SFT it is held against.",
)  # fmt: skip

TPO = graded_claim(
    "Imitating a gold answer while preferring chosen to rejected gains more than DPO on the pairs, and more than "
    "imitation alone.",
    "Saeidi et al. 2024, arXiv 2405.16681",
    {
        "dpo": (
            ["method=dpo", f"optimizer.learning_rate={PAIR_RATE}"], "up to 19.0 points below (GSM8K)", "not measured",
        ),
        "sft": (SFT, "not tried", "not measured"),
        "tpo": (["method=tpo"], "51.2 (GSM8K, Llama-3-8B)", "not measured"),
    },
    (gains_more("tpo", "dpo", at="validated"), gains_more("tpo", "sft", at="validated")),
    "SFT on the gold answers alone is the control: it says what the pairs add.",
)  # fmt: skip

ZEPHYR = graded_claim(
    "SFT followed by DPO on the model's own judged answers beats SFT alone for as many steps, and DPO without SFT is "
    "worst.",
    "Tunstall et al. 2023, arXiv 2310.16944",
    {
        "sft": (SFT, "6.64 (MT-Bench)", "not measured"),
        "pairs without sft": (
            [
                "method=pairs", "curate={rejected: random}", "objective.beta=0.01",
                f"optimizer.learning_rate={PAIR_RATE}",
            ], "4.76 (MT-Bench)", "not measured",
        ),
        "zephyr": (
            [
                "method=zephyr", "stages.sft.train.max_steps=80", "stages.dpo.train.max_steps=40",
                f"stages.dpo.optimizer.learning_rate={PAIR_RATE}",
            ], "7.34 (MT-Bench)", "not measured",
        ),
    },
    (gains_more("zephyr", "sft", at="validated"), gains_more("sft", "pairs without sft", at="validated")),
    "Zephyr's SFT takes 80 of the 120 steps, DPO the others; the rate swept is that of DPO.",
)  # fmt: skip


NOISE = 0.2
"""Share of pairs that are labelled the wrong way round: people disagree with each other's labels as often at least."""


def _write_demonstrations_and_scores(folder: Path) -> Mapping[str, Any]:
    """Gold answers to some questions, and to others a right and a wrong answer with their scores, some exchanged."""
    from holdfast.data.row_shapes import UnpairedRows
    from holdfast.skills.rows import lab_rows

    gold = lab_rows(f"lab:{SKILL}", "train", GOLD)
    taken_keys = {row.meta["key"] for row in gold}
    pairs = [row for row in lab_rows(f"lab:{SKILL}", "train", 2 * GOLD, 1, "pair") if row.meta["key"] not in taken_keys]
    draw = random.Random("label noise")
    labelled_pairs = [
        replace(row, chosen=row.rejected, rejected=row.chosen) if draw.random() < NOISE else row for row in pairs[:GOLD]
    ]
    scored_rows = [
        replace(row, label=None) for row in UnpairedRows(labelled_pairs)
    ]  # with a label, wrong ones would be left out as demonstrations
    write_rows(folder / "scored.jsonl", scored_rows)
    return {"data": {"train": write_rows(folder / "gold.jsonl", gold)}}


UFT = graded_claim(
    "Demonstrations and scored answers in one stage gain more than SFT followed by alignment, and cost no more "
    "elsewhere.",
    "Wang et al. 2024, arXiv 2410.21438",
    {
        "sft then una": (
            [
                "stages=[{name: sft, method: sft}, {name: una, method: una, data: {train: '{files}/scored.jsonl'}, "
                "objective: {beta: 0.01}}]",
            ], "29.16 (leaderboard)", "more",
        ),
        "uft": (
            ["method=uft", "data.train=['{files}/gold.jsonl', '{files}/scored.jsonl']"],
            "32.81 (leaderboard)", "less",
        ),
    },
    (
        gains_more("uft", "sft then una", at="validated"),
        loses_no_more("uft", "sft then una", at="validated"),
    ),
    "As many steps for either: 60 and 60, or 120. One in five pairs is labelled the wrong way round.",
    common={
        **{key: value for key, value in GRADED.items() if key != "data"},
        "data": {"limit": None, "test": 0},
        "evaluate": {**GRADED["evaluate"], "target": f"lab:{SKILL}"},
    },
    files=_write_demonstrations_and_scores,
)  # fmt: skip
