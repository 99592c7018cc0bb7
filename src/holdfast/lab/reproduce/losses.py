"""DPO on pairs of the model's own answers, and what claims on such pairs share."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Claim, Figure, gain_of, loss_of
from holdfast.lab.reproduce.rule import gains_more

OWN_PAIRS = {
    "data": {"train": "lab:points", "limit": 500}, "optimizer": {"learning_rate": 1e-4}, "train": {"max_steps": 40},
}  # fmt: skip
"""Where the model is right and wrong about the same questions: of `lab:points`, about every other one. The pairs that
the generator of a skill writes are told apart by the untouched model already (99 to 100 %), and teach nothing."""

OWN_PAIRS_RATES = (0.3, 1, 3, 10)
"""At one rate for all, a loss of pairs falls where one of scored groups does not move yet."""

PAIRS = "curate={name: pairs, n: 8, temperature: 1}"
"""Those pairs."""

DPO_ARM = ["method=dpo", PAIRS]
RIGHT_ALONE = ["curate={name: rft, k: 8, temperature: 1, distinct: false, gold: false}"]
"""SFT on all the model's right answers, without the gold ones that the arms on its pairs do not see either."""


DPO = Claim(
    claim="Preferring the model's own right answers over its wrong ones raises the target without a style change.",
    paper="Rafailov et al. 2023, arXiv 2305.18290",
    arms={"rft": RIGHT_ALONE, "dpo": DPO_ARM},
    figures=(
        Figure("target, SFT on the right ones alone", "below DPO (TL;DR)", gain_of("rft")),
        Figure("target, DPO", "61 % win rate (TL;DR)", gain_of("dpo")),
        Figure("lost elsewhere, SFT on the right ones alone", "not measured", loss_of("rft")),
        Figure("lost elsewhere, DPO", "not measured", loss_of("dpo")),
    ),
    expects=(gains_more("dpo", at="best"), gains_more("dpo", "rft", at="best")),
    rates=OWN_PAIRS_RATES,
    common=OWN_PAIRS,
)
