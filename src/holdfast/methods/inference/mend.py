"""Mend: the tuned weights with the directions scaled down that the base does not have."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.inference import Inference

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Mend(Inference):
    """Scale down directions of the tuned weights that the base lacks. [Shuttleworth et al. 2024, arXiv 2410.21228]

    What: in every matrix of every layer, W + (keep - 1) sum s u v' over its intruder dimensions: those of the `top`
    leading left singular vectors whose |cosine| with every one of the base is below `epsilon` (`holdfast show
    spectrum`). An adapter is folded in first. `keep` is the share that stays: 1 changes nothing, bit for bit, 0 takes
    them out. PEFT's `reduce_intruder_dimension` does the same, and then cuts the result to the adapter's rank, by which
    it loses more than half of the change where all are taken out; here nothing is cut.

    When it helps: after LoRA of low rank that lost too much: the paper gets most of what was lost back for little of
    the task at 0.7 to 0.75.

    When it fails: where there are no such directions (full fine-tuning), nothing happens. Others found that taking them
    out cost as much of the task as shrinking the whole change by the same norm: `control: true` does that, and what
    it keeps is to be beaten. `inference: dial` shrinks the change without asking for directions.

    Columns needed: none.

    Paper: Shuttleworth, Andreas, Torralba, Sharma 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence",
    arXiv 2410.21228.
    """

    paper: ClassVar[str] = "Shuttleworth et al. 2024, arXiv 2410.21228"
    neutral: ClassVar[Mapping[str, Any]] = {"keep": 1.0}

    keep: float = Field(0.75, ge=0, le=1, description="Share of the new directions that stays; 0 takes them out.")
    top: int = Field(10, ge=1, description="How many leading singular vectors of each matrix are looked at.")
    epsilon: float = Field(0.5, gt=0, le=1, description="A new one's |cosine| with every one of the base is below.")
    control: bool = Field(False, description="Shrink the whole change by the same norm instead.")

    def weights(self, base: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
        """A new plain model; `base` and `tuned` are left as they are."""
        import torch

        from holdfast.methods.inference.dial import refuse_unlike_weights
        from holdfast.models.singular import list_layer_matrices, scale_intruders, shrink_change

        model = copy.deepcopy(tuned)
        if self.keep == 1:
            return model
        change = shrink_change if self.control else scale_intruders
        origin = dict(base.named_parameters(remove_duplicate=False))
        refuse_unlike_weights("mend", origin, dict(model.named_parameters(remove_duplicate=False)))
        with torch.no_grad():
            pairs = zip(list_layer_matrices(base), list_layer_matrices(model), strict=True)
            for (_, _, start), (_, _, weight) in pairs:
                start_here = start.to(weight.device)
                if not torch.equal(start_here, weight):
                    weight.copy_(change(start_here, weight, self.keep, self.top, self.epsilon))
        return model
