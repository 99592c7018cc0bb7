"""Attention of packed lines by the lengths of their sequences, through transformers' public attention interface.

A line with many sequences needs no mask: told where they begin, the flash kernel that torch carries
(`torch.nn.attention.varlen`, torch 2.11 and later) computes each one's triangle and nothing else, where transformers
makes a mask of L x L, repeats the keys of grouped heads and takes a slow kernel. Every architecture whose attention
goes through transformers' `AttentionInterface` can use it; `models.attention_choice` proves that one does.

Pairs that share their prompt need no mask either: rejected's answer asks the keys of the prompt and its own, which the
kernel takes in one call, since it aligns the last query with the last key.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.batching.batch import Batch

Kernel = Callable[..., Tensor]
"""Attention with the signature of `torch.nn.attention.varlen.varlen_attn`: (query [T, H, head], key [U, H_kv, head],
value, cu_seq_q [S + 1], cu_seq_k, max_q, max_k, *, scale, window_size) to [T, H, head]. Where a sequence has more keys
than queries, its last query stands at its last key."""

PREFIX = "holdfast_"
"""Begins the names under which transformers knows our attention functions."""

HARMLESS = {"position_ids", "cache_position", "max_length_k", "cu_seq_lens_k", "position_embeddings", "use_cache"}
"""What models hand to their attention functions that changes nothing where keys and values are given whole."""

OLDEST_CAPABILITY = (8, 0)
"""Of GPUs by NVIDIA that flash attention runs on."""


class VarlenRefused(UserError):
    """An attention that lengths alone do not describe; the text says which part, for a line that begins with it."""


@dataclass(frozen=True, slots=True)
class LineBounds:
    """Where the sequences of one packed line begin and end, and what each looks at.

    Args:
        queries, keys: [S + 1] int32 offsets of the sequences among the queries and among the keys.
        longest: Tokens of the longest sequence; a number on the CPU, from which the kernel's launch is sized.
        key_index: [U] int64 place in the line of each key; None where the keys stand as the queries do.
    """

    queries: Tensor
    keys: Tensor
    longest: int
    key_index: Tensor | None = None

    @classmethod
    def from_batch(cls, batch: Batch) -> LineBounds:
        """The bounds of a packed batch [1, L]; padding at its end is one more sequence.

        The kernel leaves places outside of all sequences unwritten: what stands there by chance, a NaN, would come into
        the gradients of the weights as 0 * NaN.
        """
        keys, index, longest = batch.cu_seqlens, batch.key_index, batch.longest
        queries = keys if batch.query_seqlens is None else batch.query_seqlens
        width = batch.input_ids.shape[1]
        padding = width - batch.tokens
        if padding:
            queries, keys = (torch.cat([bounds, bounds[-1:] + padding]) for bounds in (queries, keys))
            longest = max(longest, padding)
            if index is not None:
                index = torch.cat([index, torch.arange(batch.tokens, width, device=index.device)])
        return cls(queries, keys, longest, index)

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments of a model's forward pass, which it hands on to its attention functions.

        All names but the last are transformers' own (`FlashAttentionKwargs`).
        """
        inputs: dict[str, Any] = {
            "cu_seq_lens_q": self.queries, "cu_seq_lens_k": self.keys,
            "max_length_q": self.longest, "max_length_k": self.longest,
        }  # fmt: skip
        return inputs if self.key_index is None else inputs | {"key_index": self.key_index}


@dataclass(slots=True)
class MaskRequests:
    """What a model asked of its masks in one call.

    Args:
        windows: How many tokens back they let a token look, where that is limited.
        is_causal: Whether they were causal masks and nothing more.
    """

    windows: set[int] = field(default_factory=set)
    is_causal: bool = True


_mask_requests: ContextVar[MaskRequests | None] = ContextVar("mask_requests", default=None)
"""Set while a model reads a line by its lengths. Only masks look at it, which a model makes once, before its layers:
attention itself goes by what it is given, so that a layer computed again in the backward pass computes the same."""


@contextmanager
def omit_masks() -> Iterator[MaskRequests]:
    """Where models whose attention is `register_attention`'s make no masks; gives what they would have made."""
    requests = MaskRequests()
    token = _mask_requests.set(requests)
    try:
        yield requests
    finally:
        _mask_requests.reset(token)


def build_mask(*args: Any, local_size: int | None = None, use_vmap: bool = False, **kwargs: Any) -> Tensor | None:
    """No mask inside `omit_masks`, else SDPA's. A function of transformers' `AttentionMaskInterface`."""
    requests = _mask_requests.get()
    if requests is None:
        make_mask: Any = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
        return make_mask(*args, local_size=local_size, use_vmap=use_vmap, **kwargs)
    if local_size is not None:
        requests.windows.add(local_size)
    requests.is_causal &= not use_vmap  # set where a model adds conditions of its own
    return None


