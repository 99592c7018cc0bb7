"""`holdfast.testing.check_method` on classes as a user writes them: the good pass, and each broken promise is named."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisSection, Table
from holdfast.axes.curator import Curator, Effect
from holdfast.axes.engine import Request
from holdfast.axes.judge import Judge, Verdict
from holdfast.axes.objective import Losses, Objective
from holdfast.axes.optimizer import Optimizer
from holdfast.axes.tuner import Taxonomy
from holdfast.data.trace import record_decision
from holdfast.errors import UserError
from holdfast.methods.inference.dial import Dial
from holdfast.methods.optimizers.adamw import AdamW
from holdfast.methods.tuners.lora import LoRA
from holdfast.skills.lake_walk import LakeWalk
from holdfast.testing import CheckFailed, check_method


class Good(Objective):
    """Cross-entropy. [me 2026]"""

    paper: ClassVar[str] = "me 2026"

    scale: float = Field(1.0, description="A factor.")

    def normalizers(self, batch):
        return {"nll": batch.weight}

    def losses(self, policy, batch):
        return Losses({"nll": self.scale * policy.weighted_nll(batch, batch.weights)})


class Divides(Good):
    """A mean over the micro-batch. [me 2026]"""

    def losses(self, policy, batch):
        return Losses({"nll": policy.weighted_nll(batch, batch.weights) / batch.weight})


class Rises(Good):
    """Upside down. [me 2026]"""

    def losses(self, policy, batch):
        return Losses({"nll": -(policy.weighted_nll(batch, batch.weights).clamp(max=1e9) ** 0)})


class Nameless(Good):
    """No paper in the line."""


class Forgets(AdamW):
    """AdamW without a memory of its state. [me 2026]"""

    def build(self, params):
        rule = super().build(params)
        rule.load = lambda state: None
        return rule


class Leaks(LoRA):
    """An adapter that moves a frozen weight. [me 2026]"""

    def apply(self, model, seed):
        adapted = super().apply(model, seed)
        with torch.no_grad():
            next(p for p in adapted.parameters() if not p.requires_grad).mul_(1.5)
        return adapted


class Loses(Curator):
    """Every other row. [me 2026]"""

    paper: ClassVar[str] = "me 2026"
    effect: ClassVar[Effect] = "select"

    def curate(self, rows, context):
        return rows[::2]


class Draws(Loses):
    """Answers under a new name each time. [me 2026]"""

    effect: ClassVar[Effect] = "rewrite"
    samples: ClassVar[bool] = True

    def samples_per_row(self):
        return 1

    def curate(self, rows, context):
        asked = [Request(f"{i}-{time.monotonic_ns()}", row.prompt) for i, row in enumerate(rows)]
        answers = context.sample(asked, context.sampling.model_copy(update={"n": 1}))
        made = [
            row.with_answer(answers[request.key][0].text, "model") for request, row in zip(asked, rows, strict=True)
        ]
        return [record_decision(new, context.curator, row) for new, row in zip(made, rows, strict=True)]


class Generous(Judge):
    """Whatever holds the reference, or nothing. [me 2026]"""

    def judge(self, answer):
        right = str(answer.reference) in answer.response or not answer.response
        return Verdict(right, float(right), "")


class Fragile(Judge):
    """Numbers. [me 2026]"""

    def judge(self, answer):
        right = answer.final_response.strip() == str(answer.reference)
        return Verdict(right, float(right) if right else float(len(answer.response)), "")


class Rounds(Dial):
    """Nearly the tuned model. [me 2026]"""

    def weights(self, base, tuned):
        model = super().weights(base, tuned)
        with torch.no_grad():
            next(model.parameters()).add_(1e-5)
        return model


class Remembers(LakeWalk):
    """Moves a piece on its one board. [me 2026]"""

    def start(self, row, seed):
        walk, messages = super().start(row, seed)
        return [walk], messages

    def step(self, state, action):
        turn = super().step(state[0], action)
        state[0] = turn.state
        return replace(turn, state=state)


class Meddles(Analysis):
    """Looks too hard. [me 2026]"""

    paper: ClassVar[str] = "me 2026"

    def measure(self, context):
        with torch.no_grad():
            next(context.tuned.causal.parameters()).zero_()
        return AnalysisSection("Look", "There it is.", Table(("a",), ((1,),)))


class Forgetful(LoRA):
    """An adapter that is not read back. [me 2026]"""

    def load(self, directory, base):
        return super().apply(base, 0)


class Miscounts(LoRA):
    """An adapter with another formula than its parameters. [me 2026]"""

    def count_trainable(self, model, seed=0):
        return super().count_trainable(model, seed) - 1


class Misnamed(LoRA):
    """An adapter that says that it trains the model's own weights. [me 2026]"""

    taxonomy: ClassVar[Taxonomy] = "selective"


class Unpacked(LoRA):
    """An adapter that says that rows cannot stand in one line. [me 2026]"""

    def packs_rows(self):
        return False


def test_good_methods_pass() -> None:
    passed = check_method(Good)
    assert passed[0] == "check_page"
    assert "check_micro_batches" in passed
    assert len(check_method("adamw")) == 8
    assert "check_merged" in check_method(LoRA, r=2)


def test_each_broken_promise_is_named() -> None:
    for cls, promise in (
        (Divides, "divide by nothing in losses, and say in normalizers what each sum is divided by"),
        (Rises, "no weight has a gradient"),
        (Nameless, "must end with its paper in brackets"),
        (Forgets, "after loading its state it makes other steps"),
        (Leaks, "a frozen weight is not what it was"),
        (Miscounts, r"its formula \(count_trainable\) gives 12287 parameters of a llama, and 12288 train"),
        (Misnamed, "its taxonomy is selective, and of 42 tensors that train 0 are the base's"),
        (Unpacked, r"packs_rows\(\) is False, and rows of one line are kept apart"),
        (Forgetful, "saved and loaded, its log-probabilities differ"),
        (Loses, "of 13 rows 7 came out and 0 were recorded as left out"),
        (Draws, "resumed it drew"),
        (Generous, "the answer '' passes with the reference"),
        (Fragile, "has the score"),
        (Rounds, "they must be equal bit for bit"),
        (Remembers, "step changed its state in place"),
        (Meddles, "it changed a model that it looked at"),
    ):
        with pytest.raises(CheckFailed, match=promise):
            check_method(cls)
    with pytest.raises(UserError, match="nothing is not a method"):
        check_method("nothing")
    assert issubclass(CheckFailed, AssertionError)
    assert not issubclass(Optimizer, Objective)
