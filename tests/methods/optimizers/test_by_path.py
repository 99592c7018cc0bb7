"""Optimizers of PyTorch and of libraries by their path; and every optimizer with objectives, tuners and a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import material
import pytest
import torch
from typer.testing import CliRunner

from holdfast.axes.registry import find_method, identity_of, name_of
from holdfast.cli.app import app
from holdfast.errors import UserError, UserInterrupt
from holdfast.recipe.schema import Recipe
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 8}
train: {max_steps: 1, batch_tokens: 256}
sampling: {max_tokens: 8}
evaluate: {keep: [], items: 4, live_items: 0, every: 0, max_tokens: 8}
output: out
"""


def build_recipe(optimizer) -> Recipe:
    return Recipe(model="lab-small", data={"train": "lab:sums"}, optimizer=optimizer)


def test_a_path_makes_a_method_with_the_arguments_of_the_class() -> None:
    recipe = build_recipe({"name": "torch.optim.RAdam", "betas": [0.8, 0.9], "weight_decay": 0.1, "clip": "running"})
    optimizer = recipe.optimizer
    assert name_of(optimizer) == "torch.optim.RAdam"
    assert optimizer.learning_rate == 1e-3, "the class's own"
    params = {"weight": torch.nn.Parameter(torch.ones(3, 2)), "bias": torch.nn.Parameter(torch.ones(3))}
    (built,) = optimizer.build(params.items()).optimizers
    assert type(built) is torch.optim.RAdam
    settings = [(group["betas"], group["weight_decay"]) for group in built.param_groups]
    assert settings == [
        ((0.8, 0.9), 0.1),
        ((0.8, 0.9), 0),
    ]
    again = Recipe.model_validate(recipe.model_dump(mode="json"))
    assert again.optimizer == optimizer
    assert identity_of(again.optimizer) == identity_of(optimizer)
    assert find_method("optimizers", "torch.optim:RAdam").library_class is torch.optim.RAdam
    theirs = build_recipe({"name": "transformers.Adafactor", "relative_step": False}).optimizer.build(params.items())
    assert theirs.optimizers[0].defaults["decay_rate"] == -0.8


def test_what_cannot_be_is_said_in_one_line() -> None:
    cases = {
        "torch.optim.RAdan": "torch.optim has no RAdan; did you mean RAdam?",
        "torch.optim.LBFGS": "torch.optim.LBFGS: its step wants a closure",
        "torch.nn.Linear": "torch.nn.Linear is not a Method class",
        "no_such_library.Lion": "there is no module no_such_library",
        "rmsprop": "as in optimizer: torch.optim.RAdam",
    }
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words):
            build_recipe(name)
    for settings, words in (
        ({"name": "torch.optim.RAdam", "beta": 1}, "beta"),
        (
            {"name": "torch.optim.RAdam", "betas": [2, 3]},
            "torch.optim.RAdam does not take these settings: Invalid beta",
        ),
        ({"name": "torch.optim.RAdam", "eps": "small"}, "torch.optim.RAdam does not take these settings"),
        ({"name": "torch.optim.Muon"}, "does not take these settings: Muon only supports 2D parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            build_recipe(settings)
    with pytest.raises(UserError, match=r"SparseAdam cannot take a step here: .*does not support dense gradients"):
        build_recipe("torch.optim.SparseAdam").optimizer.check_ready()


def test_one_of_the_users_own_is_hashed_and_one_of_a_library_is_not(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_rule_of_signs.py").write_text(
        "import torch\n\n\nclass Signs(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr=0.1, power=1.0):\n"
        "        super().__init__(params, {'lr': lr, 'power': power})\n\n"
        "    @torch.no_grad()\n    def step(self, closure=None):\n"
        "        for group in self.param_groups:\n            for p in group['params']:\n"
        "                if p.grad is not None:\n                    p.sub_(p.grad.sign() * group['lr'])\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    optimizer = build_recipe({"name": "my_rule_of_signs.Signs", "power": 2}).optimizer
    assert len(identity_of(optimizer)[2]) == 64
    assert identity_of(build_recipe("torch.optim.RAdam").optimizer)[2] is None
    optimizer.check_ready()
    p = torch.nn.Parameter(torch.ones(2))
    rule = optimizer.build([("p", p)])
    rule.lr, p.grad = 0.5, torch.tensor([3.0, -1.0])
    rule.step()
    assert p.tolist() == [0.5, 1.5]


@pytest.mark.parametrize("name", ["adafactor", "sgd", "muon", "lomo", "adalomo", "torch.optim.RAdam"])
def test_every_optimizer_trains_objectives_and_tuners_and_survives_a_kill(tmp_path, name) -> None:
    for index, (objective, tuner) in enumerate((("dpo", "full"), ("dpo", "lora"), ("sft", "half"))):
        rate = 1e-3 if "lomo" not in name else 1e-2
        optimizer = find_method("optimizers", name).model_validate({"learning_rate": rate})
        loop = {"max_steps": 3, "save_every": 0.3}
        recipe = material.recipe(loop, optimizer=optimizer, objective=objective, tuner=tuner)

        def fit(out, on_step=lambda log: None, recipe=recipe, per_row=2 if objective == "dpo" else 1):
            table, hooks = material.table(12, per_row), Hooks(on_step=on_step)
            return Trainer(recipe, material.model(), table, tmp_path / out, pad_id=0, hooks=hooks).fit().model

        calm = fit(f"calm-{index}")
        with pytest.raises(UserInterrupt):
            fit(f"stormy-{index}", lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == 1 else None)
        again = fit(f"stormy-{index}")
        pairs = list(zip(calm.parameters(), again.parameters(), strict=True))
        assert all(torch.equal(p, q) for p, q in pairs), (objective, tuner)


def test_adalomo_trains_on_answers_of_the_models_own_and_refuses_to_accumulate(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RECIPE, encoding="utf-8")
    for name in ("lomo", "adalomo"):
        done = CliRunner().invoke(app, ["check", "run.yaml", f"optimizer={name}", "train.micro_tokens=64"])
        assert done.exit_code == 2, done.output
        assert f"optimizer {name} updates inside the backward pass and cannot accumulate" in done.stderr
    for settings, words in (
        (["optimizer=torch.optim.SparseAdam"], "torch.optim.SparseAdam cannot take a step here"),
        (["optimizer={name: torch.optim.RAdam, beta: 0.9}"], "optimizer.beta is not a setting"),
    ):
        done = CliRunner().invoke(app, ["check", "run.yaml", *settings])
        assert done.exit_code == 2, done.output
        assert words in done.stderr
    done = CliRunner().invoke(app, ["train", "run.yaml", "method=s3ft", "optimizer=adalomo"])
    assert done.exit_code == 0, done.output
    assert Path("out/report.json").exists()
