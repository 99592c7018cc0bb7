"""Rounds of online learning: what is trained is what was sampled, credit reaches its labels, kills change nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import processes
from holdfast.axes.engine import SamplingParams
from holdfast.axes.environment import Environment, Turn
from holdfast.axes.registry import find_method
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import RunError, UserInterrupt
from holdfast.generation.factory import build_local_engine, build_sample_fn
from holdfast.generation.journal import Journal
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.preference.simpo import SimPO
from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient
from holdfast.models.policy import Policy
from holdfast.recipe.schema import Recipe
from holdfast.training.callbacks import Hooks
from holdfast.training.rollouts import RolloutSource
from holdfast.training.rounds import RoundPlan, overlong_penalty
from holdfast.training.trainer import Trainer

ROWS = [
    Row([{"role": "user", "content": text}]) for text in ("Add 12 and 30.", "the capital of France", "sort the letters")
]


class SmallLetters(Environment):
    """Rewards the share of small letters, in two turns. [here 2026]"""

    turns: int = 2

    def start(self, row, seed):
        return {}, row.messages

    def step(self, state, action):
        share = sum("a" <= char <= "z" for char in action) / max(1, len(action))
        return Turn(state, [{"role": "user", "content": "more"}], share)


class OneTurn(SmallLetters):
    turns: int = 1


def make_source(tiny, folder, objective=None, credit="group", journal=None, environment=None, **plan):
    model, tokenizer = tiny("llama", max_position_embeddings=256)
    chat = Chat(tokenizer)
    engine = build_local_engine(model, chat, fingerprint="start")

    def draw(policy, name):
        engine.update_model(policy.model, name)
        return build_sample_fn(engine) if journal is None else journal.build_sample_fn(engine)

    source = RolloutSource(
        ROWS, environment or SmallLetters(), find_method("credits", credit)() if isinstance(credit, str) else credit,
        objective or PolicyGradient(), plan=RoundPlan(**{"prompts": 3, "n": 4} | plan),
        sampling=SamplingParams(max_tokens=6, temperature=1.0), build_sampler=draw, chat=chat, seed=0, folder=folder,
        record=journal,
    )  # fmt: skip
    return model, source


def fit(tiny, out, steps, on_step=lambda log: None, objective=None, rate=0.02, **knobs):
    objective = objective or PolicyGradient()
    with Journal(out / "samples.jsonl") as journal:
        model, source = make_source(tiny, out, objective, journal=journal, **knobs)
        recipe = Recipe(
            model="tiny", data={"train": "rows.jsonl"}, objective=objective, credit=knobs.get("credit", "group"),
            train={"max_steps": steps, "save_every": 0.2, "precision": "fp32", "micro_tokens": 60},
            optimizer={"name": "adamw", "learning_rate": rate},
        )  # fmt: skip
        result = Trainer(recipe, model, source, out, pad_id=0, hooks=Hooks(on_step=on_step)).fit()
        return result, source, len(journal)


def test_a_round_holds_what_was_sampled_with_its_credit_on_its_labels(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, updates=2)  # so that the first policy is remembered
    policy = Policy(model)
    played = source.play_round(0, policy)
    assert len(played.sequences) == 3 * 4 * 2, "one for each turn"
    for sequence in played.sequences:
        labels = sequence.label_mask
        assert 1 <= labels.sum() <= 6
        assert labels[-int(labels.sum()) :].all(), "the answer stands last"
        advantages = sequence.token_values["advantages"][labels]
        assert (advantages == advantages[0]).all()
        assert (sequence.token_values["advantages"][~labels] == 0).all()
    firsts, seconds = played.sequences[::2], played.sequences[1::2]
    assert all(len(two.ids) > len(one.ids) for one, two in zip(firsts, seconds, strict=True)), "it sees the first turn"
    of_rows = np.array([s.token_values["advantages"][-1] for s in firsts]).reshape(3, 4)
    assert of_rows.sum(1) == pytest.approx([0] * 3, abs=1e-6)
    for batch in source._cut_micro_batches(played.sequences):
        with torch.no_grad():
            logps = policy.token_logps(batch)
        torch.testing.assert_close(logps, batch.token_values["behaviour"], atol=1e-4, rtol=1e-4)
    assert played.figures["rollouts/mixed groups"] == (3.0, 3.0)
    assert_sampler_is_trainer(played.figures, tokens=sum(int(s.label_mask.sum()) for s in played.sequences))
    again = make_source(tiny, tmp_path)[1].play_round(0, Policy(tiny("llama", max_position_embeddings=256)[0]))
    assert [s.ids.tolist() for s in again.sequences] == [s.ids.tolist() for s in played.sequences]


def assert_sampler_is_trainer(figures, tokens):
    """Both computed the same for so many tokens, each in its own way."""
    (ratio, count), (kl, _), (largest, _) = (
        figures[f"sampler/{name}"] for name in ("ratio", "kl", "largest difference")
    )
    assert count == tokens
    assert ratio / count == pytest.approx(1, abs=1e-4)
    assert 0 < kl / count < 1e-8
    assert 0 < largest < 1e-4


@pytest.mark.parametrize("plan", [{}, {"updates": 2}], ids=["read-for-it", "read-anyway"])
@pytest.mark.parametrize("objective", [PolicyGradient(), SFT()], ids=["policy-gradient", "sft"])
def test_sampler_and_trainer_are_compared_and_the_run_stops_where_they_part(tiny, tmp_path, objective, plan):
    credit = "group" if objective.needs_rollouts else "best"
    settings = {"objective": objective, "credit": credit, "environment": OneTurn(), "max_mismatch": 1e-4} | plan
    model, source = make_source(tiny, tmp_path, prompts=6, **settings)
    source.step_batches(0, Policy(model))
    every = plan and objective.needs_rollouts
    assert 4 * (16 if not every else 24) <= source.step_figures()["sampler/kl"][1] <= 6 * (16 if not every else 24)
    assert_sampler_is_trainer(source.step_figures(), source.step_figures()["sampler/kl"][1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    asleep = source.build_sampler
    other = tiny("llama", max_position_embeddings=256)[0]
    source.build_sampler = lambda policy, name: asleep(Policy(other), name)  # weights of before
    with pytest.raises(RunError, match=r"round 2: what samples and what trains have parted: .* nats a token \(k3\)"):
        source.step_batches(source.plan.steps, Policy(model))


def test_rows_are_drawn_pass_by_pass_without_repeats(tiny, tmp_path):
    source = make_source(tiny, tmp_path, prompts=2)[1]
    drawn = [i for number in range(6) for i in source.choose_rows(number)]
    assert [sorted(drawn[k : k + 3]) for k in (0, 3, 6, 9)] == [[0, 1, 2]] * 4
    assert source.epoch_at(3) == 2.0
    pinned, other = (make_source(tiny, tmp_path, prompts=2, order_seed=seed)[1] for seed in (0, 1))
    assert [pinned.choose_rows(number) for number in range(6)] == [source.choose_rows(number) for number in range(6)]
    assert [other.choose_rows(number) for number in range(6)] != [source.choose_rows(number) for number in range(6)]
    assert "order_seed" not in source.plan.fingerprint_parts(), "a run of before it was there is the same run"


@pytest.mark.parametrize("knobs", [{}, {"updates": 2, "minibatches": 2}], ids=["one-step", "four-steps"])
def test_online_learning_learns_and_a_killed_run_comes_to_the_same_weights(tiny, tmp_path, knobs):
    steps = 8 * (4 if knobs else 1)
    rate = 0.005 if knobs else 0.02
    ratios, away, returns, cut_at = [], [], [], 6 if knobs else 3
    (tmp_path / "calm").mkdir()
    (tmp_path / "cut").mkdir()

    def watch(log):
        ratios.append(log.metrics["ratio/mean"])
        away.append(log.metrics["kl/behaviour"] + log.metrics["ratio/clipped"])
        returns.append(log.metrics["rollouts/return"])

    result, source, drawn = fit(tiny, tmp_path / "calm", steps, watch, rate=rate, **knobs)
    assert ratios[:: source.plan.steps] == pytest.approx([1.0] * 8, abs=1e-4), "the first step of a round is on policy"
    assert away[:: source.plan.steps] == pytest.approx([0.0] * 8, abs=1e-6)
    assert drawn == 8 * 3 * 4 * 2
    with pytest.raises(UserInterrupt):
        fit(
            tiny, tmp_path / "cut", steps,
            lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == cut_at else None, rate=rate, **knobs,
        )  # fmt: skip
    again, _, drawn_again = fit(tiny, tmp_path / "cut", steps, rate=rate, **knobs)
    assert again.resumed_from == cut_at
    assert drawn_again == drawn, "nothing is drawn twice"
    for one, two in zip(result.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert np.mean(returns[-2 * source.plan.steps :]) > np.mean(returns[: source.plan.steps]) + 0.1


def test_killed_while_it_samples_judges_learns_or_saves_it_ends_bit_equal(tiny_dir, tmp_path):
    script = Path(__file__).with_name("killed_rounds.py")
    ran = processes.run([script, tmp_path, tiny_dir("llama")])
    assert ran.returncode == 0, ran.stderr[-2000:]
    calm, stormy = (load_file(tmp_path / name / "final.safetensors") for name in ("calm", "stormy"))
    assert all(torch.equal(calm[name], stormy[name]) for name in calm)
    drawn = []
    for name in ("calm", "stormy"):
        lines = (tmp_path / name / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        drawn.append(sorted(entry["id"] for entry in map(json.loads, lines) if entry["kind"] == "sample"))
    assert drawn[0] == drawn[1], "none is lost, and none drawn twice"
    assert len(set(drawn[0])) == 5 * 3 * 2 * 2


def test_ppo_trains_a_value_head_on_the_returns(tiny, tmp_path):
    ppo = PolicyGradient(value_weight=0.5, value_clip=None)
    result, source, _ = fit(tiny, tmp_path, 12, objective=ppo, credit="gae", rate=0.01)
    assert result.value_head.weight.abs().sum() > 0
    for sequence in source.current.sequences:
        assert set(sequence.token_values) == {"advantages", "returns", "old_values"}
    returns, values = (
        np.concatenate([s.token_values[name][s.label_mask] for s in source.current.sequences])
        for name in ("returns", "old_values")
    )
    assert np.square(returns - values).mean() < 0.8 * np.square(returns).mean(), "it knows more than nothing"


def test_rewards_that_are_all_equal_leave_the_weights_as_they_are(tiny, tmp_path):
    class Same(OneTurn):
        def step(self, state, action):
            return Turn(state, [], 1.0, done=True)

    result, _, _ = fit(tiny, tmp_path, 2, environment=Same(), drop_equal=False)
    for one, two in zip(
        result.model.parameters(), tiny("llama", max_position_embeddings=256)[0].parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_what_the_sampler_said_weighs_the_credit(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, credit="loo", environment=OneTurn())
    plain = source.play_round(0, Policy(model)).sequences
    for form, bound, factor in (("truncate", 1.5, 1.5), ("mask", 1.5, 0.0), ("truncate", 9.0, math.e)):
        model, source = make_source(
            tiny, tmp_path, credit="loo", environment=OneTurn(), correction=form, correction_bound=bound
        )
        build = source.build_sampler

        def draw_less_likely(policy, name, build=build):
            draw = build(policy, name)

            def draw_all(requests, params):
                return {
                    key: [replace(one, logps=tuple(logp - 1 for logp in one.logps)) for one in samples]
                    for key, samples in draw(requests, params).items()
                }

            return draw_all

        source.build_sampler = draw_less_likely
        played = source.play_round(0, Policy(model))
        for sequence, before in zip(played.sequences, plain, strict=True):
            expected = before.token_values["advantages"] * factor
            np.testing.assert_allclose(sequence.token_values["advantages"], expected, atol=1e-3)
        ratio, tokens = played.figures["sampler/ratio"]
        assert ratio / tokens == pytest.approx(math.e, rel=1e-3), "logged as it is before anything is cut"
        cut, tokens = played.figures["sampler/cut"]
        assert cut == (tokens if bound < math.e else 0)
    assert source.fingerprint != make_source(tiny, tmp_path, credit="loo", environment=OneTurn())[1].fingerprint


def test_equal_groups_and_broken_episodes_are_left_out(tiny, tmp_path):
    class Same(SmallLetters):
        def step(self, state, action):
            return Turn(state, [], 1.0, done=True, passed=True)

    model, source = make_source(tiny, tmp_path, environment=Same())
    assert source.step_batches(0, Policy(model)) == [None]
    assert source.current.figures["rollouts/used"] == (0.0, 12.0)

    class Broken(SmallLetters):
        def step(self, state, action):
            raise OSError("no such game")

    model, source = make_source(tiny, tmp_path, environment=Broken())
    with pytest.raises(
        RunError, match=r"environment \S*Broken broke in all 12 episodes of a round \(OSError: no such game"
    ):
        source.step_batches(0, Policy(model))


class Fickle(SmallLetters):
    """Hangs, or breaks, on answers by how many it was asked for. [here 2026]"""

    step_seconds: float | None = 0.3

    def step(self, state, action):
        ASKED.append(action)
        FAULTS.get(len(ASKED), lambda: None)()
        return super().step(state, action)


ASKED: list[str] = []
FAULTS: dict[int, Callable[[], object]] = {}


def hang():
    time.sleep(60)


def fail(error: Exception = OSError("no route to host")) -> None:  # noqa: B008
    raise error


@pytest.fixture
def set_faults():
    """`set_faults({3: hang})`: of the answers from now on the third is waited for in vain."""

    def begin_anew(faults):
        ASKED.clear()
        FAULTS.clear()
        FAULTS.update(faults)

    yield begin_anew
    begin_anew({})


def test_a_run_that_goes_on_leaves_out_what_broke_once_though_it_would_come_back_now(tiny, tmp_path, set_faults):
    for name in ("calm", "cut"):
        (tmp_path / name).mkdir()
    set_faults({1: hang, 22: fail})
    calm = fit(tiny, tmp_path / "calm", 2, environment=Fickle())[0]
    asked = len(ASKED)
    assert asked == 2 * 3 * 4 * 2 - 1, "a turn after a broken one is not asked for"
    set_faults({1: hang, 22: fail})
    with pytest.raises(MemoryError):
        fit(tiny, tmp_path / "cut", 2, lambda log: fail(MemoryError()), environment=Fickle())
    again = fit(tiny, tmp_path / "cut", 2, environment=Fickle())[0]
    assert len(ASKED) == (asked - 24) + asked - 2, "the first round was played twice, but for what broke"
    for one, two in zip(calm.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_round_that_is_played_again_waits_for_nothing_twice_and_goes_on_with_no_other_answers(
    tiny, tmp_path, set_faults
):
    with Journal(tmp_path / "samples.jsonl") as journal:

        def play():
            model, source = make_source(tiny, tmp_path, journal=journal, environment=Fickle(), drop_equal=False)
            return source.play_round(0, Policy(model))

        set_faults({2: hang, 4: lambda: fail(KeyboardInterrupt())})
        with pytest.raises(KeyboardInterrupt):
            play()
        set_faults({9: fail})
        first = play()
        assert first.figures["rollouts/failed"] == (2.0, 12.0), "the one that it hung on, and the one that broke now"
        for fault in (hang, fail):
            set_faults({5: fault})
            with pytest.raises(RunError, match=r"broke: .*; it answered when this round was played before"):
                play()
        set_faults({})
        again = play()
    assert again.figures == first.figures
    assert [s.ids.tolist() for s in again.sequences] == [s.ids.tolist() for s in first.sequences]


def test_what_stopped_a_run_is_tried_again_by_the_next(tiny, tmp_path, set_faults, monkeypatch):
    monkeypatch.setattr("holdfast.axes.breakdowns.MOST_HANGS", 1)
    with Journal(tmp_path / "samples.jsonl") as journal:

        def play():
            model, source = make_source(tiny, tmp_path, journal=journal, environment=Fickle())
            return source.play_round(0, Policy(model)).figures["rollouts/failed"]

        set_faults({2: hang, 5: hang})
        with pytest.raises(RunError, match="as 1 times before"):
            play()
        set_faults({})
        assert play() == (0.0, 12.0)


class Wordy(SmallLetters):
    """Says so much that no conversation has all its turns."""

    turns: int = 9

    def step(self, state, action):
        return Turn(state, [{"role": "user", "content": "and so on " * 8}], float(len(action)))


def test_conversations_that_outgrow_the_context_are_cut_there_and_count(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, environment=Wordy(), credit="loo")
    lines = []
    source.say = lines.append
    played = source.play_round(0, Policy(model))
    assert played.figures["rollouts/outgrown"] == played.figures["rollouts/truncated"] == (12, 12)
    assert 12 < played.figures["rollouts/turns"][0] == len(played.sequences) < 12 * 9
    assert all(s.label_mask.sum() > 0 and len(s.ids) <= 256 for s in played.sequences)
    source.play_round(1, Policy(model))
    (line,) = lines
    assert line.startswith("12 of 12 conversations of this round outgrew the model's context (first at row 1 (")


class Half(SmallLetters):
    """Rows with a D in them are always worth the same."""

    turns: int = 1

    def start(self, row, seed):
        return {"equal": "Add" in row.prompt[-1]["content"]}, row.messages

    def step(self, state, action):
        turn = super().step(state, action)
        return Turn(state, [], 1.0 if state["equal"] else turn.reward, done=True)


def test_a_round_is_filled_up_with_rows_that_teach_and_no_answer_counts_twice(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, environment=Half(), prompts=3, refill=3)
    policy = Policy(model)
    played = source.play_round(0, policy)
    assert len(played.sequences) == 3 * 4, "as many as without equal groups"
    drawn, of = played.figures["rollouts/used"]
    assert drawn == 12
    assert of > 12, "more were drawn than are used"
    plain = make_source(tiny, tmp_path, environment=Half(), prompts=3)[1].play_round(0, policy)
    assert len(plain.sequences) == 2 * 4
    few = make_source(tiny, tmp_path, environment=SmallLetters(), prompts=6, n=2)[1].play_round(0, policy)
    answers = {s.ids.tobytes() for s in few.sequences[::2]}
    assert len(answers) == 12, "a row that is drawn twice in a round is played twice"


def test_steps_on_answers_of_another_policy_are_left_out(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, updates=2, max_kl=1e-3)
    policy = Policy(model)
    assert source.step_batches(0, policy) != [None]
    assert source.step_batches(1, policy) != [None], "nothing has moved yet"
    assert source.step_figures()["rollouts/too far"] == (0.0, 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert source.step_batches(1, policy) == [None]
    assert source.step_figures()["rollouts/too far"] == (1.0, 1.0)


def test_long_answers_lose_what_dapo_takes_and_it_is_logged_apart(tiny, tmp_path):
    assert [-overlong_penalty(length, 6, 2) for length in range(3, 8)] == [0, 0, -0.5, -1, -1]
    model, source = make_source(tiny, tmp_path, overlong=0.5)
    plain = make_source(tiny, tmp_path)[1].play_round(0, Policy(model))
    played = source.play_round(0, Policy(model))
    assert [s.ids.tolist() for s in played.sequences] == [s.ids.tolist() for s in plain.sequences]
    lengths = [int(s.label_mask.sum()) for s in played.sequences]
    lost = sum(overlong_penalty(length, 6, 3) for length in lengths)
    assert lost > 0
    assert played.figures["reward/overlong"] == (pytest.approx(-lost), 12.0)
    assert played.figures["rollouts/return"][0] == pytest.approx(plain.figures["rollouts/return"][0] - lost)


def test_pairs_are_the_best_and_the_worst_answer_to_a_prompt(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, environment=OneTurn(), objective=SimPO(), updates=2, minibatches=2)
    policy = Policy(model)
    rewarded = make_source(tiny, tmp_path, environment=OneTurn(), credit="loo")[1].play_round(0, policy).sequences
    played = source.play_round(0, policy)
    assert [(s.row, s.role) for s in played.sequences] == [(i // 2, i % 2) for i in range(6)]
    for group, pair in zip(
        (rewarded[i : i + 4] for i in (0, 4, 8)), (played.sequences[i : i + 2] for i in (0, 2, 4)), strict=True
    ):
        worth = [s.token_values["advantages"][-1] for s in group]
        assert pair[0].ids.tolist() == group[int(np.argmax(worth))].ids.tolist()
        assert pair[1].ids.tolist() == group[int(np.argmin(worth))].ids.tolist()
    halves = [source.step_batches(step, policy) for step in (0, 1)]
    assert sum(batch.n_rows for half in halves for batch in half) == 3, "a pair stays together"
    assert all(batch.n_sequences == 2 * batch.n_rows for half in halves for batch in half)
    figures = source.step_figures()
    source.current = None
    again = source.step_batches(1, policy)
    assert source.step_figures() == figures, "a run that goes on logs what it would have logged"
    assert torch.equal(again[0].input_ids, halves[1][0].input_ids)
    assert torch.equal(again[0].roles, halves[1][0].roles)


def test_raft_teaches_the_best_of_each_prompt_and_learns(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, credit="best", objective=SFT())
    played = source.play_round(0, Policy(model))
    assert len(played.sequences) == 3 * 2, "one episode of two turns for each prompt"
    assert [s.row for s in played.sequences] == list(range(6))
    returns = []
    fit(tiny, tmp_path, 10, lambda log: returns.append(log.metrics["rollouts/return"]), objective=SFT(), credit="best")
    assert np.mean(returns[-3:]) > np.mean(returns[:3]) + 0.1


def test_the_untouched_model_is_asked_of_the_answers_of_this_round(tiny, tmp_path):
    model, source = make_source(tiny, tmp_path, objective=PolicyGradient(beta=0.1))
    base = tiny("llama", max_position_embeddings=256)[0]
    policy = Policy(model, base=contextlib.nullcontext)
    for number in (0, 1):
        for batch in source.step_batches(number, policy):
            with torch.no_grad():
                expected = Policy(base).token_logps(batch)
            torch.testing.assert_close(policy.reference_logps(batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_answers_that_share_their_prompt_are_trained_as_in_lines_of_their_own(tiny, tmp_path, kind):
    model, source = make_source(tiny, tmp_path)
    if kind != "llama":
        model = tiny(kind)[0]
    policy, objective = Policy(model), PolicyGradient(reduction="sequence")
    sequences = make_source(tiny, tmp_path, environment=OneTurn())[1].play_round(0, Policy(tiny("llama")[0])).sequences
    shared, apart = source._share_prompts(sequences, policy), source._cut_micro_batches(sequences)
    assert [len(batch.input_ids) for batch in shared] == [3], "a line for each prompt"
    assert sum(batch.tokens for batch in shared) < 0.8 * sum(batch.tokens for batch in apart)
    results = []
    for batches in (shared, apart):
        values = {}
        for batch in batches:
            objective.losses(policy, batch).sums["policy"].backward()
            parts = policy.token_logps(batch).detach().split(torch.bincount(batch.sequence).tolist())
            values |= dict(zip(batch.rows.tolist(), parts, strict=True))
        results.append((values, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    for row, logps in results[0][0].items():
        torch.testing.assert_close(logps, results[1][0][row], atol=1e-5, rtol=1e-5)
    for one, two in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_the_only_step_of_a_round_needs_no_number_of_the_policy_that_wrote_it(tiny, tmp_path):
    """Its ratio is 1, and the gradient is that of the logged policy."""
    gradients = []
    for plan in ({}, {"updates": 2}):
        model, source = make_source(tiny, tmp_path, environment=OneTurn(), **plan)
        policy = Policy(model)
        for batch in source.step_batches(0, policy):
            assert ("behaviour" in batch.token_values) == bool(plan)
            losses = PolicyGradient().losses(policy, batch)
            losses.sums["policy"].backward()
            assert losses.metrics["ratio/mean"][0] == pytest.approx(losses.metrics["ratio/mean"][1], rel=1e-5)
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-3)
