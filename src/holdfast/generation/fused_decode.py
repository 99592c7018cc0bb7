"""The forward passes of the native engine: a model's own, or the same mathematics with less around it.

A small model spends most of a decoding step outside its matrix products. `Fused` computes what a model of the Llama
family (`models.llama_family`) computes, with the weights of one input joined into one product and, where only keys and
values are wanted, without the last layer's attention and MLP. Any other model runs as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import Cache

from holdfast.models.llama_family import (
    LlamaLayer,
    agrees,
    rms_normalise,
    rotate,
    rotations,
    supports,
    swiglu,
)
from holdfast.models.loading import evaluating

if TYPE_CHECKING:
    from holdfast.models.loading import Model

ROTARY = {"default", "linear", "llama3"}
"""Rotary positions that depend on the position alone; the tables of others change with what was seen."""
LARGEST = 100_000_000
"""Parameters up to which weights are joined: it takes a second copy of them, and larger models gain little."""


class Forward(Protocol):
    """Two passes over `cache`, which the model extends by the tokens it is given."""

    concurrent: bool
    """Whether several threads may run it at once."""
    layers: int
    """How many layers of the cache it fills."""

    def read(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        """Put keys and values of prompts into the cache; `ids` and `positions` are [prompts, length], padded right."""

    def decode(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Logits [slots, vocabulary] after one more token each, `ids` [slots, 1]; `mask` [slots, columns] is bool."""


def forward_of(model: Model, agreed: bool = False) -> Forward:
    """The quickest forward pass that gives the model's own logits. What it copies of the weights is as they are now.

    Args:
        agreed: Whether that was seen of this model before, by `reproduces`; other weights do not change it.
    """
    if not supports(model) or not _joinable(model):
        return Plain(model)
    fused = Fused(model)
    return fused if agreed or reproduces(fused, model) else Plain(model)


def reproduces(forward: Forward, model: Model) -> bool:
    """Whether a forward pass gives the model's own logits: of two decoding steps after prompts of unlike lengths."""
    with evaluating(model):
        ours, own = (_few_logits(f, model.config.vocab_size, model.device) for f in (forward, Plain(model)))
    return agrees(ours, own, model.dtype)


def _few_logits(forward: Forward, size: int, device: torch.device) -> Tensor:
    """Logits [2, slots, V] of two steps after a prompt of four tokens and one of two, begun by two that both share."""
    cache = DynamicCache()
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]], device=device) % size  # [slots, T], the shorter padded right
    places = torch.arange(4, device=device).expand(2, -1)
    for part in (slice(0, 2), slice(2, 4)):
        forward.read(ids[:, part], places[:, part], cache)
    mask = torch.tensor([[True] * 6, [True, True, False, False, True, True]], device=device)
    steps = []
    for step in (0, 1):
        token = torch.tensor([[4 + step], [2 + step]], device=device)  # [slots, 1]: where it stands, and which it is
        steps.append(forward.decode(token % size, token, mask[:, : 5 + step], cache))
    return torch.stack(steps).float()


class Plain:
    """The model's own forward, which may keep what it last saw (hooks, rotary tables that grow)."""

    concurrent = False

    def __init__(self, model: Model) -> None:
        self.model: Any = model
        self.layers = model.config.get_text_config().num_hidden_layers

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
    """The Llama family's forward on joined weights."""

    concurrent = True

    def __init__(self, model: Model) -> None:
        config, base = model.config, cast(Any, model.base_model)
        self.embedding: Tensor = cast(Any, model.get_input_embeddings()).weight
        self.head: Any = model.get_output_embeddings()
        self.norm, self.rotary = _Norm(base.norm), base.rotary_emb
        self.blocks = [_Layer(LlamaLayer.of(layer)) for layer in base.layers]
        self.layers = len(self.blocks)
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
        cos, sin = rotations(self.rotary, x, positions)  # [B, T, 1, head]
        rotated = self.heads + self.groups
        for index, layer in enumerate(self.blocks):
            # One product gives the heads of queries, then those of keys, then those of values.
            states = layer.qkv(layer.before(x)).unflatten(-1, (rotated + self.groups, -1))  # [B, T, heads, head]
            turned = rotate(self._normed(layer, states[:, :, :rotated]), cos, sin)
            keys, values = cache.update(
                turned[:, :, self.heads :].transpose(1, 2), states[:, :, rotated:].transpose(1, 2), index
            )
            if not keep and index == self.layers - 1:
                break  # later tokens need this layer's keys and values, and nobody its output
            mixed = F.scaled_dot_product_attention(
                turned[:, :, : self.heads].transpose(1, 2),
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                scale=layer.scale,
                enable_gqa=self.groups < self.heads,
            )
            x = layer.out(mixed.transpose(1, 2).flatten(2)).add_(x)
            gate, up = layer.inward(layer.after(x)).chunk(2, -1)
            x = layer.down(swiglu(gate, up)).add_(x)
        return x

    def _normed(self, layer: _Layer, states: Tensor) -> Tensor:
        """Queries and keys [B, T, heads, head], normed where the model does so."""
        if layer.of_queries is None or layer.of_keys is None:
            return states
        return torch.cat((layer.of_queries(states[:, :, : self.heads]), layer.of_keys(states[:, :, self.heads :])), 2)


class _Layer:
    """One transformer layer: its norms and its four products."""

    def __init__(self, parts: LlamaLayer) -> None:
        self.before, self.after, self.scale = _Norm(parts.before), _Norm(parts.after), parts.scale
        self.of_queries, self.of_keys = (None if n is None else _Norm(n) for n in (parts.q_norm, parts.k_norm))
        self.qkv = _joined(parts.q, parts.k, parts.v)
        self.inward = _joined(parts.gate, parts.up)
        self.out, self.down = parts.o, parts.down


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


class _Norm:
    """`rms_normalise` with the weights of a norm, looked up once."""

    def __init__(self, norm: Any) -> None:
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return rms_normalise(x, self.weight, self.eps)[0]


def _joinable(model: Model) -> bool:
    """Whether the weights can be joined, and a second copy of them costs little: plain matrices in fp32, not many."""
    if model.dtype != torch.float32 or model.config.rope_parameters["rope_type"] not in ROTARY:
        return False
    layers = map(LlamaLayer.of, cast(Any, model.base_model).layers)
    products = [p for layer in layers for p in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)]
    plain = type(model.get_input_embeddings()) is nn.Embedding
    plain &= all(type(p) is nn.Linear for p in [*products, model.get_output_embeddings()])  # no adapters, no quantised
    return plain and sum(p.numel() for p in model.parameters()) <= LARGEST
