"""The loop: sums and counts (law 3), numbers that are none, memory, evaluation points, refusals."""

from __future__ import annotations

import itertools
import os
from typing import ClassVar

import material
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.errors import RunError, UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.optimizers.adamw import AdamW
from holdfast.methods.optimizers.torch_rule import TorchRule
from holdfast.methods.tuners.half import Half
from holdfast.training import checkpoint
from holdfast.training.callbacks import Hooks
from holdfast.training.plan import boundary_steps
from holdfast.training.trainer import Trainer


class Recorder(AdamW):
    """An optimizer that keeps each step's gradient and moves nothing."""

    seen: ClassVar[list[dict[str, torch.Tensor]]] = []

    def build(self, params):
        named = dict(params)
        return RecorderRule(self, named, torch.optim.SGD(named.values(), lr=0.0))


class RecorderRule(TorchRule):
    def step(self) -> float:
        Recorder.seen.append({name: p.grad.clone() for name, p in self.params.items() if p.grad is not None})
        return 1.0


def gradients(tmp_path, table, objective, train, model=None):
    """The first step's gradients and loss."""
    Recorder.seen.clear()
    losses = []
    recipe = material.recipe(
        {"max_steps": 1, "batch_tokens": 10_000} | train, objective=objective, optimizer=Recorder()
    )
    hooks = Hooks(on_step=lambda log: losses.append(log.loss))
    out = tmp_path / str(len(list(tmp_path.iterdir())))
    Trainer(recipe, model or material.model(), table, out, pad_id=0, hooks=hooks).fit()
    return Recorder.seen[0], losses[0]


LAYOUTS = {
    "one by one": {"micro_tokens": 1, "layout": "padded"},
    "all at once, padded": {"micro_tokens": 10_000, "layout": "padded"},
    "packed in threes": {"micro_tokens": 90, "layout": "packed"},
    "all at once, packed": {"micro_tokens": 10_000, "layout": "packed"},
    "another order": {"micro_tokens": 70, "layout": "padded", "seed": 5},
}


@pytest.mark.parametrize(
    "objective",
    ["sft", {"name": "sft", "reduction": "sequence"}, "ift", "dpo"],
    ids=["token", "sequence", "ift", "dpo"],
)
def test_accumulation_packing_and_order_change_neither_loss_nor_gradient(tmp_path, objective):
    table = material.table(per_row=2 if objective == "dpo" else 1)
    results = [gradients(tmp_path, table, objective, train) for train in LAYOUTS.values()]
    for (one, loss), (other, other_loss) in itertools.pairwise(results):
        assert loss == pytest.approx(other_loss, abs=1e-6, rel=1e-6)  # the sums of Eq. 21 are in the hundreds
        assert one.keys() == other.keys()
        assert len(one) > 5
        for name, gradient in one.items():
            assert torch.dist(gradient, other[name]) <= 2e-5 * gradient.norm() + 1e-8, name


def test_the_gradient_is_the_plain_formulas(tmp_path):
    table, model = material.table(8), material.model()
    total, weight = 0.0, 0.0
    for row in range(len(table)):
        (sequence,) = table.row_sequences(row)
        ids = torch.from_numpy(sequence.ids.astype(np.int64))
        logps = F.log_softmax(model(input_ids=ids[None]).logits[0], -1)
        labels = np.flatnonzero(sequence.label_mask)
        total = total - sequence.weight * sum(logps[i - 1, ids[i]] for i in labels)
        weight += sequence.weight * len(labels)
    (total / weight).backward()
    recorded, loss = gradients(tmp_path, table, "sft", {"micro_tokens": 50})
    assert loss == pytest.approx(float(total.detach()) / weight, abs=1e-5)
    for name, p in model.named_parameters():
        assert torch.allclose(recorded[name], p.grad, atol=1e-6), name


def test_noise_depends_on_seed_step_and_micro_batch_only(tmp_path):
    table = material.table(8)
    first, _ = gradients(tmp_path, table, "neftune", {})
    torch.rand(1000)
    again, _ = gradients(tmp_path, table, "neftune", {})
    assert all(torch.equal(first[name], again[name]) for name in first)


def begin(out, seed, seeds):
    """How an adapter with dropout starts, the rows of its first step, the gradients of that."""
    recipe = material.recipe(
        {"max_steps": 1, "batch_tokens": 60, "seed": seed, "seeds": seeds},
        tuner={"name": "lora", "r": 2, "dropout": 0.3},
        optimizer=Recorder(),
    )
    Recorder.seen.clear()
    trainer = Trainer(recipe, material.model(), material.table(), out / str(len(list(out.iterdir()))), pad_id=0)
    trainer.fit()
    batches = trainer.state.source.step_batches(0, trainer.state.policy)
    start = torch.cat([p.flatten() for p in trainer.state.stored_parameters.values()])
    gradients = torch.cat([gradient.flatten() for gradient in Recorder.seen[0].values()])
    return start.tolist(), [batch.rows.tolist() for batch in batches], gradients.tolist()


