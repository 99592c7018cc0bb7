"""Online learning as a user types it: what is chosen by a name, checked, trained and reported, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.axes.registry import name_of
from holdfast.cli.app import app
from holdfast.recipe.loader import resolve_any
from holdfast.recipe.schema import Recipe

GAME = '''
from holdfast.axes.environment import Environment, Turn
from holdfast.errors import UserError

class Letters(Environment):
    """Rewards small letters. [here 2026]"""

    turns: int = 2
    fails_at: str = ""
    refuses: str = ""

    def start(self, row, seed):
        text = row.prompt[-1]["content"]
        if self.fails_at and self.fails_at in text:
            raise KeyError(self.fails_at)
        if self.refuses and self.refuses in text:
            raise UserError(f"it says {self.refuses}")
        return {"turn": 0}, row.prompt

    def step(self, state, action):
        share = sum("a" <= char <= "z" for char in action) / max(1, len(action))
        done = state["turn"] == 1
        more = [] if done else [{"role": "user", "content": "more"}]
        return Turn({"turn": state["turn"] + 1}, more, share, done=done)
'''
RECIPE = """
model: lab-small
method: {method}
data: {{train: rows.jsonl, test: 0}}
environment: {{name: "game:Letters", {knobs}}}
online: {{rounds: 3, prompts: 2, n: 2, {online}}}
sampling: {{max_tokens: 6}}
evaluate: {{target: none, keep: ["lab:sums"], items: 4, live_items: 0}}
output: run
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`run("train", method="ppo")` -> exit code and all that was written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("game.py").write_text(GAME, encoding="utf-8")
    rows = [{"prompt": f"Say {word}."} for word in ("one", "two", "three", "four")]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def invoke(verb: str, *more: str, method: str = "online_grpo", knobs: str = "turns: 2", online: str = ""):
        Path("run.yaml").write_text(RECIPE.format(method=method, knobs=knobs, online=online), encoding="utf-8")
        result = CliRunner().invoke(app, [verb, "run.yaml", *more])
        return result.exit_code, result.output

    return invoke


@pytest.mark.parametrize(
    ("method", "objective", "credit", "value_weight"),
    [
        ("online_grpo", "policy_gradient", "online_grpo", 0.0), ("rloo", "policy_gradient", "rloo", 0.0),
        ("ppo", "policy_gradient", "ppo", 0.1), ("max_rl", "policy_gradient", "max_rl", 0.0),
        ("reinforce_pp+lora", "policy_gradient", "reinforce_pp", 0.0), ("cispo", "cispo", "group", 0.0),
        ("policy_gradient", "policy_gradient", "group", 0.0), ("rloo+cispo", "cispo", "rloo", 0.0),
    ],
)  # fmt: skip
def test_a_name_chooses_objective_and_credit(method, objective, credit, value_weight):
    recipe = resolve_any({"model": "lab", "method": method, "data": {"train": "lab:points"}}).recipe
    assert (name_of(recipe.objective), name_of(recipe.credit)) == (objective, credit)
    assert recipe.objective.value_weight == value_weight
    assert (recipe.sampling.temperature, recipe.train.max_steps) == (1.0, 120)
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_online_dpo_and_raft_are_the_same_loop_with_another_objective():
    made = {
        name: resolve_any(
            {"model": "lab", "method": name, "data": {"train": "lab:sums"}, "judge": "number", "tuner": "lora"}
        ).recipe
        for name in ("online_dpo", "raft", "online_dpo+ipo")
    }
    dpo, raft, ipo = made.values()
    assert (name_of(dpo.credit), name_of(dpo.objective), dpo.online.n) == ("online_dpo", "dpo", 2)
    assert (name_of(ipo.credit), name_of(ipo.objective)) == ("online_dpo", "ipo")
    assert (name_of(raft.credit), name_of(raft.objective)) == ("raft", "sft")
    assert (raft.online.n, raft.sampling.temperature, raft.credit.share) == (5, 0.85, 0.2)
    for recipe in made.values():
        assert recipe.row_shape().name == "prompt"
        assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize(
    ("method", "figures"), [("online_dpo+lora", {"rewards/accuracy", "rewards/margin"}), ("raft", set())]
)
def test_another_objective_learns_from_the_models_own_answers(run, method, figures):
    code, text = run("train", method=method, knobs="turns: 1", online="drop_equal: true")
    assert code == 0, text
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(log) == 3
    assert figures | {"rollouts/return"} <= set(log[0])
    assert any(line["loss"] > 0 for line in log)


