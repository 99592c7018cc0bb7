"""What `holdfast.testing` asks of every objective, of every registered one, and the pages of these."""

from __future__ import annotations

import pytest

from holdfast.axes.registry import REGISTRY, find_method
from holdfast.testing.objectives import check_micro_batches, check_sums, check_training

NAMES = [*sorted(REGISTRY["objectives"]), "textbook_focal:Focal"]
"""The registered ones, and one as a user would add it."""
KNOBS = {"fpo": {"steps": 40}}
"""What would take most of the time of a test, and is not what it asks: how long an autoencoder is trained."""
READERS = {"asft", "cpo", "dft", "ift", "orpo", "simpo", "tfew", "tpo", "tpo_l", "textbook_focal:Focal"}
"""Those that see log-probabilities of the one model, and not which of its weights move: no reference, which an adapter
has elsewhere, nothing precomputed, no head and no rollouts. With an adapter `sft` stands for them."""


def make_objective(name):
    return find_method("objectives", name)(**KNOBS.get(name, {}))


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("name", NAMES)
def test_accumulation_and_packing_change_nothing(name, kind, tmp_path):
    check_micro_batches(make_objective(name), tmp_path, kind)


@pytest.mark.parametrize(
    ("name", "tuner"), [(name, tuner) for name in NAMES for tuner in ("full", "lora")[: 2 - (name in READERS)]]
)
def test_the_loss_falls_and_an_interrupted_run_ends_bit_equal(name, tuner, tmp_path):
    """Through the real loop, on all rows at every step."""
    check_training(make_objective(name), tmp_path, tuner)


def test_those_without_an_adapters_run_ask_for_nothing_that_it_has_elsewhere():
    for name in READERS:
        objective = make_objective(name)
        asked = (objective.needs_reference, objective.has_precompute, objective.needs_values, objective.needs_rollouts)
        assert asked == (False, False, False, False), name


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_sums_with_gradients_and_metrics_are_numbers(name, tmp_path):
    check_sums(make_objective(name), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_says_what_it_is(name):
    objective = find_method("objectives", name)
    page = objective.reference_page()
    assert objective.paper
    assert objective.summary_line().endswith("]")
    for heading in ("What it does:", "When it helps:", "When it fails:", "Columns:", "Formula"):
        assert heading in page, heading
    assert len(page.splitlines()) < 60
    for field in objective.model_fields.values():
        assert field.description
