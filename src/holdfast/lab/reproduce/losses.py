"""IFT, NEFTune and DPO: other losses on the same rows."""

from __future__ import annotations

from holdfast.lab.reproduce.base import FIXED_CLIPPING, RATES, Claim, Figure, gain_of, loss_of, verdict_with_remark
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more

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

IFT = Claim(
    claim="IFT as printed (Eq. 21), from the same gold answers and without a reference model, does at least as well as "
    "SFT on target and elsewhere.",
    paper="Hua et al. 2024, arXiv 2405.11870",
    arms={
        "sft, clipped at 1": ["method=sft", *FIXED_CLIPPING],
        "sft, every step clipped": ["method=sft", "optimizer.clip=fixed", "optimizer.max_grad_norm=0.01"],
        "ift": ["objective={name: ift, form: eq21}", *FIXED_CLIPPING],
        "ift without mixing": ["objective={name: ift, form: eq21, mix: 0}", *FIXED_CLIPPING],
        "ift, authors' code": ["objective={name: ift, form: authors}", *FIXED_CLIPPING],
    },
    figures=(
        Figure("target, SFT", "42.84 (GSM8K)", gain_of("sft, clipped at 1")),
        Figure("target, SFT, every step clipped", "not tried", gain_of("sft, every step clipped")),
        Figure("target, IFT, Eq. 21", "44.73 (GSM8K)", gain_of("ift")),
        Figure("target, IFT, Eq. 21 without mixing", "not tried", gain_of("ift without mixing")),
        Figure("target, IFT, the authors' code", "44.73 (GSM8K)", gain_of("ift, authors' code")),
        Figure("lost elsewhere, SFT", "Open-LLM mean 58.65", loss_of("sft, clipped at 1")),
        Figure("lost elsewhere, SFT, every step clipped", "not tried", loss_of("sft, every step clipped")),
        Figure("lost elsewhere, IFT, Eq. 21", "Open-LLM mean 59.61", loss_of("ift")),
        Figure("lost elsewhere, IFT, Eq. 21 without mixing", "not tried", loss_of("ift without mixing")),
        Figure("lost elsewhere, IFT, the authors' code", "Open-LLM mean 59.61", loss_of("ift, authors' code")),
    ),
    expects=(gains_as_much("ift", "sft, clipped at 1"), loses_no_more("ift", "sft, clipped at 1")),
    verdict=verdict_with_remark(
        "The sum of Eq. 21 is so large that every step is clipped, so SFT has an arm with every step clipped too: the "
        "clip explains a larger gain, not a smaller loss."
    ),
)

NEFTUNE = Claim(
    claim="Noise on the embeddings helps a small fine-tuning set without changing what the model knows.",
    paper="Jain et al. 2023, arXiv 2310.05914",
    arms={"sft small": ["method=sft", "data.limit=200"], "neftune small": ["method=neftune", "data.limit=200"]},
    figures=(
        Figure("target, SFT", "29.8 (AlpacaEval)", gain_of("sft small")),
        Figure("target, NEFTune", "64.7 (AlpacaEval)", gain_of("neftune small")),
        Figure("lost elsewhere, SFT", "unchanged", loss_of("sft small")),
        Figure("lost elsewhere, NEFTune", "unchanged", loss_of("neftune small")),
    ),
    expects=(
        gains_more("neftune small", "sft small", at="best"),
        loses_no_more("neftune small", "sft small", at="best"),
    ),
    rates=RATES,
    verdict=verdict_with_remark(
        "The paper's gain is in how a judge likes long answers; here an answer is right or wrong, and noise "
        "on 200 rows has no effect that could be seen."
    ),
)

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
