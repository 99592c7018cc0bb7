"""Which step is kept and when a run stops: by the losses alone, also when it was killed on the way."""

from __future__ import annotations

import contextlib
import json

import material
import pytest
import torch
from safetensors.torch import load_file

from holdfast.errors import UserError
from holdfast.training import checkpoint
from holdfast.training.callbacks import Hooks
from holdfast.training.selection import Selection
from holdfast.training.trainer import Trainer


def selection(losses, **settings) -> Selection:
    made = Selection(**settings)
    for step, loss in losses.items():
        made.add_loss(step, loss)
    return made


def test_the_first_of_the_lowest_is_best():
    losses = {2: 3.0, 4: 2.0, 6: 2.0, 8: 2.5}
    assert selection(losses, keep="best").kept_step(8) == 4
    assert selection(losses).kept_step(8) == 8
    assert selection({2: float("nan"), 4: 9.0}, keep="best").kept_step(4) == 4
    assert selection({}, keep="best").kept_step(4) == 4
    assert not selection(losses).decides


@pytest.mark.parametrize(("patience", "stops"), [(None, False), (1, True), (2, True), (3, False)])
def test_patience_counts_evaluations_since_the_best(patience, stops):
    assert selection({2: 3.0, 4: 2.0, 6: 2.0, 8: 2.5}, patience=patience).is_exhausted is stops
    assert selection({2: float("nan"), 4: float("nan")}, patience=patience).is_exhausted is (patience in (1, 2))


def test_what_is_measured_again_takes_its_place():
    made = selection({2: 3.0, 4: 2.0}, patience=1)
    made.restore_losses(json.loads(json.dumps(made.to_json())))
    made.add_loss(4, 2.0)
    assert made.losses == {2: 3.0, 4: 2.0}
    assert not made.is_exhausted


def recipe(**train):
    return material.recipe(train={"max_steps": 12, "save_every": 0.5, **train}, evaluate={"every": 1 / 6})


class Killed(BaseException):
    """Ends a run without a word, as a kill does."""


def fit(out, losses, kill_after=None, **train):
    """Train with these losses at steps 2, 4, ...; `(result, weights at each measured step)`."""
    seen = {}

    def on_evaluate(step, model, head):
        seen[step] = {name: p.detach().clone() for name, p in model.named_parameters()}
        return losses[step]

    def on_step(log):
        if log.step == kill_after:
            raise Killed

    hooks = Hooks(on_evaluate=on_evaluate, on_step=on_step)
    made = Trainer(recipe(**train), material.model(), material.table(), out, pad_id=0, hooks=hooks)
    return made.fit(), seen


FALLING, TURNING = {s: 9.0 - s for s in range(2, 13, 2)}, {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 6.0, 12: 7.0}


def test_the_best_weights_are_the_result(tmp_path):
    result, seen = fit(tmp_path, TURNING, keep="best")
    assert (result.steps, result.kept_step, result.stopped_early) == (12, 4, False)
    assert list(seen) == [2, 4, 6, 8, 10, 12]
    for name, parameter in result.model.named_parameters():
        assert torch.equal(parameter, seen[4][name])
        assert name.endswith("bias") or not torch.equal(parameter, seen[12][name])
    assert [p.name for p in (tmp_path / "checkpoints").glob("best-*")] == ["best-000004"]
    last, seen = fit(tmp_path / "last", FALLING, keep="best")
    assert last.kept_step == 12
    assert all(torch.equal(p, seen[12][name]) for name, p in last.model.named_parameters())


def test_it_stops_when_nothing_improves(tmp_path):
    result, seen = fit(tmp_path, TURNING, keep="best", patience=2)
    assert (result.steps, result.kept_step, result.stopped_early) == (8, 4, True)
    assert list(seen) == [2, 4, 6, 8]
    again, seen = fit(tmp_path, TURNING, keep="best", patience=2)  # killed after training, before the end
    assert (again.steps, again.kept_step, again.resumed_from) == (8, 4, 8)
    assert list(seen) == [8]
    assert all(torch.equal(p, q) for p, q in zip(result.model.parameters(), again.model.parameters(), strict=True))
    last, _ = fit(tmp_path / "last", TURNING, patience=2)
    assert (last.steps, last.kept_step, last.stopped_early) == (8, 8, True)


@pytest.fixture(scope="module", params=[{}, {"patience": 3}], ids=["best", "patience"])
def whole_run(request, tmp_path_factory):
    """Settings, and the run with them that nobody killed."""
    train = {"keep": "best"} | request.param
    return train, fit(tmp_path_factory.mktemp("whole"), TURNING, **train)[0]


@pytest.mark.parametrize("kill_after", [1, 5, 7, 9, 11])
def test_killed_and_repeated_it_keeps_the_same(kill_after, whole_run, tmp_path):
    train, whole = whole_run
    with contextlib.suppress(Killed):
        fit(tmp_path / "killed", TURNING, kill_after, **train)
    resumed, _ = fit(tmp_path / "killed", TURNING, **train)
    assert (resumed.steps, resumed.kept_step) == (whole.steps, whole.kept_step)
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_killed_at_the_very_end_the_last_step_is_compared(tmp_path):
    whole, _ = fit(tmp_path, FALLING, keep="best")
    again, seen = fit(tmp_path, FALLING, keep="best")
    assert (again.resumed_from, again.kept_step, list(seen)) == (12, 12, [12])
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_best_weights_are_swept_only_when_a_checkpoint_knows_better_ones(tmp_path):
    weights = {"model": {"w": torch.ones(2)}}
    for step in (2, 4):
        checkpoint.save_best(tmp_path, checkpoint.Checkpoint(step, weights, {"a": 1}, {}))
    (tmp_path / "step-000004").mkdir()
    checkpoint.remove_other_best(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-000004", "step-000004"]
    assert load_file(checkpoint.best_path(tmp_path, 4) / "model.safetensors")["w"].tolist() == [1, 1]
    with pytest.raises(UserError, match="other settings"):
        checkpoint.load_checkpoint(checkpoint.best_path(tmp_path, 4), {"a": 2})
