"""The forward pass of a decoding step over a `StaticSlotCache`, as one function of tensors that never move.

`StaticLlamaForward` computes what a model of the Llama family computes with fewer kernels than the model's own forward
launches; `StaticPlainForward` is the model's own forward, with the masks that `generate` hands it for a static cache.
Each proves itself on a few tokens against the model as it decodes otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.errors import first_line
from holdfast.generation.continuous_batch import read_prompts
from holdfast.generation.fused_decode import ROTARY, PlainForward
from holdfast.generation.kv_cache import SlotCache
from holdfast.generation.static_cache import COLUMNS, StaticSlotCache
from holdfast.models.llama_family import (
    LlamaLayer,
    apply_rotary,
    apply_swiglu,
    compute_cos_sin,
    has_llama_layers,
    outputs_agree,
)
from holdfast.models.loading import eval_mode, has_adapter, is_hooked_or_patched
from holdfast.models.policy import mask_to_bias
from holdfast.models.shifted_attention import is_shifted
from holdfast.models.varlen_attention import is_varlen

if TYPE_CHECKING:
    from holdfast.models.loading import Model

MASKS = {"full_attention", "sliding_attention"}
"""Layers whose masks are made here."""


def describe_decline(reason: str) -> str:
    """The line that says why decoding is not captured; several find that out, and the same line is shown once."""
    return f"decoding without CUDA graphs: {reason}"


class StaticForward(Protocol):
    """A decoding step's forward pass."""

    def decode_logits(self, ids: Tensor, positions: Tensor, cache: StaticSlotCache) -> Tensor:
        """Logits [size, vocabulary] after one more token each; `ids` and `positions` are [size, 1].

        The token is written to the cache at column `positions`, and reads the columns up to there.
        """


def static_lacks(model: Model) -> str:
    """Why a model cannot decode over fixed tensors, as far as it shows without trying; "" for no reason."""
    config = model.config.get_text_config()
    if is_hooked_or_patched(model):
        return "hooks or patched forwards run inside the model"
    if _find_llama(model):
        return ""
    attention = config._attn_implementation
    # Varlen attention is SDPA where it is told no lengths, and so is shifted attention where nothing trains.
    if attention not in ("sdpa", "eager") and not is_varlen(attention) and not is_shifted(attention):
        return f"its attention is {attention}, and a decoding step's masks are made for sdpa and eager"
    if kinds := set(getattr(config, "layer_types", None) or ()) - MASKS:
        return f"it has layers of {', '.join(sorted(kinds))}"
    if getattr(config, "attention_chunk_size", None):
        return "it has chunked attention"
    if getattr(config, "alibi", False):
        return "its positions are distances (ALiBi)"
    return ""


def build_static_forward(model: Model) -> StaticForward:
    """The quickest static forward pass that a model's architecture allows."""
    causal = _find_llama(model)
    return StaticPlainForward(model) if causal is None else StaticLlamaForward(causal)


def _find_llama(model: Model) -> Any | None:
    """The model of the Llama family that this is, or that stands inside its adapter; `None` for another."""
    causal = cast(Any, model.get_base_model() if has_adapter(model) else model)
    own = has_llama_layers(causal) and causal.config.rope_parameters["rope_type"] in ROTARY
    return causal if own else None


def prove_static_forward(forward: StaticForward, model: Model) -> str:
    """Why a static forward pass is not the model's own; "" if it is, as far as a few tokens show."""
    try:
        agrees = decodes_as_model(forward, model)
    except Exception as error:  # whatever a forward raises that knows no such masks or caches: it is the reason given
        return f"its forward does not run over fixed tensors ({type(error).__name__}: {first_line(error)})"
    return "" if agrees else "over fixed tensors it gives other logits"


def decodes_as_model(forward: StaticForward, model: Model) -> bool:
    """Whether a static forward pass gives the model's own logits: of two steps after prompts of unlike lengths."""
    size, device, plain = model.config.get_text_config().vocab_size, model.device, PlainForward(model)
    prompts = [[number % size for number in range(length)] for length in (6, 3)]  # their last tokens come as a step
    lengths = [len(prompt) - 1 for prompt in prompts]
    with eval_mode(model):
        source = read_prompts(plain, device, prompts)
        static, growing = StaticSlotCache(2, COLUMNS, source), SlotCache(2, COLUMNS, plain.layers)
        growing.cursor = growing.past = max(lengths)
        for cache in (static, growing):
            cache.insert_prompts(source, (0, 1), (0, 1), lengths)  # type: ignore[attr-defined]  # both have it
        ours, own = [], []
        for step in (0, 1):
            ids = torch.tensor([[prompt[-1] + step] for prompt in prompts], device=device) % size  # [slots, 1]
            places = torch.tensor(lengths, device=device) + step  # [slots]
            static.set_view(COLUMNS, places)
            ours.append(forward.decode_logits(ids, places[:, None], static))
            growing.past = max(lengths) + step
            mask = torch.arange(growing.past + 1, device=device) >= growing.past - places[:, None]
            own.append(plain.decode_logits(ids, places[:, None], mask, growing))
            growing.cursor += 1
    return outputs_agree(torch.stack(ours).float(), torch.stack(own).float(), model.dtype)


