"""SFT memorises, RL generalises: one rule is trained, the other measured all the way, from the same start.

The paper's own numbers (2501.17161, 234 hands a point) support that SFT loses under the rule that is not trained (11.5
to 3.4 %, p = 0.001), and say nothing of a gain of RL there (11.5 to 15.0 %, p = 0.34): the claim is worded so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.lab.reproduce.base import Claim, Figure, gain_of, loss_of, task_change_of, verdict_with_remark
from holdfast.lab.reproduce.curves import curve_of, draw_ends, draw_scores
from holdfast.lab.reproduce.rule import Expectation, gains_more

STEPS = ROUNDS = 120  # the steps of a comparison are those of all its arms

SHARED: dict[str, Any] = {
    "model": "lab-small",
    "optimizer": {"learning_rate": 3e-4, "schedule": "constant"},
    "sampling": {"temperature": 1, "max_tokens": 24},
    "train": {"batch_tokens": "auto", "max_steps": STEPS},
    "evaluate": {"items": 200, "every": 0.25, "live_items": 100, "max_tokens": 24},
}
"""What both arms share: the start, the questions, and four looks on the way."""

SFT_ARM = ("method=sft", "optimizer.learning_rate=1e-3", "train.batch_tokens=1536")
RL_ARM = (
    "method=policy_gradient", "credit={name: group, scale: none}", f"online={{rounds: {ROUNDS}, prompts: 32, n: 8}}",
)  # fmt: skip
"""Not scaled by the group's deviation, which would weigh prompts most that are nearly always, or never, solved."""


def compare_rules(train: str, other: str, keep: Sequence[str], paper: Mapping[str, str]) -> Claim:
    """The claim on a task of two rules.

    Args:
        train: The skill under the rule that is trained on.
        other: Under the one that is not.
        keep: What else is measured.
        paper: The paper's numbers: `arm in`, `arm out`.
    """
    figures = []
    arms = ("sft", "rl")
    for arm in arms:
        figures += [
            Figure(f"trained rule, {arm}", paper[f"{arm} in"], gain_of(arm)),
            Figure(f"other rule, {arm}", paper[f"{arm} out"], task_change_of(arm, other)),
            Figure(f"trained rule while training, {arm}", "figure 5", curve_of(arm, train)),
            Figure(f"other rule while training, {arm}", "figure 5", curve_of(arm, other)),
            Figure(f"lost elsewhere, {arm}", "not measured", loss_of(arm)),
        ]
    tasks = {"target": f"lab:{train}", "keep": [f"lab:{name}" for name in (other, *keep)]}
    return Claim(
        claim=f"Trained on {train} from the same start, RL solves more of it and loses nothing under the other rule, "
        f"{other}, where SFT does.",
        paper="Chu et al. 2025, arXiv 2501.17161",
        arms={"sft": SFT_ARM, "rl": RL_ARM},
        figures=figures,
        expects=(
            gains_more("rl"),
            Expectation("rl", None, other, "as much"),
            Expectation("rl", "sft", other, "more"),
        ),
        verdict=verdict_with_remark("A gain of RL under the other rule is neither claimed nor supported by the paper."),
        draw=lambda ran: [
            draw_scores(f"In distribution: {train}", train, arms, ran),
            draw_scores(f"Out of distribution: {other}", other, arms, ran),
            draw_ends("At the end", (train, other), arms, ran),
        ],
        common={**SHARED, "data": {"train": f"lab:{train}"}, "evaluate": {**SHARED["evaluate"], **tasks}},
    )


POINTS = compare_rules(
    "points-ten",
    "points-rank",
    ("points-plain", "sums", "route", "strings", "facts"),
    {"sft in": "rises", "sft out": "11.5 to 3.4 %", "rl in": "rises", "rl out": "11.5 to 15.0 % (p = 0.34)"},
)
ROUTE = compare_rules(
    "route-compass",
    "route-relative",
    ("sums", "points", "strings", "facts"),
    {"sft in": "rises", "sft out": "80.8 to 1.3 % (steps)", "rl in": "rises", "rl out": "80.8 to 91.8 % (steps)"},
)
