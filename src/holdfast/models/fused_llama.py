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
from torch.utils.checkpoint import checkpoint

from holdfast.data.batching.batches import Encoded, collate
from holdfast.models.llama_family import LlamaLayer, agrees, rms_normalise, rotate, rotations, swiglu
from holdfast.models.loading import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from holdfast.data.batching.batches import Batch

LIKE = 0.8
"""Sequences attend together when the shorter is at least this share of the longer one."""


class LlamaBody:
    """Final hidden states of the wanted positions of a batch.

    Args:
        recompute: Keep no activations inside the layers; compute them again in the backward pass.
    """

    def __init__(self, causal: PreTrainedModel, recompute: bool = False) -> None:
        self.causal, self.recompute = causal, recompute

    def __call__(self, batch: Batch, where: Tensor, embeds: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states [M, D], after the last normalisation, at the flat positions `where` [M] of `batch`.

        Beside them the output embedding [V, D] that the head shall use, if it is the input embedding too and trains.
        """
        base: Any = self.causal.base_model
        spans = Spans.of(batch)
        if embeds is None:
            x, weight = self._embedded(batch.input_ids.flatten()[spans.real])  # [T, D]
        else:
            x, weight = embeds.flatten(0, 1)[spans.real], None
        places, where = batch.position_ids.flatten()[spans.real], spans.rank[where]  # [T], [M]
        cos, sin = rotations(base.rotary_emb, x, places[None])
        turn = (cos[0], sin[0])  # [T, 1, head] each
        last = len(base.layers) - 1
        for index, layer in enumerate(base.layers):
            wanted = where if index == last else None
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(_layer, layer, x, turn, spans, wanted, use_reentrant=False)
            else:
                x = _layer(layer, x, turn, spans, wanted)
        return _norm(base.norm, x), weight

    def agrees(self) -> bool:
        """Whether it gives the model's own hidden states on a few tokens: two sequences in one line, and each alone."""
        size = self.causal.config.vocab_size
        rows = [np.arange(length, dtype=np.int32) % size for length in (4, 3)]
        batch = collate([Encoded(ids, np.arange(len(ids)) > 0, row) for row, ids in enumerate(rows)], "packed", 0)
        assert batch is not None  # only nothing makes none
        base = self.causal.base_model
        with evaluating(self.causal), torch.autocast(self.causal.device.type, enabled=False):
            alone = [base(input_ids=torch.from_numpy(ids)[None].long(), use_cache=False)[0][0] for ids in rows]
            ours, _ = self(batch, torch.arange(sum(map(len, rows))), None)  # [7, D]
        return agrees(ours.float(), torch.cat(alone).float(), self.causal.dtype)

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input embeddings [T, D] of `ids` [T]; the output embedding, if one tensor is both and trains."""
        module, head = self.causal.get_input_embeddings(), self.causal.get_output_embeddings()
        plain = type(module) is nn.Embedding and module.max_norm is None and type(head) is nn.Linear
        if plain and head.weight is module.weight and module.weight.requires_grad:
            return _Tied.apply(module.weight, ids, module.padding_idx)
        return module(ids), None


def _layer(layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], spans: Spans, wanted: Tensor | None) -> Tensor:
    """One decoder layer: [T, D] to [T, D], or to [M, D] at the positions `wanted`."""
    parts = LlamaLayer.of(layer)
    h = _norm(parts.before, x)
    q, k, v = (p(h).unflatten(1, (-1, parts.head)) for p in (parts.q, parts.k, parts.v))  # [T, heads, head]
    if parts.q_norm is not None:
        q, k = _norm(parts.q_norm, q), _norm(parts.k_norm, k)
    mixed = spans.attend(_Turn.apply(q, *turn), _Turn.apply(k, *turn), v, parts.scale)  # [T, heads * head]
    if wanted is not None:  # of the last layer: every token is looked at, but only these go on
        mixed, x = mixed[wanted], x[wanted]
    x = x + parts.o(mixed)
    h = _norm(parts.after, x)
    return x + parts.down(_Gated.apply(parts.gate(h), parts.up(h)))


def _norm(norm: Any, x: Tensor) -> Tensor:
    return _Norm.apply(x, norm.weight, norm.variance_epsilon)


class _Tied(torch.autograd.Function):
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
        normed = x.to(scale.dtype) * scale
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        along = product.mul_(weight).sum(-1, keepdim=True).div_(-x.shape[-1])  # -mean(g * w * n)
        inner = (grad * weight).addcmul_(normed, along).mul_(scale)
        return inner.to(x.dtype), grad_weight, None


class _Turn(torch.autograd.Function):
    """`rotate` on [T, heads, head]; its gradient is turned back, by minus the angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotate(grad, cos, -sin), None, None


class _Gated(torch.autograd.Function):
    """`swiglu`; only the two inputs are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return swiglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _Spread(torch.autograd.Function):
    """Tokens [T, ...] to places [P, ...]; what stands in the padding has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, there)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


