"""One next-token distribution out of several models: the native engine's forward pass over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from holdfast.axes.inference import LogitStep
from holdfast.generation.fused_decode import Forward

if TYPE_CHECKING:
    from holdfast.models.loading import Model
    from holdfast.models.vocabulary_table import VocabularyTable


@dataclass(frozen=True, slots=True)
class LogitMixture:
    """Models beside the one that answers, and how their logits become one.

    Args:
        others: By name; their tokens are those of the answering model, which is called "tuned".
        mix: From the logits [n, V] of each, fp32, to those that count.
        tables: Of those whose tokens are others: how they read and answer in the answering model's.
    """

    others: Mapping[str, Model]
    mix: Callable[[LogitStep], Tensor]
    tables: Mapping[str, VocabularyTable] = field(default_factory=dict)


class TranslatedForward:
    """A forward pass that reads and answers in another model's tokens.

    Args:
        forward: Of the model with tokens of its own.
        table: Between the two vocabularies.
    """

    def __init__(self, forward: Forward, table: VocabularyTable) -> None:
        self.forward, self.table = forward, table
        self.concurrent, self.layers = forward.concurrent, forward.layers

    def prefill_cache(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        """Put keys and values of prompts into the cache."""
        self.forward.prefill_cache(self.table.read_ids(ids), positions, cache)

    def decode_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities [slots, V] over the other model's tokens after one more of them each."""
        logits = self.forward.decode_logits(self.table.read_ids(ids), positions, mask, cache, places)
        return self.table.spread_logits(logits)

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities [slots, T, V] over the other model's tokens after each of T more of them."""
        logits = self.forward.read_tokens(self.table.read_ids(ids), positions, mask, cache, places)
        return self.table.spread_logits(logits.flatten(0, 1)).unflatten(0, ids.shape)


class JointForward:
    """The forward passes of several models as one.

    Their caches are one cache, whose layers are those of the first model, then those of the second, and so on: slots
    are filled, moved and dropped for all of them at once.

    Args:
        forwards: By name; of each the forward pass.
        mix: As of `Mixture`.
    """

    def __init__(self, forwards: Mapping[str, Forward], mix: Callable[[LogitStep], Tensor]) -> None:
        self.forwards, self.mix = forwards, mix
        self.layers = sum(forward.layers for forward in forwards.values())
        self.concurrent = all(forward.concurrent for forward in forwards.values())

    def prefill_cache(self, ids: Tensor, positions: Tensor, cache: Cache) -> None:
        """Put keys and values of prompts into the cache, for all models."""
        all_layers, start, new_layers = list(cache.layers), 0, []
        for forward in self.forwards.values():
            part = DynamicCache()  # grows a layer whenever one is first written to, so each model needs its own
            part.layers = all_layers[start : start + forward.layers]
            forward.prefill_cache(ids, positions, part)
            new_layers += part.layers
            start += forward.layers
        cache.layers = new_layers

    def decode_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        """The mixture's logits [slots, V] after one more token each."""
        step = {
            name: forward.decode_logits(ids, positions, mask, part).float()
            for name, forward, part in self.list_parts(cache)
        }
        return self.mix(LogitStep(step, torch.zeros_like(ids[:, 0]) if places is None else places))

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache, places: Tensor | None = None
    ) -> Tensor:
        """The mixture's logits [slots, T, V] after each of T more tokens."""
        step = {
            name: forward.read_tokens(ids, positions, mask, part).float().flatten(0, 1)
            for name, forward, part in self.list_parts(cache)
        }
        begins = torch.zeros_like(ids[:, :1]) if places is None else places[:, None]
        each = begins + torch.arange(ids.shape[1], device=ids.device)  # [slots, T]
        return self.mix(LogitStep(step, each.flatten())).unflatten(0, ids.shape)

    def list_parts(self, cache: Cache) -> list[tuple[str, Forward, Cache]]:
        """Name and forward pass of each model, and its own layers of the cache."""
        parts, start = [], 0
        for name, forward in self.forwards.items():
            parts.append((name, forward, Cache(layers=cache.layers[start : start + forward.layers])))
            start += forward.layers
        return parts
