"""Tokens of one vocabulary as those of another: what two tokenizers share, and what is lost of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN_SHARE = 1e-6
"""Probability that stands for tokens which the other model does not have."""


@dataclass(frozen=True, slots=True)
class VocabularyTable:
    """How a model reads and answers in the tokens of another.

    Args:
        inward: [V] int64: the other's token that is read in the place of each of ours.
        outward: [V] int64: the other's token of the same text; -1 where it has none.
        shared: Share of our tokens that it has.
    """

    inward: Tensor
    outward: Tensor
    shared: float

    def read_ids(self, ids: Tensor) -> Tensor:
        """Our token ids [...] as the other reads them."""
        return self.inward.to(ids.device)[ids]

    def spread_logits(self, logits: Tensor) -> Tensor:
        """The other's logits [n, V'] as log-probabilities over our tokens [n, V], fp32.

        Tokens that it does not have get one and the same value in every row and from every model of its vocabulary, so
        that the difference of two such models says nothing of them.
        """
        outward = self.outward.to(logits.device)
        logps = logits.float().log_softmax(-1)[:, outward.clamp_min(0)]
        return logps.masked_fill(outward < 0, torch.tensor(UNKNOWN_SHARE).log().item())


def build_vocabulary_table(own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> VocabularyTable | None:
    """The table between two tokenizers by the text of their tokens; `None` where both have the same."""
    mine, theirs = own.get_vocab(), other.get_vocab()
    if mine == theirs:
        return None
    size, unknown = max(mine.values()) + 1, other.unk_token_id if other.unk_token_id is not None else 0
    inward, outward = torch.full((size,), unknown), torch.full((size,), -1)
    for text, number in mine.items():
        if (same := theirs.get(text)) is not None:
            inward[number] = outward[number] = same
        elif pieces := other.encode(own.decode([number]), add_special_tokens=False):
            inward[number] = pieces[0]
    return VocabularyTable(inward, outward, float((outward >= 0).sum()) / max(len(mine), 1))
