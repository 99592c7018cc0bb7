"""Shifted sparse attention (LongLoRA), through transformers' public attention interface.

Half of the heads attend within groups of G tokens, [iG, (i + 1)G), the other half within groups that are shifted by
G / 2: [0, G/2), [G/2, 3G/2), ... Information passes from group to group through the other half. The authors' first
form rolls the shifted heads around the end, so that the first tokens of a row see its last ones; here, as in their
flash form, the shifted row is cut into segments and nothing is rolled: no token sees what comes after it.

Every segment is a causal triangle, so a line is cut into segments [S, W] and each attends alone: L * G scores in the
place of L * L, whatever the kernel, and rows that stand side by side in a line stay apart, since positions begin anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from holdfast.errors import UserError

PREFIX = "shifted_sparse"
"""Begins the names under which transformers knows these attention functions."""


def is_shifted(name: str | None) -> bool:
    """Whether an attention of this name, as a configuration bears it, is one of `register_shifted_attention`'s."""
    return name is not None and name.startswith(PREFIX)


def register_shifted_attention(group: int, shift: bool = True) -> str:
    """Make attention in groups known to transformers; the name to be given to a model's `set_attn_implementation`.

    Args:
        group: Tokens of a group.
        shift: Whether the second half of the heads has shifted groups.
    """
    name = f"{PREFIX}_{group}{'' if shift else '_unshifted'}"
    AttentionInterface.register(name, make_shifted_attention(group, shift))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    return name


def make_shifted_attention(group: int, shift: bool = True) -> Callable[..., tuple[Tensor, None]]:
    """A function of transformers' `AttentionInterface`: in groups while the model trains, else whole, by SDPA."""

    def attend_in_groups(
        module: nn.Module,
        query: Tensor,  # [B, H, L, head]
        key: Tensor,  # [B, H_kv, L, head]
        value: Tensor,  # [B, H_kv, L, its own head]
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        position_ids: Tensor | None = None,
        **extras: Any,
    ) -> tuple[Tensor, None]:
        if not module.training:
            attend_whole: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]
            extras |= {"sliding_window": sliding_window, "position_ids": position_ids}
            return attend_whole(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extras)
        lines, heads, width, _ = query.shape
        if position_ids is None:
            if attention_mask is not None:
                raise UserError(
                    "this model does not say its attention where rows begin, which groups go by; set train.layout: "
                    "padded"
                )
            position_ids = torch.arange(width, device=query.device)[None]
        positions = position_ids.expand(lines, -1)
        repeats = heads // key.shape[1]
        # The heads are halved after each has its own keys, as the authors do with grouped heads.
        q, k, v = (x.repeat_interleave(n, 1) for x, n in ((query, 1), (key, repeats), (value, repeats)))
        halves = []
        for part, offset in ((slice(0, heads // 2), 0), (slice(heads // 2, heads), group // 2 if shift else 0)):
            segments = cut_segments(positions, group, offset)
            halves.append(
                attend_segments(q[:, part], k[:, part], v[:, part], segments, dropout, scaling, sliding_window)
            )
        return torch.cat(halves, 2), None

    return attend_in_groups


def cut_segments(positions: Tensor, group: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the segments of some lines lie.

    Args:
        positions: [B, L], from 0 for every row; a line may hold several.
        group: Tokens of a segment, but for the first and last of a row.
        offset: Tokens that the first segment of every row is shorter by.
    Returns:
        `index` [S, W], the flat place in B * L of each token of each segment (0 where a segment is shorter), and for
        every flat place [B * L] its segment and its place in there.
    """
    number = (positions + offset) // group  # [B, L]
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = (number[:, 1:] != number[:, :-1]) | (positions[:, 1:] != positions[:, :-1] + 1)
    begins = begins.flatten()
    segment = begins.cumsum(0) - 1  # [B * L]
    flat = torch.arange(len(segment), device=segment.device)
    inside = flat - flat[begins][segment]
    index = segment.new_zeros(int(segment[-1]) + 1, int(inside.max()) + 1)
    index[segment, inside] = flat
    return index, segment, inside


def attend_segments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: tuple[Tensor, Tensor, Tensor],
    dropout: float = 0.0,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal attention within segments: [B, H, L, head] each to [B, L, H, head of v].

    Args:
        segments: As of `cut_segments`. A shorter segment ends in copies of the first token, which no token before sees.
        window: How many tokens back a token looks at most, itself included.
    """
    index, segment, inside = segments
    lines, heads, width, _ = q.shape
    q, k, v = (x.transpose(1, 2).reshape(lines * width, heads, -1)[index].transpose(1, 2) for x in (q, k, v))
    mask = None
    if window is not None and window < index.shape[1]:
        mask = torch.ones(index.shape[1], index.shape[1], dtype=torch.bool, device=q.device).tril().triu(1 - window)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
    )  # [S, H, W, head]
    return out.transpose(1, 2)[segment, inside].view(lines, width, heads, -1)
