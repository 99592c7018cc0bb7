"""DFT: its gradient is the paper's, its value falls where the paper's need not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.methods.objectives.likelihood.dft import DFT, token_losses
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.policy import Policy


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def printed(logps: torch.Tensor) -> torch.Tensor:
    """The loss as the paper prints it."""
    return -logps.exp().detach() * logps


def test_the_gradient_is_that_of_the_printed_loss(logits):
    logits.requires_grad_()
    logps = logits.log_softmax(-1)[:, 3]
    (ours,) = torch.autograd.grad(token_losses(logps).sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(printed(logps).sum(), logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(token_losses(logps), 1 - logps.exp())


def test_a_token_counts_by_its_probability(logits):
    logits.requires_grad_()
    logps = logits.log_softmax(-1)[:, 3]
    (plain,) = torch.autograd.grad(-logps.sum(), logits, retain_graph=True)
    (scaled,) = torch.autograd.grad(token_losses(logps).sum(), logits)
    torch.testing.assert_close(scaled, logps.exp().detach()[:, None] * plain)


def test_the_printed_loss_rises_on_the_way_to_certainty_and_ours_falls():
    logps = torch.tensor([0.001, 0.01, 0.1, 0.3], dtype=torch.float64).log()
    assert (printed(logps).diff() > 0).all()
    assert (token_losses(logps).diff() < 0).all()


def test_nearly_certain_tokens_keep_their_digits():
    assert math.isclose(token_losses(torch.tensor(-1e-9)).item(), 1e-9, rel_tol=1e-6)


def test_on_a_model(tiny, make_rows):
    model, _ = tiny("llama")
    rows = make_rows()
    for i, row in enumerate(rows):
        row.weight = 0.5 + i
    batch, policy = collate_sequences(rows, "packed", 0), Policy(model)
    objective = DFT()
    out = objective.losses(policy, batch)
    logps = policy.token_logps(batch).detach()
    assert objective.normalizers(batch) == {"dft": batch.weight}
    assert math.isclose(out.sums["dft"].item(), ((1 - logps.exp()) * batch.weights).sum().item(), rel_tol=1e-6)
    assert math.isclose(out.metrics["dft/as_printed"][0], (printed(logps) * batch.weights).sum().item(), rel_tol=1e-6)
    assert math.isclose(out.metrics["nll"][0], SFT().losses(policy, batch).sums["nll"].item(), rel_tol=1e-6)


@pytest.mark.parity
def test_gradients_equal_trls(tiny, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is a development dependency")
    datasets = pytest.importorskip("datasets")
    prompts, answers = ["What is 2 + 3?", "Say yes."], ["The answer is 5.", "yes, yes"]
    rows = datasets.Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": p}] for p in prompts],
            "completion": [[{"role": "assistant", "content": a}] for a in answers],
        }
    )
    model, tokenizer = tiny("llama")
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), completion_only_loss=True, loss_type="dft", per_device_train_batch_size=2,
        report_to=[], use_cpu=True, disable_tqdm=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    model.train()
    theirs = trainer.compute_loss(model, dict(next(iter(trainer.get_train_dataloader()))))
    theirs.backward()

    encoded = [
        EncodedSequence(
            ids=np.array(row["input_ids"], dtype=np.int32), label_mask=np.array(row["labels"]) != -100, row=i
        )
        for i, row in enumerate(trainer.train_dataset)
    ]
    mine, _ = tiny("llama")
    batch = collate_sequences(encoded, "padded", tokenizer.pad_token_id)
    out = DFT().losses(Policy(mine.train()), batch)
    assert math.isclose(out.metrics["dft/as_printed"][0] / batch.weight, theirs.item(), rel_tol=1e-5)
    (out.sums["dft"] / batch.weight).backward()
    whole = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    pairs = zip(mine.parameters(), model.parameters(), strict=True)
    assert torch.stack([torch.dist(p.grad, q.grad) for p, q in pairs]).norm() <= 1e-5 * whole
