"""Proxy tuning: what a small model learned, added to the logits of a large one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from holdfast.axes.inference import Inference

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.inference import LogitStep


class Proxy(Inference):
    """What a small model learned in training, added to the logits of a large one. [Liu et al. 2024, arXiv 2401.08565]

    What: at every token, logits = weight * z + alpha * (z_expert - z_antiexpert), where z are those of the model that
    is asked, the expert is a small model after its training and the antiexpert the same before it. All three read the
    same tokens, each with a cache of its own; constants that are added to the logits of any of them change nothing.
    `plausible` keeps to the tokens that the model itself finds likely: those whose probability is at least this share
    of the likeliest one's. Where a text is scored that is given, the others are ranked below these, not forbidden.

    When it helps: a large model that cannot be trained here, beside one of its family that can: 88 % of the gap between
    Llama-2-70B and its tuned sibling was closed by an expert of 7B. Nothing is trained of the large model; alpha sets
    how far it goes.

    When it fails: the expert alone may be better than the sum (code, in the paper): measure it too. An answer takes the
    time of three models. All should have one tokenizer (`vocabulary: shared` goes by tokens of the same text, and says
    how many there are), and a chat model as expert sees this model's template.

    Columns needed: none.

    Paper: Liu, Han, Wang, Tsvetkov, Choi, Smith 2024, "Tuning Language Models by Proxy", arXiv 2401.08565, COLM 2024;
    alpha 1. Their code computes on raw logits, as here. Without `expert` the model is its own: alpha of what it knows
    more than the antiexpert is added.
    """

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2401.08565"
    needs_base: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, Any]] = {"alpha": 0.0, "weight": 1.0, "plausible": 0.0}

    antiexpert: str = Field(description="The small model before its training: path, run directory or name.")
    expert: str | None = Field(None, description="The small model after it; default: the model that is asked.")
    alpha: float = Field(1.0, description="How much of what the expert learned is added.")
    weight: float = Field(1.0, ge=0, description="Of the model's own logits.")
    plausible: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Tokens whose probability under the model is below this share of the likeliest one's are out.",
    )

    vocabulary: Literal["equal", "shared"] = Field(
        "equal",
        description="shared: experts with other tokens, read by those of the same text; of the rest they say nothing.",
    )

    @model_validator(mode="after")
    def _two_experts(self) -> Proxy:
        if self.vocabulary == "shared" and self.expert is None:
            raise ValueError("vocabulary shared needs an expert: of two models with other tokens the difference counts")
        return self

    def translates_tokens(self) -> bool:
        return self.vocabulary == "shared"

    def describe_translation(self) -> str:
        return "" if self.expert is None else "vocabulary: shared"

    def extra_models(self) -> Mapping[str, str]:
        return {"antiexpert": self.antiexpert, **({} if self.expert is None else {"expert": self.expert})}

    def logits(self, step: LogitStep) -> Tensor:
        import torch

        own: Tensor = step["tuned"]  # [n, V]
        scores = own if self.weight == 1 else self.weight * own
        if self.alpha:
            scores = scores + self.alpha * (step.get("expert", own) - step["antiexpert"])
        if not self.plausible:
            return scores
        behind = own - own.amax(-1, keepdim=True)  # [n, V]: log of the share of the likeliest token's probability
        is_out = behind < math.log(self.plausible)
        if step.is_drawn:
            return scores.masked_fill(is_out, -torch.inf)
        lowest = scores.masked_fill(is_out, torch.inf).amin(-1, keepdim=True)  # [n, 1]
        return torch.where(is_out, lowest + behind, scores)