def build_mask(positions: Tensor, columns: int, window: int | None = None) -> Tensor:
    """Which columns each slot's token sees: those up to its own, the last `window` of them; bool [size, 1, 1, columns].

    Args:
        positions: [size, 1].
    """
    numbers = torch.arange(columns, device=positions.device)
    mask = numbers <= positions
    if window is not None:
        mask &= numbers > positions - window
    return mask[:, None, None]


class StaticPlainForward:
    """The model's own forward. Its masks are four-dimensional, which every model takes as they are."""

    def __init__(self, model: Model) -> None:
        self.model: Any = model
        config: Any = model.config.get_text_config()
        self.is_eager = config._attn_implementation == "eager"
        self.window: int | None = getattr(config, "sliding_window", None)
        self.kinds = sorted(set(getattr(config, "layer_types", None) or ()))

    def decode_logits(self, ids: Tensor, positions: Tensor, cache: StaticSlotCache) -> Tensor:
        output = self.model(
            input_ids=ids, attention_mask=self._build_masks(positions, cache.columns), position_ids=positions,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return output.logits[:, -1]

    def _build_masks(self, positions: Tensor, columns: int) -> Tensor | dict[str, Tensor]:
        """One mask, or one for each kind of layers where the configuration names them: as `generate` hands them."""
        if not self.kinds:
            return self._build_mask(positions, columns, self.window)
        windows = {kind: self.window if kind == "sliding_attention" else None for kind in self.kinds}
        return {kind: self._build_mask(positions, columns, window) for kind, window in windows.items()}

    def _build_mask(self, positions: Tensor, columns: int, window: int | None) -> Tensor:
        mask = build_mask(positions, columns, window)
        return mask_to_bias(mask, self.model.dtype) if self.is_eager else mask


class StaticLlamaForward:
    """The Llama family's forward, its modules called as they stand: adapters and quantised weights keep their own."""

    def __init__(self, causal: Any) -> None:
        config, base = causal.config, causal.base_model
        self.embedding, self.head, self.norm = causal.get_input_embeddings(), causal.get_output_embeddings(), base.norm
        self.rotary = base.rotary_emb
        self.layers = [LlamaLayer.from_module(layer) for layer in base.layers]
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads

    def decode_logits(self, ids: Tensor, positions: Tensor, cache: StaticSlotCache) -> Tensor:
        x = self.embedding(ids)  # [size, 1, D]
        bias = mask_to_bias(build_mask(positions, cache.columns), x.dtype)  # once, else it is made in every layer
        cos, sin = compute_cos_sin(self.rotary, x, positions)  # [size, 1, 1, head]
        for index, layer in enumerate(self.layers):
            x = layer.o(self._read_cache(layer, _normalise_states(x, layer.before), cos, sin, bias, cache, index)) + x
            inward = _normalise_states(x, layer.after)
            x = layer.down(apply_swiglu(layer.gate(inward), layer.up(inward))) + x
        return self.head(_normalise_states(x, self.norm))[:, -1]

    def _read_cache(
        self, layer: LlamaLayer, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: StaticSlotCache, index: int
    ) -> Tensor:
        """What the heads read, [size, 1, heads * head]."""
        # [size, 1, heads, head] each
        q, k, v = (part(x).unflatten(-1, (-1, layer.head)) for part in (layer.q, layer.k, layer.v))
        if layer.q_norm is not None:
            q, k = _normalise_states(q, layer.q_norm), _normalise_states(k, layer.k_norm)
        states = apply_rotary(torch.cat((q, k), 2), cos, sin)
        keys, values = cache.update(states[:, :, self.heads :].transpose(1, 2), v.transpose(1, 2), index)
        # The heads that share keys stand as if they were tokens of one head: nothing is repeated, and the kernels that
        # take a mask (which know no groups) serve grouped heads as well.
        queries = states[:, 0, : self.heads].unflatten(1, (self.groups, -1))  # [size, groups, heads of a group, head]
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=layer.scale)
        return read.flatten(1)[:, None]


def _normalise_states(x: Tensor, norm: Any) -> Tensor:
    """Root-mean-square norm of the last axis, in one kernel."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
