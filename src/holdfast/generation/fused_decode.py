"""The forward passes of the native engine: a model's own, or the same mathematics with less around it.

A small model spends most of a decoding step outside its matrix products. `Fused` computes what `LlamaForCausalLM` (and
its like, Mistral and Qwen2) computes, with the weights of one input joined into one product and, where only keys and
values are wanted, without the last layer's attention and MLP. Any other model runs as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache

from holdfast.models.fused_llama import fits
from holdfast.models.loading import intercepted

if TYPE_CHECKING:
    from holdfast.models.loading import Model

SHAPES = {"llama", "mistral", "qwen2"}
"""Model types with this one architecture: pre-norm, rotary positions, SwiGLU."""
ROTARY = {"default", "linear", "llama3"}
"""Rotary positions that depend on the position alone; the tables of others change with what was seen."""
LARGEST = 100_000_000
"""Parameters up to which weights are joined: it takes a second copy of them, and larger models gain little."""


class Forward(Protocol):
    """Two passes over `cache`, which the model extends by the tokens it is given."""

    concurrent: bool
    """Whether several threads may run it at once."""

    def read(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        """Put keys and values of prompts into the cache; `ids` and `positions` are [prompts, length], padded right."""

    def decode(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Logits [slots, vocabulary] after one more token each, `ids` [slots, 1]; `mask` [slots, columns] is bool."""


def forward_of(model: Model) -> Forward:
    """The quickest forward pass known for `model`. What it copies of the weights is as they are now."""
    return Fused(model) if _fits(model) else Plain(model)


class Plain:
    """The model's own forward, which may keep what it last saw (hooks, rotary tables that grow)."""

    concurrent = False

    def __init__(self, model: Model) -> None:
        self.model: Any = model

    def read(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        self.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def decode(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[:, -1]


class Fused:
    """Llama's forward on joined weights."""

    concurrent = True

    def __init__(self, model: Model) -> None:
        config, base = model.config, cast(Any, model.base_model)
        self.embedding: Tensor = cast(Any, model.get_input_embeddings()).weight
        self.head: Any = model.get_output_embeddings()
        self.norm, self.rotary = _Norm(base.norm), base.rotary_emb
        self.layers = [_Layer(layer) for layer in base.layers]
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads

    def read(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        start = cache.get_seq_length()
        mask = None
        if start:  # what all prompts share is in the cache already
            mask = torch.ones(ids.shape[1], start + ids.shape[1], dtype=torch.bool, device=ids.device).tril(start)
        self._run(ids, positions, mask, cache, keep=False)

    def decode(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        bias = torch.zeros(mask.shape, device=ids.device).masked_fill_(~mask, float("-inf"))  # else made in every layer
        hidden = self._run(ids, positions, bias[:, None, None], cache, keep=True)
        return self.head(self.norm(hidden[:, -1]))

    def _run(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache, keep: bool) -> Tensor:
        """Hidden states [B, T, D] before the last norm; without `keep`, of no use but for what is in the cache."""
        x = self.embedding[ids]  # [B, T, D]
        cos, sin = self.rotary(x, positions)  # [B, T, head]
        cos, sin = cos[:, :, None], sin[:, :, None]
        sin = torch.cat((-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]), -1)
        rotated = self.heads + self.groups
        for index, layer in enumerate(self.layers):
            states = layer.qkv(layer.before(x)).unflatten(-1, (rotated + self.groups, -1))  # [B, T, heads, head]
            turned = _turn(states[:, :, :rotated], cos, sin)
            keys, values = cache.update(
                turned[:, :, self.heads :].transpose(1, 2), states[:, :, rotated:].transpose(1, 2), index
            )
            if not keep and index == len(self.layers) - 1:
                break
            mixed = F.scaled_dot_product_attention(
                turned[:, :, : self.heads].transpose(1, 2),
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=self.groups < self.heads,
            )
            x = layer.out(mixed.transpose(1, 2).flatten(2)).add_(x)
            gate, up = layer.inward(layer.after(x)).chunk(2, -1)
            x = layer.down(F.silu(gate).mul_(up)).add_(x)
        return x


class _Layer:
    """One transformer layer: its norms and its four products."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.after = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.inward = _joined(mlp.gate_proj, mlp.up_proj)
        self.out, self.down = attention.o_proj, mlp.down_proj


def _joined(*parts: nn.Linear) -> nn.Linear:
    """One linear map whose output is those of the parts, end to end."""
    first = parts[0]
    joined = nn.utils.skip_init(
        nn.Linear, first.in_features, sum(p.out_features for p in parts), bias=first.bias is not None,
        device=first.weight.device, dtype=first.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        joined.weight.copy_(torch.cat([p.weight for p in parts]))
        if first.bias is not None:
            joined.bias.copy_(torch.cat([p.bias for p in parts]))
    return joined


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: each pair (i, i + head/2) turned by its angle; the first half of `sin` is negative."""
    left, right = states.chunk(2, -1)
    return torch.addcmul(states * cos, torch.cat((right, left), -1), sin)


class _Norm:
    """Root-mean-square norm with one pass over the input fewer than its definition."""

    def __init__(self, norm: Any) -> None:
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * (length.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_())).mul_(self.weight)


def _fits(model: Model) -> bool:
    """Whether `Fused` computes what the model does, and a second copy of its weights costs no card's memory."""
    config = model.config
    if model.device.type != "cpu" or intercepted(model):
        return False
    if getattr(config, "model_type", None) not in SHAPES or model.dtype != torch.float32:
        return False
    if config.hidden_act != "silu" or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    if getattr(config, "sliding_window", None) and config.model_type == "mistral":
        return False
    if config.rope_parameters["rope_type"] not in ROTARY:
        return False
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    plain = all(type(m) is nn.Linear for m in linear) and not any(hasattr(m, "base_layer") for m in model.modules())
    return plain and fits(model) and sum(p.numel() for p in model.parameters()) <= LARGEST
