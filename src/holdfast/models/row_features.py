"""What a model says of encoded sequences: log-probabilities per label, mean hidden states, projected gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.data.batching.areas import group_by_area
from holdfast.data.batching.batches import EncodedSequence, collate_on_device
from holdfast.models.loading import context_length, eval_mode
from holdfast.models.row_groups import choose_stretch_tokens, run_by_area

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.data.chat.encoder import Encoding
    from holdfast.models.joint_policy import JointPolicy
    from holdfast.models.policy import Policy

MICRO_TOKENS = 8192
"""Positions of one forward pass, padding included."""
STRETCH_TOKENS = {"cpu": MICRO_TOKENS}
STRETCH_TOKENS_OF_CARDS = 16 * MICRO_TOKENS
"""Most positions of a stretch of work: on a card several passes, so that one that finds no memory is soon learned."""


def group_into_stretches(policy: Policy, encodings: Sequence[Encoding]) -> Iterator[list[int]]:
    """Numbers of sequences, those of like length together, longest first: a group is seconds of forward passes."""
    device = policy.causal.device
    most = STRETCH_TOKENS.get(device.type, STRETCH_TOKENS_OF_CARDS)
    sequences = [_within_context(policy, encoding, row) for row, encoding in enumerate(encodings)]
    return group_by_area(sequences, choose_stretch_tokens(policy.model, device, most))


def label_logps(policy: Policy | JointPolicy, encodings: Sequence[Encoding], pad_id: int) -> list[np.ndarray]:
    """Log-probabilities in nats, fp32 [labels], of the trained tokens of each sequence.

    Tokens beyond the model's context are left out.
    """
    sequences = [_within_context(policy, encoding, row) for row, encoding in enumerate(encodings)]
    out = [np.zeros(0, np.float32)] * len(sequences)

    def score_group(numbers: list[int]) -> None:
        batch = _collate_batch([sequences[i] for i in numbers], pad_id, policy)
        if not len(batch.labels):
            return
        values = policy.token_logps(batch).float().cpu()  # [N], by sequence
        counts = torch.bincount(batch.sequence.cpu(), minlength=batch.n_sequences).tolist()
        for i, part in zip(numbers, values.split(counts), strict=True):
            out[i] = part.numpy()

    with eval_mode(policy.model):
        run_by_area(sequences, MICRO_TOKENS, policy.causal.device, score_group)
    return out


def mean_states(policy: Policy, encodings: Sequence[Encoding], pad_id: int) -> list[np.ndarray]:
    """Final hidden states averaged over all tokens of each sequence, fp32 [D]."""
    sequences = [_within_context(policy, encoding, row) for row, encoding in enumerate(encodings)]
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sequences)

    def average_group(numbers: list[int]) -> None:
        batch = _collate_batch([sequences[i] for i in numbers], pad_id, policy)
        owner = batch.sequence_ids()  # [B * L]
        real = (owner >= 0).nonzero()[:, 0]
        states = policy.hidden_states_at(batch, real).float()  # [tokens, D]
        sums = states.new_zeros(len(numbers), states.shape[1]).index_add(0, owner[real], states)
        means = sums / batch.cu_seqlens.diff()[:, None]
        for i, mean in zip(numbers, means.cpu().numpy(), strict=True):
            out[i] = mean

    with eval_mode(policy.model):
        run_by_area(sequences, MICRO_TOKENS, policy.causal.device, average_group)
    return out


def projected_gradients(
    policy: Policy, encodings: Sequence[Encoding], pad_id: int, size: int, seed: int
) -> list[np.ndarray]:
    """The gradient of each sequence's mean negative log-likelihood in all weights, projected to fp32 [size].

    A sequence without a label has none: zeros. The weights' gradients are left as they were.
    """
    weights = [weight for weight in policy.model.parameters() if weight.is_floating_point()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    out = []
    with eval_mode(policy.model), torch.enable_grad():
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            for row, encoding in enumerate(encodings):
                sequence = _within_context(policy, encoding, row)
                if not sequence.label_mask[1:].any():
                    out.append(np.zeros(size, np.float32))
                    continue
                batch = _collate_batch([sequence], pad_id, policy)
                loss = policy.weighted_nll(batch, torch.full_like(batch.weights, 1 / len(batch.labels)))
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
                out.append(project_gradients(gradients, size, seed).cpu().numpy())
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
    return out


def project_gradients(gradients: Iterable[Tensor | None], size: int, seed: int) -> Tensor:
    """The gradients of all weights as one vector [size] whose inner products estimate theirs without bias.

    A count sketch [Charikar, Chen and Farach-Colton 2002]: every number gets a random sign and is added to one of
    `size` places. A matrix of random numbers would not fit: it has `size` times as many as the model has weights. The
    signs are drawn anew, from the seed, for each use: they too are as many as the weights.
    """
    parts = list(gradients)
    device = next(part.device for part in parts if part is not None)
    out = torch.zeros(size, device=device)
    for number, gradient in enumerate(parts):
        if gradient is None:  # this weight plays no part in the loss
            continue
        flat = gradient.flatten().float()
        generator = torch.Generator(device).manual_seed(_seed_of(seed, number))
        signs = torch.randint(0, 2, flat.shape, generator=generator, dtype=torch.int8, device=device)
        turn = int(torch.randint(0, size, (1,), generator=generator, device=device))
        with_signs = torch.where(signs.bool(), flat, -flat)
        bins = F.pad(with_signs, (0, -len(flat) % size)).view(-1, size).sum(0)
        out += bins.roll(turn)  # else small weights (norms, biases) would all be added to the first places
    return out


def _seed_of(seed: int, number: int) -> int:
    """The seed of the signs of one weight."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=7).digest(), "little")


def _collate_batch(sequences: Sequence[EncodedSequence], pad_id: int, policy: Policy | JointPolicy) -> Batch:
    return collate_on_device(sequences, policy.batch_layout, pad_id, policy.causal.device)


def _within_context(policy: Policy | JointPolicy, encoding: Encoding, row: int) -> EncodedSequence:
    ids, label_mask = encoding
    limit = context_length(policy.config, policy.virtual)
    return EncodedSequence(ids=ids[:limit], label_mask=label_mask[:limit], row=row)