def test_names_of_papers_set_what_stands_elsewhere_in_the_recipe():
    made = {
        name: resolve_any(
            {"model": "lab", "method": name, "data": {"train": "lab:points"}, "sampling": {"max_tokens": 24}}
        ).recipe
        for name in ("online_dapo", "online_dr_grpo", "online_gspo")
    }
    dapo, dr_grpo, gspo = made.values()
    assert (dapo.online.refill, dapo.online.overlong) == (3, 0.2)
    assert (dapo.objective.clip_high, dapo.objective.reduction) == (0.28, "token")
    assert (dr_grpo.credit.scale, dr_grpo.objective.reduction, dr_grpo.objective.longest) == ("none", "constant", 24)
    assert (gspo.objective.level, gspo.objective.clip, gspo.online.refill) == ("sequence", 3e-4, 0)
    for recipe in made.values():
        assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_an_objective_with_a_value_head_brings_its_credit():
    objective = {"name": "policy_gradient", "value_weight": 0.5}
    recipe = resolve_any({"model": "lab", "objective": objective, "data": {"train": "lab:points"}}).recipe
    assert (name_of(recipe.credit), recipe.objective.value_weight) == ("gae", 0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"online": {"rounds": 3}}, "online is of online learning, which needs a credit"),
        ({"environment": "points"}, "environment is of online learning, which needs a credit"),
        ({"credit": "group", "objective": "grpo"}, "credit group gives advantages, which objective grpo does not read"),
        ({"method": "online_dpo", "tuner": "lora", "environment": "route"}, "compares single answers"),
        ({"method": "online_dpo", "tuner": "full"}, "the divergence from the untouched model needs it beside"),
        ({"method": "raft", "objective": "ual"}, "credit raft gives"),
        ({"method": "ppo", "objective": {"value_weight": 0}}, "credit ppo needs a value head; set objective.value"),
        ({"method": "rloo", "objective": {"value_weight": 1}}, "credit rloo uses no value head"),
        ({"method": "rloo", "sampling": {"temperature": 0.5}}, "online learning learns from samples of the model as"),
        ({"method": "rloo", "sampling": {"engine": "vllm"}}, "sampling.engine vllm cannot follow weights that move"),
        ({"method": "rloo+s3ft"}, "the model writes its own answers; remove curate"),
        ({"method": "rloo", "online": {"divergence": 0.1}}, "the divergence from the untouched model needs it beside"),
        ({"method": "rloo", "online": {"max_kl": 0.1}}, "but there is one step a round; set online.updates above 1"),
        ({"method": "rloo", "online": {"max_staleness": 2, "updates": 2, "minibatches": 2}}, "answers 3 updates old;"),
        ({"method": "rloo", "online": {"max_mismatch": 0}}, "online.max_mismatch"),
        ({"method": "rloo", "online": {"correction_bound": 3}}, "correction_bound has no effect without a correction"),
        ({"method": "raft", "online": {"correction": "mask"}}, "weighs advantages, which objective sft does not read"),
        ({"method": "rloo", "online": {"n": 1}}, "credit rloo compares the answers to a prompt"),
        ({"method": "online_dpo", "online": {"n": 1}}, "credit online_dpo compares the answers"),
        ({"method": "reinforce_pp", "credit": {"baseline": True}, "online": {"n": 1}}, "there is one"),
        ({"method": "rloo", "train": {"epochs": 2}}, "train.epochs says nothing of online learning"),
        ({"method": "rloo", "train": {"batch_tokens": 99}}, "train.batch_tokens says nothing of online learning"),
    ],
)
def test_what_does_not_fit_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        resolve_any({"model": "lab", "data": {"train": "lab:points"}, **settings})


def test_check_shows_the_first_episode_with_its_rewards(run):
    code, text = run("check")
    assert code == 0, text
    assert "turn 1, reward " in text
    assert "turn 2, reward " in text
    assert "3 rounds of 2 prompts with 2 episodes each, 1 step a round" in " ".join(text.split())
    assert "sampled answers" in text
    assert not Path("run").exists()


