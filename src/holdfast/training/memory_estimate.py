"""What a training takes at its peak, by what it goes to: before it is tried, and on devices that are not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.data.batching.batches import EncodedSequence, collate_on_device
from holdfast.models.files import is_adapter
from holdfast.models.lm_head import LOGIT_BYTES
from holdfast.models.loading import adapter_base, context_length, eval_mode, load_skeleton, locate_model, own_dtype
from holdfast.models.placement import GIB, count_weight_bytes, is_out_of_memory, peak_gib, weights_dtype

if TYPE_CHECKING:
    from holdfast.axes.optimizer import Optimizer
    from holdfast.models.loading import Model
    from holdfast.models.policy import Policy
    from holdfast.models.recomputation import Recomputation
    from holdfast.training.setup import TrainerState

CPU_LOGIT_BYTES = 4
"""For each logit of a chunk on a CPU, where it, its probability and its derivative have one place."""

TRIAL_TOKENS = 128
"""Of the rows on which it is tried what a model keeps: long enough for what is kept of each token to be nearly all."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a training takes at its peak, in bytes.

    Args:
        weights: As they are held, with the copies that autocast makes of those in fp32.
        gradients: Between two micro-batches.
        optimizer_states: As they are before the first step.
        activations: Of one micro-batch, kept for its backward pass.
        head: One chunk of logits, and the sum of the output embedding's gradient.
        program: On a CPU, what else the process holds.
        draft: The weights of the model that proposes tokens where answers are sampled.
        gathered: Of weights that are shared out, those that are whole while they are computed with.
    """

    weights: int
    gradients: int
    optimizer_states: int
    activations: int
    head: int
    program: int = 0
    draft: int = 0
    gathered: int = 0

    @property
    def total(self) -> int:
        return sum(size for _, size in self.list_parts())

    def list_parts(self) -> list[tuple[str, int]]:
        """Names and bytes of the parts that are not nothing."""
        parts = {
            "weights": self.weights, "gradients": self.gradients, "optimizer states": self.optimizer_states,
            "activations": self.activations, "head": self.head, "program": self.program,
            "draft": self.draft, "gathered weights": self.gathered,
        }  # fmt: skip
        return [(name, size) for name, size in parts.items() if size]

    def describe_total(self) -> str:
        """The sum and what it is made of, in one line."""
        parts = ", ".join(f"{name} {format_size(size)}" for name, size in self.list_parts())
        return f"about {format_size(self.total)}: {parts}"


def format_size(size: float) -> str:
    """Bytes for people."""
    mib = size / 2**20
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{mib:.0f} MiB" if mib >= 9.5 else f"{mib:.2g} MiB"


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """The weights of a model that trains, as they are held then.

    Args:
        model: With its tuner; its own types may be others.
        dtypes: Of its floating point parameters, by name.
        autocast: What is computed in; `None` for fp32.
        n_quantized: How many frozen weights will be in few bits, where `model` does not hold them so yet.
        bits: In how many bits the frozen base is; `None`: in none so few.
    """

    model: nn.Module
    dtypes: Mapping[str, torch.dtype]
    autocast: torch.dtype | None
    n_quantized: int = 0
    bits: int | None = None

    @classmethod
    def from_model(cls, model: nn.Module, autocast: torch.dtype | None, bits: int | None = None) -> HeldWeights:
        """The weights of a model as it holds them."""
        return cls(model, {name: p.dtype for name, p in model.named_parameters()}, autocast, bits=bits)

    def count_bytes(self) -> int:
        """Bytes of the weights, with the 16-bit copies that autocast keeps of those in fp32 during a pass."""
        size = 0
        frozen_size = 2
        for name, p in self.model.named_parameters():
            dtype = self.dtypes.get(name, p.dtype)
            size += p.numel() * dtype.itemsize
            frozen_size = frozen_size if p.requires_grad else dtype.itemsize
            if self.autocast is not None and dtype == torch.float32 and p.ndim >= 2:
                size += p.numel() * self.autocast.itemsize
        if self.n_quantized:
            copies = self.autocast.itemsize if self.autocast is not None and frozen_size == 4 else 0
            size -= int(self.n_quantized * (frozen_size + copies - QUANTIZED_BYTES[self.bits or 8]))
        return size

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Those that train, of the types that they train in, without memory."""
        return {
            name: nn.Parameter(torch.empty(p.shape, dtype=self.dtypes.get(name, p.dtype), device="meta"))
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }


QUANTIZED_BYTES = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}
"""Of a quantized weight: NF4 has a scale of 8 bits for each 64, and one in fp32 for 256 of these."""


def count_gradient_bytes(parameters: Iterable[Tensor], in_backward: bool, sums_micro_batches: bool) -> int:
    """Bytes of the gradients: in fp32, but of weights in bf16 where a step is one micro-batch.

    Args:
        parameters: Those that train.
        in_backward: Whether each is used up as soon as it is there: the largest counts then.
    """
    sizes = [p.numel() * (4 if sums_micro_batches else p.element_size()) for p in parameters]
    return max(sizes, default=0) if in_backward else sum(sizes)


