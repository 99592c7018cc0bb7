"""Combine: the changes that several runs made to one base, added up."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from holdfast.axes.inference import Inference
from holdfast.errors import UserError
from holdfast.methods.inference.dial import refuse_unlike_weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Combine(Inference):
    """The changes of several runs, added to their base. [Ilharco et al. 2022, arXiv 2212.04089]

    What: theta = theta_base + scale * sum_i tau_i, where tau_i = theta_i - theta_base is the task vector of a run; that
    of this run is one of them, unless nothing was trained. With `elect` (TIES) the vectors are first trimmed to the
    `density` of their weights that changed most; of each weight the sign of their sum is elected, and the mean of those
    that have it is added. An adapter is folded in first; the sums are in fp32.

    When it helps: several runs from one base, each good at its task: one model for all, without any training. A
    negative scale takes a task away.

    When it fails: runs of other bases, or far from theirs; many tasks at a large scale. Task arithmetic needs a scale
    chosen on held-out tasks (0.3 to 0.5 in the paper), which TIES needs less.

    Columns needed: none.

    Paper: Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi, Farhadi 2022, "Editing Models with Task
    Arithmetic", arXiv 2212.04089, ICLR 2023; Yadav, Tam, Choshen, Raffel, Bansal 2023, "TIES-Merging", arXiv
    2306.01708, NeurIPS 2023: density 0.2, scale 1.
    """

    paper: ClassVar[str] = "Ilharco et al. 2022, arXiv 2212.04089"
    neutral: ClassVar[Mapping[str, Any]] = {"runs": (), "scale": 1.0, "density": 1.0}
    original: ClassVar[Mapping[str, Any]] = {"runs": (), "scale": 0.0}

    runs: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="Other runs from the same base: run directories."
    )
    scale: float = Field(0.4, description="Of what is added; 0 = the base.")
    density: float = Field(1.0, gt=0, le=1, description="Share of each vector's weights that is kept, by size.")
    elect: bool = Field(False, description="One sign for each weight, and the mean of the vectors that have it (TIES).")

    @classmethod
    def needs_training(cls) -> bool:
        return False

    def check_ready(self) -> None:
        from holdfast.models.loading import locate_model

        for name in self.runs:
            locate_model(name)

    def weights(self, base: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
        """A new plain model; those given are left as they are.

        Raises:
            UserError: If a run has other weights than the base.
        """
        import torch

        model = copy.deepcopy(tuned)
        origin, own = (dict(one.named_parameters(remove_duplicate=False)) for one in (base, tuned))
        refuse_unlike_weights("combine", origin, own)
        if self.is_plain():
            return model
        others = [self._load_weights(name, origin) for name in self.runs]
        trains = any(not torch.equal(own[name], origin[name].to(own[name])) for name in own)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                start = origin[name].to(weight.device)
                ends = [*([own[name]] if trains else []), *(other[name].to(weight.device) for other in others)]
                if not ends or not self.scale:
                    weight.copy_(start)
                    continue
                vectors = torch.stack([end.float() - start.float() for end in ends])  # [runs, ...]
                weight.copy_(start.float() + self.scale * self.merge_vectors(vectors))
        return model

    def is_plain(self) -> bool:
        """Whether this run alone is added, as it is."""
        return not self.runs and self.scale == 1 and self.density == 1

    def merge_vectors(self, vectors: Tensor) -> Tensor:
        """What is added of the changes [runs, ...] of one weight matrix."""
        import torch

        if self.density < 1:
            flat = vectors.abs().flatten(1)  # [runs, n]
            n_kept = max(1, round(self.density * flat.shape[1]))
            limits = flat.kthvalue(flat.shape[1] - n_kept + 1, dim=1).values
            vectors = torch.where(vectors.abs() >= limits.view(-1, *[1] * (vectors.ndim - 1)), vectors, 0.0)
        if not self.elect:
            return vectors.sum(0)
        agrees = (vectors.sign() == vectors.sum(0).sign()) & (vectors != 0)
        return (vectors * agrees).sum(0) / agrees.sum(0).clamp_min(1)

    def _load_weights(self, name: str, base: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The plain weights of another run."""
        from holdfast.models.loading import load_model
        from holdfast.models.merging import fold_adapter

        try:
            checkpoint = load_model(name, device=next(iter(base.values())).device)
            weights = dict(fold_adapter(checkpoint.model, checkpoint.tuner).named_parameters(remove_duplicate=False))
        except UserError as error:
            raise UserError(f"inference.combine: {error}") from error
        refuse_unlike_weights("combine", base, weights, name)
        return weights