def test_a_run_plays_its_rounds_and_reports_them(run):
    code, text = run("train", method="ppo", online="updates: 2, max_staleness: 1")
    assert code == 0, text
    assert "4 of 4 rows, as prompts of " in text
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(log) == 6
    assert log[0]["ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert {"rollouts/return", "rollouts/used", "kl/behaviour"} <= set(log[-1])
    assert [line["rollouts/updates old"] for line in log] == [0, 1] * 3
    assert all(line["sampler/kl"] < 1e-8 and abs(line["sampler/ratio"] - 1) < 1e-4 for line in log)
    assert all(line["rollouts/turns"] == 2 for line in log)
    training = json.loads(Path("run/report.json").read_text(encoding="utf-8"))["training"]
    assert training["batch"] == "3 rounds of 2 prompts with 2 episodes each, 2 steps a round"
    assert Path("run/value_head.safetensors").exists()
    assert "run: already finished" in run("train", method="ppo", online="updates: 2, max_staleness: 1")[1]


def test_a_reward_of_several_terms_is_their_weighted_sum_logged_one_by_one(run):
    terms = "[{judge: {name: exact, ignore_case: true}, weight: 2}, {words: 1, spare: 2, weight: -0.5}]"
    more = f"environment={{name: weighted, terms: {terms}}}"
    code, text = run("train", more)
    assert code == 2
    assert (
        "no row can be played: rows.jsonl:1: 'Say one.': no reference" in text
    )  # the judge has nothing to compare with
    rows = [{"prompt": f"Say {word}.", "answer": word} for word in ("one", "two", "three", "four")]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, text = run("check", more)
    assert code == 0, text
    assert "turn 1, reward -0.5 (exact 0, words 1)" in " ".join(text.split())
    code, text = run("train", more, online="drop_equal: false")
    assert code == 0, text
    for line in map(json.loads, Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()):
        expected = 2 * line["reward/exact"] - 0.5 * line["reward/words"]
        assert line["rollouts/return"] == pytest.approx(expected, abs=1e-6)


def test_an_environments_own_reward_is_one_of_the_terms(run):
    inner = '{name: "game:Letters", turns: 2}'
    terms = "[{pattern: '^<answer>', name: form, weight: 0.25}]"
    more = f"environment={{name: weighted, environment: {inner}, environment_weight: 3, terms: {terms}}}"
    code, text = run("train", more)
    assert code == 0, text
    for line in map(json.loads, Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()):
        expected = 3 * line["reward/game:Letters"] + 0.25 * line["reward/form"]
        assert line["rollouts/return"] == pytest.approx(expected, abs=1e-5)
        assert line["rollouts/turns"] == 2


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"terms": [{"judge": "number", "weight": 0}]}, "0 would leave the term without effect; remove the term"),
        ({"terms": [{"judge": "number", "weight": float("nan")}]}, "finite"),
        ({"terms": [{"weight": 1}]}, "a term is one of judge, words, pattern; this has none"),
        ({"terms": [{"words": 3, "pattern": "a"}]}, "this has words and pattern"),
        ({"terms": [{"pattern": "("}]}, "is no regular expression"),
        ({"terms": [{"pattern": "a", "spare": 3}]}, "spare goes with words alone"),
        ({"terms": [{"judge": "number"}, {"judge": "number"}]}, "two terms are called number in the log"),
        ({"terms": []}, "give at least one"),
        ({"terms": [{"judge": "llm"}]}, "choose a judge that decides"),
        ({"terms": [{"words": 3}], "turns": 2}, "turns goes with an environment"),
        ({"terms": [{"words": 3}], "environment_weight": 2}, "environment_weight goes with an environment"),
        ({"terms": [{"words": 3}], "weights": [1]}, "weights"),
    ],
)
def test_a_weight_that_would_have_no_effect_is_refused(knobs, said):
    with pytest.raises(Exception, match=said):
        resolve_any(
            {"model": "lab", "method": "rloo", "data": {"train": "lab:sums"},
             "environment": {"name": "weighted", **knobs}}
        )  # fmt: skip


def test_terms_score_lengths_and_forms_and_give_up_on_a_search_without_end():
    from holdfast.axes.judge import JudgeRequest
    from holdfast.methods.environments.reward_terms import RewardTerm

    def score(text, **kind):
        return RewardTerm(**kind).score_answers([JudgeRequest([], text, None)])[0].score

    assert [score("a " * n, words=4, spare=2) for n in range(3, 8)] == [1, 1, 0.5, 0, 0]
    assert [score(text, pattern=r"^<think>.*</think>\s*<answer>.*</answer>$") for text in (
        "<think>\nso\n</think>\n<answer>5</answer>", "<answer>5</answer>")] == [1, 0]  # fmt: skip
    with pytest.raises(RuntimeError, match="term pattern: no end to the search"):
        score("a" * 60 + "!", pattern=r"^(a|aa|a?)+$")


def test_a_row_that_the_environment_refuses_is_left_out_and_one_that_breaks_it_stops_everything(run):
    code, text = run("train", knobs="refuses: two")
    assert code == 0, text
    assert "left out 1: environment game:Letters does not take them (rows.jsonl:2 'Say two.')" in text
    code, text = run("train", knobs="refuses: Say")
    assert code == 2
    assert "no row can be played: rows.jsonl:1: it says Say" in text
    code, text = run("train", knobs="fails_at: two")
    assert code == 2
    assert "rows.jsonl:2 ('Say two.'): environment game:Letters does not begin: KeyError: 'two'; mend it, or" in text
    code, text = run("check", "environment=points")
    assert code == 2
    assert "its reference holds no target and cards" in text
