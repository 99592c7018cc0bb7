"""Reward models: the loss of Bradley and Terry, where the reward stands, and what the run leaves for others to load."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from holdfast.axes.judge import JudgeRequest
from holdfast.cli.app import app
from holdfast.data.batching.batches import collate_sequences
from holdfast.evaluation.results_store import ResultsStore
from holdfast.methods.judges.reward_model import RewardModelJudge, read_model
from holdfast.methods.objectives.preference.reward import Reward, bradley_terry_losses
from holdfast.models.policy import Policy
from holdfast.models.reward_model import load_reward_model
from holdfast.models.value_head import make_value_head
from holdfast.pipeline.pair_ranking import REWARDS, describe_ranking

RECIPE = """
model: lab-small
data: {train: pairs.jsonl, test: TEST}
objective: reward
tuner: TUNER
optimizer: {learning_rate: 2e-3}
train: {epochs: 6, batch_tokens: 400}
evaluate: {target: none, keep: ["lab:sums"], items: 4, live_items: 0}
output: OUTPUT
"""


def test_the_loss_is_bradley_and_terrys():
    rewards = torch.tensor([[1.0, 0.0], [-0.5, 0.25], [3.0, 3.0]], dtype=torch.float64)
    expected = [math.log1p(math.exp(-1)), math.log1p(math.exp(0.75)), math.log(2)]
    assert bradley_terry_losses(rewards).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(bradley_terry_losses(rewards), bradley_terry_losses(rewards + 7)), "only differences count"


def test_rewards_stand_on_the_last_token_in_any_layout_and_the_bias_has_no_part(tiny, make_rows):
    model, _ = tiny("llama")
    policy = Policy(model)
    policy.value_head = make_value_head(model.config.hidden_size, scale=1.0, seed=3)
    rows, objective, rewards = make_rows(3, pairs=True), Reward(center=0.1), {}
    for layout in ("padded", "packed"):
        batch = collate_sequences(rows, layout, 0)
        rewards[layout] = objective.predict_rewards(policy, batch)
    expected = []
    for row in rows:
        states = model.base_model(torch.from_numpy(row.ids.astype("int64"))[None]).last_hidden_state[0]
        expected.append((states[-1] @ policy.value_head.weight[0]).item())
    for values in rewards.values():
        assert values.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    sums = objective.losses(policy, batch).sums
    centre = 0.1 * sum((one + two) ** 2 for one, two in zip(expected[::2], expected[1::2], strict=True))
    assert sums["center"].item() == pytest.approx(centre, rel=1e-4)
    sum(sums.values()).backward()
    assert policy.value_head.bias.grad.abs().max() < 1e-6
    assert make_value_head(255, scale=1.0).weight.std().item() == pytest.approx(1 / 16, rel=0.2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    rows = [{"prompt": f"Say {word}.", "chosen": f"{word}", "rejected": f"no {word} here"} for word in words]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def train_reward_model(name: str, tuner: str, test: float = 0) -> Path:
    recipe = RECIPE.replace("OUTPUT", name).replace("TUNER", tuner).replace("TEST", str(test))
    Path("run.yaml").write_text(recipe, encoding="utf-8")
    result = CliRunner().invoke(app, ["train", "run.yaml"])
    assert result.exit_code == 0, result.output
    assert "the reward model is " in result.output
    assert ("no pairs are held out" in result.output) == (test == 0)
    return Path(name)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_run_leaves_a_reward_model_that_transformers_loads_and_a_judge_asks(place, tuner):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = train_reward_model("rm", tuner, test=0.25)
    (section,) = json.loads((run / "report.json").read_text(encoding="utf-8"))["analyses"]
    assert section["sentence"].startswith("Of 2 held-out pairs 100.0 % have the higher reward on the chosen answer")
    assert "Held-out pairs, ranked by the reward model" in (run / "report.html").read_text(encoding="utf-8")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log[-1]["rewards/accuracy"] > 0.9
    assert not [*run.rglob("*.bin"), *run.rglob("*.pt"), *run.rglob("*.pkl")]
    conversation = [{"role": "user", "content": "Say nine."}, {"role": "assistant", "content": "nine"}]
    other = [conversation[0], {"role": "assistant", "content": "no nine here, and none to come"}]
    ours = load_reward_model(str(run)).score_conversations([conversation, other])
    folder = load_reward_model(str(run / "reward_model")).score_conversations([conversation, other])
    assert ours == pytest.approx(folder, abs=2e-3)
    assert ours[0] > ours[1]
    classifier = AutoModelForSequenceClassification.from_pretrained(run / "reward_model", use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "reward_model")
    ids = [load_reward_model(str(run)).chat.encode(each)[0].tolist() for each in (conversation, other)]
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad():
        theirs = classifier(**batch).logits[:, 0].tolist()
    assert theirs == pytest.approx(folder, abs=1e-4), "what ends an answer is no padding"
    read_model.cache_clear()
    judge = RewardModelJudge(model=str(run), threshold=ours[1])
    one, two = judge.judge_all([JudgeRequest(c[:1], c[1]["content"], None) for c in (conversation, other)])
    assert one.passed
    assert one.score == pytest.approx(1 / (1 + math.exp(ours[1] - ours[0])), abs=1e-3)
    assert two.score == pytest.approx(0.5, abs=1e-3)


def test_it_rewards_online_learning_and_judges_in_curation(place):
    train_reward_model("rm", "full")
    Path("rows.jsonl").write_text('{"prompt": "Say ten."}\n{"prompt": "Say nine."}\n', encoding="utf-8")
    Path("online.yaml").write_text(
        "model: lab-small\nmethod: rloo\ndata: {train: rows.jsonl, test: 0}\n"
        "environment: {name: weighted, terms: [{judge: {name: reward_model, model: rm}}]}\n"
        "online: {rounds: 2, prompts: 2, n: 3}\nsampling: {max_tokens: 6}\n"
        "evaluate: {target: none, keep: ['lab:sums'], items: 4, live_items: 0}\noutput: online\n", encoding="utf-8",
    )  # fmt: skip
    result = CliRunner().invoke(app, ["train", "online.yaml"])
    assert result.exit_code == 0, result.output
    log = [json.loads(line) for line in Path("online/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(0 < line["reward/reward_model"] < 1 for line in log)
    Path("gold.jsonl").write_text('{"prompt": "Say ten.", "answer": "ten"}\n' * 2, encoding="utf-8")
    for name, threshold in (("all", -1e6), ("none", 1e6)):
        Path("rft.yaml").write_text(
            "model: lab-small\nmethod: rft\ndata: {train: gold.jsonl, test: 0}\n"
            f"judge: {{name: reward_model, model: rm, threshold: {threshold:.0f}}}\nsampling: {{max_tokens: 6}}\n"
            f"evaluate: {{target: none, keep: ['lab:sums'], items: 4, live_items: 0}}\noutput: {name}\n",
            encoding="utf-8",
        )
        result = CliRunner().invoke(app, ["curate", "rft.yaml", "--out", f"{name}.jsonl"])
        assert result.exit_code == 0, result.output
        assert ("accepted 200" in result.output) == (name == "all")


def test_the_ranking_of_held_out_pairs_is_what_such_a_run_gains(place: Path) -> None:
    recipe = RECIPE.replace("OUTPUT", "rm").replace("TUNER", "full").replace("TEST", "0.25")
    Path("run.yaml").write_text(
        recipe.replace("target: none, ", "").replace("live_items: 0", "live_items: 2, every: 0.5"), encoding="utf-8"
    )
    result = CliRunner().invoke(app, ["train", "run.yaml"])
    assert result.exit_code == 0, result.output
    assert "the target is how many held-out pairs the reward model ranks as labelled" in result.output
    report = json.loads(Path("rm/report.json").read_text(encoding="utf-8"))
    target = next(task for task in report["tasks"] if task["role"] == "target")
    assert (target["name"], target["kind"], target["tuned"], target["n"]) == ("held-out pairs", "choice", 100.0, 2)
    _, items = ResultsStore(Path("rm/eval/final")).read_measurements()["held-out pairs"]
    logged = [json.loads(line) for line in Path("rm/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["target"] for line in logged if "target" in line] == [100.0], "by rewards while it trains too"
    model = load_reward_model("rm")
    for item in items:
        word, asked = item.reference, [{"role": "user", "content": item.prompt}]
        answers = [[*asked, {"role": "assistant", "content": text}] for text in (word, f"no {word} here")]
        one, other = model.score_conversations(answers)
        assert item.extra["options"][0] - item.extra["options"][1] == pytest.approx(one - other, abs=1e-3)
    measured = CliRunner().invoke(app, ["eval", "rm", "--items", "4"])
    assert measured.exit_code == 0, measured.output
    assert re.search(r"held-out pairs +100\.0", measured.output)


def test_held_out_pairs_are_counted_with_an_interval() -> None:
    section = describe_ranking(np.array([2.0] * 8 + [0.0, np.nan, -1.0]), REWARDS)
    assert section.sentence == (
        "Of 11 held-out pairs 72.7 % have the higher reward on the chosen answer "
        "(95 % interval 43.4 to 90.3; by chance 50); 2 prefer neither, which counts as not ranked."
    )
    (bars,) = section.figures[0].series
    assert sum(count for _, count in bars.points) == 10


def test_what_is_no_reward_model_is_refused(place):
    Path("online.yaml").write_text(
        "model: lab-small\nmethod: rloo\ndata: {train: pairs.jsonl, test: 0}\n"
        "environment: {name: judged, judge: {name: reward_model, model: lab-small}}\n"
        "evaluate: {target: none}\noutput: online\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, ["check", "online.yaml"])
    assert result.exit_code == 2
    assert "judge reward_model: lab-small is no reward model" in " ".join(result.output.split())
