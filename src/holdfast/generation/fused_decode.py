"""The forward passes of the native engine: a model's own, or the same mathematics with less around it.

A small model spends most of a decoding step outside its matrix products. `FusedForward` computes what a model of the
Llama family (`models.llama_family`) computes, with the weights of one input joined into one product and, where only
keys and values are wanted, without the last layer's attention and MLP. Any other model runs as it is.
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
    apply_rotary,
    apply_swiglu,
    compute_cos_sin,
    outputs_agree,
    rms_normalise,
    supports_model,
)
from holdfast.models.loading import eval_mode

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

    def prefill_cache(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        """Put keys and values of prompts into the cache; `ids` and `positions` are [prompts, length], padded right."""

    def decode_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        """Logits [slots, vocabulary] after one more token each, `ids` [slots, 1]; `mask` [slots, columns] is bool.

        `places` [slots] counts the tokens of each answer so far: what mixes several models' logits may ask for it.
        """

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        """Logits [slots, T, V] after each of T more tokens, `ids` [slots, T]; `mask` [slots, T, columns] is bool."""


def build_forward(model: Model, is_verified: bool = False) -> Forward:
    """The quickest forward pass that gives the model's own logits. What it copies of the weights is as they are now.

    Args:
        is_verified: Whether that was seen of this model before, by `reproduces_logits`; other weights do not change it.
    """
    if not is_small(model):
        return PlainForward(model)
    fast_forward = FusedForward(model)
    return fast_forward if is_verified or reproduces_logits(fast_forward, model) else PlainForward(model)


def is_small(model: Model) -> bool:
    """Whether a model's steps are worth joining, and may be, by what it is made of; its logits are not looked at."""
    return supports_model(model) and _can_join_weights(model)


def reproduces_logits(forward: Forward, model: Model) -> bool:
    """Whether a forward pass gives the model's own logits: of two decoding steps after prompts of unlike lengths."""
    with eval_mode(model):
        ours, own = (_few_logits(f, model.config.vocab_size, model.device) for f in (forward, PlainForward(model)))
    return outputs_agree(ours, own, model.dtype)


def _few_logits(forward: Forward, size: int, device: torch.device) -> Tensor:
    """Logits [2, slots, V] of two steps after a prompt of four tokens and one of two, begun by two that both share."""
    cache = DynamicCache()
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]], device=device) % size  # [slots, T], the shorter padded right
    places = torch.arange(4, device=device).expand(2, -1)
    for part in (slice(0, 2), slice(2, 4)):
        forward.prefill_cache(ids[:, part], places[:, part], cache)
    mask = torch.tensor([[True] * 6, [True, True, False, False, True, True]], device=device)
    steps = []
    for step in (0, 1):
        token = torch.tensor([[4 + step], [2 + step]], device=device)  # [slots, 1]: where it stands, and which it is
        steps.append(forward.decode_logits(token % size, token, mask[:, : 5 + step], cache))
    return torch.stack(steps).float()


