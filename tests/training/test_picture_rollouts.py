"""Rounds of online learning on rows with pictures: each turn is sampled, credited and trained with its own picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vision_models
from holdfast.axes.engine import SamplingParams
from holdfast.axes.environment import Environment, Turn
from holdfast.axes.registry import find_method
from holdfast.data.chat.encoder import Chat
from holdfast.data.pictures.references import pictures_of
from holdfast.data.rows import Row
from holdfast.generation.factory import build_local_engine, build_sample_fn
from holdfast.methods.objectives.preference.simpo import SimPO
from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy
from holdfast.training.rollouts import RolloutSource
from holdfast.training.rounds import RoundPlan, split_units

KEYS = ["lab:cards/3S.JD", "lab:map/shop.bank"]
ROWS = [Row([{"role": "user", "content": "what <image>?", "images": [key]}]) for key in KEYS]
ROWS += [Row([{"role": "user", "content": "none"}])]


class Again(Environment):
    """Shows one picture more for the second of two turns. [here 2026]"""

    turns: int = 2

    def start(self, row: Row, seed: int) -> tuple[Any, list[Any]]:
        return {}, row.prompt

    def step(self, state: Any, action: str) -> Turn:
        more = [{"role": "user", "content": "and <image>?", "images": ["lab:cards/7H"]}]
        return Turn(state, more, float(sum(map(ord, action)) % 13))


@pytest.fixture
def make_source(
    make_once: Callable[[str, Callable[[Path], object]], Path], tmp_path: Path
) -> Callable[..., tuple[Any, RolloutSource]]:
    def build(credit_name: str = "group", objective: Any = None, turns: int = 2) -> tuple[Any, RolloutSource]:
        loaded = load_model(make_once("vision-llava", vision_models.make_llava))
        chat = Chat(loaded.tokenizer)
        engine = build_local_engine(loaded.model, chat, fingerprint="start")
        credit: Any = find_method("credits", credit_name)()
        return loaded.model, RolloutSource(
            ROWS, Again(turns=turns), credit, objective or PolicyGradient(),
            plan=RoundPlan(prompts=3, n=2, updates=2, drop_equal=False),
            sampling=SamplingParams(max_tokens=4, temperature=1.0), chat=chat, seed=0, folder=tmp_path,
            build_sampler=lambda policy, name: build_sample_fn(engine),
        )  # fmt: skip

    return build


def test_a_turn_has_the_pictures_of_its_conversation(make_source: Callable[..., tuple[Any, RolloutSource]]) -> None:
    model, source = make_source()
    policy = Policy(model)
    source.example_batch()
    played = source.play_round(0, policy)
    assert len(played.sequences) == 3 * 2 * 2
    rows = [ROWS[i] for i in source.choose_rows(0) for _ in range(2)]
    for number, sequence in enumerate(played.sequences):
        shown = pictures_of(rows[number // 2].prompt) + (["lab:cards/7H"] if number % 2 else [])
        assert (sequence.pictures.references if sequence.pictures else []) == shown
    batches = source._share_prompts(played.sequences, policy)
    assert all(batch.attention_mask is None for batch in batches), "answers to a picture have lines of their own"
    with torch.no_grad():
        for batch in batches:
            torch.testing.assert_close(policy.token_logps(batch), batch.token_values["behaviour"], atol=1e-5, rtol=0)
        with_picture = next(one for one in played.sequences if one.pictures and one.pictures.references == KEYS[:1])
        assert with_picture.pictures is not None
        other = replace(with_picture, pictures=replace(with_picture.pictures, references=KEYS[1:]))
        one, two = (policy.token_logps(source._cut_micro_batches([s], 1)[0]) for s in (with_picture, other))
    assert (one - two).abs().max() > 1e-3, "the picture is looked at"


def test_a_round_that_was_kept_has_its_pictures(make_source: Callable[..., tuple[Any, RolloutSource]]) -> None:
    model, source = make_source()
    played = source.play_round(0, Policy(model))
    kept = make_source()[1]._load_round(0)  # as another process takes it up in the middle of a round
    for one, two in zip(played.sequences, kept.sequences, strict=True):
        assert np.array_equal(one.ids, two.ids)
        assert (one.pictures and one.pictures.references) == (two.pictures and two.pictures.references)
    for one, two in zip(*(source._cut_micro_batches(r.sequences) for r in (played, kept)), strict=True):
        assert {n: v.shape for n, v in one.inputs.items()} == {n: v.shape for n, v in two.inputs.items()}
        assert torch.equal(one.inputs["pixel_values"], two.inputs["pixel_values"])


def test_both_answers_of_a_pair_have_the_picture(make_source: Callable[..., tuple[Any, RolloutSource]]) -> None:
    model, source = make_source("online_dpo", SimPO(), 1)
    source.example_batch()
    pairs = split_units(source.play_round(0, Policy(model)).sequences, 2)
    shown = [[one.pictures.references if one.pictures else [] for one in pair] for pair in pairs]
    assert any(first for first, _ in shown)
    assert all(first == second for first, second in shown)
