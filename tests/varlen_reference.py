"""Attention by lengths as `torch.nn.attention.varlen.varlen_attn` defines it, sequence by sequence: for tests only."""

from __future__ import annotations

from typing import Any

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


@torch.library.custom_op("holdfast_tests::varlen", mutates_args=())
def varlen_operation(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    scale: float | None, left: int, right: int, enable_gqa: bool,
) -> Tensor:  # fmt: skip
    window = (left, right)
    return reference_varlen(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window, enable_gqa=enable_gqa
    )


@varlen_operation.register_fake
def _(query: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(query)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.others = inputs[5:]


def _compute_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, cu_seq_q, cu_seq_k = ctx.saved_tensors
    max_q, max_k, scale, left, right, enable_gqa = ctx.others
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        out = reference_varlen(
            *inputs, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=(left, right), enable_gqa=enable_gqa
        )
        gradients = torch.autograd.grad(out, inputs, gradient)
    return *gradients, *(None,) * 8


varlen_operation.register_autograd(_compute_gradients, setup_context=_keep_inputs)


def opaque_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`reference_varlen` as one operation, as the kernel is to what compiles the layers around it."""
    return varlen_operation(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, *window_size, enable_gqa)