def sketch_optimizer_states(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> list[Tensor]:
    """What an optimizer keeps of parameters before its first step, without memory.

    Args:
        parameters: On the meta device.
    """
    return [*optimizer.build(parameters.items()).state_tensors().values()]


def sum_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def activation_bytes(model: Model, recomputation: Recomputation, everything: float | None = None) -> int:
    """Rough bytes per token kept for the backward pass: 12 hidden and 4 MLP vectors a layer, 16 bits, norms fp32.

    Selective recomputation keeps the results of the seven products and of attention, the full one what enters a layer;
    of one layer at a time everything is there again.

    Args:
        everything: What is kept without recomputation, where that is known better.
    """
    config = model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    by_formula = layers * (2 * (12 * hidden + 4 * inner) + 8 * hidden)
    everything = by_formula if everything is None else everything
    if recomputation == "off":
        return int(everything)
    products = 2 * (6 * hidden + 2 * inner) if recomputation == "selective" else 0
    kept_share = (2 * hidden + products) * layers / by_formula  # the same in other types than 16 bits
    return int(min(everything, kept_share * everything + everything / layers))


def measure_saved_bytes(policy: Policy) -> float | None:
    """Bytes per token that a model's body keeps for its backward pass, without recomputation; `None` where even a few
    tokens find no memory.

    Tried on two rows: what the second adds to the first is counted, so that copies of weights and constants are not.

    Args:
        policy: On a model in the types that it trains in, not sharded.
    """
    length = max(2, min(TRIAL_TOKENS, context_length(policy.config, policy.virtual) or TRIAL_TOKENS))
    recomputation, policy.recomputation = policy.recomputation, "off"
    try:
        one, two = (_count_saved_bytes(policy, [length] * count) for count in (1, 2))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        policy.recomputation = recomputation
    return (two - one) / length


def _count_saved_bytes(policy: Policy, lengths: list[int]) -> int:
    """Bytes of what autograd keeps of a forward pass over rows of these lengths, each storage once."""
    vocabulary = policy.config.get_text_config().vocab_size
    rows = [
        EncodedSequence(np.arange(length, dtype=np.int32) % vocabulary, np.ones(length, bool), row)
        for row, length in enumerate(lengths)
    ]
    batch = collate_on_device(rows, policy.batch_layout, 0, policy.causal.device)
    storages: dict[int, int] = {}

    def count_storage(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a result that its own operation keeps would hold the graph, and so the model, for ever

    def give_tensor(tensor: Tensor) -> Tensor:
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(count_storage, give_tensor)
    with eval_mode(policy.model), torch.enable_grad(), hooks:
        states = policy.hidden_states_at(batch, batch.label_positions)  # holds the graph, so that no storage goes
    del states
    return sum(storages.values())


def count_head_bytes(policy: Policy, tokens: int, device: torch.device) -> int:
    """Bytes of a chunk of logits, and of the sum of the output embedding's gradient, where that trains.

    Args:
        tokens: Of a micro-batch: there are no more labels.
        device: Where it is computed.
    """
    rows = min(policy.chunk_rows, tokens) if policy.head.is_exact else tokens
    return count_chunk_bytes(policy.head.module, rows, policy.config.get_text_config().vocab_size, device)


def count_chunk_bytes(head: nn.Module, rows: int, vocabulary: int, device: torch.device) -> int:
    """Bytes of a chunk of so many rows of logits, and of the sum of the gradient of a head that trains."""
    per_logit = CPU_LOGIT_BYTES if device.type == "cpu" else LOGIT_BYTES
    weights = [p for p in head.parameters() if p.requires_grad and p.ndim == 2]
    return rows * vocabulary * per_logit + 4 * sum(p.numel() for p in weights)


def count_program_bytes(model: nn.Module, device: torch.device) -> int:
    """On a CPU, the most that the process held so far beside the weights of a model; 0 on an accelerator."""
    if device.type != "cpu":
        return 0
    return max(0, int(peak_gib(device) * GIB) - count_weight_bytes(model))


def count_draft_bytes(draft: str | None, device: torch.device, is_here: bool = True) -> int:
    """Bytes of the weights of the model that proposes tokens; 0 where there is none.

    Args:
        draft: Its name, as in a recipe.
        is_here: Whether the device is; of one that is not it is supposed that it computes in the weights' own type.
    """
    if draft is None:
        return 0
    path = locate_model(draft)
    own = own_dtype(adapter_base(path) if is_adapter(path) else path)
    dtype = weights_dtype(own, device) if is_here else own
    return sum(p.numel() for p in load_skeleton(draft).parameters()) * dtype.itemsize


def estimate_state_memory(state: TrainerState, tokens: int, everything: float | None = None) -> MemoryEstimate:
    """What a micro-batch of a training that is built takes at its peak.

    Args:
        tokens: Of it.
        everything: Bytes of activations per token without recomputation, where that was tried.
    """
    train, machine, in_backward = state.recipe.train, state.machine, state.recipe.optimizer.in_backward
    share = machine.world if machine.is_sharded else 1
    sums_micro_batches = tokens < state.step_size.tokens
    draft = count_draft_bytes(state.recipe.sampling.draft, machine.device)
    gradients = count_gradient_bytes(state.trainable_parameters.values(), in_backward, sums_micro_batches)
    return MemoryEstimate(
        weights=HeldWeights.from_model(state.model, machine.autocast).count_bytes() // share,
        gradients=gradients // share,
        optimizer_states=sum_bytes(state.rule.state_tensors().values()) // share,
        activations=activation_bytes(state.policy.causal, train.gradient_checkpointing, everything) * tokens,
        head=count_head_bytes(state.policy, tokens, machine.device),
        program=max(0, state.program_bytes - draft),  # which was loaded before
        draft=draft,
    )
