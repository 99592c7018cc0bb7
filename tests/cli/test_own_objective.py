"""An objective of the user's own: what it overrides is used, and what it lacks is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.models.value_head import load_value_head

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 2, batch_tokens: 256, precision: fp32}
optimizer: {name: adamw, learning_rate: 1e-3}
evaluate: {keep: [lab:strings], items: 2, live_items: 0, every: 0, max_tokens: 4}
output: out
"""

MODULE = '''
"""Objectives as someone writes them on a first day."""
from typing import ClassVar

from holdfast.axes.objective import Losses, Objective
from holdfast.data.batching.batches import Batch


class Plain(Objective):
    """Likelihood. [me 2026]"""

    paper: ClassVar[str] = "me 2026"

    def normalizers(self, batch):
        return {"nll": batch.weight}

    def losses(self, policy, batch):
        return Losses({"nll": policy.weighted_nll(batch, batch.weights)})


class Held(Plain):
    """Likelihood, less where the model knew it. [me 2026]"""

    def precompute(self, policy, batches, store):
        for batch in batches():
            store.rows["known"].set_values(batch, policy.token_logps(batch).exp())

    def losses(self, policy, batch):
        known = policy.store.rows["known"].get_values(batch)[:, 0]
        metrics = {"known": (known.sum().item(), float(len(known)))}
        return Losses({"nll": policy.weighted_nll(batch, batch.weights * (1 - known))}, metrics)


class Surveyed(Plain):
    """Likelihood, and how many answers a step has. [me 2026]"""

    def step_statistics(self, policy, batch):
        return {"answers": batch.label_counts()}

    def losses(self, policy, batch):
        every = batch.step_values["answers"]
        return Losses(super().losses(policy, batch).sums, {"in the step": (float(len(every.all)), 1.0)})


class Valued(Plain):
    """Likelihood, and a head that learns how likely each token was. [me 2026]"""

    needs_values: ClassVar[bool] = True

    def normalizers(self, batch):
        return {"nll": batch.weight, "value": batch.weight}

    def losses(self, policy, batch):
        logps = policy.token_logps(batch)
        away = (policy.predict_values(batch) - logps.detach()).square()
        return Losses({"nll": -(logps * batch.weights).sum(), "value": (away * batch.weights).sum()})


class Misspelt(Held):
    """Stores one name and reads another. [me 2026]"""

    def precompute(self, policy, batches, store):
        for batch in batches():
            store.rows["knwon"].set_values(batch, policy.token_logps(batch))


class Unsaid(Plain):
    """Reads the reference and does not say so. [me 2026]"""

    def losses(self, policy, batch):
        return Losses({"nll": -(policy.token_logps(batch) - policy.reference_logps(batch)).sum()})


class TwoNames(Plain):
    """Counts one term and gives another. [me 2026]"""

    def losses(self, policy, batch):
        return Losses({"loss": policy.weighted_nll(batch, batch.weights)})


class PerToken(Plain):
    """Gives a loss for every token. [me 2026]"""

    def losses(self, policy, batch):
        return Losses({"nll": -policy.token_logps(batch)})


class Empty(Objective):
    """Nothing yet. [me 2026]"""
'''

REFUSED = {
    "Misspelt": "the objective finds nothing in policy.store.rows['known'] of row ",
    "Unsaid": "the base model's log-probabilities of these rows were not computed before the weights moved: an "
    "objective that calls `policy.reference_logps` says so by `needs_reference: ClassVar[bool] = True`",
    "TwoNames": "objective TwoNames: `losses` gives loss, `normalizers` counts nll; the names must agree",
    "PerToken": "objective PerToken: `losses` must give nll as one number with a gradient, the sum over the batch; "
    "it has shape [",
    "Empty": "objective Empty has no method `normalizers`: write one",
}

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture(autouse=True)
def own_module(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "first_day_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(place)


@pytest.mark.parametrize(("name", "metric"), [("Held", "known"), ("Surveyed", "in the step")])
def test_prepare_and_survey_run_because_they_are_there(name: str, metric: str, place: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run.yaml", f"objective=first_day_losses:{name}"])
    assert done.exit_code == 0, (done.output, done.exception)
    steps = [json.loads(line) for line in (place / "out" / "log.jsonl").read_text().splitlines()]
    assert [step[metric] > 0 for step in steps if "loss" in step] == [True, True]


def test_a_value_head_is_trained_and_saved_beside_the_model(place: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run.yaml", "objective=first_day_losses:Valued", "output=valued"])
    assert done.exit_code == 0, (done.output, done.exception)
    head = load_value_head(place / "valued")
    assert head.bias.item() < 0, "log-probabilities are negative"
    assert not any("value" in path.name for path in (place / "valued" / "model").iterdir())


def test_what_an_objective_lacks_is_one_line(place: Path) -> None:
    for name, text in REFUSED.items():
        done = CliRunner().invoke(app, ["train", "run.yaml", f"objective=first_day_losses:{name}", f"output=o-{name}"])
        assert done.exit_code == 2, (name, done.output, done.exception)
        assert done.stderr.splitlines()[-1].startswith(f"holdfast: {text}"), (name, done.stderr)
