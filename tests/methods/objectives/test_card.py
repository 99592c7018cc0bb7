"""Every objective computes where the model is: on a card that refuses to meet tensors of the CPU."""

from __future__ import annotations

import material
import pytest

import card
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.data.batching.batches import TokenTable
from holdfast.models.loading import move_to_device
from holdfast.testing.examples import ExampleRollouts, example_recipe
from holdfast.training.trainer import Trainer

NEEDED = {"tis_dpo": {"estimate": "ones"}, "fpo": {"steps": 40}}
"""Knobs that must be given, and a shorter training of an autoencoder."""


@pytest.mark.parametrize("name", sorted(REGISTRY["objectives"]))
def test_an_objective_stays_on_the_card(tmp_path, rows_of, name: str) -> None:
    objective = find_method("objectives", name)(**NEEDED.get(name, {}))
    rows = rows_of(objective, n=3, vocab=material.VOCABULARY)
    if objective.needs_rollouts:
        table, recipe = ExampleRollouts(rows), example_recipe(1, objective=objective)
    else:
        table = TokenTable.from_sequences(rows, fingerprint=name)
        recipe = material.recipe({"max_steps": 1, "layout": "auto"}, objective=objective)
    with card.card() as counter:
        model = move_to_device(material.model(), card.CARD)
        result = Trainer(recipe, model, table, tmp_path, pad_id=0).fit()
    assert result.steps == 1
    assert result.model.device == card.CARD
    assert counter.counts["card product"] > 50
    assert counter.counts["cpu product"] == 0
