"""Prompts read in one line by their lengths: no padding is computed, and no mask for what they all begin with.

A batch of prompts padded right is read by SDPA's causal kernel as long as nothing stands before it. What all prompts
begin with is in the cache already, though, and then SDPA is given a mask of every token by every key and takes a slow
kernel. By lengths (`models.varlen_attention`) each prompt reads the keys of that beginning and its own.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from holdfast.errors import first_line
from holdfast.generation.continuous_batch import read_prompts
from holdfast.generation.fused_decode import PlainForward
from holdfast.generation.kv_cache import PrefilledPrompts
from holdfast.models.attention_choice import choose_attention
from holdfast.models.llama_family import outputs_agree
from holdfast.models.loading import eval_mode, has_adapter
from holdfast.models.varlen_attention import LineBounds, VarlenRefused, find_kernel, is_varlen, omit_masks

if TYPE_CHECKING:
    from holdfast.models.loading import Model

TRIAL_LENGTHS = (7, 4, 5)
"""Of the prompts that prove a reader; they share their first tokens, one of them all but the last."""
TRIAL_SHARED = 3


def describe_padding(reason: str) -> str:
    """The line that says why prompts are read padded."""
    return f"prompts are read with padding: {reason}"


class PackedReader:
    """Reads prompts in one line.

    Args:
        model: Whose attention goes by lengths, where it is given some (`register_attention`).
    """

    def __init__(self, model: Model) -> None:
        causal: Any = model.get_base_model() if has_adapter(model) else model
        self.base, self.device = causal.base_model, causal.device

    @torch.no_grad()
    def read_prompts(self, prompts: list[list[int]], before: PrefilledPrompts | None = None) -> PrefilledPrompts:
        """Keys and values as `continuous_batch.read_prompts` gives them; padding repeats each prompt's last token."""
        start = before.length if before else 0
        lengths = np.array([len(prompt) - 1 - start for prompt in prompts])
        cache = DynamicCache() if before is None else before.build_cache(1)
        ids = [token for prompt in prompts for token in prompt[start:-1]]
        if ids:
            positions = np.concatenate([start + np.arange(length) for length in lengths])
            with omit_masks():
                self.base(
                    input_ids=self._to_device(ids)[None], position_ids=self._to_device(positions)[None],
                    past_key_values=cache, use_cache=True, **self._bounds_of(lengths, start).model_inputs(),
                )  # fmt: skip
        places = self._to_device(spread_places(lengths, start))
        layers: list[Any] = cache.layers  # [1, heads, start + tokens, dim] each
        by_layer = ((one.keys[0][:, places], one.values[0][:, places]) for one in layers)
        return PrefilledPrompts([(keys.transpose(0, 1), values.transpose(0, 1)) for keys, values in by_layer])

    def _bounds_of(self, lengths: np.ndarray, start: int) -> LineBounds:
        """What each prompt's tokens look at: the shared beginning and their own."""
        own = lengths[lengths > 0]  # a prompt that the beginning holds but for its last token has no query
        queries, keys = (self._to_device(np.cumsum([0, *counts])).to(torch.int32) for counts in (own, own + start))
        ends = start + np.cumsum(own)
        index = [np.concatenate([np.arange(start), np.arange(e - n, e)]) for e, n in zip(ends, own, strict=True)]
        return LineBounds(
            queries, keys, int(own.max()) + start, self._to_device(np.concatenate(index)) if start else None
        )

    def _to_device(self, numbers: Any) -> Tensor:
        return torch.from_numpy(np.asarray(numbers)).to(self.device)


def spread_places(lengths: np.ndarray, start: int) -> np.ndarray:
    """Where in a line each token of each prompt stands, [prompts, start + longest]; padding repeats the last one.

    Args:
        lengths: Tokens of each prompt in the line, behind `start` tokens that all share.
    """
    columns = np.arange(start + lengths.max())  # [length]
    firsts = start + np.cumsum(lengths) - lengths  # [prompts]
    own = firsts[:, None] + columns - start
    lasts = np.minimum(firsts + np.maximum(lengths, 1), start + lengths.sum()) - 1  # of no tokens: any place there is
    return np.where(columns < start, columns, np.minimum(own, lasts[:, None]))


def find_packed_reader(model: Model) -> tuple[PackedReader | None, str]:
    """A reader for a model whose attention can go by lengths, proven on a few tokens; or what is against it.

    That is "" where the device, or the type of the weights, has no kernel for it: then there is nothing to tell.
    """
    causal: Any = model.get_base_model() if has_adapter(model) else model
    kernel, _ = find_kernel(causal.device, causal.dtype)
    if kernel is None:
        return None, ""
    if not is_varlen(causal.config.get_text_config()._attn_implementation):  # else a policy has proven it
        choice = choose_attention(causal, nullcontext, causal.dtype, kernel)
        if not choice.is_varlen:
            return None, choice.refusal
    reader, family = PackedReader(model), causal.config.get_text_config().model_type
    try:
        agrees = reads_as_model(reader, model)
    except VarlenRefused as error:
        return None, f"{family}: {error}"
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # the kernel's words, or the model's
        return None, f"{family}: {type(error).__name__}: {first_line(error)}"
    return (reader, "") if agrees else (None, f"{family}: in one line they give other keys and values")


def reads_as_model(reader: PackedReader, model: Model) -> bool:
    """Whether a reader gives the keys and values that the model gives prompts of unlike lengths, padded."""
    size, device, plain = model.config.get_text_config().vocab_size, model.device, PlainForward(model)
    # The first ids are often padding; the prompts part behind those they share.
    ids = [[(8 + place + 9 * number * (place >= TRIAL_SHARED)) % size for place in range(length)]
           for number, length in enumerate(TRIAL_LENGTHS)]  # fmt: skip
    with eval_mode(model):
        for before in (None, read_prompts(plain, device, [ids[0][: TRIAL_SHARED + 1]])):
            sources = reader.read_prompts(ids, before), read_prompts(plain, device, ids, before)
            for ours, own in zip(*(source.layers for source in sources), strict=True):
                for states, own_states in zip(ours, own, strict=True):
                    parts = [torch.cat([x[i, :, : n - 1].flatten() for i, n in enumerate(TRIAL_LENGTHS)]).float()
                             for x in (states, own_states)]  # fmt: skip
                    if not outputs_agree(parts[0], parts[1], model.dtype):
                        return False
    return True
