"""Answers read behind an example: the example's keys and values are computed once for all rows behind it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from holdfast.data.batching.areas import group_by_area
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.chat.encoder import mask_answers
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.llama_family import outputs_agree
from holdfast.models.loading import context_length, eval_mode
from holdfast.models.row_features import label_logps

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat, Encoding
    from holdfast.data.rows import Message
    from holdfast.models.policy import Policy

MICRO_TOKENS = {"cpu": 2048}
MICRO_TOKENS_OF_CARDS = 16384
"""Positions of one forward pass: of the rows, padding included, and of the example before each of them. On a CPU few,
so that what the layers hand on stays near the core: a quarter faster than with 16,384."""


class InContextReader:
    """Log-probabilities of answers behind examples, with the model's own template.

    Args:
        policy: The model.
        chat: Its template.
    """

    def __init__(self, policy: Policy, chat: Chat) -> None:
        self.policy, self.chat = policy, chat
        self.limit = context_length(policy.config, policy.virtual)
        self._shares: bool | None = None
        self._last_example: tuple[bytes, object] | None = None  # its ids, and what the model kept of it

    def encode_suffixes(self, carrier: Sequence[Message], rows: Sequence[Sequence[Message]]) -> list[Encoding] | None:
        """What a row adds behind an example, of which only the last answer is trained; `None` where that depends on it.

        Args:
            carrier: Any example, the row's system message before it.
        """
        before = self.encode_example(carrier)
        whole = self.chat.encode_many([join_turns(carrier, row) for row in rows])
        if any(not np.array_equal(ids[: len(before)], before) for ids, _ in whole):
            return None  # a template that writes earlier turns otherwise, as those do that leave out their thoughts
        return [(ids[len(before) :], label_mask[len(before) :]) for ids, label_mask in whole]

    def encode_example(self, example: Sequence[Message]) -> np.ndarray:
        """Ids of an example up to its last end of turn, int32 [P]."""
        return self.chat.encode(mask_answers(example))[0]

    def read_rows(
        self, example: Sequence[Message], rows: Sequence[Sequence[Message]], suffixes: Sequence[Encoding] | None
    ) -> list[np.ndarray | None]:
        """Log-probabilities, fp32 [labels], of each row's last answer; `None` where the context is too short for both.

        Args:
            suffixes: Of `encode_suffixes`; where they depend on the example each pair is read as a whole.
        """
        if suffixes is None:
            return self._read_whole(self.chat.encode_many([join_turns(example, row) for row in rows]))
        before = self.encode_example(example)
        if self._shares is None:
            self._shares = self._can_share(before, suffixes[0])
        if not self._shares:
            return self._read_whole([_join_encodings(before, suffix) for suffix in suffixes])
        return self._read_behind(before, suffixes)

    def _read_whole(self, encodings: Sequence[Encoding]) -> list[np.ndarray | None]:
        fits = [self.limit is None or len(ids) <= self.limit for ids, _ in encodings]
        values = iter(
            label_logps(self.policy, [e for e, fit in zip(encodings, fits, strict=True) if fit], self.chat.pad_id)
        )
        return [next(values) if fit else None for fit in fits]

    def _can_share(self, before: np.ndarray, suffix: Encoding) -> bool:
        """Whether the model can read on from what it kept of an example, and then computes what it computes else."""
        whole, behind = self._read_whole([_join_encodings(before, suffix)])[0], None
        with pause_compiled(), eval_mode(self.policy.model):
            cache = self._read_example(before[: self.limit])
            if whole is not None and hasattr(cache, "batch_repeat_interleave"):
                behind = self._read_behind(before, [suffix])[0]
        if whole is None or behind is None:
            return whole is None  # nothing was learned of a pair that does not fit; those behind it may
        return outputs_agree(torch.tensor(behind), torch.tensor(whole), self.policy.causal.dtype)

    def _read_example(self, before: np.ndarray) -> object:
        """What the model keeps of an example, not to be changed: the next rows may stand behind the same."""
        if self._last_example is None or self._last_example[0] != before.tobytes():
            self._last_example = None  # freed before the next is read
            ids = torch.as_tensor(before, dtype=torch.long, device=self.policy.causal.device)[None]  # [1, P]
            cache = self.policy.causal.base_model(input_ids=ids, use_cache=True).past_key_values
            self._last_example = before.tobytes(), cache
        return self._last_example[1]

    def _read_behind(self, before: np.ndarray, suffixes: Sequence[Encoding]) -> list[np.ndarray | None]:
        """The rows in batches of like length, each behind a copy of the example's keys and values.

        Rows are padded on the right, where no real token looks: so neither positions nor masks need to be given.
        """
        policy, out = self.policy, list[np.ndarray | None]([None] * len(suffixes))
        room = None if self.limit is None else self.limit - len(before)
        fits = [i for i, (ids, _) in enumerate(suffixes) if room is None or len(ids) <= room]
        sequences = [EncodedSequence(ids=suffixes[i][0], label_mask=suffixes[i][1], row=i) for i in fits]
        if not sequences:
            return out
        longest = max(len(sequence.ids) for sequence in sequences)
        micro_tokens = MICRO_TOKENS.get(policy.causal.device.type, MICRO_TOKENS_OF_CARDS)
        budget = max(1, micro_tokens * longest // (longest + len(before)))
        with pause_compiled(), eval_mode(policy.model):
            example_cache = self._read_example(before)
            for numbers in group_by_area(sequences, budget):
                part = [sequences[n] for n in numbers]
                for sequence, values in zip(part, self._read_batch(copy.deepcopy(example_cache), part), strict=True):
                    out[sequence.row] = values
        return out

    def _read_batch(self, cache: object, part: Sequence[EncodedSequence]) -> list[np.ndarray]:
        policy, device = self.policy, self.policy.causal.device
        width = max(len(sequence.ids) for sequence in part)
        ids = np.full((len(part), width), self.chat.pad_id, np.int64)  # [B, L]
        label_mask = np.zeros((len(part), width), np.bool_)
        for line, sequence in enumerate(part):
            ids[line, : len(sequence.ids)] = sequence.ids
            label_mask[line, : len(sequence.ids)] = sequence.label_mask
        inputs, labels = torch.as_tensor(ids, device=device), torch.as_tensor(label_mask, device=device)
        cache.batch_repeat_interleave(len(part))  # type: ignore[attr-defined]  # of transformers' caches
        where = labels[:, 1:]  # a label is predicted from the position before it, never from the example's last
        targets = inputs[:, 1:][where]  # [N]
        if policy.head.is_exact:
            states = policy.causal.base_model(input_ids=inputs, past_key_values=cache).last_hidden_state
            logps = policy.head.logps_from_hidden(states[:, :-1][where], targets, policy.chunk_rows)
        else:
            logits = policy.causal(input_ids=inputs, past_key_values=cache).logits[:, :-1][where]
            logps = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        counts = label_mask.sum(1).tolist()
        return [values.numpy() for values in logps.float().cpu().split(counts)]


def join_turns(example: Sequence[Message], row: Sequence[Message]) -> list[Message]:
    """A conversation behind an example's turns, only its last answer trained; the system message is the example's."""
    return [*mask_answers([*example, *without_system(row)[:-1]]), {**row[-1], "weight": 1}]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The turns of a conversation."""
    return [message for message in messages if message["role"] != "system"]


def _join_encodings(before: np.ndarray, suffix: Encoding) -> Encoding:
    ids, label_mask = suffix
    return np.concatenate([before, ids]), np.concatenate([np.zeros(len(before), np.bool_), label_mask])
