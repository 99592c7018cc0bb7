"""Divergence and entropy on fixed positions: the plain formulas; when they are logged."""

from __future__ import annotations

import material
import pytest
import torch

from holdfast.models.policy import Policy
from holdfast.training.callbacks import Hooks
from holdfast.training.drift import LABELS, DriftMonitor
from holdfast.training.trainer import Trainer


def test_it_is_the_divergence_of_whole_distributions():
    model, batch = material.model(), material.table(12).collate_rows(range(12), "packed", 0)
    watch = DriftMonitor(Policy(model), batch)
    assert len(watch.where) == LABELS
    assert watch.measure_drift()["kl"] == (0.0, 1.0)

    def logps():
        out = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
        return out[0, batch.label_positions[:LABELS]].log_softmax(-1)

    before = logps()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    after = logps()
    found = watch.measure_drift()
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
    assert found["kl"][0] == pytest.approx(kl.item(), rel=1e-4)
    entropy = torch.distributions.Categorical(logits=after).entropy().mean()
    assert found["entropy"][0] == pytest.approx(entropy.item(), rel=1e-4)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_it_is_logged_and_grows(tmp_path, tuner):
    logs = []
    recipe = material.recipe({"max_steps": 20, "epochs": 9}, tuner=tuner)
    hooks = Hooks(on_step=logs.append)
    Trainer(recipe, material.model(), material.table(), tmp_path, pad_id=0, hooks=hooks).fit()
    seen = {log.step: log.metrics["kl"] for log in logs if "kl" in log.metrics}
    assert list(seen) == [5, 10, 15, 20]
    assert 0 < seen[5] < seen[20]