def test_each_source_of_randomness_can_have_a_seed_of_its_own(tmp_path):
    plain = begin(tmp_path, 0, {})
    cases = {
        (): [False, False, False],
        ("init", "noise"): [True, False, False],
        ("order", "noise"): [False, True, False],
        ("order", "init"): [True, True, False],
        ("order", "init", "noise"): [True, True, True],
    }
    for pinned, same in cases.items():
        other = begin(tmp_path, 1, dict.fromkeys(pinned, 0))
        assert [a == b for a, b in zip(plain, other, strict=True)] == same, pinned


def test_with_all_seeds_pinned_runs_end_bit_equal(tmp_path):
    seeds, tuner = {"order": 3, "init": 4, "noise": 5}, {"name": "lora", "r": 2, "dropout": 0.3}
    one, other = (
        fit(tmp_path / str(seed), material.recipe({"max_steps": 4, "seed": seed, "seeds": seeds}, tuner=tuner)).model
        for seed in (0, 1)
    )
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def fit(out, recipe, table=None, model=None, hooks=None, **more):
    return Trainer(
        recipe, model or material.model(), table or material.table(), out, pad_id=0, hooks=hooks, **more
    ).fit()


def poisoned(weight: float, row: int) -> TokenTable:
    encoded = [sequence for index in range(24) for sequence in material.table().row_sequences(index)]
    bad = encoded[row]
    encoded[row] = EncodedSequence(bad.ids, bad.label_mask, bad.row, bad.role, weight)
    return TokenTable.from_sequences(encoded, fingerprint="poisoned")


@pytest.mark.parametrize("optimizer", ["adamw", "lomo"])
def test_a_loss_that_is_no_number_names_step_and_row_and_changes_nothing(tmp_path, optimizer):
    model, seen = material.model(), []

    def on_step(log):
        seen.append((log.step, [p.detach().clone() for p in model.parameters()]))

    recipe = material.recipe({"save_every": 0.1, "seed": 3}, optimizer=optimizer)
    with pytest.raises(
        RunError, match=r"the loss is not a finite number, in rows\.jsonl:17; nothing of this step"
    ) as caught:
        fit(
            tmp_path,
            recipe,
            poisoned(float("nan"), 16),
            model,
            Hooks(on_step=on_step),
            name_row=lambda r: f"rows.jsonl:{r + 1}",
        )
    step, before = seen[-1]
    assert f"step {step + 1}:" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    newest = checkpoint.find_newest(tmp_path / "checkpoints")
    assert newest is not None
    assert f"{newest.name} is intact" in str(caught.value)


class Cliff(SFT):
    """A finite loss with a gradient that is not: sqrt at 0."""

    def losses(self, policy, batch):
        found = super().losses(policy, batch)
        found.sums["nll"] = found.sums["nll"] + (found.sums["nll"] * 0).sqrt()
        return found


