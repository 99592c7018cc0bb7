"""The hidden states behind the labels, by an architecture's own mathematics with less around it.

On a CPU a third of a small model's training step is spent outside its matrix products, and most of those products on
padding or on positions whose prediction nobody reads. `LlamaBody` computes what `LlamaModel` (and its like: Mistral,
Qwen2, Qwen3) computes, for real tokens only, and in the last layer for the wanted positions only. It reads the model's
own modules (adapters included) and changes nothing in it; any other model runs as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.models.llama_family import (
    LlamaLayer,
    apply_rotary,
    apply_swiglu,
    compute_cos_sin,
    outputs_agree,
    rms_normalise,
)
from holdfast.models.loading import eval_mode
from holdfast.models.recomputation import run_checkpointed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from holdfast.data.batching.batches import Batch
    from holdfast.models.recomputation import Recomputation

LENGTH_RATIO = 0.8
"""Sequences attend together when the shorter is at least this share of the longer one."""


class LlamaBody:
    """Final hidden states of the wanted positions of a batch.

    Args:
        recomputation: Which activations inside the layers are computed again in the backward pass.
    """

    def __init__(self, causal: PreTrainedModel, recomputation: Recomputation = "off") -> None:
        self.causal, self.recomputation = causal, recomputation

    def __call__(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states [M, D], after the last normalisation, at the flat positions `where` [M] of `batch`.

        Beside them the output embedding [V, D] that the head shall use, if it is the input embedding too and trains.
        """
        base: Any = self.causal.base_model
        sequences = SequenceIndex.from_batch(batch)
        if embeds is None:
            x, weight = self._embed_tokens(batch.input_ids.flatten()[sequences.real])  # [T, D]
        else:
            x, weight = embeds.flatten(0, 1)[sequences.real], None
        places, where = batch.position_ids.flatten()[sequences.real], sequences.rank[where]  # [T], [M]
        cos, sin = compute_cos_sin(base.rotary_emb, x, places[None])
        cos_sin = (cos[0], sin[0])  # [T, 1, head] each
        last = len(base.layers) - 1
        recomputation = self.recomputation if torch.is_grad_enabled() else "off"
        for index, layer in enumerate(base.layers):
            output_positions = where if index == last else None
            x = run_checkpointed(recomputation, _run_layer, layer, x, cos_sin, sequences, output_positions)
        return _apply_norm(base.norm, x), weight

    def agrees_with_model(self) -> bool:
        """Whether it gives the model's own hidden states on a few tokens: two sequences in one line, and each alone."""
        size = self.causal.config.vocab_size
        rows = [np.arange(length, dtype=np.int32) % size for length in (4, 3)]
        batch = collate_sequences(
            [EncodedSequence(ids, np.arange(len(ids)) > 0, row) for row, ids in enumerate(rows)], "packed", 0
        )
        assert batch is not None  # only nothing makes none
        base = self.causal.base_model
        with eval_mode(self.causal), torch.autocast(self.causal.device.type, enabled=False):
            alone = [base(input_ids=torch.from_numpy(ids)[None].long(), use_cache=False)[0][0] for ids in rows]
            ours, _ = self(batch, torch.arange(sum(map(len, rows))), None)  # [7, D]
        return outputs_agree(ours.float(), torch.cat(alone).float(), self.causal.dtype)

    def _embed_tokens(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input embeddings [T, D] of `ids` [T]; the output embedding, if one tensor is both and trains."""
        module, head = self.causal.get_input_embeddings(), self.causal.get_output_embeddings()
        plain = type(module) is nn.Embedding and module.max_norm is None and type(head) is nn.Linear
        if plain and head.weight is module.weight and module.weight.requires_grad:
            return _TiedEmbedding.apply(module.weight, ids, module.padding_idx)
        return module(ids), None


def _run_layer(
    layer: Any, x: Tensor, cos_sin: tuple[Tensor, Tensor], sequences: SequenceIndex, output_positions: Tensor | None
) -> Tensor:
    """One decoder layer: [T, D] to [T, D], or to [M, D] at the positions `wanted`."""
    parts = LlamaLayer.from_module(layer)
    h = _apply_norm(parts.before, x)
    q, k, v = (p(h).unflatten(1, (-1, parts.head)) for p in (parts.q, parts.k, parts.v))  # [T, heads, head]
    if parts.q_norm is not None:
        q, k = _apply_norm(parts.q_norm, q), _apply_norm(parts.k_norm, k)
    attention = sequences.compute_attention(
        _Rotary.apply(q, *cos_sin), _Rotary.apply(k, *cos_sin), v, parts.scale
    )  # [T, heads * head]
    if output_positions is not None:  # of the last layer: every token is looked at, but only these go on
        attention, x = attention[output_positions], x[output_positions]
    x = x + parts.o(attention)
    h = _apply_norm(parts.after, x)
    return x + parts.down(_SwiGLU.apply(parts.gate(h), parts.up(h)))


def _apply_norm(norm: Any, x: Tensor) -> Tensor:
    return _Norm.apply(x, norm.weight, norm.variance_epsilon)


class _TiedEmbedding(torch.autograd.Function):
    """Rows [T, D] of an embedding, and the embedding [V, D] for the head.

    The rows' gradients are added to the head's: no second tensor of the vocabulary's size is made and summed.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding = weight.shape, padding
        return F.embedding(ids, weight), weight.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor | None, whole: Tensor | None) -> tuple[Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        if rows is None:
            return whole, None, None
        if ctx.padding is not None:
            rows = rows.masked_fill((ids == ctx.padding)[:, None], 0)
        whole = rows.new_zeros(ctx.shape) if whole is None else whole
        return whole.index_add_(0, ids, rows), None, None


class _Norm(torch.autograd.Function):
    """`rms_normalise` with its gradient, of which only input, weight and the factor of each row are kept.

    With n = x * scale: dL/dx = scale * (g * w - n * mean(g * w * n)), since the scale itself depends on x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = rms_normalise(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        x_hat = x.to(scale.dtype) * scale
        product = grad * x_hat
        grad_weight = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        along = product.mul_(weight).sum(-1, keepdim=True).div_(-x.shape[-1])  # -mean(g * w * n)
        inner = (grad * weight).addcmul_(x_hat, along).mul_(scale)
        return inner.to(x.dtype), grad_weight, None


class _Rotary(torch.autograd.Function):
    """`apply_rotary` on [T, heads, head]; its gradient is turned back, by minus the angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return apply_rotary(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return apply_rotary(grad, cos, -sin), None, None


class _SwiGLU(torch.autograd.Function):
    """`apply_swiglu`; only the two inputs are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return apply_swiglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _Scatter(torch.autograd.Function):
    """Tokens [T, ...] to places [P, ...]; what stands in the padding has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather_index: Tensor, scatter_index: Tensor) -> Tensor:
        ctx.save_for_backward(scatter_index)
        return x.index_select(0, gather_index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (scatter_index,) = ctx.saved_tensors
        return grad.index_select(0, scatter_index), None, None


class _Gather(torch.autograd.Function):
    """Places [P, ...] to tokens [T, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter_index: Tensor) -> Tensor:
        ctx.save_for_backward(scatter_index)
        ctx.places = len(x)
        return x.index_select(0, scatter_index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scatter_index,) = ctx.saved_tensors
        padded_grad = grad.new_zeros(ctx.places, *grad.shape[1:])
        padded_grad[scatter_index] = grad
        return padded_grad, None


@dataclass(slots=True)
class AttentionGroup:
    """Lines of like length that attend in one call.

    Args:
        shape: (lines, length of the longest).
        gather_index: [lines * length] which of the group's tokens stands at each place; in the padding, any.
        scatter_index: [tokens] the place of each token, or None where the places are the tokens as they are.
        mask: Bool [lines, 1, length, length], what looks at what; None if each token looks at all before it.
    """

    shape: tuple[int, int]
    gather_index: Tensor
    scatter_index: Tensor | None
    mask: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.shape[0] * self.shape[1] if self.scatter_index is None else len(self.scatter_index)

    def compute_attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of each line to itself; q, k, v [tokens, heads, head], result [tokens, heads * head]."""
        if self.scatter_index is not None:
            q, k, v = (_Scatter.apply(t, self.gather_index, self.scatter_index) for t in (q, k, v))
        q, k, v = (t.unflatten(0, self.shape).transpose(1, 2) for t in (q, k, v))  # [lines, heads, length, head]
        attention = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        attention = attention.transpose(1, 2).flatten(2).flatten(0, 1)
        return attention if self.scatter_index is None else _Gather.apply(attention, self.scatter_index)


@dataclass(slots=True)
class SequenceIndex:
    """Which positions of a batch are real, and which of them attend together.

    Args:
        real: [T] flat positions of the real tokens.
        rank: [B*L] the place of each real flat position among them.
        groups: Their tokens, one group after another, are the T tokens.
    """

    real: Tensor
    rank: Tensor
    groups: list[AttentionGroup]

    @classmethod
    def from_batch(cls, batch: Batch) -> SequenceIndex:
        """The spans of a batch in any layout."""
        positions = batch.position_ids.numpy()
        if batch.attention_mask is None:
            begins, lengths = _locate_sequences(batch, positions)
            # Token t of sequence s stands at begins[s] + t; counting through all of them, t = count - (those before s).
            real = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
            groups = list(_group_by_length(lengths))
        else:
            # In a line of many sequences positions restart; what follows the last position above 0 is padding.
            is_real = np.maximum.accumulate(positions[:, ::-1] > 0, axis=1)[:, ::-1].copy()  # padding stands at 0
            is_real[:, 0] = True
            real = np.flatnonzero(is_real)
            gather_index = np.cumsum(is_real) - 1  # padding repeats the token before it
            scatter_index = None if is_real.all() else torch.from_numpy(real)
            groups = [
                AttentionGroup(
                    (len(is_real), is_real.shape[1]),
                    torch.from_numpy(gather_index),
                    scatter_index,
                    batch.attention_mask,
                )
            ]
        rank = torch.zeros(positions.size, dtype=torch.int64)
        rank[torch.from_numpy(real)] = torch.arange(len(real))
        return cls(torch.from_numpy(real), rank, groups)

    def compute_attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of each sequence to itself; q, k, v [T, heads, head], result [T, heads * head]."""
        sizes = [group.tokens for group in self.groups]
        parts = zip(self.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        outputs = [group.compute_attention(q, k, v, scale) for group, q, k, v in parts]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _locate_sequences(batch: Batch, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each sequence begins, as a flat position, and its length, [S] each; the longest first."""
    begins = np.flatnonzero(positions == 0)
    lengths = np.diff(batch.cu_seqlens.numpy().astype(np.int64))
    if len(begins) != len(lengths):  # something else, such as padding on the left, has positions of its own
        lengths = np.diff(begins, append=positions.size)
    order = np.argsort(-lengths, kind="stable")
    return begins[order], lengths[order]


def _group_by_length(lengths: np.ndarray) -> Iterator[AttentionGroup]:
    """Groups of neighbours of `lengths` [S], which fall."""
    start = 0
    while start < len(lengths):
        longest = lengths[start]
        end = start + int(np.searchsorted(-lengths[start:], -LENGTH_RATIO * longest, side="right"))
        mine = lengths[start:end]
        column, begins = np.arange(longest), np.cumsum(mine) - mine
        gather_index = begins[:, None] + np.minimum(
            column, mine[:, None] - 1
        )  # padding repeats a sequence's last token
        scatter_index = None if mine[-1] == longest else torch.from_numpy(np.flatnonzero(column < mine[:, None]))
        yield AttentionGroup((end - start, int(longest)), torch.from_numpy(gather_index.ravel()), scatter_index)
        start = end
