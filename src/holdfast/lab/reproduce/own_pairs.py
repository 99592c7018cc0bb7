"""The model's own answers, scored: the best and the worst as a pair, or all of them as a group."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Claim, Figure, gain_and_loss, gain_of, loss_of
from holdfast.lab.reproduce.losses import DPO_ARM, OWN_PAIRS, OWN_PAIRS_RATES, RIGHT_ALONE
from holdfast.lab.reproduce.rule import gains_more, loses_no_more

OWN_RANKED = Claim(
    claim="DPO on pairs of the model's own answers, ranked by a judge, gains on the target without losing elsewhere.",
    paper="Yuan et al. 2024, arXiv 2401.10020; Tunstall et al. 2023, arXiv 2310.16944",
    arms={
        "rft": RIGHT_ALONE,
        "dpo": DPO_ARM,
        "dpo, random rejected": ["method=dpo", "curate={name: pairs, n: 8, temperature: 1, rejected: random}"],
    },
    figures=(
        Figure("target, SFT on the right ones alone", "not comparable", gain_of("rft")),
        Figure("target, DPO on pairs", "9.9 % to 15.4 % (AlpacaEval 2, one round)", gain_of("dpo")),
        Figure("target, random rejected", "90.6 % (AlpacaEval, Zephyr)", gain_of("dpo, random rejected")),
        Figure("lost elsewhere, SFT on the right ones alone", "not measured", loss_of("rft")),
        Figure("lost elsewhere, DPO on pairs", "little", loss_of("dpo")),
        Figure("lost elsewhere, random rejected", "not measured", loss_of("dpo, random rejected")),
    ),
    expects=(gains_more("dpo", at="best"), loses_no_more("dpo", at="best")),
    rates=OWN_PAIRS_RATES,
    common=OWN_PAIRS,
)

_NOISY = "curate=[{name: pairs, n: 8, temperature: 1}, {name: label_noise, share: 0.3}]"

LABEL_NOISE = Claim(
    claim="With three labels in ten the wrong way round DPO gains less, and more again with its labels smoothed by as "
    "much.",
    paper="Chowdhury et al. 2024, arXiv 2403.00409",
    arms={
        "dpo": DPO_ARM,
        "dpo, noisy": ["method=dpo", _NOISY],
        "dpo, noisy, smoothed": ["method=dpo", "objective.label_smoothing=0.3", _NOISY],
    },
    figures=gain_and_loss(
        {"dpo": "not comparable", "dpo, noisy": "below clean", "dpo, noisy, smoothed": "not below DPO's"}
    ),
    expects=(
        gains_more("dpo", "dpo, noisy", at="best"),
        gains_more("dpo, noisy, smoothed", "dpo, noisy", at="best"),
    ),
    rates=OWN_PAIRS_RATES,
    common=OWN_PAIRS,
)
