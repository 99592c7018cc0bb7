"""`train.deterministic`: a fixed order where it is asked for, in the passes only; what has none is named."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import material
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import card
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.data.batching.batches import collate_sequences
from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.loading import move_to_device
from holdfast.models.policy import Policy
from holdfast.testing.examples import example_rows, tiny_model
from holdfast.testing.objectives import prepare_policy, take_step
from holdfast.training.callbacks import Hooks
from holdfast.training.determinism import deterministic_algorithms, needs_deterministic_algorithms
from holdfast.training.trainer import Trainer

NEEDED = {"tis_dpo": {"estimate": "ones"}}
"""Knobs that must be given."""

REFUSED = {
    "cumsum": "floats", "cumprod": "floats", "put_": "", "histc": "", "kthvalue": "", "bincount": "weights",
    "median": "", "nanmedian": "", "nll_loss2d_forward": "", "scatter_reduce": "sum, mean, prod", "logcumsumexp": "",
}  # fmt: skip
"""Operations for which torch has no fixed order on CUDA, or only for some arguments, by its own account."""


class Sum(SFT):
    """Cross-entropy, and whether a fixed order was asked for while it was computed. [me 2026]"""

    def losses(self, policy, batch):
        SEEN.append(torch.are_deterministic_algorithms_enabled())
        return super().losses(policy, batch)


SEEN: list[bool] = []


def test_only_true_asks_for_it_and_never_on_a_cpu() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    asked = [
        needs_deterministic_algorithms(setting, device) for device in (cpu, cuda) for setting in (True, False, "auto")
    ]
    assert asked == [False, False, False, True, False, False]


def test_everything_is_as_before_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "0")
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "0"
    with pytest.raises(ZeroDivisionError), deterministic_algorithms(True):
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_fixed_order_is_named_in_one_line() -> None:
    line = r"^train\.deterministic: put_ does not have a deterministic implementation; set train\.deterministic: false$"
    with pytest.raises(UserError, match=line), deterministic_algorithms(True):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="another"), deterministic_algorithms(True):
        raise RuntimeError("another")


@pytest.mark.parametrize("setting", [True, "auto"])
def test_the_passes_of_a_step_ask_and_evaluations_do_not(tmp_path: Path, setting: bool | str) -> None:
    SEEN.clear()
    during: list[bool] = []

    def look(step: int, model: torch.nn.Module, head: object) -> None:
        during.append(torch.are_deterministic_algorithms_enabled())

    recipe = material.recipe({"max_steps": 2, "deterministic": setting}, objective=Sum(), evaluate={"every": 0.5})
    with card.card():
        model = move_to_device(material.model(), card.CARD)
        Trainer(recipe, model, material.table(), tmp_path, pad_id=0, hooks=Hooks(on_evaluate=look)).fit()
    assert set(SEEN) == {setting is True}
    assert set(during) == {False}
    assert not torch.are_deterministic_algorithms_enabled()


def has_fixed_order(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these arguments make an operation of `REFUSED` one that repeats."""
    if name in ("cumsum", "cumprod"):
        return not args[0].is_floating_point()
    if name == "bincount":
        return kwargs.get("weights", args[1] if len(args) > 1 else None) is None
    return name == "scatter_reduce" and args[4] in ("amin", "amax")


class Watch(TorchDispatchMode):
    """Counts operations, but for those whose arguments give them a fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        name = name if name in REFUSED else name.rstrip("_")
        self.counts[name] += not has_fixed_order(name, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(REGISTRY["objectives"]))
def test_no_objective_takes_an_operation_without_a_fixed_order(name: str) -> None:
    """With a family that runs its own forward pass, as every model does on a card."""
    objective = find_method("objectives", name)(**NEEDED.get(name, {}))
    policy, watch = Policy(tiny_model("gpt2").train()), Watch()
    batch = collate_sequences(example_rows(objective, 3), "packed", 0)
    assert batch is not None
    with watch:
        prepare_policy(policy, objective, [batch])
        take_step(policy, objective, [batch])
    assert watch.counts["addmm"]
    assert [op for op in REFUSED if watch.counts[op]] == []


def test_the_watch_sees_what_torch_refuses() -> None:
    with Watch() as watch:
        torch.zeros(3).cumsum(0)
        torch.zeros(3).int().cumsum(0)
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        torch.zeros(3).scatter_reduce(0, torch.tensor([0]), torch.ones(1), "sum")
        torch.zeros(3).scatter_reduce(0, torch.tensor([0]), torch.ones(1), "amin")
    assert {op: watch.counts[op] for op in REFUSED if watch.counts[op]} == {"cumsum": 1, "put_": 1, "scatter_reduce": 1}
    page = re.sub(r"\s+", " ", torch.use_deterministic_algorithms.__doc__ or "")
    refused = page[page.index("will throw a") :]
    assert all(op in refused for op in ("cumsum", "put_", "histc", "bincount", "median"))
