"""SpaFL: every weight, and a threshold for each row of the matrices, which alone travels in federated training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.tuner import SavedFormat, Taxonomy, Tuner
from holdfast.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from holdfast.models.loading import Model


class SpaFL(Tuner):
    """Every weight moves, and rows below a trained threshold are out. [Kim et al. 2024, arXiv 2406.00431]

    What: row i of a matrix W [out, in] counts while mean_j |w_ij| > t_i; t [out] starts at 0 and trains with the
    weights, against the loss and threshold_penalty sum_i exp(-t_i), which pulls it up: whole rows fall out. The step
    function passes the gradient through, so that dL/dt_i = -sum_j g_ij w_ij, with g the gradient of the masked matrix.

    When it helps: `holdfast federate --method spafl`: clients send `out` numbers of a matrix instead of out times in,
    and keep a sparse model of their own. Alone (`holdfast train`) it is structured pruning while training.

    When it fails: the paper trains from scratch. Thresholds rise from 0 whatever the loss says of a row, at a speed
    that goes with the learning rate, so that a large penalty empties a pre-trained model: watch the density.

    Columns needed: none beyond the objective's.

    Knobs: `straight_through: paper` passes the gradient everywhere, as the text says and as the authors' code for
    FMNIST does. `code` does as their code for CIFAR-10 and CIFAR-100: it passes only where |mean_j |w_ij| - t_i| > 1,
    which is nowhere at the usual size of weights, so that thresholds there follow the penalty alone.

    Stored: all weights, plain, the rows that are out as zeros.

    Paper: Kim, Saad, Debbah, Hong 2024, arXiv 2406.00431 (NeurIPS 2024).
    """

    paper: ClassVar[str] = "Kim et al. 2024, arXiv 2406.00431"
    taxonomy: ClassVar[Taxonomy] = "hybrid"
    formula: ClassVar[str] = "P + sum of out over the matrices with thresholds"

    threshold_penalty: float = Field(0.002, ge=0, description="Weight of sum exp(-threshold) in the loss.")
    straight_through: Literal["paper", "code"] = Field(
        "paper", description="Where the step function passes a gradient: everywhere, or as in the authors' CIFAR code."
    )
    reset_density: float = Field(
        0.01, ge=0, lt=1, description="At this share of rows or less in a matrix its thresholds go back to 0."
    )
    matrices: Literal["mlp", "all"] = Field(
        "mlp",
        description="Which have thresholds: the MLPs' (rows of attention are mixtures of heads), or all but the head.",
    )

    def check(self, model: Model) -> None:
        """See that there are matrices to mask.

        Raises:
            UserError: If there are none.
        """
        self._find_matrices(model)

    def _find_matrices(self, model: Model) -> list[nn.Linear]:
        """The linear maps that get thresholds."""
        from torch import nn

        from holdfast.training.distributed import find_layers

        linears = [
            module
            for layer in find_layers(model)
            for path, module in layer.named_modules()
            if isinstance(module, nn.Linear) and (self.matrices == "all" or "att" not in path)
        ]
        if not linears:
            raise UserError(
                f"tuner: spafl masks rows of linear maps, and {type(model).__name__} keeps its matrices otherwise; use "
                "another tuner"
            )
        return linears

    def apply(self, model: Model, seed: int) -> Model:
        """Everything trains; `seed` is not used."""
        from holdfast.models.row_thresholds import add_thresholds

        model.requires_grad_(True)
        for linear in self._find_matrices(model):
            add_thresholds(linear, self.straight_through == "code", self.reset_density)
        return model

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """All weights, and a threshold for each row."""
        rows = sum(linear.out_features for linear in self._find_matrices(model))
        return rows + sum(p.numel() for p in model.parameters())

    def memory_class(self) -> str:
        """Gradients and optimizer state of all weights."""
        return "all"

    def weight_penalty(self, model: nn.Module) -> Tensor:
        """threshold_penalty sum exp(-threshold)."""
        import torch

        from holdfast.models.row_thresholds import list_thresholds

        sums = [(-masks.thresholds).exp().sum() for _, masks in list_thresholds(model)]
        return self.threshold_penalty * torch.stack(sums).sum()

    def merge(self, model: Model) -> PreTrainedModel:
        """The plain model, rows that are out as zeros, in place."""
        from holdfast.models.row_thresholds import fold_thresholds

        fold_thresholds(model)
        return model  # type: ignore[return-value]

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """The merged model, as any other."""
        return super().save(self.merge(model), directory, dtype)
