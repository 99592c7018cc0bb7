"""Which attention a model's packed lines go through, proven on a few tokens before anything depends on it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.errors import first_line
from holdfast.models.flash_kernels import choose_flash_kernel, restore_own
from holdfast.models.llama_family import outputs_agree
from holdfast.models.loading import eval_mode, is_module_hooked_or_patched
from holdfast.models.varlen_attention import (
    Kernel,
    LineBounds,
    MaskRequests,
    VarlenRefused,
    find_kernel,
    is_varlen,
    omit_masks,
    register_attention,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    Autocast = Callable[[], AbstractContextManager[Any]]

TRIAL_LENGTHS = (5, 1, 4)
"""Of the sequences that prove an attention; the one of a single token looks at nothing but itself."""

GRADIENT_SHARE, GRADIENT_SHARE_OF_SHORT = 1e-3, 0.1
"""How far gradients may be apart, as a share of their norm, in fp32 and in 16-bit types: further than states, since
they are rounded in every layer twice. A wrong backward pass is off by about the whole norm."""


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """What a model attends by.

    Args:
        name: "varlen", or what transformers calls it: sdpa, eager, ...
        refusal: Why it is not varlen, in words; "" where it is, or where no such kernel is looked for.
        flash: What computes varlen attention, in words, where that is not torch's own flash attention.
        flash_refusal: Why a faster one that is installed does not.
    """

    name: str
    refusal: str = ""
    flash: str = ""
    flash_refusal: str = ""

    @property
    def is_varlen(self) -> bool:
        return self.name == "varlen"


def choose_attention(
    causal: PreTrainedModel, autocast: Autocast, dtype: torch.dtype, kernel: Kernel | None = None
) -> AttentionChoice:
    """Let a model attend by lengths where its packed lines then give what its rows give alone; else leave it as it is.

    Args:
        causal: The whole model, plain or inside an adapter; not sharded yet.
        autocast: Makes the context that its forward passes run in.
        dtype: What they compute in.
        kernel: Default torch's own, where that runs (`find_kernel`).
    """
    own_name = causal.config.get_text_config()._attn_implementation or "eager"
    own_name = "sdpa" if is_varlen(own_name) else own_name  # as an earlier policy of this model left it
    if kernel is None:
        kernel, refusal = find_kernel(causal.device, dtype)
        if kernel is None:
            return AttentionChoice(own_name, refusal)
    refusal, flash, flash_refusal = find_attention_obstacle(causal, own_name), "", ""
    family = causal.config.get_text_config().model_type
    if not refusal:
        flash, flash_refusal = choose_flash_kernel(kernel, causal.device, dtype)
        objection = _try_kernel(causal, kernel, autocast, dtype)
        if objection and flash:
            restore_own()
            flash, flash_refusal = "", f"{flash} is installed and not used: {family}: {objection}"
            objection = _try_kernel(causal, kernel, autocast, dtype)
        refusal = f"{family}: {objection}" if objection else ""
    if not refusal:
        causal.set_attn_implementation(register_attention(kernel))
        return AttentionChoice("varlen", flash=flash, flash_refusal=flash_refusal)
    restore_own()  # what SDPA is asked for next may be beyond a faster one: attention dropout is
    if is_varlen(causal.config.get_text_config()._attn_implementation):
        causal.set_attn_implementation(own_name)
    return AttentionChoice(own_name, refusal)


def find_attention_obstacle(causal: PreTrainedModel, name: str) -> str:
    """What of a model lengths do not describe, as far as it can be read from outside; "" for nothing."""
    config, base = causal.config.get_text_config(), causal.base_model
    family, parameters = config.model_type, inspect.signature(base.forward).parameters
    if getattr(config, "attn_logit_softcapping", None):
        return f"{family} caps its attention scores"
    if any(part.rpartition(".")[2] == "sinks" for part, _ in base.named_parameters()):
        return f"{family} has attention sinks"
    if getattr(config, "alibi", False) or hasattr(base, "build_alibi_tensor"):
        return f"{family} adds ALiBi's position biases to its attention scores"
    module = sys.modules[type(base).__module__]
    through_interface = hasattr(module, "ALL_ATTENTION_FUNCTIONS") and hasattr(module, "create_causal_mask")
    if not through_interface or "position_ids" not in parameters:
        return f"{family}'s attention does not go through transformers' attention interface"
    if name != "sdpa":
        return f"{family}'s attention runs as {name}"
    for part, child in base.named_modules():
        # Embeddings come before attention and give it the same either way.
        if not isinstance(child, nn.Embedding) and is_module_hooked_or_patched(child):
            return f"somebody's own code runs in {part or type(base).__name__} (a hook, or another forward)"
    return ""


def _try_kernel(causal: PreTrainedModel, kernel: Kernel, autocast: Autocast, dtype: torch.dtype) -> str:
    """Why a model does not compute by lengths what it computes row by row; "" where it does.

    States and gradients must agree with those of single rows; a row must not feel another one, nor what comes after;
    the windows of its masks must be those that its attention is told; and in training nothing may be dropped out.
    """
    trial, windows = _Trial(causal, autocast), set[int | None]()
    try:
        own_states, own_gradient = trial.run_rows()
        causal.set_attn_implementation(register_attention(kernel, windows.add))
        states, gradient, requests = trial.run_line()
        share = GRADIENT_SHARE if dtype in (torch.float32, torch.float64) else GRADIENT_SHARE_OF_SHORT
        if not windows:
            return "its layers hand no lengths on to their attention"
        if not outputs_agree(states, own_states, dtype):
            return "packed rows do not give what they give alone"
        if not torch.dist(gradient, own_gradient) <= share * own_gradient.norm():
            return "the gradients of packed rows are not those of rows alone"
        if not requests.is_causal:
            return "its masks are more than causal"
        # A few tokens fill no window: these are read, not tried.
        if alone := requests.windows ^ {window for window in windows if window is not None}:
            return f"a window of {min(alone)} tokens is not told to its attention as it is to its mask"
        if trial.feels_others(states):
            return "its packed rows feel one another"
        trial.run_in_training_mode()
    except torch.OutOfMemoryError:
        raise
    except VarlenRefused as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # the kernel's words, or the model's
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


class _Trial:
    """A few rows, in one line by their lengths and each alone by the model's own attention."""

    def __init__(self, causal: PreTrainedModel, autocast: Autocast) -> None:
        self.causal, self.autocast = causal, autocast
        self.base: Any = causal.base_model
        size = causal.config.get_text_config().vocab_size
        # The first ids are often padding, whose embedding of zeros has no direction to be normalised to.
        ids = torch.arange(8, 8 + sum(TRIAL_LENGTHS), device=causal.device) % size
        self.rows = [row.flip(0) for row in ids.split(TRIAL_LENGTHS)]
        self.bounds = _bounds_of(TRIAL_LENGTHS, causal.device)

    def run_rows(self) -> tuple[Tensor, Tensor]:
        """Final hidden states [T, D] of each row alone, and the gradient [T, D] in the embeddings."""
        places = zip(self.rows, self._list_starts(), strict=True)
        passes = [self._compute_gradient(row[None], start) for row, start in places]
        return torch.cat([states for states, _ in passes]), torch.cat([gradient for _, gradient in passes])

    def run_line(self) -> tuple[Tensor, Tensor, MaskRequests]:
        """The same of the packed line, and what the model asked of its masks."""
        with omit_masks() as requests:
            states, gradient = self._compute_gradient(torch.cat(self.rows)[None], 0, **self._line_inputs())
        return states, gradient, requests

    def feels_others(self, states: Tensor) -> bool:
        """Whether the last row's states change with the first row's tokens, or with what comes after in its own."""
        ids = torch.cat(self.rows)
        ids[: TRIAL_LENGTHS[0]] = ids[: TRIAL_LENGTHS[0]].flip(0)
        ids[-1] = ids[0]
        with omit_masks(), eval_mode(self.causal):
            other_states = self._run(ids[None], **self._line_inputs())
        last = slice(-TRIAL_LENGTHS[-1], -1)
        return not outputs_agree(other_states[last], states[last], torch.float32)  # the same operations in any type

    def run_in_training_mode(self) -> None:
        """Run the packed line as training does; raises `VarlenRefused` where attention would be dropped out."""
        device = self.causal.device
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type), omit_masks(), eval_mode(self.causal):
            self.causal.train()
            self._run(torch.cat(self.rows)[None], **self._line_inputs())

    def _line_inputs(self) -> dict[str, Any]:
        positions = torch.cat([torch.arange(length, device=self.causal.device) for length in TRIAL_LENGTHS])
        return {"position_ids": positions[None], **self.bounds.model_inputs()}

    def _list_starts(self) -> list[int]:
        return [sum(TRIAL_LENGTHS[:index]) for index in range(len(TRIAL_LENGTHS))]

    def _run(self, ids: Tensor, **inputs: Any) -> Tensor:
        """Final hidden states [T, D] of a line of ids [1, T]."""
        with self.autocast():
            return self.base(input_ids=ids, use_cache=False, **inputs).last_hidden_state[0].float()

    def _compute_gradient(self, ids: Tensor, start: int, **inputs: Any) -> tuple[Tensor, Tensor]:
        """States, and the gradient in the embeddings of a sum of them whose weights go by the place in the line.

        A backward pass may be missing where the forward pass is there (for large heads on some GPUs).
        """
        leaves: list[Tensor] = []

        def cut_graph(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[-1]

        handle = self.causal.get_input_embeddings().register_forward_hook(cut_graph)
        try:
            with eval_mode(self.causal), torch.enable_grad():
                states = self._run(ids, **inputs)
                places = torch.arange(states.numel(), device=states.device) + start * states.shape[-1]
                total = (states * places.view_as(states).cos()).sum()
                (gradient,) = torch.autograd.grad(total, leaves[:1])
        finally:
            handle.remove()
        return states.detach(), gradient[0].float()


def _bounds_of(lengths: Sequence[int], device: torch.device) -> LineBounds:
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    return LineBounds(offsets, offsets, max(lengths))
