"""Batches that are made when they are asked for: rollouts of the policy as it is, values beside it, kill and resume."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

import material
import numpy as np
import pytest
import torch

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.objective import Losses, Objective
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError, UserInterrupt
from holdfast.generation.factory import build_local_engine, build_sample_fn
from holdfast.models.policy import Policy
from holdfast.models.value_head import load_value_head, save_value_head
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

PROMPTS = ["Add 12 and 30.", "the capital of France", "sort the letters"]
EACH = 6


class Advantage(Objective):
    """Policy gradient with a learned baseline, as small as it can be. [Williams 1992, 10.1007/BF00992696]"""

    paper: ClassVar[str] = "Williams 1992"
    needs_values: ClassVar[bool] = True

    def normalizers(self, batch):
        return {"policy": batch.weight, "value": batch.weight}

    def losses(self, policy, batch):
        returns, values = batch.token_values["returns"], policy.predict_values(batch)
        better = returns - values.detach()
        away = (policy.token_logps(batch) - batch.token_values["logps"]).exp()  # 1, with the gradient of the policy
        count = float(len(returns))
        metrics = {"reward": (returns.sum().item(), count), "ratio": (away.sum().item(), count)}
        return Losses({"policy": -(away * better).sum(), "value": (values - returns).square().sum()}, metrics)


def reward_of(text: str) -> float:
    """The share of small letters."""
    return sum("a" <= char <= "z" for char in text) / max(1, len(text))


class Rollouts:
    """Answers of the policy as it is at each step; letters are rewarded."""

    fingerprint = "rollouts 1"

    def __init__(self, model, tokenizer) -> None:
        self.chat = Chat(tokenizer)
        self.engine = build_local_engine(model, self.chat, fingerprint="start")
        self.draw = build_sample_fn(self.engine)
        self.answers = 0
        self.texts: list[list[str]] = []

    def step_batches(self, index, policy):
        self.engine.update_model(policy.model, f"step {index}")
        requests = [Request(p, [{"role": "user", "content": p}]) for p in PROMPTS]
        samples = self.draw(requests, SamplingParams(max_tokens=8, temperature=1.0, n=EACH, seed=index))
        texts = [s.text for p in PROMPTS for s in samples[p]]
        self.texts.append(texts)
        self.answers += len(texts)
        batch = self.encode([(p, s.text, reward_of(s.text)) for p in PROMPTS for s in samples[p]])
        with torch.no_grad():
            logps = policy.token_logps(batch.to(policy.causal.device))
        batch.token_values["logps"] = logps.cpu()
        return [batch]

    def encode(self, answered):
        talks = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for prompt, text, _ in answered
        ]
        rows = []
        for row, (ids, trained) in enumerate(self.chat.encode_many(talks)):
            reward = np.full(len(ids), answered[row][2])
            rows.append(EncodedSequence(ids, trained, row, token_values={"returns": reward}))
        return collate_sequences(rows, "padded", self.chat.pad_id)

    def example_batch(self):
        batch = self.encode([(p, "the result is 14", 0.0) for p in PROMPTS for _ in range(EACH)])
        batch.token_values["logps"] = torch.zeros(len(batch.labels))
        return batch

    def small_batch(self):
        return self.encode([(p, "the result", 0.0) for p in PROMPTS])

    def step_figures(self):
        return {}

    def epoch_at(self, done):
        return float(done)

    def state_dict(self):
        return {"answers": self.answers}

    def load_state_dict(self, state):
        self.answers = state.get("answers", 0)


def fit(tiny, out, steps: int, on_step=lambda log: None, **axes):
    model, tokenizer = tiny("llama")
    source = Rollouts(model, tokenizer)
    axes = {"objective": Advantage(), "optimizer": {"name": "adamw", "learning_rate": 0.02}} | axes
    recipe = material.recipe({"max_steps": steps, "save_every": 0.2}, **axes)
    result = Trainer(recipe, model, source, out, pad_id=0, hooks=Hooks(on_step=on_step)).fit()
    return result, source


def test_rollouts_train_the_policy_they_come_from_and_a_killed_run_goes_on_bit_for_bit(tmp_path, tiny):
    logs = []
    result, source = fit(tiny, tmp_path / "calm", 8, logs.append)
    assert result.steps == len(source.texts) == 8
    assert source.texts[0] != source.texts[-1]
    rewards = [log.metrics["reward"] for log in logs]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.05
    assert all(log.metrics["ratio"] == pytest.approx(1, abs=1e-4) for log in logs), "sampled by other weights"
    with pytest.raises(UserInterrupt):
        fit(tiny, tmp_path / "cut", 8, lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == 3 else None)
    again, resumed = fit(tiny, tmp_path / "cut", 8)
    assert again.resumed_from == 3
    assert len(resumed.texts) == 5
    assert resumed.answers == source.answers == 8 * 3 * EACH
    assert resumed.texts == source.texts[3:]
    for one, two in zip(result.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(result.value_head.weight, again.value_head.weight)
    assert result.value_head.weight.abs().sum() > 0
    save_value_head(result.value_head, tmp_path)
    policy = Policy(result.model)
    policy.value_head = load_value_head(tmp_path)
    batch = source.example_batch()
    with torch.no_grad():
        values = policy.predict_values(batch)
    assert values.shape == batch.labels.shape
    expected = (
        policy.hidden_states_at(batch, batch.label_positions) @ result.value_head.weight[0] + result.value_head.bias
    )
    torch.testing.assert_close(values, expected.detach())


def test_what_a_source_of_batches_cannot_do_is_said(tmp_path, tiny):
    model, tokenizer = tiny("llama")
    for train, axes, text in [
        ({}, {"objective": Advantage()}, "train.max_steps: say how many steps"),
        ({"max_steps": 1}, {"objective": "dpo"}, "objective DPO needs the base model beside the trained one"),
        ({"max_steps": 1}, {"objective": "ual"}, "objective UAL computes something of all rows before training"),
    ]:
        with pytest.raises(UserError, match=text):
            Trainer(material.recipe(train, **axes), model, Rollouts(model, tokenizer), tmp_path, pad_id=0).fit()
    with pytest.raises(UserError, match="needs_values"):
        Policy(model).predict_values(Rollouts(model, tokenizer).example_batch())


def test_an_engine_told_of_other_weights_samples_from_them(tiny):
    (one, tokenizer), (other, _) = tiny("llama"), tiny("llama")
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    chat = Chat(tokenizer)
    for kind in ("native", "transformers"):
        first, second = (
            build_local_engine(m, chat, kind, fingerprint=name) for m, name in ((one, "one"), (other, "other"))
        )
        requests, params = [Request("a", [{"role": "user", "content": "Add 12"}])], SamplingParams(max_tokens=8)
        wanted = build_sample_fn(second)(requests, params)["a"][0].text
        assert build_sample_fn(first)(requests, params)["a"][0].text != wanted
        before = first.fingerprint
        first.update_model(other, "other")
        assert build_sample_fn(first)(requests, params)["a"][0].text == wanted
        assert before != first.fingerprint == second.fingerprint


def test_numbers_of_tokens_and_inputs_follow_their_rows_and_reach_the_model(tiny):
    model, _ = tiny("gpt2")
    rng = np.random.default_rng(0)
    rows = []
    for row, n in enumerate((7, 5, 6)):
        ids = rng.integers(3, 300, n).astype(np.int32)
        marks = np.zeros(8, dtype=np.int64)
        marks[: n // 2] = 40 + row
        rows.append(
            EncodedSequence(
                ids, np.arange(n) > 1, row, row % 2, token_values={"at": np.arange(n) + 100.0 * row},
                inputs={"token_type_ids": marks[:7]},
            )
        )  # fmt: skip
    batch = collate_sequences(rows, "padded", 0)
    assert batch.token_values["at"].tolist() == [*range(2, 7), *range(102, 105), *range(202, 206)]
    assert batch.inputs["token_type_ids"].shape == (3, 7)
    part = batch.select_roles(0)
    assert part.token_values["at"].tolist() == [*range(2, 7), *range(202, 206)]
    assert torch.equal(part.inputs["token_type_ids"], batch.inputs["token_type_ids"][[0, 2]])
    assert batch.to("meta").inputs["token_type_ids"].device.type == "meta"
    assert batch.to("meta").token_values["at"].device.type == "meta"
    assert batch.label_every_token().token_values == {}
    policy = Policy(model)
    with torch.no_grad():
        found = policy.token_logps(batch)
        kinds = batch.inputs["token_type_ids"]
        logits = model(input_ids=batch.input_ids, token_type_ids=kinds, position_ids=batch.position_ids).logits
        wanted = logits.log_softmax(-1).flatten(0, 1)[batch.label_positions].gather(1, batch.labels[:, None])[:, 0]
        torch.testing.assert_close(found, wanted)
        batch.inputs.clear()
        assert not torch.allclose(policy.token_logps(batch), found)
    with pytest.raises(UserError, match=r"train\.layout: padded"):
        collate_sequences(rows, "packed", 0)