class _Collect(torch.autograd.Function):
    """Places [P, ...] to tokens [T, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.places = len(x)
        return x.index_select(0, back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (back,) = ctx.saved_tensors
        spread = grad.new_zeros(ctx.places, *grad.shape[1:])
        spread[back] = grad
        return spread, None


@dataclass(slots=True)
class Group:
    """Lines of like length that attend in one call.

    Args:
        shape: (lines, length of the longest).
        there: [lines * length] which of the group's tokens stands at each place; in the padding, any.
        back: [tokens] the place of each token, or None where the places are the tokens as they are.
        mask: Bool [lines, 1, length, length], what looks at what; None if each token looks at all before it.
    """

    shape: tuple[int, int]
    there: Tensor
    back: Tensor | None
    mask: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.shape[0] * self.shape[1] if self.back is None else len(self.back)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of each line to itself; q, k, v [tokens, heads, head], result [tokens, heads * head]."""
        if self.back is not None:
            q, k, v = (_Spread.apply(t, self.there, self.back) for t in (q, k, v))
        q, k, v = (t.unflatten(0, self.shape).transpose(1, 2) for t in (q, k, v))  # [lines, heads, length, head]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        mixed = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
        return mixed if self.back is None else _Collect.apply(mixed, self.back)


@dataclass(slots=True)
class Spans:
    """Which positions of a batch are real, and which of them attend together.

    Args:
        real: [T] flat positions of the real tokens.
        rank: [B*L] the place of each real flat position among them.
        groups: Their tokens, one group after another, are the T tokens.
    """

    real: Tensor
    rank: Tensor
    groups: list[Group]

    @classmethod
    def of(cls, batch: Batch) -> Spans:
        """The spans of a batch in any layout."""
        positions = batch.position_ids.numpy()
        if batch.attention_mask is None:
            begins, lengths = _sequences(batch, positions)
            # Token t of sequence s stands at begins[s] + t; counting through all of them, t = count - (those before s).
            real = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
            groups = list(_groups(lengths))
        else:
            # In a line of many sequences positions restart; what follows the last position above 0 is padding.
            filled = np.maximum.accumulate(positions[:, ::-1] > 0, axis=1)[:, ::-1].copy()  # padding stands at 0
            filled[:, 0] = True
            real = np.flatnonzero(filled)
            there = np.cumsum(filled) - 1  # padding repeats the token before it
            back = None if filled.all() else torch.from_numpy(real)
            groups = [Group((len(filled), filled.shape[1]), torch.from_numpy(there), back, batch.attention_mask)]
        rank = torch.zeros(positions.size, dtype=torch.int64)
        rank[torch.from_numpy(real)] = torch.arange(len(real))
        return cls(torch.from_numpy(real), rank, groups)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention of each sequence to itself; q, k, v [T, heads, head], result [T, heads * head]."""
        sizes = [group.tokens for group in self.groups]
        parts = zip(self.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        found = [group.attend(q, k, v, scale) for group, q, k, v in parts]
        return torch.cat(found) if len(found) > 1 else found[0]


def _sequences(batch: Batch, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each sequence begins, as a flat position, and its length, [S] each; the longest first."""
    begins = np.flatnonzero(positions == 0)
    lengths = np.diff(batch.cu_seqlens.numpy().astype(np.int64))
    if len(begins) != len(lengths):  # something else, such as padding on the left, has positions of its own
        lengths = np.diff(begins, append=positions.size)
    order = np.argsort(-lengths, kind="stable")
    return begins[order], lengths[order]


def _groups(lengths: np.ndarray) -> Iterator[Group]:
    """Groups of neighbours of `lengths` [S], which fall."""
    start = 0
    while start < len(lengths):
        longest = lengths[start]
        end = start + int(np.searchsorted(-lengths[start:], -LIKE * longest, side="right"))
        mine = lengths[start:end]
        column, begins = np.arange(longest), np.cumsum(mine) - mine
        there = begins[:, None] + np.minimum(column, mine[:, None] - 1)  # padding repeats a sequence's last token
        back = None if mine[-1] == longest else torch.from_numpy(np.flatnonzero(column < mine[:, None]))
        yield Group((end - start, int(longest)), torch.from_numpy(there.ravel()), back)
        start = end
