"""Claims about the model's own scored answers to word problems of graded difficulty, labelled as people label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.lab.reproduce.base import Figure
from holdfast.lab.reproduce.graded_answers import GRADED, NOISE, PAIR_RATE, graded_claim
from holdfast.lab.reproduce.losses import PAIRS, RIGHT_ALONE
from holdfast.lab.reproduce.rule import Expectation, gains_more, loses_less, loses_no_more, read_log_mean

OWN_ANSWERS: dict[str, Any] = {
    **GRADED,
    "data": {"train": "lab:story-graded", "limit": 400},
    "optimizer": {"learning_rate": float(PAIR_RATE)},
    "train": {"max_steps": 40},
}
"""Two in three of these questions have right and wrong answers among eight."""

LABELLED = f"curate=[{{name: pairs, n: 8, temperature: 1}}, {{name: label_noise, share: {NOISE}}}]"
"""Pairs of its own answers, with labels like people's."""

DPO = ["method=dpo", LABELLED]
REMARK = "One in five pairs is labelled the wrong way round."

GRPO = graded_claim(
    "GRPO on the model's own scored answers gains more than SFT on the right ones (RFT), and loses nothing elsewhere.",
    "Shao et al. 2024, arXiv 2402.03300",
    {
        "rft": (
            [*RIGHT_ALONE, "optimizer.learning_rate=3e-4"], "below GRPO (GSM8K, figure 5)", "not measured",
        ),
        "grpo": (
            ["objective=grpo", PAIRS], "82.9 to 88.2 (GSM8K, many rounds; here one)", "gains (CMATH 84.6 to 88.8)",
        ),
    },
    (gains_more("grpo", "rft", at="validated"), loses_no_more("grpo", at="validated")),
    "One round: the answers are those of the untouched model.",
    common=OWN_ANSWERS,
)  # fmt: skip

ASFT = graded_claim(
    "Absolute likelihoods gain more from the same pairs than the margin of DPO (which others could not confirm).",
    "Wang et al. 2024, arXiv 2409.10571",
    {
        "dpo": (DPO, "23.4 % (AlpacaEval 2, in 2502.01237)", "not measured"),
        "asft": (
            ["method=asft", LABELLED],
            "14.5 to 16.4 % (AlpacaEval 2, in 2502.01237); above DPO in the paper", "not measured",
        ),
    },
    (gains_more("asft", "dpo", at="validated"),),
    REMARK,
    common=OWN_ANSWERS,
)  # fmt: skip

RPO = graded_claim(
    "A chosen answer held against those rejected for like questions too gains more from the same pairs than DPO.",
    "Yin et al. 2024, arXiv 2402.10958",
    {
        "dpo": (DPO, "below RPO (win rates)", "not measured"),
        "rpo": (["method=rpo", LABELLED], "above DPO (win rates)", "not measured"),
    },
    (gains_more("rpo", "dpo", at="validated"),),
    REMARK,
    common=OWN_ANSWERS,
)


def _log_mean_of(label: str, name: str, form: str) -> Callable[[Mapping[str, dict[str, Any]]], tuple[str, None, None]]:
    """What an arm logged under a name in the end, as its mean over the seeds."""

    def read_mean(arms: Mapping[str, dict[str, Any]]) -> tuple[str, None, None]:
        means = [read_log_mean(folder, name) for folder in arms[label]["dirs"]]
        return format(sum(means) / len(means), form), None, None

    return read_mean


FPO = graded_claim(
    "At the same reward accuracy FPO loses less elsewhere than DPO, with alpha 0.5 and with alpha 5.",
    "Yin et al. 2024, arXiv 2411.07618",
    {
        "dpo": (DPO, "not given", "more (proposed)"),
        "fpo": (["method=fpo", LABELLED], "over 5 points more wins than others", "less (proposed)"),
        "fpo strong": (["method=fpo", LABELLED, "objective.alpha=5"], "not given", "less (proposed)"),
    },
    tuple(
        part
        for name in ("fpo", "fpo strong")
        for part in (
            loses_less(name, "dpo", at="validated"),
            Expectation(name, "dpo", "log:rewards/accuracy", at="validated"),
        )
    ),
    REMARK,
    figures=[
        Figure(f"{what}, {label}", paper.get(label, "not given"), _log_mean_of(label, name, form))
        for what, name, form, paper in (
            ("share of pairs rewarded rightly", "rewards/accuracy", ".3f", {"dpo": "0.599", "fpo": "0.641"}),
            ("divergence from the base, nats a token", "kl", ".3f", {}),
        )
        for label in ("dpo", "fpo", "fpo strong")
    ],
    common=OWN_ANSWERS,
)