@pytest.mark.parametrize("optimizer", ["adamw", "lomo"])
def test_a_gradient_that_is_no_number_stops_before_the_update(tmp_path, optimizer):
    model = material.model()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RunError, match=r"step 1: the gradient is not a finite number"):
        fit(tmp_path, material.recipe(objective=Cliff(), optimizer=optimizer), model=model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert checkpoint.find_newest(tmp_path / "checkpoints") is None


class Narrow(SFT):
    """Memory for 40 tokens only."""

    limit: int = 40

    def losses(self, policy, batch):
        if batch.input_ids.numel() > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return super().losses(policy, batch)


def test_micro_batches_are_halved_until_they_fit_and_the_result_is_that_of_small_ones(tmp_path):
    notes = []
    recipe = material.recipe({"micro_tokens": 200}, objective=Narrow())
    result = fit(tmp_path / "a", recipe, hooks=Hooks(on_note=notes.append))
    assert result.micro_tokens <= 50
    assert "do not fit into memory" in notes[0]
    assert notes[1].startswith("attention: ")
    size = result.micro_tokens
    small = fit(tmp_path / "b", material.recipe({"micro_tokens": size}))
    assert all(torch.equal(p, q) for p, q in zip(result.model.parameters(), small.model.parameters(), strict=True))


def test_when_nothing_fits_the_advice_says_where_memory_goes(tmp_path):
    with pytest.raises(
        RunError, match=r"not enough memory even for 1 row\(s\) of \d+ tokens.*goes to: .*optimizer state.*Try: "
    ):
        fit(tmp_path, material.recipe(objective=Narrow(limit=4)))
    with pytest.raises(RunError, match=r"smaller train\.batch_tokens"):
        fit(tmp_path, material.recipe(objective=Narrow(), optimizer="lomo"))


def test_the_probe_leaves_no_trace(tmp_path):
    """The first loss is that of the untouched model, and the generators are where they were."""
    state, losses = torch.get_rng_state(), []
    recipe = material.recipe({"max_steps": 1}, optimizer=Recorder())
    fit(tmp_path / "a", recipe, hooks=Hooks(on_step=lambda log: losses.append(log.loss)))
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        torch.rand(10)
        fit(tmp_path / "b", recipe, hooks=Hooks(on_step=lambda log: losses.append(log.loss)))
    assert losses[0] == losses[1]


def test_evaluation_comes_at_the_boundaries_in_eval_mode_and_leaves_no_trace(tmp_path):
    looked, model = [], material.model(attention_dropout=0.1)

    def on_evaluate(step, seen, head):
        assert not seen.training
        assert not torch.is_grad_enabled()
        torch.rand(7)
        looked.append(step)

    recipe = material.recipe({"epochs": 4}, evaluate={"target": "none", "every": 0.25})
    with_looks = fit(tmp_path / "a", recipe, model=model, hooks=Hooks(on_evaluate=on_evaluate))
    assert looked == [round(with_looks.steps * share) for share in (0.25, 0.5, 0.75)]
    without = material.recipe({"epochs": 4}, evaluate={"target": "none", "every": 0})
    other = fit(tmp_path / "b", without, model=material.model(attention_dropout=0.1))
    assert all(torch.equal(p, q) for p, q in zip(with_looks.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [(0.25, 8, {2, 4, 6, 8}), (0.3, 10, {3, 6, 9}), (1, 5, {5}), (0, 5, set()), (0.1, 3, {1, 2, 3})],
)
def test_boundaries(share, steps, expected):
    assert boundary_steps(share, steps) == expected


def test_the_log_adds_up(tmp_path):
    logs, table = [], material.table()
    result = fit(tmp_path, material.recipe(), table, hooks=Hooks(on_step=logs.append))
    labels = sum(int(sequence.label_mask.sum()) for row in range(len(table)) for sequence in table.row_sequences(row))
    assert result.tokens == logs[-1].tokens == 2 * int(table.lengths.sum())
    assert result.trained_tokens == 2 * labels
    assert [log.step for log in logs] == list(range(1, result.steps + 1))
    assert logs[-1].epoch == result.epochs == 2
    assert logs[-1].remaining == 0 < logs[0].remaining
    assert logs[0].memory_gib > 0
    assert logs[0].tokens_per_second > 0
    assert result.loss == logs[-1].loss < logs[0].loss


def test_recomputed_activations_change_nothing(tmp_path):
    # Adam divides by the size of a gradient, be it no more than rounding: a larger eps keeps that out.
    adamw = {"name": "adamw", "learning_rate": 0.01, "eps": 1e-4}
    plain = fit(tmp_path / "a", material.recipe(optimizer=adamw))
    for way in (True, "selective"):
        recomputed = fit(tmp_path / str(way), material.recipe({"gradient_checkpointing": way}, optimizer=adamw))
        for p, q in zip(plain.model.parameters(), recomputed.model.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6), way


def test_bf16_learns(tmp_path):
    logs = []
    result = fit(tmp_path, material.recipe({"precision": "bf16", "epochs": 6}), hooks=Hooks(on_step=logs.append))
    assert result.precision == "bf16"
    assert logs[-1].loss < 0.8 * logs[0].loss
    assert all(p.dtype == torch.float32 for p in result.model.parameters())


def test_dpo_reads_the_untouched_model_once_and_keeps_it(tmp_path):
    logs = []
    recipe = material.recipe({"epochs": 1}, objective="dpo")
    fit(tmp_path, recipe, material.table(per_row=2), hooks=Hooks(on_step=logs.append))
    assert logs[0].metrics["rewards/margin"] == pytest.approx(0, abs=1e-6)  # both agree before the first update
    assert logs[-1].metrics["rewards/margin"] > 1e-3
    assert len(list((tmp_path / "cache").glob("reference-*.safetensors"))) == 1


def test_what_cannot_be_done_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="tuner Half leaves nothing to train"):
        fit(tmp_path, material.recipe(tuner=Half(share=0, embeddings=False)))
    with pytest.raises(UserError, match=r"train\.layout: this model cannot keep packed rows apart"):
        fit(tmp_path, material.recipe({"layout": "packed"}), model=without_positions())


def without_positions():
    """BLOOM has no position ids: nothing tells its rows apart in one line."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=material.VOCABULARY, hidden_size=32, n_layer=2, n_head=4))


def test_checkpoints_hold_no_pickle(tmp_path):
    fit(tmp_path, material.recipe())
    suffixes = {os.path.splitext(name)[1] for _, _, names in os.walk(tmp_path) for name in names}
    assert suffixes == {".safetensors", ".json"}
