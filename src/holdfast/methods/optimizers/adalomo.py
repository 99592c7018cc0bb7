"""AdaLomo: Adafactor's step inside the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.methods.optimizers.backward_rule import BackwardRule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class AdaLomo(Optimizer):
    """Adaptive rates fused into the backward pass: no gradients, two vectors of state. [Lv et al. 2023, 2310.10195]

    What: as soon as autograd has a matrix's gradient g [m, n], at step t with b = 1 - t^-0.8 and everything in fp32:
    r = b r + (1 - b) mean_columns(g^2) [m];  c = b c + (1 - b) mean_rows(g^2) [n];  v = r c / mean(r) [m, n];
    u = g / sqrt(v);  u = u / max(1, RMS(u) / update_clip);  w = w (1 - s decay) - s u with s = lr max(eps2, RMS(w)).
    Then g is freed: at most one gradient is alive, and the state of an m by n matrix is m + n numbers. A vector keeps v
    in full. eps1 is added to g^2. That is Adafactor without momentum, equal to it to rounding (`adafactor` here steps
    with all gradients at once, and can accumulate).

    When it helps: full fine-tuning where the weights are about all that fits, as `lomo`, but it learns like `adamw`:
    the paper reports results on par, and the rate needs no search, because each step is in proportion to the weight.

    When it fails: a step must be one micro-batch on one process, since the weights have already changed when a second
    one would come. Weights that begin at zero (the B of a LoRA) move by eps2 lr at first: use `adamw` there.
    `max_grad_norm` is off, as the authors advise: it takes a second forward and backward pass, and u is normalised
    already. Without it a gradient that is not finite stops the run after the weights above it have moved (the last
    checkpoint is untouched).

    Columns needed: none.
    Paper: Lv, Yan, Guo, Lv, Qiu 2023, arXiv 2310.10195. Defaults: its instruction tuning (learning rate) and code.
    """

    paper: ClassVar[str] = "Lv et al. 2023, arXiv 2310.10195"
    in_backward: ClassVar[bool] = True

    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate, as a share of each weight's size.")
    max_grad_norm: float = Field(
        0.0, ge=0, description="Clip the global gradient norm to this, by two passes; 0 = off."
    )
    weight_decay: float = Field(0.0, ge=0, description="Pull towards zero, times the step.")
    update_clip: float = Field(1.0, gt=0, description="Largest root mean square of an update before the rate.")
    eps: tuple[float, float] = Field(
        (1e-30, 1e-3), description="Added to the squared gradient; least size of a weight in its step."
    )
    decay_power: float = Field(
        0.8, gt=0, description="The memory of squared gradients at step t is 1 - t^-decay_power."
    )

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule, hooked into the `(name, parameter)` pairs; states are allocated at once."""
        return AdaLomoRule(self, dict(params))


class AdaLomoRule(BackwardRule):
    """The step of one weight, with its factored second moment."""

    def __init__(self, knobs: AdaLomo, params: Mapping[str, Parameter]) -> None:
        import torch

        super().__init__(knobs, params)
        self.knobs = knobs
        self.steps = {name: torch.zeros((), dtype=torch.float64) for name in params}
        self.moments: dict[str, tuple[Tensor, ...]] = {}
        for name, p in params.items():
            shapes = [p.shape] if p.ndim < 2 else [p.shape[:-1], (*p.shape[:-2], p.shape[-1])]
            self.moments[name] = tuple(torch.zeros(s, dtype=torch.float32, device=p.device) for s in shapes)

    def update_weight(self, name: str, weight: Tensor, grad: Tensor) -> None:
        """Update the moments of one weight, and move it; no tensor of its size is made."""
        knobs, moments = self.knobs, self.moments[name]
        step = int(self.steps[name].add_(1))
        share = step**-knobs.decay_power  # of this gradient in the memory
        if len(moments) == 1:
            moments[0].lerp_(grad.square() + knobs.eps[0], share)
            update = grad.mul_(moments[0].rsqrt())
        else:
            for moment, dim in zip(moments, (-1, -2), strict=True):  # a mean over columns for rows, and the other way
                moment.lerp_(_mean_square(grad, dim) + knobs.eps[0], share)
            rows, columns = moments
            update = grad.mul_((rows / rows.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1))
            update.mul_(columns.rsqrt().unsqueeze(-2))
        size = self.lr * _root_mean_square(weight).clamp(min=knobs.eps[1])  # the largest root mean square of the step
        if knobs.weight_decay:
            weight.mul_(1 - size * knobs.weight_decay)
        weight.sub_(update.mul_(size / (_root_mean_square(update) / knobs.update_clip).clamp(min=1)))

    def state_tensors(self) -> dict[str, Tensor]:
        """`NAME.step`, and `NAME.row_var` and `NAME.col_var` of matrices, `NAME.variance` of vectors."""
        flat = {f"{name}.step": step for name, step in self.steps.items()}
        for name, moments in self.moments.items():
            keys = ("variance",) if len(moments) == 1 else ("row_var", "col_var")
            flat |= {f"{name}.{key}": moment for key, moment in zip(keys, moments, strict=True)}
        return flat | super().state_tensors()


def _mean_square(grad: Tensor, dim: int) -> Tensor:
    """Mean of the squares over one dimension, without a tensor of squares."""
    import torch

    return torch.linalg.vector_norm(grad, dim=dim).square_() / grad.shape[dim]


def _root_mean_square(tensor: Tensor) -> Tensor:
    import torch

    return torch.linalg.vector_norm(tensor) / max(1, tensor.numel()) ** 0.5
