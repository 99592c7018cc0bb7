"""A round of online learning: its sizes, its sequences and what is known of each label, and what it was like."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.pictures.processor import SequencePictures

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.engine import Sample
    from holdfast.axes.environment import Episode
    from holdfast.data.batching.batches import Batch
    from holdfast.data.rows import Row


OUTGROWN = "its conversation leaves no room for another answer in the model's context"
"""Why an episode is over that neither ended nor had all its turns."""


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How a round is played.

    Args:
        prompts: Rows that are drawn for a round.
        n: Episodes of each.
        updates: Passes over the round's tokens.
        minibatches: Steps of a pass.
        drop_equal: Leave out groups whose episodes all have the same return: they teach nothing by comparison.
        divergence: What a nat of log-ratio to the untouched model takes off a token's reward.
        refill: How often further rows are drawn while fewer than `prompts` of them teach something.
        max_kl: How far the policy may be from the one that wrote the answers for a step on them to be taken, in nats
            per token.
        overlong: The share of the longest answer's tokens, its last ones, over which an answer's reward falls by 1.
        max_mismatch: How far the sampler's log-probabilities of the answers may be from the trainer's before the run
            stops, in nats per token; `None`: however far.
        correction: How advantages are weighed by what the trainer's probability of a token is of the sampler's; `None`:
            they are not.
        correction_level: Whether a token has such a ratio, or an answer in the mean.
        correction_bound: The largest ratio that counts.
        order_seed: Of the draw of rows and of minibatches; `None`: the source's.
    """

    prompts: int = 48
    n: int = 8
    updates: int = 1
    minibatches: int = 1
    drop_equal: bool = True
    divergence: float = 0.0
    refill: int = 0
    max_kl: float | None = None
    overlong: float = 0.0
    max_mismatch: float | None = None
    correction: Literal["truncate", "mask"] | None = None
    correction_level: Literal["token", "sequence"] = "token"
    correction_bound: float = 2.0
    order_seed: int | None = None

    @property
    def steps(self) -> int:
        """Steps of the trainer in a round."""
        return self.updates * self.minibatches

    def fingerprint_parts(self) -> dict[str, Any]:
        """What rounds depend on; what came later than runs that may go on counts where it is set."""
        later = ("refill", "max_kl", "overlong", "correction", "correction_level", "correction_bound", "order_seed")
        defaults = {one.name: one.default for one in fields(self)}
        parts = {key: value for key, value in asdict(self).items() if key not in later or value != defaults[key]}
        del parts["max_mismatch"]  # a run that goes on past it is the same run
        return parts


@dataclass(slots=True)
class PlayedRound:
    """The sequences of a round, one for each turn, and what is known of each label.

    Args:
        number: From 0.
        sequences: Prompt and sampled ids; `token_values` has what the objective reads.
        figures: What the round was like, by name, as (sum, count).
    """

    number: int
    sequences: list[EncodedSequence]
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)


def draw_row_numbers(count: int, prompts: int, seed: int, number: int, draw: int = 0) -> list[int]:
    """The rows of a round, of `count`: the next of a permutation of all, a new one for each pass; drawn again: any.

    Args:
        prompts: How many.
        number: Of the round, from 0.
        draw: How often rows were drawn for it before.
    """
    if draw:
        return np.random.default_rng([seed, number, draw]).choice(count, prompts, replace=prompts > count).tolist()
    out: list[int] = []
    while len(out) < prompts:
        pass_number, place = divmod(number * prompts + len(out), count)
        order = np.random.default_rng([seed, pass_number]).permutation(count)
        out += order[place : place + prompts - len(out)].tolist()
    return out


def name_apart(rows: list[Row], times_drawn: Counter[str]) -> list[Row]:
    """The rows, those drawn again in a round under names of their own: their episodes are other ones.

    Args:
        times_drawn: How often each was drawn before, by id; counted on.
    """
    named_rows = []
    for row in rows:
        times = times_drawn[row.id]
        times_drawn[row.id] += 1
        named_rows.append(replace(row, id=f"{row.id}~{times}") if times else row)
    return named_rows


def encode_turn(
    prompt: Sequence[int], answer: Sequence[int], row: int, pictures: SequencePictures | None = None
) -> EncodedSequence:
    """A prompt, with its pictures, and the ids that were sampled after it; these are the labels."""
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return EncodedSequence(ids, np.arange(len(ids)) >= len(prompt), row, pictures=pictures)


def choose_answers(parts: Sequence[Sequence[EncodedSequence]], worth: np.ndarray) -> list[EncodedSequence]:
    """The turns of the episodes that are worth something, as rows of their own.

    Args:
        parts: The turns of each episode.
        worth: Of each, [E].
    """
    sequences = [sequence for part, value in zip(parts, worth, strict=True) if value > 0 for sequence in part]
    return [replace(sequence, row=row) for row, sequence in enumerate(sequences)]


def choose_pairs(
    parts: Sequence[Sequence[EncodedSequence]], worth: np.ndarray, groups: np.ndarray
) -> list[EncodedSequence]:
    """The best and the worst episode of each group as a pair, chosen first; groups of equal ones have none.

    Args:
        parts: The turns of each episode: one.
        worth: Of each, [E].
        groups: Of each, [E].
    """
    pairs = list[EncodedSequence]()
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        best, worst = members[worth[members].argmax()], members[worth[members].argmin()]
        if worth[best] > worth[worst]:
            row = len(pairs) // 2
            pairs += [replace(parts[i][0], row=row, role=role) for role, i in enumerate((best, worst))]
    return pairs


