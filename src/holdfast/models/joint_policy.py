"""Log-probabilities under one distribution made of several models' logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.axes.inference import LogitStep
from holdfast.models.loading import context_length
from holdfast.models.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from holdfast.data.batching.batches import Batch, Layout
    from holdfast.models.vocabulary_table import VocabularyTable


class JointPolicy:
    """Several models seen as one policy: what evaluation asks of a `Policy`, without gradients.

    Chunks and operations are those of the tuned model's own policy, so that a mixture which is the tuned model's logits
    gives its log-probabilities bit for bit.

    Args:
        policies: By name; "tuned" is the one whose answers these are.
        mix: From the logits [m, V] of each to those of the mixture.
        tables: Of those whose tokens are others: how they read and answer in the tuned model's.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        mix: Callable[[LogitStep], Tensor],
        tables: Mapping[str, VocabularyTable] | None = None,
    ) -> None:
        self.policies, self.mix, self.tables = policies, mix, tables or {}
        self.own = policies["tuned"]
        self.model = self.own.model
        contexts = {name: context_length(policy.config) for name, policy in policies.items()}
        limits = {name: limit for name, limit in contexts.items() if limit is not None}
        self.config = policies[min(limits, key=limits.__getitem__) if limits else "tuned"].config

    @property
    def causal(self) -> PreTrainedModel:
        """The tuned model, without an adapter around it."""
        return self.own.causal

    @property
    def virtual(self) -> int:
        """Virtual tokens before a sequence of the tuned model."""
        return self.own.virtual

    @property
    def batch_layout(self) -> Layout:
        """As of `Policy`; padded unless all can do with packed lines."""
        return "packed" if {policy.batch_layout for policy in self.policies.values()} == {"packed"} else "padded"

    @torch.no_grad()
    def token_logps(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the labels."""
        parts = [
            self.own.head.logps_from_logits(z, batch.labels[part])
            for z, part in self._iterate_logits(batch, batch.label_positions)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def greedy_tokens(self, batch: Batch, where: Tensor) -> Tensor:
        """The likeliest next token [M] after the flat positions `where` [M]."""
        return torch.cat([z.argmax(-1) for z, _ in self._iterate_logits(batch, where)])

    @torch.no_grad()
    def over_vocabulary(self, batch: Batch, score: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """What `score` makes of whole distributions, a chunk at a time: as of `Policy`."""
        return torch.cat([score(z, part) for z, part in self._iterate_logits(batch, batch.label_positions)])

    def _iterate_logits(self, batch: Batch, where: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """The mixture's logits [m, V] after the flat positions `where` [M], a chunk at a time, and which those are."""
        makers = {name: self._make_logits(name, batch, where) for name in self.policies}
        places = count_places(batch, where)
        for start in range(0, max(len(where), 1), self.own.chunk_rows):
            part = slice(start, start + self.own.chunk_rows)
            step = {name: logits(part) for name, logits in makers.items()}
            yield self.mix(LogitStep(step, places[part], is_drawn=False)), part

    def _make_logits(self, name: str, batch: Batch, where: Tensor) -> Callable[[slice], Tensor]:
        """From a part of `where` to a model's logits over the tuned model's tokens."""
        policy, table = self.policies[name], self.tables.get(name)
        if table is None:
            return policy.logits_by_part(batch, where)
        logits = policy.logits_by_part(replace(batch, input_ids=table.read_ids(batch.input_ids)), where)
        return lambda part: table.spread_logits(logits(part))


def count_places(batch: Batch, where: Tensor) -> Tensor:
    """How many tokens of its answer stand before the one predicted at each flat position `where` [M], [M] int64.

    Between two answers there is always a position that predicts no label, so that a run of label positions is one.
    """
    index = torch.arange(batch.input_ids.numel(), device=where.device)
    is_label = torch.zeros_like(index, dtype=torch.bool)
    is_label[batch.label_positions] = True
    last_outside = torch.cummax(torch.where(is_label, -1, index), 0).values  # [B * L]
    return (index - last_outside - 1)[where].clamp_min(0)
