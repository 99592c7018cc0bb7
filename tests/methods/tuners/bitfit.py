"""BitFit: only biases move. A tuner as somebody else would write it, for the tests: one file and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class BitFit(Tuner):
    """Only biases move. [Ben Zaken, Ravfogel and Goldberg 2021, arXiv 2106.10199]

    What: every parameter that is a bias trains, everything else is frozen.

    When it fails: models without biases (Llama, Gemma).

    Paper: Ben Zaken, Ravfogel, Goldberg 2021, arXiv 2106.10199.
    """

    paper: ClassVar[str] = "Ben Zaken et al. 2021, arXiv 2106.10199"
    formula: ClassVar[str] = "biases"

    def check(self, model: Model) -> None:
        """See that there are biases."""
        if not any(name.endswith(".bias") for name, _ in model.named_parameters()):
            raise UserError(f"tuner: bitfit trains biases, and {type(model).__name__} has none; choose lora or full")

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """The length of every bias."""
        return sum(p.numel() for name, p in model.named_parameters() if name.endswith(".bias"))

    def apply(self, model: Model, seed: int) -> Model:
        """Only biases get gradients; `seed` is not used."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))
        return model