def split_units(sequences: Sequence[EncodedSequence], size: int) -> list[Sequence[EncodedSequence]]:
    """The sequences of each row, `size` of them."""
    return [sequences[i : i + size] for i in range(0, len(sequences), size)]


def split_turns(per_episode: list[np.ndarray], turns: list[np.ndarray]) -> list[np.ndarray]:
    """Numbers of the labels of whole episodes, cut where turns are; `turns` are of the turns of all episodes."""
    return np.split(np.concatenate(per_episode), np.cumsum([len(turn) for turn in turns])[:-1])


def split_by_row(batch: Batch, values: Tensor, each: bool = False) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers of the labels of a batch, or of `each` of its sequences, as float64 with the row they are of."""
    counts = torch.bincount(batch.sequence, minlength=batch.n_sequences).tolist()
    parts = values.double().cpu().split(1 if each else counts)
    return zip(batch.rows.tolist(), [part.numpy() for part in parts], strict=True)


def set_label_values(sequence: EncodedSequence, name: str, values: np.ndarray) -> None:
    """Give the labels of a sequence a number each."""
    every = np.zeros(len(sequence.ids))
    every[sequence.label_mask] = values
    sequence.token_values[name] = every


def lower_by_divergence(
    rewards: Sequence[np.ndarray], behaviour: Sequence[np.ndarray], reference: Sequence[np.ndarray], weight: float
) -> None:
    """Take off each label's reward what it is likelier than to the untouched model: k1 of KL(policy || untouched).

    Args:
        rewards: Of each sequence, float64 [labels]; lowered in place.
        behaviour, reference: Log-probabilities of the labels by the policy that wrote them, and the untouched model.
        weight: Of a nat.
    """
    for reward, logps, base_logps in zip(rewards, behaviour, reference, strict=True):
        reward -= weight * (logps - base_logps)


def lower_overlong(episodes: Sequence[Episode], samples: Mapping[str, Sample], share: float, longest: int) -> None:
    """Take off the rewards of long answers what DAPO takes. [Yu et al. 2025, 2503.14476, equation 13]

    Args:
        samples: The answers, by the keys of turns.
        share: Of `longest`, its last tokens: over them the reward falls from 0 to -1. 0: nothing is taken.
        longest: Tokens an answer can have.
    """
    if not share:
        return
    for episode in episodes:
        for number, turn in enumerate(episode.turns):
            penalty = overlong_penalty(samples[episode.name_turn(number)].tokens, longest, share * longest)
            turn.reward -= penalty
            turn.parts = {**turn.parts, "overlong": -penalty}


def overlong_penalty(tokens: int, longest: int, cache: float) -> float:
    """What an answer of so many tokens loses: nothing until `longest - cache`, then more token by token, at most 1."""
    return min(1.0, max(0.0, (tokens - (longest - cache)) / cache))


def measure_round(episodes: list[Episode], groups: np.ndarray, num_used: int) -> dict[str, tuple[float, float]]:
    """What a round was like: return, share of successes and of mixed groups, turns, episodes cut, broken and used."""
    sound = [e for e in episodes if not e.failure]
    returns = np.array([sum(e.rewards) for e in episodes])
    num_mixed = sum(len(set(returns[groups == g].round(12).tolist())) > 1 for g in np.unique(groups))
    count = float(len(sound))
    parts: defaultdict[str, float] = defaultdict(float)
    for name, value in (part for e in sound for turn in e.turns for part in turn.parts.items()):
        parts[name] += value
    return {
        **{f"reward/{name}": (total, count) for name, total in parts.items()},
        "rollouts/return": (float(sum(sum(e.rewards) for e in sound)), count),
        "rollouts/passed": (float(sum(e.passed for e in sound)), count),
        "rollouts/turns": (float(sum(len(e.turns) for e in sound)), count),
        "rollouts/truncated": (float(sum(e.truncated for e in sound)), count),
        "rollouts/outgrown": (float(sum(e.outgrown for e in sound)), count),
        "rollouts/failed": (float(len(episodes) - len(sound)), float(len(episodes))),
        "rollouts/used": (float(num_used), float(len(episodes))),
        "rollouts/mixed groups": (float(num_mixed), float(len(np.unique(groups)))),
    }


def describe_broken_episodes(environment: str, episodes: Sequence[Episode]) -> list[str]:
    """A line for each way in which the environment broke, with the first row it did so on; those are left out."""
    reasons: dict[str, list[str]] = {}
    for episode in episodes:
        if episode.failure:
            reasons.setdefault(episode.failure, []).append(episode.place)
    return [
        f"environment {environment} broke: {reason} (first at {places[0]}); its episodes are left out, and counted in "
        "the log as rollouts/failed"
        for reason, places in reasons.items()
    ]


def describe_outgrown_episodes(episodes: Sequence[Episode]) -> str:
    """A line where conversations outgrew the model's context, with the first row; "" where none did."""
    places = [episode.place for episode in episodes if episode.outgrown]
    if not places:
        return ""
    return (
        f"{len(places):,} of {len(episodes):,} conversations of this round outgrew the model's context (first at "
        f"{places[0]}): they are cut there and count with what they earned; further ones are counted in the log as "
        "rollouts/outgrown"
    )
