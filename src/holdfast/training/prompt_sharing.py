"""Whether the pairs of a table share their prompts in training: where the model obeys, and where it saves work.

Where packed lines are read by their lengths (on CUDA), the prompt's keys are read by both answers in one call of the
kernel, whatever the length of the line. Everywhere else a shared line has a mask. On a GPU that takes SDPA's slow
kernel and memory that grows as the square of the line, so only short lines share their prompt there (`WIDEST_MASK`).
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.models.loading import eval_mode
from holdfast.models.policy import Policy
from holdfast.models.varlen_attention import is_varlen

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from holdfast.data.batching.batches import Layout

WORTHWHILE = 0.1
"""Share of the work that must be saved."""

WIDEST_MASK = 2048
"""Tokens of a line with a mask on a GPU: 8 MiB a line in 16 bits, about what a layer keeps of it. Not measured."""

PLAIN = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that attend as their mask says."""

WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "attention_chunk_size")
"""What families call the number of tokens that a layer looks back."""


def share_prompts(table: TokenTable, policy: Policy, layout: Layout = "padded") -> TokenTable:
    """`table`, or its pairs with each prompt computed once, where that is worthwhile and the model keeps them apart.

    Call it before the model is sharded: it runs the model on a few tokens.
    """
    by_length = layout == "packed" and policy.reads_lines_by_length
    if table.per_row != 2 or (layout == "packed" and not by_length):
        return table
    pairs = SharedPrefixTable(table)
    if estimate_work_saved(table, pairs, policy, by_length) < WORTHWHILE:
        return table
    width = int(pairs.widths.max())
    if by_length:  # windows too: the kernel counts them from each answer's own place
        return pairs if _matches_separate_lines(policy, layout) else table
    if policy.causal.device.type != "cpu" and width > WIDEST_MASK:
        return table
    return pairs if supports_shared_prefix(policy, width) else table


def estimate_work_saved(table: TokenTable, pairs: SharedPrefixTable, policy: Policy, by_length: bool = False) -> float:
    """Share of the work saved, roughly. Every token costs 2 operations a weight, every look of one at another 4 a
    channel and layer; a mask makes attention work out the whole square of a line, where causal attention does half.

    Args:
        by_length: Whether attention goes by lengths: it then leaves out the prompt's triangle for the second answer.
    """
    weights = policy.body_weights
    config = policy.config.get_text_config()
    look = 4 * config.hidden_size * config.num_hidden_layers
    line, joint, prefix = (x.astype(float) for x in (table.widths, pairs.widths, pairs.prefixes))
    apart = 2 * weights * 2 * line.sum() + look * (line**2).sum()  # two lines of half a square each
    square = line**2 - prefix**2 / 2 if by_length else joint**2
    return 1 - float((2 * weights * joint.sum() + look * square.sum()) / apart)


def supports_shared_prefix(policy: Policy, width: int) -> bool:
    """Whether the model computes in shared lines of up to `width` tokens what it computes in separate ones.

    Families that build their masks by transformers' functions leave one of four dimensions as it is. What they do with
    it is tried on a few tokens; windows, which a few tokens do not fill, are read from the configuration.
    """
    base, config = policy.causal.base_model, policy.config.get_text_config()
    name = config._attn_implementation
    if (name not in ("sdpa", "eager") and not is_varlen(name)) or getattr(config, "alibi", False):
        return False
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return False
    if not hasattr(sys.modules[type(base).__module__], "create_causal_mask"):
        return False
    return width <= attention_window(config) and _matches_separate_lines(policy)


def attention_window(config: PreTrainedConfig) -> float:
    """How many tokens every layer looks back at least; 0 if some do not attend in the plain way."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - PLAIN:
        return 0
    if kinds == {"full_attention"}:
        return float("inf")
    windows = [getattr(config, name, None) for name in WINDOWS]
    return min((w for w in windows if w), default=float("inf"))


@torch.no_grad()
def _matches_separate_lines(policy: Policy, layout: Layout = "padded") -> bool:
    """Whether a shared line gives the hidden states of two lines, and rejected's do not feel chosen."""
    label_mask = np.array([False, False, True, True, True])
    answers = {"chosen": [2, 3, 1], "other": [3, 2, 2], "rejected": [1, 0, 3]}
    sequences = {
        name: EncodedSequence(np.array([0, 1, *ids], np.int32), label_mask, 0) for name, ids in answers.items()
    }
    tables = [
        TokenTable.from_sequences([sequences[name], replace(sequences["rejected"], role=1)])
        for name in ("chosen", "other")
    ]
    with eval_mode(policy.model):
        apart, line, other_line = (
            _hidden_states(policy, table, layout)
            for table in (tables[0], SharedPrefixTable(tables[0]), SharedPrefixTable(tables[1]))
        )
    rounding = 1e-4 if policy.autocast is None and policy.causal.dtype == torch.float32 else 3e-2
    same = torch.dist(line, apart) <= rounding * apart.norm()
    return bool(same) and bool(torch.dist(line[3:], other_line[3:]) <= 1e-4 * line[3:].norm())


def _hidden_states(policy: Policy, table: TokenTable, layout: Layout) -> Tensor:
    """Final hidden states [N, D] where the labels are predicted."""
    batch = table.collate_rows([0], layout, 0)
    assert batch is not None
    batch = batch.to(policy.causal.device)
    return policy.hidden_states(batch)[batch.label_positions].float()
