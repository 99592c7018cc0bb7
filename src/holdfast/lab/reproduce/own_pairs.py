"""Pairs: preferring the model's own better answers to its own worse ones."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Claim, Figure, gain, loss

PAIRS = Claim(
    claim="DPO on pairs of the model's own answers, ranked by a judge, gains on the target without losing elsewhere.",
    paper="Yuan et al. 2024, arXiv 2401.10020; Tunstall et al. 2023, arXiv 2310.16944",
    arms={
        "sft": ["method=sft"],
        "pairs": ["method=pairs", "optimizer.learning_rate=1e-4"],
        "pairs random": ["method=pairs", "curate={rejected: random}", "optimizer.learning_rate=1e-4"],
    },
    figures=(
        Figure("target, SFT", "not comparable", gain("sft")),
        Figure("target, pairs", "9.9 % to 15.4 % (AlpacaEval 2, one round)", gain("pairs")),
        Figure("target, random rejected", "90.6 % (AlpacaEval, Zephyr)", gain("pairs random")),
        Figure("lost elsewhere, SFT", "not measured", loss("sft")),
        Figure("lost elsewhere, pairs", "little", loss("pairs")),
        Figure("lost elsewhere, random rejected", "not measured", loss("pairs random")),
    ),
    held=lambda arms: arms["pairs"]["gain"]["low"] > 0 and arms["pairs"]["loss"]["low"] <= 0,
)
