"""The Llama family, described once: its layers by their parts, its mathematics, and who belongs to it.

Training (`models.fused_llama`) and decoding (`generation.fused_decode`) both compute around a model's own forward. They
take what they compute from here, and whether they may from `supports_model` and `outputs_agree`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models.loading import is_hooked_or_patched
from holdfast.models.shifted_attention import is_shifted

if TYPE_CHECKING:
    from holdfast.models.loading import Model

FAMILIES = {
    f"transformers.models.{name.lower()}.modeling_{name.lower()}": name
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
}
"""Prefix of the classes with this one architecture, by their module: pre-norm, rotary positions, SwiGLU."""


def supports_model(causal: Model) -> bool:
    """Whether what is computed around models on a CPU may be computed around this one: see `has_llama_layers`."""
    return causal.device.type == "cpu" and has_llama_layers(causal)


def has_llama_layers(causal: Model) -> bool:
    """Whether a model is built as this module says, and nobody's own code runs inside it.

    Exact classes, not names or subclasses: sharding and other libraries replace them, and then compute something else.
    Hooks and patched forwards count as somebody's own code. What cannot be seen here (a function replaced inside a
    library) shows in `outputs_agree`.
    """
    module = type(causal).__module__
    family = FAMILIES.get(module)
    if family is None:
        return False
    config, base = causal.config, cast(Any, causal.base_model)
    if config.hidden_act != "silu" or getattr(config, "attention_dropout", 0.0):
        return False
    if is_shifted(config._attn_implementation):  # which is no plain attention while the model trains
        return False
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if windows or (family == "Mistral" and config.sliding_window):
        return False
    parts: list[tuple[nn.Module, str]] = [(causal, "ForCausalLM"), (base, "Model"), (base.norm, "RMSNorm")]
    for layer in base.layers:
        parts += [(layer, "DecoderLayer"), (layer.self_attn, "Attention"), (layer.mlp, "MLP")]
        parts += [(layer.input_layernorm, "RMSNorm"), (layer.post_attention_layernorm, "RMSNorm")]
    exact = all(_is_exactly(type(part), module, family + kind) for part, kind in parts)
    return exact and not is_hooked_or_patched(causal)


def _is_exactly(cls: type, module: str, name: str) -> bool:
    """Whether a class is the one of that name in its module; one put in its place there bears another module's name."""
    return cls is getattr(sys.modules[module], name) and (cls.__module__, cls.__name__) == (module, name)


def outputs_agree(ours: Tensor, own: Tensor, dtype: torch.dtype) -> bool:
    """Whether what was computed around a model is what its own forward gives, as far as its precision goes.

    Args:
        dtype: Of the model's weights: a ten-thousandth of the norm in fp32, three hundredths in shorter types.
    """
    share = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    return bool(torch.dist(ours, own) <= share * own.norm())  # NaN agrees with nothing


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """The modules of a decoder layer by what they do: x + o(attend(q, k, v)), then x + down(silu(gate) * up).

    Args:
        before, after: The norms before attention and before the MLP.
        q, k, v, o: Projections of attention; heads are [heads, head] of their outputs.
        q_norm, k_norm: Norms of each head's queries and keys, before they are turned (Qwen3); `None` without.
        gate, up, down: Projections of the MLP.
        head: Size of a head.
        scale: What scores of attention are multiplied by.
    """

    before: Any
    q: Any
    k: Any
    v: Any
    o: Any
    q_norm: Any
    k_norm: Any
    after: Any
    gate: Any
    up: Any
    down: Any
    head: int
    scale: float

    @classmethod
    def from_module(cls, layer: Any) -> LlamaLayer:
        """The parts of a `LlamaDecoderLayer` or its like."""
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            before=layer.input_layernorm,
            q=attention.q_proj, k=attention.k_proj, v=attention.v_proj, o=attention.o_proj,
            q_norm=getattr(attention, "q_norm", None), k_norm=getattr(attention, "k_norm", None),
            after=layer.post_attention_layernorm,
            gate=mlp.gate_proj, up=mlp.up_proj, down=mlp.down_proj,
            head=attention.head_dim, scale=attention.scaling,
        )  # fmt: skip


def rms_normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Root-mean-square norm of the last axis, computed in fp32 or better, and the factor [..., 1] it scaled by.

    `vector_norm` squares and sums in one pass over the input, where `x.pow(2).mean(-1)` makes two and a tensor of x's
    size; of its result, one number a row, the rest is made in place.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * scale).mul_(weight).to(x.dtype), scale


def compute_cos_sin(rotary: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [B, T, 1, head] of `positions` [B, T], as `apply_rotary` takes them.

    A pair (i, i + head/2) of a head turns as (a cos - b sin, b cos + a sin). With the sign in the first half of the
    sines, once for all layers, that is x cos + swapped(x) sin, and the halves are swapped without being negated.
    """
    cos, sin = rotary(x, positions)  # [B, T, head] each
    half = sin.shape[-1] // 2
    return cos[:, :, None], torch.cat((-sin[:, :, None, :half], sin[:, :, None, half:]), -1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head/2) of x [..., heads, head] by its angle; `cos`, `sin` as of `compute_cos_sin`."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, torch.cat((x[..., half:], x[..., :half]), -1), sin)


def apply_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; the product is written where silu(gate) stood."""
    return F.silu(gate).mul_(up)
