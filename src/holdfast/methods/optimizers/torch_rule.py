"""Any `torch.optim.Optimizer` as an update rule: rate, clipping, a guard, and a state without pickles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.errors import UserError
from holdfast.methods.optimizers.clipping import ROUNDING, Clipping

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer

    from holdfast.axes.optimizer import Optimizer
    from holdfast.methods.optimizers.master_weights import MasterWeights

RATE_SHARE = "rate_share"
"""In a group of parameters: which share of the learning rate is theirs; without it all of it."""


class TorchRule:
    """A built optimizer of PyTorch, or of a library that follows it, behind the trainer's protocol (`UpdateRule`).

    Args:
        knobs: The method, for `max_grad_norm` and `clip`.
        params: The trained parameters by name; `optimizer` was built over these.
        optimizer: One, or several that share the parameters out. Their rate is set before every step, in all groups
            alike, of which one may have a share of it (`RATE_SHARE`). What is kept of a parameter must be tensors,
            numbers or None: those go into checkpoints as flat safetensors.
        build_state: Makes what the optimizer keeps of a parameter, as before the first step. With it, memory is taken
            at once, so that the probe before the first step sees it; without, when the first step takes it.
        masters: Of parameters in bf16; `optimizer` was built over their stand-ins then.
    """

    passes = 1

    def __init__(
        self,
        knobs: Optimizer,
        params: dict[str, Parameter],
        optimizer: TorchOptimizer | Sequence[TorchOptimizer],
        build_state: Callable[[Parameter], dict[str, Tensor]] | None = None,
        masters: MasterWeights | None = None,
    ) -> None:
        self.params, self.masters = params, masters
        self.optimizers = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
        self.owners = {id(p): one for one in self.optimizers for group in one.param_groups for p in group["params"]}
        """The optimizer of each parameter that moves, by the parameter's id."""
        self.moving_params = params if masters is None else masters.stand_ins
        self.clipping = Clipping(knobs)
        self.lr = knobs.learning_rate
        if build_state is not None:
            for p in self.moving_params.values():
                self.owners[id(p)].state[p] = build_state(p)

    @property
    def lr(self) -> float:
        return self._rate

    @lr.setter
    def lr(self, value: float) -> None:
        self._rate = value
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = value * group.get(RATE_SHARE, 1.0)

    def begin_pass(self, pass_index: int) -> None:
        """Nothing to prepare."""

    def step(self) -> float:
        """Clip and update; with a norm that is not finite nothing is changed."""
        from torch.nn.utils import clip_grads_with_norm_, get_total_norm

        if self.masters is not None:
            return self._step_masters(self.masters)
        present = [p for p in self.params.values() if p.grad is not None]
        total = get_total_norm([p.grad for p in present if p.grad is not None])
        norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)
        if math.isfinite(norm):
            limit = self.clipping.norm_limit()
            if math.isfinite(limit):
                clip_grads_with_norm_(present, limit, total)
            self.clipping.record_norm(norm)
            self._step_optimizers()
        return norm

    def _step_optimizers(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def _step_masters(self, masters: MasterWeights) -> float:
        """As `step`, on the fp32 masters, a few parameters at a time; all sums are in fp32."""
        import torch

        norms = [
            torch.linalg.vector_norm(p.grad, dtype=torch.float32) for p in self.params.values() if p.grad is not None
        ]
        total = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        norm, limit = float(total), self.clipping.norm_limit()
        if math.isfinite(norm):
            scale = torch.clamp(limit / (total + ROUNDING), max=1.0) if math.isfinite(limit) else None
            self.clipping.record_norm(norm)
            buckets = masters.list_buckets()
            with masters.hide_gradients() as gradients:
                for bucket in buckets:
                    with masters.open_bucket(bucket, gradients, scale):
                        self._step_optimizers()
        return norm

    @property
    def was_clipped(self) -> bool:
        return self.clipping.was_clipped

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.masters is not None:  # their stand-ins have none
            for p in self.params.values():
                p.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """`NAME.KEY` of each parameter and each tensor that is kept of it (`exp_avg`, `step`, ...); `clipping.`.

        Raises:
            UserError: If the optimizer keeps something else, which no checkpoint could hold.
        """
        import torch

        flat: dict[str, Tensor] = {}
        known_ids: set[int] = set()
        for name, p in self.moving_params.items():
            for key, value in self.owners[id(p)].state.get(p, {}).items():
                if isinstance(value, torch.Tensor):  # one that several parameters share is written for each
                    flat[f"{name}.{key}"] = value.clone() if id(value) in known_ids else value
                    known_ids.add(id(value))
                elif isinstance(value, int | float):
                    flat[f"{name}.{key}"] = torch.tensor(value, dtype=torch.float64)
                elif value is not None:
                    raise UserError(
                        f"optimizer {type(self.owners[id(p)]).__name__} keeps {key} as {type(value).__name__}, which a "
                        "checkpoint cannot hold: only tensors and numbers; use another optimizer"
                    )
        return flat | self.clipping.state_tensors() | ({} if self.masters is None else self.masters.state_tensors())

    def load(self, state: dict[str, Tensor]) -> None:
        now = self.state_tensors()
        for name, p in self.moving_params.items():
            own = self.owners[id(p)].state.get(p, {})
            for key, value in own.items():
                if isinstance(value, int | float) and f"{name}.{key}" in state:
                    own[key] = type(value)(state[f"{name}.{key}"].item())
        later: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            if key in now:
                now[key].copy_(tensor)
            else:  # the optimizer would make it in its first step
                name, _, state_key = key.rpartition(".")
                later.setdefault(name, {})[state_key] = tensor
        for optimizer in self.optimizers if later else ():
            mine = {name: own for name, own in later.items() if self.owners[id(self.moving_params[name])] is optimizer}
            self._insert_state(optimizer, mine)

    def _insert_state(self, optimizer: TorchOptimizer, later: dict[str, dict[str, Tensor]]) -> None:
        """Give an optimizer what it has not made yet; where and of which type it belongs is its own business."""
        whole = optimizer.state_dict()
        order = {id(p): i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
        for name, state_entries in later.items():
            index = order[id(self.moving_params[name])]
            whole["state"][index] = whole["state"].get(index, {}) | state_entries
        optimizer.load_state_dict(whole)
        for name, state_entries in later.items():  # it makes all of them of the weight's type
            own = optimizer.state[self.moving_params[name]]
            own.update({key: t.to(own[key].device) for key, t in state_entries.items() if own[key].dtype != t.dtype})