def make_attention_function(
    kernel: Kernel, note_window: Callable[[int | None], None] | None = None
) -> Callable[..., tuple[Tensor, None]]:
    """A function of transformers' `AttentionInterface`: `kernel` where it is given lengths, else SDPA.

    Args:
        note_window: Called with the window of each layer, for a trial.
    """
    grouped_by_word = "enable_gqa" in inspect.signature(kernel).parameters  # earlier releases of torch need no word

    def attend_line(
        module: nn.Module,
        query: Tensor,  # [1, H, L, head]
        key: Tensor,  # [1, H_kv, L, head]
        value: Tensor,  # [1, H_kv, L, its own head]
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        is_causal: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int | None = None,
        key_index: Tensor | None = None,
        **extras: Any,
    ) -> tuple[Tensor, None]:
        if cu_seq_lens_q is None:
            attend_by_mask: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]
            extras |= {"sliding_window": sliding_window, "is_causal": is_causal}
            return attend_by_mask(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extras)
        looks_ahead = not (getattr(module, "is_causal", True) if is_causal is None else is_causal)
        _refuse_more_than_lengths(dropout, looks_ahead, attention_mask, extras)
        if note_window is not None:
            note_window(sliding_window)
        # [T, heads, head] each. SDPA is given the type of autocast by torch; a kernel that torch does not know is not.
        kind = query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
        q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
        if key_index is not None:
            k, v = k[key_index], v[key_index]
        head, own_head = q.shape[-1], v.shape[-1]
        if own_head < head:  # the kernel knows one size of heads (DeepSeek's values are smaller)
            v = F.pad(v, (0, head - own_head))
        words: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]} if grouped_by_word else {}
        out = kernel(
            q, k, v, cu_seq_lens_q, extras["cu_seq_lens_k"], max_length_q, extras["max_length_k"],
            scale=scaling,
            # transformers counts the token itself, the kernel only those before it.
            window_size=(-1, 0) if sliding_window is None else (sliding_window - 1, 0),
            **words,
        )  # fmt: skip
        return out[..., :own_head][None], None

    return attend_line


def _refuse_more_than_lengths(
    dropout: float, looks_ahead: bool, attention_mask: Tensor | None, extras: dict[str, Any]
) -> None:
    """See that lengths, windows and a scale are all that an attention goes by.

    Raises:
        VarlenRefused: If a layer asks for more.
    """
    if dropout:
        raise VarlenRefused(f"its attention has dropout ({dropout:g})")
    if looks_ahead:
        raise VarlenRefused("its attention looks ahead")
    if attention_mask is not None:
        raise VarlenRefused("its attention adds a mask of its own")
    for name, extra in extras.items():
        if name not in HARMLESS and extra is not None and extra is not False:
            raise VarlenRefused(EXTRAS.get(name, f"its attention takes {name}"))


EXTRAS = {
    "softcap": "it caps its attention scores",
    "s_aux": "its attention has sinks",
    "position_bias": "it adds position biases to its attention scores",
    "output_attentions": "its attention weights are asked for",
}
"""Words for what the kernel cannot do, by the argument that asks for it."""


def register_attention(kernel: Kernel, note_window: Callable[[int | None], None] | None = None) -> str:
    """Make `kernel` known to transformers; the name to be given to a model's `set_attn_implementation`.

    A model keeps it: without lengths it computes what SDPA does, so nobody need know. Switching back after each forward
    pass would not do, since layers that are computed again in the backward pass read the name again.
    """
    name = PREFIX + getattr(kernel, "__name__", type(kernel).__name__) + ("_on_trial" if note_window else "")
    AttentionInterface.register(name, make_attention_function(kernel, note_window))
    AttentionMaskInterface.register(name, build_mask)
    return name


def is_varlen(name: str | None) -> bool:
    """Whether an attention of this name, as a configuration bears it, is one of `register_attention`'s."""
    return name is not None and name.startswith(PREFIX)


def find_kernel(device: torch.device, dtype: torch.dtype) -> tuple[Kernel | None, str]:
    """Torch's own kernel where it runs, or why there is none, in words: "" on devices it is not for.

    Args:
        dtype: What attention is computed in.
    """
    if device.type != "cuda":
        return None, ""
    if dtype not in (torch.bfloat16, torch.float16):
        return None, f"varlen attention computes in bf16 or fp16, not {str(dtype).removeprefix('torch.')}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return None, f"{torch.cuda.get_device_name(device)} is too old for flash attention"
    version = f"torch {torch.__version__}"
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None, f"{version} has no varlen attention; 2.11 has"
    from torch.nn.attention.varlen import varlen_attn

    missing = {"scale", "window_size"} - inspect.signature(varlen_attn).parameters.keys()
    if missing:
        return None, f"the varlen attention of {version} takes no {min(missing)}; that of 2.11 does"
    return cast(Kernel, varlen_attn), ""
