"""Attention by lengths as `torch.nn.attention.varlen.varlen_attn` defines it, sequence by sequence: for tests only."""

from __future__ import annotations

import torch
from torch import Tensor


def reference_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """[T, H, head] from queries [T, H, head] and keys, values [U, H_kv, head].

    As the kernel does, it aligns the last query with the last key, leaves what belongs to no sequence unwritten (here
    NaN), and refuses grouped heads that are not announced, offsets that are not int32, and lengths beyond its maximum.
    """
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.dtype == key.dtype == value.dtype
    assert query.shape[-1] == key.shape[-1] == value.shape[-1]
    assert enable_gqa == (query.shape[1] != key.shape[1])
    groups = query.shape[1] // key.shape[1]
    out = torch.full_like(query, float("nan"))
    left, right = window_size
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]]
        k, v = (x[cu_seq_k[i] : cu_seq_k[i + 1]].repeat_interleave(groups, 1) for x in (key, value))
        assert len(q) <= max_q
        assert len(k) <= max_k
        ahead = torch.arange(len(k)) - (torch.arange(len(q))[:, None] + len(k) - len(q))  # keys after the query
        visible = torch.ones_like(ahead, dtype=torch.bool)
        visible &= (ahead <= right) if right >= 0 else visible
        visible &= (-ahead <= left) if left >= 0 else visible
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        out = torch.cat([out[: cu_seq_q[i]], torch.einsum("hqk,khd->qhd", weights, v), out[cu_seq_q[i + 1] :]])
    return out
