"""RFT: more right reasoning paths from the model itself. Replay: general rows rehearsed beside the new ones."""

from __future__ import annotations

from holdfast.lab.reproduce.base import RATES, Claim, Figure, gain_of, loss_of, points_lost, verdict_with_remark
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more

RFT = Claim(
    claim="RFT gains more on the target than SFT on the gold answers alone, at equal steps.",
    paper="Yuan et al. 2023, arXiv 2308.01825",
    arms={"sft": ["method=sft"], "rft": ["method=rft", "curate={name: rft, k: 8}"]},
    figures=(
        Figure("target, SFT", "35.9 (LLaMA-7B, GSM8K)", gain_of("sft")),
        Figure("target, RFT", "41.7 (k = 100; here k = 8)", gain_of("rft")),
        Figure("lost elsewhere, SFT", "not measured", loss_of("sft")),
        Figure("lost elsewhere, RFT", "not measured", loss_of("rft")),
    ),
    expects=(gains_more("rft", "sft", at="best"),),
    rates=RATES,
    verdict=verdict_with_remark(
        "The paper's gain follows the number of different reasoning paths; a problem of this skill has one list of "
        "equations, whatever the model, so that cannot show here. At equal steps the gold rows of the hardest "
        "questions, which the model cannot answer itself, are seen less often."
    ),
)

REPLAY = Claim(
    claim="A small share of rehearsed general rows prevents most of the forgetting.",
    paper="Rolnick et al. 2018, arXiv 1811.11682",
    arms={"sft": ["method=sft"], "replay": ["method=sft", "data.replay={path: lab, share: 0.1}"]},
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
