"""SpaFL: gradients of thresholds and weights by formula, the reset, the penalty, and the plain model that is left."""

from __future__ import annotations

import material
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from holdfast.errors import UserError
from holdfast.methods.optimizers.sgd import SGD
from holdfast.methods.tuners.spafl import SpaFL
from holdfast.models.row_thresholds import (
    SUFFIX,
    add_thresholds,
    compute_density,
    find_weight_name,
    fold_thresholds,
    list_thresholds,
)
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer


def build_linear(only_beyond_one: bool = False, reset_density: float = 0.01) -> tuple[nn.Linear, torch.Tensor]:
    """A map of 5 inputs to 4 outputs with thresholds, of which two are above their rows, and its plain weight."""
    torch.manual_seed(0)
    linear = nn.Linear(5, 4, bias=False)
    weight = linear.weight.detach().clone()
    add_thresholds(linear, only_beyond_one, reset_density)
    size = weight.abs().mean(1)
    masks = linear.parametrizations.weight[0]
    masks.thresholds.data = size + torch.tensor([-0.1, 0.1, -0.2, 0.2])
    return linear, weight


def test_gradients_are_those_of_the_paper() -> None:
    """The authors' code for CIFAR blocks every threshold's gradient at the usual size of weights; `code` shows it."""
    for only_beyond_one in (False, True):
        linear, weight = build_linear(only_beyond_one)
        masks = linear.parametrizations.weight[0]
        x, pull = torch.randn(7, 5), torch.randn(7, 4)
        (linear(x) * pull).sum().backward()
        g = pull.T @ x  # of the masked weight
        mask = torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None]
        through = (g * weight).sum(1) * (0.0 if only_beyond_one else 1.0)
        assert torch.allclose(masks.thresholds.grad, -through, atol=1e-6)
        expected = g * mask + weight.sign() / 5 * through[:, None]
        assert torch.allclose(linear.parametrizations.weight.original.grad, expected, atol=1e-6)
        assert (masks.thresholds.grad.abs().sum() > 0.01) == (not only_beyond_one)
    linear, _ = build_linear(only_beyond_one=True)
    masks = linear.parametrizations.weight[0]
    masks.thresholds.data -= 2  # now the margins are beyond 1, and the authors' form passes them
    linear(torch.ones(1, 5)).sum().backward()
    assert bool((masks.thresholds.grad != 0).all())


def test_limits_are_the_dense_map_and_the_reset() -> None:
    linear, weight = build_linear()
    masks = linear.parametrizations.weight[0]
    x = torch.randn(3, 5)
    masks.thresholds.data.fill_(-torch.inf)
    assert torch.equal(linear(x), x @ weight.T)
    masks.thresholds.data.fill_(torch.inf)
    linear.eval()
    assert not linear(x).any(), "measured as it is"
    linear.train()
    assert torch.equal(linear(x), x @ weight.T), "all thresholds are 0 again"
    assert not masks.thresholds.any()


def test_what_is_folded_computes_the_same_with_rows_of_zeros(tmp_path) -> None:
    model = material.model()
    tuner = SpaFL()
    tuned = tuner.apply(model, 0)
    masks = [m for _, m in list_thresholds(tuned)]
    assert len(masks) == 2 * 3, "of each layer's MLP"
    for m in masks:
        m.thresholds.data.copy_(torch.linspace(-1, 1, len(m.thresholds)))
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        before = tuned.eval()(input_ids=ids).logits
        density = compute_density(dict(tuned.named_parameters()))
        assert 0.2 < density < 0.9
        tuner.save(tuned, tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(again(input_ids=ids).logits, before)
    zero_rows = [float((w == 0).all(1).float().mean()) for n, w in again.named_parameters() if "mlp" in n]
    assert sum(zero_rows) > 0
    fold_thresholds(tuned)  # nothing is left to fold
    assert not list(list_thresholds(tuned))
    with pytest.raises(UserError, match="spafl masks rows of linear maps, and GPT2LMHeadModel keeps its matrices"):
        SpaFL().check(material.model("gpt2"))


def test_the_penalty_is_one_term_however_a_step_is_cut(tmp_path) -> None:
    """One step of plain descent: thresholds move by the rate times (gradient + penalty exp(-0)), cut or whole."""
    results = {}
    for penalty in (0.0, 0.5):
        for micro_tokens in (40, 200):
            optimizer = SGD(learning_rate=0.1, schedule="constant", warmup=0, max_grad_norm=0)
            loop = {"max_steps": 1, "micro_tokens": micro_tokens}
            recipe = material.recipe(loop, optimizer=optimizer, tuner=SpaFL(threshold_penalty=penalty))
            logs: list = []
            place = tmp_path / f"{penalty}-{micro_tokens}"
            trainer = Trainer(recipe, material.model(), material.table(), place, pad_id=0, hooks=Hooks(logs.append))
            trainer.fit()
            results[penalty, micro_tokens] = {
                name: p.detach().clone() for name, p in trainer.state.trainable_parameters.items()
            }
            rows = sum(p.numel() for name, p in trainer.state.trainable_parameters.items() if name.endswith(SUFFIX))
            assert logs[0].terms.get("penalty", 0) == pytest.approx(penalty * rows)
    names = [name for name in results[0.5, 40] if name.endswith(SUFFIX)]
    for name in names:
        assert torch.allclose(results[0.5, 40][name], results[0.5, 200][name], atol=1e-5)
        moved = results[0.5, 200][name] - results[0.0, 200][name]
        assert torch.allclose(moved, torch.full_like(moved, 0.1 * 0.5), atol=1e-6)
        assert find_weight_name(name) in results[0.5, 40]
