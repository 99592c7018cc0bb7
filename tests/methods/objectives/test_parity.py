"""Our losses and gradients against TRL's trainers on the same rows (TRL is a development dependency)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.preference.dpo import DPO
from holdfast.models.policy import Policy, precompute_reference

trl = pytest.importorskip("trl", reason="trl is a development dependency")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.parity

PROMPTS = ["What is 2 + 3?", "Sort the letters: cab", "What is the capital of France?", "Say yes."]
ANSWERS = ["The answer is 5.", "a b c", "Paris, the capital.", "yes"]
WORSE = ["6", "c b a and more letters", "The capital of France is London.", "no no no"]
SETTINGS = {
    "per_device_train_batch_size": 4,
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def gradients(model) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, theirs, tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    whole = torch.stack([g.norm() for g in theirs.values()]).norm()
    apart = torch.stack([torch.dist(ours[n], theirs[n]) for n in theirs]).norm()
    assert whole > 0
    assert apart <= tolerance * whole


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_sft(tiny, tmp_path, kind):
    model, tokenizer = tiny(kind)
    rows = datasets.Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": p}] for p in PROMPTS],
            "completion": [[{"role": "assistant", "content": a}] for a in ANSWERS],
        }
    )
    arguments = trl.SFTConfig(output_dir=str(tmp_path), completion_only_loss=True, **SETTINGS)
    trainer = trl.SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    encoded = [
        EncodedSequence(
            ids=np.array(row["input_ids"], dtype=np.int32), label_mask=np.array(row["labels"]) != -100, row=i
        )
        for i, row in enumerate(trainer.train_dataset)
    ]
    model.train()
    theirs = trainer.compute_loss(model, dict(batch))
    theirs.backward()

    mine, _ = tiny(kind)
    for layout in ("padded", "packed"):
        ours = collate_sequences(encoded, layout, tokenizer.pad_token_id)
        loss = SFT().losses(Policy(mine.train()), ours).sums["nll"] / ours.weight
        torch.testing.assert_close(loss, theirs, rtol=1e-6, atol=1e-6)
        loss.backward()
        assert_same(gradients(mine), gradients(model))
        mine.zero_grad()


@pytest.mark.parametrize(
    ("loss", "smoothing"), [("sigmoid", 0.0), ("hinge", 0.0), ("robust", 0.1), ("ipo", 0.0), ("sigmoid_norm", 0.0)]
)
def test_dpo(tiny, tmp_path, loss, smoothing):
    model, tokenizer = tiny("llama")
    reference, _ = tiny("llama", seed=1)
    rows = datasets.Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": p}] for p in PROMPTS],
            "chosen": [[{"role": "assistant", "content": a}] for a in ANSWERS],
            "rejected": [[{"role": "assistant", "content": w}] for w in WORSE],
        }
    )
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), loss_type=[loss], label_smoothing=smoothing, beta=0.3, max_length=None, **SETTINGS
    )
    trainer = trl.DPOTrainer(model, reference, arguments, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    encoded = []
    for i, row in enumerate(trainer.train_dataset):
        for role, key in enumerate(("chosen_ids", "rejected_ids")):
            ids = np.array(row["prompt_ids"] + row[key], dtype=np.int32)
            encoded.append(
                EncodedSequence(ids=ids, label_mask=np.arange(len(ids)) >= len(row["prompt_ids"]), row=i, role=role)
            )
    model.train()
    theirs = trainer.compute_loss(model, dict(batch))
    theirs.backward()

    mine, _ = tiny("llama")
    ours = collate_sequences(encoded, "padded", tokenizer.pad_token_id)
    past = Policy(tiny("llama", seed=1)[0])
    precompute_reference(past, [ours])
    policy = Policy(mine.train(), reference=past.reference)
    value = DPO(loss=loss, beta=0.3, label_smoothing=smoothing).losses(policy, ours).sums["preference"] / 4
    torch.testing.assert_close(value, theirs, rtol=1e-5, atol=1e-5)
    value.backward()
    assert_same(gradients(mine), gradients(model), 1e-4)
