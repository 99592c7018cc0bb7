"""Zephyr: one training after another, against each of its halves."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Claim, Figure, gain_of, loss_of, verdict_with_remark
from holdfast.lab.reproduce.rule import gains_more

DPO_RATE = "2.5e-5"
"""A fortieth of the rate of SFT, as in the paper."""

ZEPHYR = Claim(
    claim="SFT followed by DPO on the model's own judged answers beats SFT alone, and DPO without SFT is worst.",
    paper="Tunstall et al. 2023, arXiv 2310.16944",
    arms={
        "sft": ["method=sft"],
        "pairs without sft": [
            "method=pairs", "curate={rejected: random}", "objective.beta=0.01", f"optimizer.learning_rate={DPO_RATE}",
        ],
        "zephyr": ["method=zephyr", f"stages.dpo.optimizer.learning_rate={DPO_RATE}"],
    },
    figures=(
        Figure("target, SFT", "6.64 (MT-Bench)", gain_of("sft")),
        Figure("target, DPO without SFT", "4.76 (MT-Bench)", gain_of("pairs without sft")),
        Figure("target, Zephyr", "7.34 (MT-Bench)", gain_of("zephyr")),
        Figure("lost elsewhere, SFT", "not measured", loss_of("sft")),
        Figure("lost elsewhere, DPO without SFT", "not measured", loss_of("pairs without sft")),
        Figure("lost elsewhere, Zephyr", "not measured", loss_of("zephyr")),
    ),
    expects=(gains_more("zephyr", "sft"), gains_more("sft", "pairs without sft")),
    verdict=verdict_with_remark(
        "Zephyr's SFT has the usual 120 steps and DPO as many after it; the others train for all 240."
    ),
    common={"train": {"max_steps": 240}},
)  # fmt: skip
