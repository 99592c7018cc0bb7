"""Half fine-tuning, LoRA, optimizers with little state and the dial: other weights, updates, and a way back."""

from __future__ import annotations

from holdfast.lab.reproduce.base import HIGH_RATES, Claim, Figure, gain_of, loss_of, verdict_with_remark
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_less, loses_no_more

HALF = Claim(
    claim="Freezing half of the weights keeps more of what the model knew, at a like gain.",
    paper="Hui et al. 2024, arXiv 2404.18466",
    arms={"sft": ["method=sft"], "half": ["method=half"]},
    figures=(
        Figure("target, full", "41.0 (Llama-2-7B, Tulu-V2 mean)", gain_of("sft")),
        Figure("target, half", "42.9", gain_of("half")),
        Figure("lost elsewhere, full", "8.2 (knowledge 22.9 to 14.7)", loss_of("sft")),
        Figure("lost elsewhere, half", "4.8 (22.9 to 18.1)", loss_of("half")),
    ),
    expects=(loses_less("half", "sft", at="gain"),),
    rates=(0.3, 1, 2, 3),
)

LORA = Claim(
    claim="LoRA learns less and forgets less than full fine-tuning.",
    paper="Hu et al. 2021, arXiv 2106.09685; Biderman et al. 2024, arXiv 2405.09673",
    arms={"sft": ["method=sft"], "lora": ["method=lora", "optimizer.learning_rate=5e-3"]},
    figures=(
        Figure("target, full", "more", gain_of("sft")),
        Figure("target, LoRA", "less", gain_of("lora")),
        Figure("lost elsewhere, full", "more", loss_of("sft")),
        Figure("lost elsewhere, LoRA", "less", loss_of("lora")),
    ),
    expects=(
        gains_more("sft", "lora", at="best"),
        loses_less("lora", "sft", at="best"),
        loses_no_more("lora", "sft", at="gain"),
    ),
    rates=(0.3, 1, 3),
)

LOMO = Claim(
    claim="LOMO trains all weights with no optimizer state, at the accuracy of ordinary fine-tuning.",
    paper="Lv et al. 2023, arXiv 2306.09782",
    arms={"sft": ["method=sft"], "lomo": ["method=lomo", "optimizer.learning_rate=0.3"]},
    figures=(
        Figure("target, AdamW", "comparable (SuperGLUE)", gain_of("sft")),
        Figure("target, LOMO", "comparable (SuperGLUE)", gain_of("lomo")),
        Figure("lost elsewhere, AdamW", "not measured", loss_of("sft")),
        Figure("lost elsewhere, LOMO", "not measured", loss_of("lomo")),
    ),
    expects=(gains_as_much("lomo", "sft", at="best"),),
    rates=(0.3, 1, 3),
    verdict=verdict_with_remark("The paper itself warns that plain SGD, which LOMO is, fails on small models."),
)

ADALOMO = Claim(
    claim="AdaLomo fine-tunes all weights as well as AdamW does, with hardly any state.",
    paper="Lv et al. 2023, arXiv 2310.10195",
    arms={"sft": ["method=sft"], "adalomo": ["method=adalomo", "optimizer.max_grad_norm=0"]},
    figures=(
        Figure("target, AdamW", "on par (instruction tuning of Llama, five benchmarks)", gain_of("sft")),
        Figure("target, AdaLomo", "on par", gain_of("adalomo")),
        Figure("lost elsewhere, AdamW", "not measured", loss_of("sft")),
        Figure("lost elsewhere, AdaLomo", "not measured", loss_of("adalomo")),
    ),
    expects=(gains_as_much("adalomo", "sft", at="best"), loses_no_more("adalomo", "sft", at="gain")),
    rates=(1, 3, 10),
)

ADAFACTOR = Claim(
    claim="Adafactor trains as well as Adam with states of the size of a matrix's rows and columns.",
    paper="Shazeer and Stern 2018, arXiv 1804.04235",
    arms={"sft": ["method=sft"], "adafactor": ["method=adafactor", "optimizer.max_grad_norm=0"]},
    figures=(
        Figure("target, AdamW", "comparable (translation)", gain_of("sft")),
        Figure("target, Adafactor", "comparable", gain_of("adafactor")),
        Figure("lost elsewhere, AdamW", "not measured", loss_of("sft")),
        Figure("lost elsewhere, Adafactor", "not measured", loss_of("adafactor")),
    ),
    expects=(gains_as_much("adafactor", "sft", at="best"),),
    rates=(1, 3, 10),
)

DIAL = Claim(
    claim="Weights between base and tuned keep most of the gain and lose much less.",
    paper="Wortsman et al. 2021, arXiv 2109.01903",
    arms={"sft": ["method=sft"], "dial 0.5": ["method=sft", "inference={name: dial, point: 0.5}"]},
    figures=(
        Figure("target, tuned", "86.2 (ImageNet)", gain_of("sft")),
        Figure("target, half way", "86.9 to 87.1 at the best point", gain_of("dial 0.5")),
        Figure("lost elsewhere, tuned", "reference", loss_of("sft")),
        Figure("lost elsewhere, half way", "4 to 6 points better", loss_of("dial 0.5")),
    ),
    expects=(
        gains_as_much("dial 0.5", "sft", share=0.5, at="best"),
        loses_less("dial 0.5", "sft", at="best"),
    ),
    rates=HIGH_RATES,
)
