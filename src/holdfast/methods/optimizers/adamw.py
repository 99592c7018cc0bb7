"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.errors import UserError
from holdfast.methods.optimizers.torch_groups import build_torch_rule, group_by_layer

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer


class AdamW(Optimizer):
    """Adam with decoupled weight decay, PyTorch's fused kernel. [Loshchilov and Hutter 2019, arXiv 1711.05101]

    What, per weight, with g the clipped gradient at step t and rate lr:
    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w = w (1 - lr decay) - lr m' / (sqrt(v') + eps), where
    m' = m / (1 - b1^t) and v' = v / (1 - b2^t). m and v have the weight's shape and are kept in fp32.

    When it helps: the safe choice for every model and tuner; forgiving about the learning rate.

    When it fails: memory, 8 bytes per trained weight beside 4 for the gradient: use `lora`, `states: 8bit`, or
    `lomo`. Small batches
    late in training wander with b2 = 0.999 (try betas 0.9, 0.95).

    Columns needed: none.

    Decay pulls weights towards zero, not towards the base model, so it is 0 here (as in the Hugging Face trainers), not
    the 0.01 of PyTorch; when set, it leaves norms and biases alone, but not embeddings, nor the two matrices of a LoRA,
    whose product it pulls to zero, and with it the model towards its base.

    Clipping is a second learning rate in disguise: after the square root of v, a gradient that is cut in every step
    makes late steps larger than one that is left to shrink. `clip: running` cuts outliers only, whatever the scale of
    the loss; `max_grad_norm: 0` cuts nothing. The log says of every step whether it was clipped, the report how many.

    Paper: Loshchilov and Hutter 2019, arXiv 1711.05101 (ICLR 2019); Adam: Kingma and Ba 2015, arXiv 1412.6980.
    """

    paper: ClassVar[str] = "Loshchilov and Hutter 2019, arXiv 1711.05101"
    keeps_masters: ClassVar[bool] = True

    betas: tuple[float, float] = Field((0.9, 0.999), description="Memory of the gradient's mean and of its square.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator.")
    weight_decay: float = Field(0.0, ge=0, description="Pull of matrices towards zero, times the learning rate.")
    layer_decay: float = Field(
        1.0, gt=0, le=1,
        description="Layer-wise decay of the rate: each layer has this share of the rate of the one above, embeddings "
        "the least, head and last norm all of it (Howard and Ruder 2018, arXiv 1801.06146; Du and Nguyen 2023: 0.95).",
    )  # fmt: skip
    states: Literal["fp32", "8bit"] = Field(
        "fp32",
        description="Type of m and v. 8bit = in blocks of 256 with a scale each, by bitsandbytes (`pip install "
        "'holdfast[quant]'`): 2 bytes a weight instead of 8; those of tensors below 4,096 weights stay fp32.",
    )

    def check_ready(self) -> None:
        """See that bitsandbytes is installed, where it keeps the states."""
        if self.states == "8bit":
            from holdfast.models.quantized_base import require_bitsandbytes

            require_bitsandbytes("optimizer.states: 8bit")

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule over `(name, parameter)` pairs; states are allocated at once, so that the memory probe sees them."""
        if self.states == "8bit":
            return self._build_8bit(dict(params))
        import torch

        pairs = list(params)
        use_fused = all(p.device.type in ("cpu", "cuda", "xpu") for _, p in pairs)

        def build_optimizers(moving: dict[str, Parameter]) -> list[TorchOptimizer]:
            groups = group_by_layer(moving, self.weight_decay, self.layer_decay)
            rate = self.learning_rate
            return [torch.optim.AdamW(groups, lr=rate, betas=self.betas, eps=self.eps, fused=use_fused)]

        def build_state(p: Parameter) -> dict[str, Tensor]:
            return {
                "step": torch.zeros((), dtype=torch.float32, device=p.device if use_fused else "cpu"),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }

        return build_torch_rule(self, pairs, build_optimizers, build_state)

    def _build_8bit(self, params: dict[str, Parameter]) -> UpdateRule:
        """The rule with states in 8 bits, which are allocated at once, too. [Dettmers et al. 2021, arXiv 2110.02861]"""
        self.check_ready()
        import bitsandbytes

        if any(hasattr(p, "full_tensor") for p in params.values()):
            raise UserError("optimizer.states: 8bit cannot be shared out by FSDP; leave it out there")
        places: dict[int, tuple[Any, ...]] = {}

        def build_optimizers(moving: dict[str, Parameter]) -> list[TorchOptimizer]:
            groups = group_by_layer(moving, self.weight_decay, self.layer_decay)
            optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps)
            for g, group in enumerate(optimizer.param_groups):
                places.update({id(p): (optimizer, group, p, g, i) for i, p in enumerate(group["params"])})
            return [optimizer]

        def build_state(p: Parameter) -> dict[str, Tensor]:
            optimizer, *place = places[id(p)]
            optimizer.init_state(*place)
            return optimizer.state[p]

        return build_torch_rule(self, params.items(), build_optimizers, build_state)
