"""What `holdfast.testing` asks of every objective, of every registered one, and the pages of these."""

from __future__ import annotations

import pytest

from holdfast.axes.registry import REGISTRY, find_method
from holdfast.testing.objectives import check_micro_batches, check_sums, check_training

NAMES = [*sorted(REGISTRY["objectives"]), "textbook_focal:Focal"]
"""The registered ones, and one as a user would add it."""


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("name", NAMES)
def test_accumulation_and_packing_change_nothing(name, kind, tmp_path):
    check_micro_batches(find_method("objectives", name)(), tmp_path, kind)


@pytest.mark.parametrize("tuner", ["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_and_an_interrupted_run_ends_bit_equal(name, tuner, tmp_path):
    """Through the real loop, on all rows at every step."""
    check_training(find_method("objectives", name)(), tmp_path, tuner)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_sums_with_gradients_and_metrics_are_numbers(name, tmp_path):
    check_sums(find_method("objectives", name)(), tmp_path)


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
