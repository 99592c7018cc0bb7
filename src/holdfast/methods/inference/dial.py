"""The dial: weights on the line from the base model to the tuned one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.inference import Inference
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Dial(Inference):
    """Weights on the line from base to tuned: trade gain for retention. [Wortsman et al. 2021, arXiv 2109.01903]

    What: theta = theta_base + point * (theta_tuned - theta_base), weight by weight, in fp32, then rounded to the tuned
    model's type. An adapter is folded in first, so its update is scaled by `point`. 0 gives the base and 1 the tuned
    (merged) model, bit for bit.

    When it helps: a tuned model that lost too much. Forgetting usually falls faster than the target score on the way
    back, so that a point between 0.4 and 0.8 keeps most of both; no training, and several points can be measured.

    When it fails: after long training at a high learning rate the two models are no longer joined by a line of low
    loss, and points between are worse than both ends. New tokens or another architecture cannot be joined at all.

    Columns needed: none.

    Paper: Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo-Lopes, Hajishirzi, Farhadi, Namkoong, Schmidt 2021,
    "Robust fine-tuning of zero-shot models" (WiSE-FT), arXiv 2109.01903, CVPR 2022; it recommends 0.5 without tuning.
    """

    paper: ClassVar[str] = "Wortsman et al. 2021, arXiv 2109.01903"
    neutral: ClassVar[Mapping[str, Any]] = {"point": 1.0}
    original: ClassVar[Mapping[str, Any]] = {"point": 0.0}

    point: float = Field(0.5, ge=0, le=1, description="0 = base, 1 = tuned.")

    def weights(self, base: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
        """A new plain model at `point`; `base` and `tuned` are left as they are.

        Raises:
            UserError: If a weight has another name or shape in one of the two.
        """
        import torch

        model = copy.deepcopy(tuned)
        # A weight that two modules share counts by both names: folding an adapter in may have parted the two.
        origin = dict(base.named_parameters(remove_duplicate=False))
        tuned_weights = dict(model.named_parameters(remove_duplicate=False))
        for name in sorted(origin.keys() ^ tuned_weights.keys()) or (
            n for n in tuned_weights if origin[n].shape != tuned_weights[n].shape
        ):
            raise UserError(
                f"inference.dial: weight {name} is not the same in base and tuned model; the dial needs the model that "
                "the tuned one was trained from"
            )
        with torch.no_grad():
            for name, weight in model.named_parameters():
                start = origin[name].to(weight.device)
                if self.point == 0 and start.dtype == weight.dtype:
                    weight.copy_(start)
                else:
                    weight.copy_(torch.lerp(start.float(), weight.float(), self.point))
        return model
