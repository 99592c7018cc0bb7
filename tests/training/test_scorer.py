"""`ObjectiveModule` under DDP and FSDP2 on two processes: the gradients of one process with the whole batch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.methods.objectives.likelihood.ift import IFT
from holdfast.models.policy import ObjectiveModule, Policy
from processes import launch

COUNT = 8


def rows() -> list[EncodedSequence]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 20, COUNT)
    return [
        EncodedSequence(rng.integers(3, 300, n).astype(np.int32), np.arange(n) >= 4, i) for i, n in enumerate(lengths)
    ]


def compute_gradients(directory: Path) -> None:
    """Half of the rows, in two micro-batches, wrapped both ways; rank 0 writes the gradients."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    for kind in ("ddp", "fsdp2"):
        model = AutoModelForCausalLM.from_pretrained(directory).train()
        scorer = ObjectiveModule(Policy(model, chunk=7), IFT())
        if kind == "ddp":
            wrapped = DistributedDataParallel(scorer, find_unused_parameters=True)
        else:
            mesh = init_device_mesh("cpu", (2,))
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            wrapped = fully_shard(scorer, mesh=mesh)
        for i in (0, 2):
            batch = collate_sequences(rows()[rank * 4 + i : rank * 4 + i + 2], "packed", 0)
            sums, _ = wrapped(batch)
            (sums["nll"] / COUNT * 2).backward()  # both wrappers average over the two ranks
        found = {}
        for name, p in model.named_parameters():
            grad = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
            if grad is not None:
                found[name] = grad.contiguous()
        if rank == 0:
            save_file(found, directory / f"{kind}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_wrapped_gradients_are_those_of_one_process(tiny_dir):
    directory = tiny_dir("llama")
    model = AutoModelForCausalLM.from_pretrained(directory).train()
    (IFT().losses(Policy(model), collate_sequences(rows(), "padded", 0)).sums["nll"] / COUNT).backward()
    launch([__file__, directory], directory)
    for kind in ("ddp", "fsdp2"):
        found = load_file(directory / f"{kind}.safetensors")
        for name, p in model.named_parameters():
            if p.grad is None:  # the input embeddings: IFT does not reach them
                assert name not in found or not found[name].any()
            else:
                assert torch.dist(found[name], p.grad) <= 1e-5 * p.grad.norm(), (kind, name)


if __name__ == "__main__":  # one of the processes that the test launches
    compute_gradients(Path(sys.argv[1]))
