"""The dial: weights on the line from the base model to the tuned one."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from holdfast.axes.inference import Inference
from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


LAYER = re.compile(r"\.(\d+)\.")
"""The first number in a parameter's name is its layer's."""


class Dial(Inference):
    """Weights on the line from base to tuned: trade gain for retention. [Wortsman et al. 2021, arXiv 2109.01903]

    What: theta = theta_base + point * (theta_tuned - theta_base), weight by weight, in fp32, then rounded to the tuned
    model's type. An adapter is folded in first, so its update is scaled by `point`. 0 gives the base and 1 the tuned
    (merged) model, bit for bit. `layers` gives points of their own to the layers, spread evenly from the first to the
    last: (0, 1) goes from the base's first layer to the tuned one's last; what is in no layer is at `point`.
    `holdfast dial RUN` measures a run at several points.

    When it helps: a tuned model that lost too much. Forgetting usually falls faster than the target score on the way
    back, so that a point between 0.4 and 0.8 keeps most of both; no training, and several points can be measured.

    When it fails: after long training at a high learning rate the two models are no longer joined by a line of low
    loss, and points between are worse than both ends. New tokens or another architecture cannot be joined at all.

    Columns needed: none.

    Paper: Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo-Lopes, Hajishirzi, Farhadi, Namkoong, Schmidt 2021,
    "Robust fine-tuning of zero-shot models" (WiSE-FT), arXiv 2109.01903, CVPR 2022; it recommends 0.5 without tuning.
    """

    paper: ClassVar[str] = "Wortsman et al. 2021, arXiv 2109.01903"
    neutral: ClassVar[Mapping[str, Any]] = {"point": 1.0, "layers": ()}
    original: ClassVar[Mapping[str, Any]] = {"point": 0.0, "layers": ()}

    point: float = Field(0.5, ge=0, le=1, description="0 = base, 1 = tuned.")
    layers: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), description="Points of the layers from the first to the last, fewer spread evenly; default: point."
    )

    def weights(self, base: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
        """A new plain model at `point`; `base` and `tuned` are left as they are.

        Raises:
            UserError: If a weight has another name or shape in one of the two.
        """
        import torch

        model = copy.deepcopy(tuned)
        points = find_layer_points(tuned, self.layers)
        # A weight that two modules share counts by both names: folding an adapter in may have parted the two.
        origin = dict(base.named_parameters(remove_duplicate=False))
        refuse_unlike_weights("dial", origin, dict(model.named_parameters(remove_duplicate=False)))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                start, point = origin[name].to(weight.device), points.get(name, self.point)
                if point == 0 and start.dtype == weight.dtype:
                    weight.copy_(start)
                elif point != 1:
                    weight.copy_(torch.lerp(start.float(), weight.float(), point))
        return model


def find_layer_points(model: PreTrainedModel, layers: Sequence[float]) -> dict[str, float]:
    """The point of every weight that is in a layer, on the line through `layers`; nothing without these."""
    if not layers:
        return {}
    import numpy as np

    found_layers = {name: int(match[1]) for name, _ in model.named_parameters() if (match := LAYER.search(name))}
    places = np.linspace(0, max(found_layers.values()), len(layers))
    return {name: float(np.interp(layer, places, layers)) for name, layer in found_layers.items()}


def refuse_unlike_weights(method: str, base: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str = "") -> None:
    """See that two models have the same weights, by names and shapes.

    Args:
        what: The other model, in the message; default: the tuned one.
    Raises:
        UserError: If not.
    """
    unlike = sorted(base.keys() ^ other.keys()) or [n for n in other if base[n].shape != other[n].shape]
    if unlike:
        raise UserError(
            f"inference.{method}: weight {unlike[0]} is not the same in base and {what or 'tuned model'}; "
            f"{method} needs the model that {what or 'the tuned one'} was trained from"
        )
