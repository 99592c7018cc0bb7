"""ProMoT: the prompt alone, then the model alone; with the prompt on the target and without it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from holdfast import check
from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.optimizers.adamw import AdamW
from holdfast.methods.tuners.full import Full
from holdfast.methods.tuners.promot import ProMoT
from holdfast.models.loading import build_skeleton, load_model
from holdfast.testing.examples import example_recipe, example_table, tiny_model
from holdfast.training.trainer import Trainer

IDS = torch.arange(3, 19)[None]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.output.split())


class Watch(Trainer):
    """Keeps the weights, the rate and the names in the optimizer's state after every step."""

    def _run_step(self, step, steps):
        stop = super()._run_step(step, steps)
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        names = {key.rpartition(".")[0] for key in self.state.rule.state_tensors()}
        self.history = [*getattr(self, "history", []), (weights, self.state.rule.lr, names)]
        return stop


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_first_the_prompt_moves_and_the_model_not_a_bit_then_the_other_way_round(tmp_path, kind):
    tuner = ProMoT(tokens=3, prompt_share=0.5, prompt_rate=0.1)
    base = tiny_model(kind).eval()
    start = tuner.apply(tiny_model(kind), example_recipe(1).train.seed)
    first = {name: p.detach().clone() for name, p in start.named_parameters()}
    assert torch.equal(logits(tuner.model_elsewhere(start).eval()), logits(base)), "without its prompt it is the base"
    trainer = Watch(example_recipe(8, tuner=tuner), tiny_model(kind), example_table(SFT()), tmp_path, pad_id=0)
    model = trainer.fit().model
    before = first
    for step, (weights, rate, state) in enumerate(trainer.history):
        moved = {name for name in weights if not torch.equal(weights[name], before[name])}
        prompt = {"prompt_encoder.default.embedding.weight"}
        assert moved == (prompt if step < 4 else weights.keys() - prompt), step
        assert state == moved, "the optimizer has state of what moves, and of nothing else"
        assert rate == pytest.approx(AdamW(learning_rate=0.1 if step < 4 else 0.01).learning_rate_at(step % 4, 4))
        before = weights
    with_prompt, without = logits(model), logits(tuner.model_elsewhere(model))
    assert not torch.allclose(with_prompt[:, -IDS.shape[1] :], without, atol=1e-2)
    assert not torch.allclose(without, logits(base), atol=1e-2)


def test_a_prompt_of_no_tokens_is_full_fine_tuning(tmp_path):
    none, full = (
        Trainer(example_recipe(4, tuner=t), tiny_model(), example_table(SFT()), tmp_path / str(i), pad_id=0).fit().model
        for i, t in enumerate((ProMoT(tokens=0), Full()))
    )
    assert type(none) is type(full)
    assert all(torch.equal(p, q) for p, q in zip(none.parameters(), full.parameters(), strict=True))


def test_a_prompt_that_fills_the_context_is_refused():
    with pytest.raises(UserError, match=r"tuner\.tokens: 100 leave no room for rows in a context of 64; set fewer"):
        ProMoT().check(build_skeleton(tiny_model(max_position_embeddings=64).config))


@pytest.fixture
def place(tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    Path("start").symlink_to(tiny_dir("llama"))
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(16)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("text.txt").write_text("The capital of France is Paris. " * 20, encoding="utf-8")
    Path("same.txt").write_text("The capital of France is Paris. " * 20, encoding="utf-8")
    recipe = {
        "model": "start", "data": {"train": "rows.jsonl", "test": 0}, "output": "out",
        "tuner": {"name": "promot", "tokens": 3, "prompt_share": 0.5, "prompt_rate": 0.5},
        "optimizer": {"learning_rate": 0.02}, "sampling": {"max_tokens": 6},
        "train": {"max_steps": 6, "epochs": 6, "batch_tokens": 128, "max_length": 64},
        "evaluate": {"target": "text:text.txt", "keep": ["text:same.txt"], "live_items": 2, "every": 0.5},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def test_the_target_is_measured_with_the_prompt_and_what_is_kept_without(place: Path) -> None:
    run("check", "run.yaml")
    run("train", "run.yaml")
    report = json.loads(Path("out/report.json").read_text())
    target, kept = report["tasks"]
    assert (target["role"], kept["role"]) == ("target", "keep")
    assert target["base"] == kept["base"], "the same text"
    assert target["tuned"] != kept["tuned"], "asked with the prompt and without"
    loaded = load_model("out")
    weights = AutoModelForCausalLM.from_pretrained("out/model/base").eval()
    both: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("out/model/base"), "out/model").eval()
    assert torch.equal(logits(loaded.model), logits(both))
    assert torch.equal(logits(loaded.tuner.model_elsewhere(loaded.model)), logits(weights))
    run("eval", "out", "--against", "start", "--out", "again")
    tasks = json.loads(Path("again/report.json").read_text())["tasks"]
    assert [t["tuned"] for t in tasks] == [target["tuned"], kept["tuned"]], "and so does eval of the run"
    run("eval", "out", "text:same.txt", "--out", "asked")
    (task,) = json.loads(Path("asked/report.json").read_text())["tasks"]
    assert task["tuned"] == pytest.approx(target["tuned"], abs=1e-6), "a task somebody names is asked as chat asks"
    run("export", "out", "copy")
    assert torch.equal(logits(load_model("copy").model), logits(loaded.model))
    said = "what tuner promot trains cannot be folded into the weights"
    assert said in run("export", "out", "no", "--merge", code=2)
    assert said in run("train", "run.yaml", "inference=dial", "output=dial", code=2)
    assert "start from the weights alone: " in run("train", "run.yaml", "model=out", "output=more", code=2)
    run("train", "run.yaml", "model=out/model/base", "tuner=full", "output=more")


def test_it_composes_with_preferences_and_what_the_model_answers_itself(place: Path) -> None:
    pairs = [{"prompt": f"Add {i} and 2.", "chosen": f"It is {i + 2}.", "rejected": "No."} for i in range(12)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    run("train", "run.yaml", "method=dpo", "data.train=pairs.jsonl", "output=dpo", "evaluate.every=0")
    run("train", "run.yaml", "method=s3ft", "judge=exact", "output=s3ft", "evaluate.every=0")
    for name in ("dpo", "s3ft"):
        assert load_model(name).tuner == ProMoT(tokens=3, prompt_share=0.5, prompt_rate=0.5)


def test_an_optimizer_that_cannot_move_the_first_stage_is_refused_by_check() -> None:
    """Muon moves matrices: it can train the weights of the second stage, and not the prompt of the first."""
    recipe = {
        "model": "lab-small", "data": {"train": "lab:sums", "limit": 8}, "tuner": {"name": "promot", "tokens": 4},
        "train": {"max_steps": 4}, "evaluate": {"target": "none", "keep": ["none"]},
    }  # fmt: skip
    with pytest.raises(UserError, match="muon moves matrices, and none of the 1 trained parameters is one"):
        check({**recipe, "optimizer": "muon"})
    assert check(recipe)["plan"]["trainable"] > 10**5
