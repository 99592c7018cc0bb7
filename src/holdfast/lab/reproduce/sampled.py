"""Replay: general rows rehearsed beside the new ones."""

from __future__ import annotations

from holdfast.lab.reproduce.base import RATES, REHEARSAL, Claim, Figure, gain_of, loss_of, points_lost
from holdfast.lab.reproduce.rule import gains_as_much, loses_no_more

REPLAY = Claim(
    claim="A small share of rehearsed general rows prevents most of the forgetting.",
    paper="Rolnick et al. 2018, arXiv 1811.11682",
    arms={"sft": ["method=sft"], "replay": ["method=sft", REHEARSAL]},
    figures=(
        Figure("target, SFT", "not comparable", gain_of("sft")),
        Figure("target, 10 % replay", "about the same", gain_of("replay")),
        Figure("lost elsewhere, SFT", "catastrophic", loss_of("sft")),
        Figure("lost elsewhere, 10 % replay", "nearly none", loss_of("replay")),
    ),
    expects=(gains_as_much("replay", "sft", at="best"), loses_no_more("replay", "sft", share=0.5, at="best")),
    rates=RATES,
    verdict=lambda arms: (
        f"With replay {points_lost(arms, 'replay'):.1f} points were lost elsewhere, without "
        f"{points_lost(arms, 'sft'):.1f}."
    ),
)
