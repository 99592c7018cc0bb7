"""Text likelihood: every token once, predicted from what stands before it, padding never counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.data.chat.encoder import Chat
from holdfast.evaluation.measure import measure_task
from holdfast.evaluation.subject import EvaluatedModel
from holdfast.evaluation.summary import compute_score
from holdfast.evaluation.task import Task
from holdfast.evaluation.tasks.perplexity import PASSAGE, build_text_rows, cut_windows, split_passages
from holdfast.models.policy import Policy

TEXTS = [
    "The answer is 42.",
    "What is the capital of France? The capital of France is Paris. Add 12 and 30.",
    "x",
    "",
    "user assistant system question answer write sort the letters of the word in order " * 8,
]


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 100])
@pytest.mark.parametrize("width", [2, 3, 8])
def test_every_token_is_scored_exactly_once(n: int, width: int):
    ids = np.arange(100, 100 + n)
    pieces = list(cut_windows(ids, width, row=3))
    scored = np.concatenate([p.ids[p.label_mask] for p in pieces]) if pieces else np.array([])
    assert scored.tolist() == ids[1:].tolist()
    for number, piece in enumerate(pieces):
        first = int(np.flatnonzero(piece.label_mask)[0])
        assert len(piece.ids) <= width
        assert piece.row == 3
        assert not piece.label_mask[0]
        assert first >= (max(1, width // 4) if number else 1)


def by_hand(model: Any, ids: list[int]) -> float:
    """The definition, one token at a time, from the begin token at `ids[0]` on."""
    total = 0.0
    for place in range(1, len(ids)):
        logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
        total += float(logits.log_softmax(-1)[ids[place]])
    return total


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The text after what stands before every text: for want of a begin token, what ends the one before."""
    return [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def text_task() -> Task:
    rows = [row for text in TEXTS for row in build_text_rows([text])]
    return Task("text", "perplexity", rows)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_likelihood_is_the_definition(tiny: Callable[..., Any], kind: str):
    model, tokenizer = tiny(kind)
    items = measure_task(text_task(), EvaluatedModel("m", Chat(tokenizer), policy=Policy(model)))
    assert [item.prompt for item in items] == [t.strip() for t in TEXTS if t]
    for item in items[:3]:
        ids = ids_of(tokenizer, item.prompt)
        assert item.tokens == len(ids) - 1
        assert item.score == pytest.approx(by_hand(model, ids), rel=1e-5)
    nats = sum(by_hand(model, ids_of(tokenizer, text)) for text in TEXTS[:3])
    bits = -nats / np.log(2) / sum(len(text.encode()) for text in TEXTS[:3])
    assert compute_score(text_task(), items[:3]) == pytest.approx(bits, rel=1e-5)


@torch.no_grad()
def test_the_known_mistakes_would_be_seen(tiny: Callable[..., Any]):
    """Labels that are not shifted, and padding that is counted, give other figures than ours."""
    model, tokenizer = tiny()
    short, long = TEXTS[0], TEXTS[1]
    rows = build_text_rows([short, long])
    mine = measure_task(Task("t", "perplexity", rows), EvaluatedModel("m", Chat(tokenizer), policy=Policy(model)))[
        0
    ].score
    begun = [tokenizer.eos_token + text for text in (short, long)]
    both = tokenizer(begun, padding=True, return_tensors="pt", add_special_tokens=False)
    logps = model(**both).logits[0].log_softmax(-1)
    ids, real = both["input_ids"][0], int(both["attention_mask"][0].sum())
    unshifted = float(logps.gather(1, ids[:, None])[:real].sum())
    padded = float(logps[:-1].gather(1, ids[1:, None]).sum())
    right = float(logps[:-1].gather(1, ids[1:, None])[: real - 1].sum())
    assert mine == pytest.approx(right, rel=1e-5)
    assert abs(mine - unshifted) > 0.1
    assert abs(mine - padded) > 0.1


def test_batches_do_not_change_the_figures(tiny: Callable[..., Any]):
    model, tokenizer = tiny()
    chat, policy = Chat(tokenizer), Policy(model)
    one, many = (measure_task(text_task(), EvaluatedModel("m", chat, policy=policy, micro_tokens=n)) for n in (1, 4096))
    for a, b in zip(one, many, strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-5)


@torch.no_grad()
def test_long_texts_are_scored_in_windows(tiny: Callable[..., Any]):
    model, tokenizer = tiny()
    (item,) = measure_task(
        Task("t", "perplexity", build_text_rows([TEXTS[4]])),
        EvaluatedModel("m", Chat(tokenizer), policy=Policy(model), width=16),
    )
    ids = ids_of(tokenizer, TEXTS[4].strip())
    total = 0.0
    for piece in cut_windows(ids, 16, 0):
        logps = model(input_ids=torch.tensor(piece.ids[None].astype(np.int64))).logits[0].log_softmax(-1)
        total += sum(float(logps[i - 1, piece.ids[i]]) for i in np.flatnonzero(piece.label_mask))
    assert item.tokens == len(ids) - 1
    assert item.score == pytest.approx(total, rel=1e-5)


def test_passages_hold_the_whole_text():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdef"), 5)) + ("\n\n" if rng.random() < 0.02 else " ") for _ in range(3000)]
    found = split_passages("".join(words))
    assert all(0 < len(p) <= PASSAGE for p in found)
    assert len(found) < 2 * len("".join(words)) / PASSAGE + 1
    assert " ".join(found).split() == "".join(words).split()
    assert split_passages("a" * (2 * PASSAGE + 5)) == ["a" * PASSAGE, "a" * PASSAGE, "a" * 5]
    assert split_passages(" \n") == []
