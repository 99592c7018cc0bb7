"""Processes, device and precision of a run, through accelerate; sharded tensors made whole and back."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from holdfast.errors import UserError
from holdfast.models import placement
from holdfast.models.layer_list import find_layer_list
from holdfast.models.loading import move_to_device
from holdfast.models.quantized_base import is_quantized
from holdfast.training.sharing import SHARDED_BF16, SHARDED_FEW_BITS
from holdfast.training.weight_types import choose_weight_dtypes

if TYPE_CHECKING:
    from holdfast.models.loading import Model

PATIENCE = timedelta(hours=6)
"""How long processes wait for one another: the main one may be evaluating."""

DDP_TYPES = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def wait_at_barrier(device: torch.device) -> None:
    """Wait until every process of the launch is here; the first call joins them.

    Args:
        device: Where this process computes.
    """
    PartialState(cpu=device.type == "cpu", timeout=PATIENCE).wait_for_everyone()


def shutdown_process_group() -> None:
    """Leave the processes of the launch, together: one that goes while another still talks to it can leave it hanging.

    Whatever holds on to the processes, such as a module wrapped for them, must be gone by then.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        state = PartialState()
        state.wait_for_everyone()
        gc.collect()
        state.destroy_process_group()


class Machine:
    """Where a run computes: one process, several with whole copies (DDP), or several with shards (FSDP2).

    The processes are those that `accelerate launch` or `torchrun` started; the precision is the recipe's, whatever
    the launcher says. FSDP2 is asked for by the launcher: `--use_fsdp --fsdp_version 2`.

    Args:
        precision, weights: `train.precision`, `train.weights`.
        device: Where the model is (`placement.choose_device`).
    Raises:
        UserError: For a way of distributing that the trainer does not know, or that `weights` does not fit.
    """

    def __init__(self, precision: str, device: torch.device, weights: str = "auto") -> None:
        patient = InitProcessGroupKwargs(timeout=PATIENCE)
        # Of a process that is alone accelerate need not know the device: it computes nothing then.
        cpu = device.type == "cpu" and "LOCAL_RANK" in os.environ
        self.accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[patient])
        kind = self.accelerator.distributed_type
        self.plugin = self.accelerator.state.fsdp_plugin if kind == DistributedType.FSDP else None
        if kind == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
            self.plugin = FullyShardedDataParallelPlugin()  # accelerate itself shards on accelerators only
        if kind not in (*DDP_TYPES, DistributedType.NO, DistributedType.FSDP):
            raise UserError(
                f"accelerate: {kind.value} is not supported; launch with plain --multi_gpu, or FSDP version 2"
            )
        if self.plugin is not None and self.plugin.fsdp_version != 2:
            raise UserError("accelerate: FSDP version 1 is not supported; launch with --fsdp_version 2")
        self.device = device
        self.rank = self.accelerator.process_index
        self.world = self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        there = self.accelerator.device
        if self.world > 1 and (there.type != device.type or device.index not in (None, there.index)):
            raise UserError(f"accelerate: it computes on {there}, and the model is on {device}")
        self.weights = weights
        self.autocast = placement.autocast_dtype(precision, device, weights)
        if self.is_sharded and weights == "bf16":
            raise UserError(SHARDED_BF16)

    @property
    def is_sharded(self) -> bool:
        return self.plugin is not None

    @property
    def precision(self) -> str:
        return "fp32" if self.autocast is None else "bf16"

    @property
    def arithmetic(self) -> str:
        """The types that are computed with, in words: the precision, and how weights are held where that was chosen."""
        words = {"auto": "", "fp32": " on weights in fp32", "bf16": " on weights in bf16 with fp32 masters"}
        return self.precision + words[self.weights]

    def place_model(self, model: Model, in_backward: bool, apart: Collection[str] = ()) -> Model:
        """Move, and cast to fp32 (the master weights), where it must be; or to what `train.weights` says.

        A frozen model below adapters, which are fp32 already, stays as it was loaded where bf16 is computed in. So do
        weights updated inside the backward pass, for memory's sake. Of models that train in part everything is fp32:
        outside of autocast, layers of two types do not fit together. A model to be sharded is fp32, since shards have
        one dtype, and waits for that on the CPU.

        Args:
            apart: Names of what an adapter added: it stays fp32.
        Raises:
            UserError: If weights in bf16 would be trained by several processes.
        """
        has_few_bits = is_quantized(model)
        if self.is_sharded and has_few_bits:
            raise UserError(SHARDED_FEW_BITS)
        if self.is_sharded:
            return move_to_device(model, torch.device("cpu")).float()
        dtypes = choose_weight_dtypes(model, self.autocast, self.weights, in_backward, apart)
        if has_few_bits or self.weights != "auto":
            for name, p in model.named_parameters():  # of buffers nothing: angles of positions stay fp32
                if p.dtype != dtypes[name]:
                    p.data = p.data.to(dtypes[name])
            if self.world > 1 and any(p.dtype == torch.bfloat16 for p in model.parameters() if p.requires_grad):
                raise UserError(
                    "train.weights: with several processes gradients of bf16 weights would be summed in bf16; leave it "
                    "out, or launch with FSDP version 2, which shares fp32 weights among them"
                )
            return model if has_few_bits else move_to_device(model, self.device)
        if set(dtypes.values()) == {torch.float32}:
            model.float()
        return move_to_device(model, self.device)

    def apply_fsdp(self, scorer: nn.Module, layers: list[nn.Module]) -> None:
        """Shard in place (FSDP2): each transformer layer is gathered when it runs, the rest with the whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        assert self.plugin is not None
        policy = MixedPrecisionPolicy(param_dtype=self.autocast, reduce_dtype=torch.float32 if self.autocast else None)
        options: dict[str, Any] = {"mesh": init_device_mesh(self.device.type, (self.world,)), "mp_policy": policy}
        if self.plugin.cpu_offload:
            options["offload_policy"] = self.plugin.cpu_offload
        for layer in layers:
            fully_shard(layer, reshard_after_forward=bool(self.plugin.reshard_after_forward), **options)
        fully_shard(scorer, **options)

    def wrap_ddp(self, scorer: nn.Module, has_unused: bool) -> nn.Module:
        """Wrap in DDP when there are several processes with whole copies.

        Args:
            has_unused: Whether some trained parameters get no gradient from this objective.
        """
        if self.is_sharded or self.world == 1:
            return scorer
        ids = None if self.device.index is None else [self.device.index]
        return nn.parallel.DistributedDataParallel(
            scorer,
            device_ids=ids,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=has_unused,
        )

    def no_sync_until_last(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """No exchange of gradients before the last micro-batch (DDP; shards are always exchanged, to stay small)."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()

    @contextmanager
    def preserve_rng(self) -> Iterator[None]:
        """A context that leaves torch's random generators as they were."""
        states = placement.random_states(self.device)
        try:
            yield
        finally:
            placement.set_random_states(states, self.device)

    def sum_over_processes(self, values: list[float]) -> list[float]:
        """Element-wise sums over all processes."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=placement.widest_dtype(self.device), device=self.device)
        return self.accelerator.reduce(tensor, "sum").tolist()

    def min_over_processes(self, values: list[float]) -> list[float]:
        """Element-wise minima over all processes."""
        if self.world == 1:
            return values
        tensor = torch.tensor([values], dtype=placement.widest_dtype(self.device), device=self.device)
        return self.accelerator.gather(tensor).amin(0).tolist()  # [processes, values]


def gather_full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor on the CPU; every process must call this for a sharded one."""
    full = tensor.detach()
    return (full.full_tensor() if isinstance(full, DTensor) else full).cpu()


def reshard_like(full: Tensor, target: Tensor) -> Tensor:
    """`full` on the device of `target`, and sharded as it is."""
    if isinstance(target, DTensor):
        return distribute_tensor(full.to(target.device), target.device_mesh, target.placements)
    return full.to(target.device)


def reshard_state(
    full_state: Mapping[str, Tensor], now: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """An optimizer's whole stored state, each tensor where its present one is, or its parameter if there is none yet.

    Args:
        full_state: By names that begin with the parameter's. now: The present state. trained: The parameters.
    """
    state = {}
    for name, tensor in full_state.items():
        target = now.get(name, parameters.get(name.rpartition(".")[0]))
        fits = target is not None and (name in now or target.shape == tensor.shape)
        state[name] = reshard_like(tensor, target) if target is not None and fits else tensor
    return state


def find_layers(model: Model) -> list[nn.Module]:
    """The transformer layers, as `layer_list.find_layer_list` finds them."""
    return list(find_layer_list(model))
