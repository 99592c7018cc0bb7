"""The conversations of a task as tokens, with an answer that both models are read on."""

from __future__ import annotations

from itertools import accumulate, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.axes.analysis import AnalysedTask, MeasuredAnswer
    from holdfast.data.batching.batches import EncodedSequence
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Message, Row
    from holdfast.models.policy import Policy

LONGEST = 2048
"""Tokens of a conversation beyond which it is left out."""
PASS_TOKENS = 1024
"""Tokens read in one forward pass where there are more: then it is not the way of the weights that takes the time."""


def encode_answers(task: AnalysedTask, chat: Chat, items: int) -> tuple[list[MeasuredAnswer], list[EncodedSequence]]:
    """The first answers of the base, and each as tokens behind its question, the answer's being the labels.

    Where nothing was sampled they are the rows' own answers, or the text itself. Left out: questions that are no longer
    there, empty answers, and long conversations.
    """
    answers: list[MeasuredAnswer] = []
    conversations: list[Sequence[Message]] = []
    for answer in task.base:
        row = task.rows_by_id.get(answer.id)
        conversation = None if row is None else write_conversation(task, row, answer)
        if conversation is not None:
            answers.append(answer)
            conversations.append(conversation)
        if len(answers) == items:
            break
    sequences = encode_conversations(conversations, chat)
    fits = [len(s.ids) <= LONGEST and s.label_mask[1:].any() for s in sequences]
    return (
        [answer for answer, fit in zip(answers, fits, strict=True) if fit],
        [sequence for sequence, fit in zip(sequences, fits, strict=True) if fit],
    )


def encode_conversations(conversations: Sequence[Sequence[Message]], chat: Chat) -> list[EncodedSequence]:
    """Conversations as tokens, as training has them: what answers consist of are the labels."""
    import numpy as np

    from holdfast.data.batching.batches import EncodedSequence

    return [
        EncodedSequence(np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=bool), number)
        for number, (ids, mask) in enumerate(chat.encode_many(conversations))
    ]


def score_answers(policy: Policy, sequences: Sequence[EncodedSequence], pad_id: int) -> list[float]:
    """The log-probability of each answer behind its conversation, in nats, gradients off.

    Neighbours with the same prompt stand behind it in one line, where the model keeps them apart: it is read once.
    """
    from holdfast.data.batching.batches import collate_on_device
    from holdfast.data.batching.shared_prompt import collate_groups, count_line, group_by_prompt
    from holdfast.training.prompt_sharing import supports_shared_prefix

    device = policy.causal.device
    groups = group_by_prompt(sequences)
    shares = not policy.virtual and supports_shared_prefix(policy, max(map(count_line, groups)))
    lines = groups if shares else [[sequence] for sequence in sequences]
    waiting = sorted(
        zip(accumulate(map(len, lines), initial=0), lines, strict=False), key=lambda one: -count_line(one[1])
    )
    logps = [0.0] * len(sequences)
    while waiting:
        count = max(1, PASS_TOKENS // count_line(waiting[0][1]))
        part, waiting = waiting[:count], waiting[count:]
        read = [line for _, line in part]
        batch = (
            collate_groups(read, pad_id).to(device)
            if shares
            else collate_on_device([line[0] for line in read], "padded", pad_id, device)
        )
        sums = iter(batch.sum_per_sequence(policy.token_logps(batch)).tolist())
        for begin, line in part:
            logps[begin : begin + len(line)] = islice(sums, len(line))
    return logps


def write_conversation(task: AnalysedTask, row: Row, answer: MeasuredAnswer) -> Sequence[Message] | None:
    """A question with the base's answer, or with its own; `None` where there is none."""
    if task.kind in ("held_out", "perplexity"):
        return row.messages
    if not answer.response.strip():
        return None
    return [*row.prompt, {"role": "assistant", "content": answer.response}]
