"""What every inference method must do, by what it overrides and which ends it declares."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.inference import CHANGES, Inference
from holdfast.axes.judge import Judge, JudgeRequest, Judging, Verdict
from holdfast.axes.method import Method
from holdfast.data.batching.batches import Batch, EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.generation.decoder import Decoder, build_decoder
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.models.loading import LoadedModel, load_model
from holdfast.testing.failure import expect_that, require_kind

BASE = "lab-small"
QUESTIONS = ("What is 3 + 4?", "What is 20 + 30?", "Reverse the word lamp.", "Hello")


class Lengths(Judge):
    """Answers of an even length pass: a judge that needs no reference. [made for checks]"""

    def needs_answer_key(self) -> bool:
        return False

    def judge(self, answer: JudgeRequest) -> Verdict:
        is_even = len(answer.response) % 2 == 0
        return Verdict(is_even, float(is_even), "an even length" if is_even else "an odd length")


@cache
def model_pair() -> tuple[LoadedModel, PreTrainedModel, Chat]:
    """The smaller laboratory model, the same with other weights in the place of a tuned one, and their chat."""
    base = load_model(BASE, device="cpu")
    tuned = copy.deepcopy(base.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=generator))
    return base, tuned, Chat(base.tokenizer)  # type: ignore[return-value]  # plain models


def build_tried_decoder(method: Inference) -> Decoder:
    """The decoder of the pair with a method."""
    base, tuned, _ = model_pair()
    return build_decoder(method, base if method.reads_base() else None, tuned, BASE)


def build_batch() -> Batch:
    """A few conversations with answers that are scored."""
    chat = model_pair()[2]
    texts = [[{"role": "user", "content": q}, {"role": "assistant", "content": f"It is {len(q)}."}] for q in QUESTIONS]
    sequences = [EncodedSequence(ids, mask, row) for row, (ids, mask) in enumerate(chat.encode_many(texts))]
    batch = collate_sequences(sequences, "padded", chat.pad_id)
    assert batch is not None
    return batch


def draw_answers(decoder: Decoder, **params: Any) -> dict[tuple[str, int], tuple[str, str]]:
    """Answers to the questions, two of each, by question and index."""
    judging = Judging(Lengths())
    requests = [(Request(q, [{"role": "user", "content": q}], judging=judging), [0, 1]) for q in QUESTIONS]
    engine = decoder.build_engine(model_pair()[2], fingerprint="tried")
    samples = engine.sample(requests, SamplingParams(max_tokens=6, **params))
    return {(s.key, s.index): (s.text, s.finish) for s in samples}


@torch.no_grad()
def score_batch(decoder: Decoder) -> Tensor:
    """Log-probabilities [N] of the answers' tokens."""
    return decoder.build_policy(model_pair()[2]).token_logps(build_batch()).detach()


def check_changes(method: Method, folder: Path) -> None:
    """It changes something, and leaves both models as they were."""
    inference = require_kind(method, Inference)
    expect_that(inference.overridden_methods(), f"it overrides none of {', '.join(CHANGES)}, so it changes nothing")
    base, tuned, _ = model_pair()
    before = [[p.clone() for p in model.parameters()] for model in (base.model, tuned)]
    decoder = build_tried_decoder(inference)
    draw_answers(decoder)
    for label, model, weights in zip(("base", "tuned"), (base.model, tuned), before, strict=True):
        same = all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
        expect_that(same, f"it changed the {label} model it was given; make a copy")
    expect_that(draw_answers(decoder) == draw_answers(decoder), "asked twice it answers differently")


def check_ends(method: Method, folder: Path) -> None:
    """With its neutral knobs it is the tuned model bit for bit, with its original ones the base."""
    cls, (base, tuned, _) = type(require_kind(method, Inference)), model_pair()
    for name, knobs, model in (("neutral", cls.neutral, tuned), ("original", cls.original, base.model)):
        if knobs is None:
            continue
        decoder, plain = build_tried_decoder(cls(**{**method.model_dump(), **knobs})), Decoder(model)
        label = f"with its {name} knobs {dict(knobs)}"
        apart = float((score_batch(decoder) - score_batch(plain)).abs().max())
        expect_that(
            apart == 0, f"{label} log-probabilities differ by up to {apart:.2g}; they must be equal bit for bit"
        )
        ask = [{"role": "user", "content": QUESTIONS[0]}]
        expect_that(decoder.transform_prompt(ask) == ask, f"{label} it changes the prompt")
        for params in ({}, {"temperature": 1.0, "seed": 3}) if "sampling" not in decoder.changes else ({},):
            expect_that(draw_answers(decoder, **params) == draw_answers(plain, **params), f"{label} answers differ")


def check_likelihood(method: Method, folder: Path) -> None:
    """A greedy answer is, token by token, the likeliest under the log-probabilities of the same decoder."""
    decoder, chat = build_tried_decoder(require_kind(method, Inference)), model_pair()[2]
    if {"attempts", "sampling"} & set(decoder.changes):
        return  # likelihoods know nothing of attempts, and another sampling need not be greedy
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    engine, policy = decoder.build_engine(chat, fingerprint="tried"), decoder.build_policy(chat)
    (sample,) = engine.sample([(Request("k", messages), [0])], SamplingParams(max_tokens=6))
    ids = list(prompt_ids(chat, [Request("k", decoder.transform_prompt(messages))])[0])
    start = len(ids)
    for _ in range(sample.tokens):
        row = EncodedSequence(np.array([*ids, 0], np.int32), np.arange(len(ids) + 1) == len(ids), 0)
        batch = collate_sequences([row], "padded", chat.pad_id)
        assert batch is not None
        ids.append(int(policy.greedy_tokens(batch, batch.label_positions)))
    likeliest = chat.text_of([i for i in ids[start:] if i not in chat.stop_ids])
    expect_that(likeliest == sample.text, f"it answers {sample.text!r}, but the likeliest tokens are {likeliest!r}")


CHECKS = (check_changes, check_ends, check_likelihood)
