"""Muon: momentum made orthogonal, for the matrices inside the layers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.core.bounded import find_slow_pattern
from holdfast.errors import UserError
from holdfast.methods.optimizers.torch_groups import build_torch_rule, group_by_decay

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer


class Muon(Optimizer):
    """Momentum made orthogonal for matrices inside the layers, AdamW for the rest. [Jordan et al. 2024, Muon]

    What: PyTorch's. For a matrix with gradient g [m, n] and momentum k: b = k b + (1 - k) g;  o = k b + (1 - k) g
    (nesterov), brought near the closest matrix with orthonormal rows or columns by five Newton-Schulz steps x = a x +
    (b x x' + c (x x')^2) x in bf16, so that all its singular values are about 1;  w = w (1 - lr decay) - lr scale o.
    a, b, c = 3.4445, -4.775, 2.0315 make them rise fast rather than meet 1 exactly. With `match_rms_adamw`
    scale = 0.2 sqrt(max(m, n)) and the steps are as large as those of AdamW, whose rates then hold (Liu et al. 2025,
    arXiv 2502.16982); `original` is sqrt(max(1, m / n)), with rates of about 0.02. Embeddings, head, norms and biases,
    and tensors of experts that are no matrices, are moved by AdamW at the same rate.

    When it helps: all directions of a matrix learn, not only the strong ones: fewer steps to the same loss, and half of
    the state of `adamw`.

    When it fails: it was made for pre-training, and papers differ on whether it helps on models that were trained with
    AdamW; moving all directions alike may also forget more: measure. It costs about 10 products of each matrix with
    itself a step. Clipping does not change its direction.

    Columns needed: none.
    Paper: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; Liu et al. 2025, 2502.16982.
    """

    paper: ClassVar[str] = "Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks"
    keeps_masters: ClassVar[bool] = True

    momentum: float = Field(0.95, ge=0, lt=1, description="Memory of the gradient of matrices.")
    nesterov: bool = Field(True, description="Look one step of momentum ahead.")
    newton_schulz_steps: int = Field(5, ge=1, lt=100, description="Steps towards the orthogonal matrix.")
    scale: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw", description="Size of a step: as AdamW's at the same rate, or as the author's."
    )
    adamw_for: str = Field(
        r"embed|wte|wpe|_head\.",
        description="Regular expression: parameters in whose name it is found are moved by AdamW, as all are that are "
        "no matrices.",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's memory of the gradient and its square.")
    eps: float = Field(1e-8, gt=0, description="Added to AdamW's denominator.")
    weight_decay: float = Field(0.0, ge=0, description="Pull of matrices towards zero, times the learning rate.")

    @field_validator("adamw_for")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern} is not a regular expression ({error})") from None
        return pattern

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule over `(name, parameter)` pairs; states are allocated at once.

        Raises:
            UserError: If `adamw_for` leaves no matrix, or does not come to an end on a name.
        """
        import torch

        pairs = list(params)
        names = self._names_of_matrices(pairs)
        use_fused = all(p.device.type in ("cpu", "cuda", "xpu") for _, p in pairs)
        matrix_ids: set[int] = set()

        def build_optimizers(moving: dict[str, Parameter]) -> list[TorchOptimizer]:
            matrices = [moving[name] for name in names]
            matrix_ids.update(map(id, matrices))
            rest = group_by_decay((p for name, p in moving.items() if name not in names), self.weight_decay)
            muon = torch.optim.Muon(
                matrices, lr=self.learning_rate, weight_decay=self.weight_decay, momentum=self.momentum,
                nesterov=self.nesterov, ns_steps=self.newton_schulz_steps, adjust_lr_fn=self.scale,
            )  # fmt: skip
            rate = self.learning_rate
            adamw = [torch.optim.AdamW(rest, rate, self.betas, self.eps, fused=use_fused)] if rest else []
            return [muon, *adamw]

        def build_state(p: Parameter) -> dict[str, Tensor]:
            keys = ("momentum_buffer",) if id(p) in matrix_ids else ("exp_avg", "exp_avg_sq")
            state = {key: torch.zeros_like(p, memory_format=torch.preserve_format) for key in keys}
            device = p.device if use_fused else "cpu"
            return state if len(keys) == 1 else {"step": torch.zeros((), dtype=torch.float32, device=device)} | state

        return build_torch_rule(self, pairs, build_optimizers, build_state)

    def _names_of_matrices(self, pairs: list[tuple[str, Parameter]]) -> list[str]:
        """The parameters that Muon moves."""
        if find_slow_pattern([self.adamw_for], [name for name, _ in pairs]):
            raise UserError(
                f"optimizer.adamw_for: {self.adamw_for} does not come to an end on the names of the parameters; repeat "
                "nothing that repeats something itself"
            )
        names = [name for name, p in pairs if p.ndim == 2 and not re.search(self.adamw_for, name)]
        if not names:
            raise UserError(
                f"optimizer: muon moves matrices, and none of the {len(pairs)} trained parameters is one besides those "
                f"that adamw_for ({self.adamw_for}) leaves to AdamW; use adamw"
            )
        return names
