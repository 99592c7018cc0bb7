"""PiSSA: an adapter that starts as what of each matrix is largest, on a base that stays what it is."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError
from holdfast.models.adapters import PeftTuner, attach_adapter

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

    from holdfast.models.loading import Model

TRAINED, START = "default", "start"
"""Names of the two adapters: the one that trains, and the frozen one that takes away what it began with."""
CONFLICTS = ("dora", "base_bits", "target_parameters")
"""Knobs with which the sum is not the base: magnitudes of columns, rounded weights, tensors that are no matrices."""


class StartingTuner(PeftTuner):
    """A low-rank adapter that `init` lets start as zero, or as what is largest in each matrix."""

    if TYPE_CHECKING:  # the knobs of its methods, which say their defaults and describe them
        r: int
        init: str

    def check_start(self, model: Model, shapes: list[tuple[int, int]]) -> None:
        """See that every adapted map is a matrix with r singular values, if the adapter is to start with these.

        Args:
            shapes: (out, in) of the maps.
        Raises:
            UserError: If not, or if other settings do not go with such a start.
        """
        if not self.init.startswith("pissa"):
            return
        for key in CONFLICTS:
            if getattr(self, key):
                raise UserError(
                    f"tuner.init: {self.init} decomposes matrices as they are; leave tuner.{key} out, or init"
                )
        if shapes and self.r > (least := min(map(min, shapes))):
            raise UserError(
                f"tuner.r {self.r:,}: tuner.init {self.init} starts with r singular values of each matrix, and one in "
                f"{type(model).__name__} has {least:,}; set tuner.r to {least:,} or fewer"
            )

    def attach_from_start(self, model: Model, config: LoraConfig, seed: int) -> Model:
        """Put the adapter of `config`, which starts as zero, into `model`, and give it the start that `init` says."""
        if self.init.startswith("pissa"):
            return attach_principal_adapters(model, config, seed, self.init)
        return attach_adapter(model, config, seed)

    @contextlib.contextmanager
    def base_context(self, model: Model) -> Iterator[None]:
        """A context with both adapters switched off; back on, the second does not train either."""
        with super().base_context(model):
            yield
        freeze_start(model)

    def write_adapter(self, model: Model, directory: Path, state: dict[str, Tensor]) -> None:
        """Write settings and tensors as PEFT does, of two adapters those of one that does what both do."""
        write = write_joined_adapter if START in model.peft_config else super().write_adapter  # type: ignore[operator]
        write(model, directory, state)


def attach_principal_adapters(model: Model, config: LoraConfig, seed: int, method: str) -> Model:
    """Put A and B into `model`, in place, that start as the r largest singular triples of each matrix.

    The authors take s B_0 A_0 out of the weights: W - s B_0 A_0 + s B A. Here the weights stay as they are, and a
    second, frozen adapter takes it away: W + s B A - s B_0 A_0. The sum and its gradients are the same, and the base
    is there bit for bit when both are off. A model without weights gets adapters of the right shapes.

    Args:
        config: Of an adapter that starts as zero.
        seed: Of what is drawn: `svd_lowrank` begins with random vectors.
        method: As PEFT has it: `pissa` by a full decomposition, `pissa_niter_N` by a randomised one of N iterations.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    tuned = attach_adapter(model, config, seed)
    opposite = copy.copy(config)
    opposite.modules_to_save = None
    opposite.lora_dropout = 0.0  # what is taken away is taken away whole, as out of the weights
    tuned.add_adapter(START, opposite)  # type: ignore[arg-type]
    tuned.base_model.set_adapter([TRAINED, START])  # type: ignore[operator, union-attr]
    if next(model.parameters()).device.type != "meta":
        layers = [layer for layer in tuned.modules() if isinstance(layer, LoraLayer)]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for layer in layers:
                base: Any = layer.get_base_layer()
                a: Any = layer.lora_A
                b: Any = layer.lora_B
                weight = base.weight.data
                layer.pissa_init(TRAINED, method)
                base.weight.data = weight  # PEFT has put the rest, of a tensor of its own, in its place
                a[START].weight.copy_(a[TRAINED].weight)
                b[START].weight.copy_(-b[TRAINED].weight)
    freeze_start(tuned)
    return tuned


def freeze_start(model: Model) -> None:
    """Take the second adapter's matrices out of training; PEFT lets all move whose adapters it switches on."""
    for name, parameter in model.named_parameters():
        if name.split(".")[-2] == START:
            parameter.requires_grad_(False)


def write_joined_adapter(model: Model, directory: Path, state: dict[str, Tensor]) -> None:
    """Write both adapters as one plain LoRA of twice the rank: [B, -B_0] [A; A_0], for the untouched base.

    Args:
        state: Of the model, as it is to be stored.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    own, start = (
        get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)  # type: ignore[no-untyped-call]
        for name in (TRAINED, START)
    )
    state = {
        name: torch.cat([tensor, start[name]], dim=0 if "lora_A" in name else 1) if name in start else tensor
        for name, tensor in own.items()
    }
    config = copy.copy(model.peft_config[TRAINED])  # type: ignore[index]
    config.r, config.inference_mode = 2 * config.r, True  # type: ignore[union-attr]
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # type: ignore[union-attr]  # the scale stays
    config.save_pretrained(str(directory))  # type: ignore[union-attr]
    save_file({name: t.cpu().contiguous() for name, t in state.items()}, directory / "adapter_model.safetensors")
