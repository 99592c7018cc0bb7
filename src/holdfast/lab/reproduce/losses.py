"""IFT, NEFTune and DPO: other losses on the same rows."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Claim, Figure, gain, loss, remarked
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more

IFT = Claim(
    claim="IFT, from the same gold answers and without a reference model, does at least as well as SFT on target "
    "and elsewhere.",
    paper="Hua et al. 2024, arXiv 2405.11870",
    arms={"sft": ["method=sft"], "ift": ["method=ift"]},
    figures=(
        Figure("target, SFT", "42.84 (GSM8K)", gain("sft")),
        Figure("target, IFT", "44.73 (GSM8K)", gain("ift")),
        Figure("lost elsewhere, SFT", "Open-LLM mean 58.65", loss("sft")),
        Figure("lost elsewhere, IFT", "Open-LLM mean 59.61", loss("ift")),
    ),
    expects=(gains_as_much("ift", "sft"), loses_no_more("ift", "sft")),
)

NEFTUNE = Claim(
    claim="Noise on the embeddings helps a small fine-tuning set without changing what the model knows.",
    paper="Jain et al. 2023, arXiv 2310.05914",
    arms={"sft small": ["method=sft", "data.limit=200"], "neftune small": ["method=neftune", "data.limit=200"]},
    figures=(
        Figure("target, SFT", "29.8 (AlpacaEval)", gain("sft small")),
        Figure("target, NEFTune", "64.7 (AlpacaEval)", gain("neftune small")),
        Figure("lost elsewhere, SFT", "unchanged", loss("sft small")),
        Figure("lost elsewhere, NEFTune", "unchanged", loss("neftune small")),
    ),
    expects=(gains_more("neftune small", "sft small"), loses_no_more("neftune small", "sft small")),
    verdict=remarked("The paper's gain is in how a judge likes long answers; here an answer is right or wrong."),
)

DPO = Claim(
    claim="Preferring right answers over wrong ones raises the target without a style change.",
    paper="Rafailov et al. 2023, arXiv 2305.18290",
    arms={"dpo": ["method=dpo"]},
    figures=(
        Figure("target, DPO", "61 % win rate (TL;DR)", gain("dpo")),
        Figure("lost elsewhere, DPO", "not measured", loss("dpo")),
    ),
    expects=(gains_more("dpo"),),
    common={"optimizer": {"learning_rate": 1e-4}},
)
