"""`holdfast.testing.check_method` on classes as a user writes them: the good pass, and each broken promise is named."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.optimizer import Optimizer
from holdfast.errors import UserError
from holdfast.methods.optimizers.adamw import AdamW
from holdfast.methods.tuners.lora import LoRA
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


def test_good_methods_pass() -> None:
    passed = check_method(Good)
    assert passed[0] == "check_page"
    assert "check_micro_batches" in passed
    assert len(check_method("adamw")) == 7
    assert "check_merged" in check_method(LoRA, r=2)


def test_each_broken_promise_is_named() -> None:
    for cls, promise in (
        (Divides, "divide by nothing in losses, and say in counts what each sum is divided by"),
        (Rises, "no weight has a gradient"),
        (Nameless, "must end with its paper in brackets"),
        (Forgets, "after loading its state it makes other steps"),
        (Leaks, "a frozen weight is not what it was"),
    ):
        with pytest.raises(CheckFailed, match=promise):
            check_method(cls)
    with pytest.raises(UserError, match="nothing is not a method"):
        check_method("nothing")
    assert issubclass(CheckFailed, AssertionError)
    assert not issubclass(Optimizer, Objective)
