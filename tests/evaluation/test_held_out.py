"""The loss of held-out answers is the loss they would be trained with: same tokens, same mask, any layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.evaluation.measure import measure_task
from holdfast.evaluation.subject import EvaluatedModel
from holdfast.evaluation.summary import compute_score
from holdfast.evaluation.task import Task
from holdfast.models.policy import Policy


def turns(*texts: str, **last: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    found: list[dict[str, Any]] = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    found[-1] |= last
    return found


ROWS = [
    Row(turns("What is the capital of France?", "The capital of France is Paris.")),
    Row(turns("Add 12 and 30.", "The answer is 42.", "Subtract 5 from 19.", "the result is 14. \u00e4")),
    Row([{**m, "weight": 0} if i == 1 else m for i, m in enumerate(turns("sort", "letters", "write", "words"))]),
    Row(turns("nothing of this is trained", "an answer", weight=0)),
]
TASK = Task("held-out loss", "held_out", ROWS, role="target")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_every_trained_token_and_no_other_is_counted(tiny: Callable[..., Any], kind: str) -> None:
    model, tokenizer = tiny(kind)
    chat = Chat(tokenizer)
    items = measure_task(TASK, EvaluatedModel("m", chat, policy=Policy(model)))
    assert [item.id for item in items] == [row.id for row in ROWS[:3]], "a row without a trained token says nothing"
    for item, row in zip(items, ROWS, strict=False):
        ids, trained = chat.encode(row.messages)
        logps = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0].log_softmax(-1)
        by_hand = sum(float(logps[i - 1, ids[i]]) for i in np.flatnonzero(trained))
        assert item.tokens == int(trained.sum())
        assert item.score == pytest.approx(by_hand, rel=1e-5)
    assert items[1].bytes == len("The answer is 42.the result is 14. \u00e4".encode())
    assert items[2].bytes == len("words"), "a turn of weight 0 is read, not counted"


@torch.no_grad()
def test_layouts_and_batches_do_not_change_it(tiny: Callable[..., Any]) -> None:
    model, tokenizer = tiny()
    chat, policy = Chat(tokenizer), Policy(model)
    alone, together = (measure_task(TASK, EvaluatedModel("m", chat, policy=policy, micro_tokens=n)) for n in (1, 4096))
    packed = collate_sequences(
        [EncodedSequence(*chat.encode(row.messages), row=i) for i, row in enumerate(ROWS[:3])], "packed", chat.pad_id
    )
    sums = packed.sum_per_sequence(policy.token_logps(packed))
    for one, many, other in zip(alone, together, sums.tolist(), strict=True):
        assert one.score == pytest.approx(many.score, rel=1e-5)
        assert one.score == pytest.approx(other, rel=1e-5)
    nats = -sum(item.score for item in alone) / sum(item.tokens for item in alone)
    assert compute_score(TASK, alone) == pytest.approx(nats / np.log(2))
