"""S3FT, SSR and SDFT: training on the model's own right answers, or its paraphrases, keeps more of what it knew."""

from __future__ import annotations

from holdfast.lab.reproduce.base import RATES, Claim, Figure, gain_of, loss_of
from holdfast.lab.reproduce.rule import gains_as_much, loses_less, loses_no_more

_SFT, _SDFT, _SSR, _S3FT = (["method=" + name] for name in ("sft", "sdft", "ssr", "s3ft"))


def _origin_share(kind: str):  # type: ignore[no-untyped-def]
    def format_share(arms):  # type: ignore[no-untyped-def]
        origins = arms["s3ft"]["origins"]
        return f"{100 * origins.get(kind, 0) / sum(origins.values()):.1f} %", None, None

    return format_share


S3FT = Claim(
    claim="S3FT gains at least as much on the target as SFT and loses about half as much elsewhere.",
    paper="Gupta et al. 2025, arXiv 2502.08130",
    arms={"sft": _SFT, "sdft": _SDFT, "s3ft": _S3FT},
    figures=(
        Figure("target, SFT", "+13.1 (GSM8K 40.3 to 53.4)", gain_of("sft")),
        Figure("target, SDFT", "+14.5 (to 54.8)", gain_of("sdft")),
        Figure("target, S3FT", "+16.6 (to 56.9)", gain_of("s3ft")),
        Figure("lost elsewhere, SFT", "up to 4.4", loss_of("sft")),
        Figure("lost elsewhere, SDFT", "not given", loss_of("sdft")),
        Figure("lost elsewhere, S3FT", "2.5", loss_of("s3ft")),
        Figure("rows answered by the model itself", "49.5 % (GSM8K)", _origin_share("model")),
        Figure("rows from paraphrases", "42.1 %", _origin_share("paraphrase")),
        Figure("rows left as gold", "8.4 %", _origin_share("gold")),
    ),
    expects=(
        gains_as_much("s3ft", "sft", at="best"),
        loses_less("s3ft", "sft", at="gain"),
        loses_no_more("s3ft", "sft", share=0.57),
    ),
    rates=RATES,
)

SSR = Claim(
    claim="SSR matches SFT on the target and loses far less elsewhere.",
    paper="Gupta et al. 2024, arXiv 2409.04787",
    arms={"sft": _SFT, "ssr": _SSR},
    figures=(
        Figure("target, SFT", "about SSR's", gain_of("sft")),
        Figure("target, SSR", "about SFT's", gain_of("ssr")),
        Figure("lost elsewhere, SFT", "up to 16.7", loss_of("sft")),
        Figure("lost elsewhere, SSR", "about 2", loss_of("ssr")),
    ),
    expects=(gains_as_much("ssr", "sft", at="best"), loses_less("ssr", "sft", at="gain")),
    rates=RATES,
)

SDFT = Claim(
    claim="SDFT, which always paraphrases the gold answer, loses less elsewhere than SFT at a like gain.",
    paper="Yang et al. 2024, arXiv 2402.13669",
    arms={"sft": _SFT, "sdft": _SDFT},
    figures=(
        Figure("target, SFT", "+13.1 (GSM8K, in 2502.08130)", gain_of("sft")),
        Figure("target, SDFT", "+14.5 (GSM8K, in 2502.08130)", gain_of("sdft")),
        Figure("lost elsewhere, SFT", "not given here", loss_of("sft")),
        Figure("lost elsewhere, SDFT", "less", loss_of("sdft")),
    ),
    expects=(gains_as_much("sdft", "sft", at="best"), loses_less("sdft", "sft", at="gain")),
    rates=RATES,
)