class PlainForward:
    """The model's own forward, which may keep what it last saw (hooks, rotary tables that grow)."""

    concurrent = False

    def __init__(self, model: Model) -> None:
        self.model: Any = model
        self.layers = model.config.get_text_config().num_hidden_layers

    def prefill_cache(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        self.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def decode_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        dtype = self.model.dtype
        bias = torch.zeros(mask.shape, dtype=dtype, device=ids.device).masked_fill_(~mask, torch.finfo(dtype).min)
        return self.model(
            input_ids=ids, attention_mask=bias[:, None], position_ids=positions, past_key_values=cache, use_cache=True
        ).logits


class FusedForward:
    """The Llama family's forward on joined weights."""

    concurrent = True

    def __init__(self, model: Model) -> None:
        config, base = model.config, cast(Any, model.base_model)
        self.embedding: Tensor = cast(Any, model.get_input_embeddings()).weight
        self.head: Any = model.get_output_embeddings()
        self.norm, self.rotary = _DecodeNorm(base.norm), base.rotary_emb
        self.blocks = [_Layer(LlamaLayer.from_module(layer)) for layer in base.layers]
        self.layers = len(self.blocks)
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads

    def prefill_cache(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        start = cache.get_seq_length()
        mask = None
        if start:  # what all prompts share is in the cache already
            mask = torch.ones(ids.shape[1], start + ids.shape[1], dtype=torch.bool, device=ids.device).tril(start)
        self._run_layers(ids, positions, mask, cache, keep=False)

    def decode_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        return self.read_tokens(ids, positions, mask[:, None], cache)[:, -1]

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        bias = torch.zeros(mask.shape, device=ids.device).masked_fill_(~mask, float("-inf"))  # else made in every layer
        return self.head(self.norm(self._run_layers(ids, positions, bias[:, None], cache, keep=True)))

    def _run_layers(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache, keep: bool) -> Tensor:
        """Hidden states [B, T, D] before the last norm; without `keep`, of no use but for what is in the cache."""
        x = self.embedding[ids]  # [B, T, D]
        cos, sin = compute_cos_sin(self.rotary, x, positions)  # [B, T, 1, head]
        num_rotary = self.heads + self.groups
        for index, layer in enumerate(self.blocks):
            # One product gives the heads of queries, then those of keys, then those of values.
            states = layer.qkv(layer.before(x)).unflatten(-1, (num_rotary + self.groups, -1))  # [B, T, heads, head]
            rotary_states = apply_rotary(self._normalise_heads(layer, states[:, :, :num_rotary]), cos, sin)
            keys, values = cache.update(
                rotary_states[:, :, self.heads :].transpose(1, 2), states[:, :, num_rotary:].transpose(1, 2), index
            )
            if not keep and index == self.layers - 1:
                break  # later tokens need this layer's keys and values, and nobody its output
            attention = F.scaled_dot_product_attention(
                rotary_states[:, :, : self.heads].transpose(1, 2),
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                scale=layer.scale,
                enable_gqa=self.groups < self.heads,
            )
            x = layer.out(attention.transpose(1, 2).flatten(2)).add_(x)
            gate, up = layer.inward(layer.after(x)).chunk(2, -1)
            x = layer.down(apply_swiglu(gate, up)).add_(x)
        return x

    def _normalise_heads(self, layer: _Layer, states: Tensor) -> Tensor:
        """Queries and keys [B, T, heads, head], normed where the model does so."""
        if layer.of_queries is None or layer.of_keys is None:
            return states
        return torch.cat((layer.of_queries(states[:, :, : self.heads]), layer.of_keys(states[:, :, self.heads :])), 2)


class _Layer:
    """One transformer layer: its norms and its four products."""

    def __init__(self, parts: LlamaLayer) -> None:
        self.before, self.after, self.scale = _DecodeNorm(parts.before), _DecodeNorm(parts.after), parts.scale
        self.of_queries, self.of_keys = (None if n is None else _DecodeNorm(n) for n in (parts.q_norm, parts.k_norm))
        self.qkv = _join_linears(parts.q, parts.k, parts.v)
        self.inward = _join_linears(parts.gate, parts.up)
        self.out, self.down = parts.o, parts.down


def _join_linears(*parts: nn.Linear) -> nn.Linear:
    """One linear map whose output is those of the parts, end to end."""
    first = parts[0]
    linear = nn.utils.skip_init(
        nn.Linear, first.in_features, sum(p.out_features for p in parts), bias=first.bias is not None,
        device=first.weight.device, dtype=first.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        linear.weight.copy_(torch.cat([p.weight for p in parts]))
        if first.bias is not None:
            linear.bias.copy_(torch.cat([p.bias for p in parts]))
    return linear


class _DecodeNorm:
    """`rms_normalise` with the weights of a norm, looked up once."""

    def __init__(self, norm: Any) -> None:
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return rms_normalise(x, self.weight, self.eps)[0]


def _can_join_weights(model: Model) -> bool:
    """Whether the weights can be joined, and a second copy of them costs little: plain matrices in fp32, not many."""
    if model.dtype != torch.float32 or model.config.rope_parameters["rope_type"] not in ROTARY:
        return False
    layers = map(LlamaLayer.from_module, cast(Any, model.base_model).layers)
    products = [p for layer in layers for p in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)]
    plain = type(model.get_input_embeddings()) is nn.Embedding
    plain &= all(type(p) is nn.Linear for p in [*products, model.get_output_embeddings()])  # no adapters, no quantised
    return plain and sum(p.numel() for p in model.parameters()) <= LARGEST
