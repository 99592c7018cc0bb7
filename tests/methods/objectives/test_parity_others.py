"""CPO, SimPO, ORPO, TPO, TPO-L and KTO against TRL's trainers on the same rows: loss and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import Batch, EncodedSequence, collate_sequences
from holdfast.methods.objectives.preference.cpo import CPO
from holdfast.methods.objectives.preference.orpo import ORPO
from holdfast.methods.objectives.preference.simpo import SimPO
from holdfast.methods.objectives.preference.tpo import TPO
from holdfast.methods.objectives.preference.tpo_l import TPOL
from holdfast.methods.objectives.scored.kto import KTO
from holdfast.models.policy import Policy, precompute_reference

trl = pytest.importorskip("trl", reason="trl is a development dependency")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

PROMPTS = ["What is 2 + 3?", "Sort the letters: cab", "What is the capital of France?", "Say yes."]
ANSWERS = ["The answer is 5.", "a b c", "Paris, the capital.", "yes"]
WORSE = ["6", "c b a and more letters", "The capital of France is London.", "no no no"]
GOLD = ["2 + 3 = 5", "The sorted letters: a b c", "Paris", "Yes, I say yes."]
LABELS = [True, False, False, True]
SETTINGS = {
    "per_device_train_batch_size": 4,
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def said(role: str, texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": role, "content": text}] for text in texts]


def preferences(**more: list[str]):
    """Conversational preference rows; `more` are further columns of answers."""
    columns = {"chosen": ANSWERS, "rejected": WORSE, **more}
    rows = {name: said("assistant", texts) for name, texts in columns.items()}
    return datasets.Dataset.from_dict({"prompt": said("user", PROMPTS), **rows})


def theirs_of(trainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """TRL's loss and gradients on its first batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    return loss.detach(), gradients(trainer.model)


def gradients(model) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def encoded(prompt: list[int], answer: list[int], row: int, role: int, **values: float) -> EncodedSequence:
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return EncodedSequence(ids, np.arange(len(ids)) >= len(prompt), row, role, values=values)


def tokenised_pairs(trainer) -> list[EncodedSequence]:
    """The sequences of TRL's older preference trainers, which keep whole sequences and labels."""
    found = []
    for i, row in enumerate(trainer.train_dataset):
        for role, key in enumerate(("chosen", "rejected")):
            ids, labels = np.array(row[f"{key}_input_ids"], dtype=np.int32), np.array(row[f"{key}_labels"])
            found.append(EncodedSequence(ids, labels != -100, i, role))
    return found


def assert_same(policy: Policy, objective, batch: Batch, theirs, looked_over, tolerance: float = 1e-5) -> None:
    """Our loss, divided as the trainer divides, and gradients are theirs."""
    loss, wanted = theirs
    counts = objective.normalizers(batch)
    (batch,) = looked_over(policy, objective, [batch])
    sums = objective.losses(policy, batch).sums
    mine = sum(sums[term] / counts[term] for term in sums)
    torch.testing.assert_close(mine, loss, rtol=tolerance, atol=tolerance)
    mine.backward()
    ours = gradients(policy.model)
    assert ours.keys() == wanted.keys()
    whole = torch.stack([g.norm() for g in wanted.values()]).norm()
    apart = torch.stack([torch.dist(ours[n], wanted[n]) for n in wanted]).norm()
    assert whole > 0
    assert apart <= tolerance * whole
    policy.model.zero_grad()


CPOS = [
    (CPO(beta=0.2), {"loss_type": "sigmoid", "beta": 0.2}),
    (CPO(beta=0.2, alpha=0.3, label_smoothing=0.1), {"beta": 0.2, "cpo_alpha": 0.3, "label_smoothing": 0.1}),
    (CPO(loss="hinge"), {"loss_type": "hinge", "beta": 0.1}),
    (SimPO(beta=2.5, gamma=1.3), {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.3, "cpo_alpha": 0.0}),
    (SimPO(beta=0.1, gamma=0.5, alpha=1), {"loss_type": "simpo"}),
]


@pytest.mark.parametrize(("objective", "knobs"), CPOS)
def test_cpo_and_simpo(tiny, tmp_path, looked_over, objective, knobs):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    model, tokenizer = tiny("llama")
    arguments = CPOConfig(output_dir=str(tmp_path), **knobs, **SETTINGS)
    trainer = CPOTrainer(model, arguments, train_dataset=preferences(), processing_class=tokenizer)
    theirs = theirs_of(trainer)
    policy = Policy(tiny("llama")[0].train())
    for layout in ("padded", "packed"):
        batch = collate_sequences(tokenised_pairs(trainer), layout, tokenizer.pad_token_id)
        assert_same(policy, objective, batch, theirs, looked_over)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_orpo_on_prompts_and_answers(tiny, tmp_path, looked_over, kind):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model, tokenizer = tiny(kind)
    arguments = ORPOConfig(output_dir=str(tmp_path), beta=0.3, **SETTINGS)
    trainer = ORPOTrainer(model, arguments, train_dataset=preferences(), processing_class=tokenizer)
    theirs = theirs_of(trainer)
    policy = Policy(tiny(kind)[0].train())
    for layout in ("padded", "packed"):
        batch = collate_sequences(tokenised_pairs(trainer), layout, tokenizer.pad_token_id)
        assert_same(policy, ORPO(beta=0.3, nll="everything"), batch, theirs, looked_over)


TPOS = [
    (TPO(), {}),
    (TPO(beta=0.2, alpha=0.4, label_smoothing=0.1), {"beta": 0.2, "tpo_alpha": 0.4, "label_smoothing": 0.1}),
    (TPO(loss="hinge", beta=0.1), {"loss_type": "hinge", "beta": 0.1}),
    (TPO(beta=0.2, alpha=0), {"beta": 0.2, "tpo_alpha": 0.0}),
    (TPOL(), {"loss_type": "tpo-l", "beta": 2.0, "tpo_l_gamma": 1.6, "tpo_alpha": 0.05}),
    (TPOL(beta=0.01, gamma=0.5, alpha=1), {"loss_type": "tpo-l"}),
]


@pytest.mark.parametrize(("objective", "knobs"), TPOS)
def test_tpo_and_tpo_l(tiny, tmp_path, looked_over, objective, knobs):
    from trl.experimental.tpo import TPOConfig, TPOTrainer

    model, tokenizer = tiny("llama")
    arguments = TPOConfig(output_dir=str(tmp_path), **knobs, **SETTINGS)
    trainer = TPOTrainer(
        model=model, args=arguments, train_dataset=preferences(reference=GOLD), processing_class=tokenizer
    )
    theirs = theirs_of(trainer)
    rows = [
        encoded(row["prompt_ids"], row[key], i, role)
        for i, row in enumerate(trainer.train_dataset)
        for role, key in enumerate(("chosen_ids", "rejected_ids", "reference_ids"))
    ]
    policy = Policy(tiny("llama")[0].train())
    for layout in ("padded", "packed"):
        assert_same(policy, objective, collate_sequences(rows, layout, tokenizer.pad_token_id), theirs, looked_over)


@pytest.mark.parametrize(("good", "bad"), [(1.0, 1.0), (1.3, 0.8)])
@pytest.mark.parametrize(("seed", "positive"), [(3, True), (4, False)])
def test_kto(tiny, tmp_path, looked_over, good, bad, seed, positive):
    """With a reference from which the model has moved, and one where the estimate is negative and counts as 0."""
    model, tokenizer = tiny("llama")
    reference, _ = tiny("llama", seed=seed)
    rows = {"prompt": said("user", PROMPTS), "completion": said("assistant", ANSWERS), "label": LABELS}
    arguments = trl.KTOConfig(
        output_dir=str(tmp_path), beta=0.2, desirable_weight=good, undesirable_weight=bad, max_length=None, **SETTINGS,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = trl.KTOTrainer(
        model, reference, arguments, train_dataset=datasets.Dataset.from_dict(rows), processing_class=tokenizer
    )
    theirs = theirs_of(trainer)
    sequences = [
        encoded(row["prompt_ids"], row[key], i, role, label=float(row["label"]))
        for i, row in enumerate(trainer.train_dataset)
        for role, key in enumerate(("completion_ids", "KL_completion_ids"))
    ]
    for layout in ("padded", "packed"):
        batch = collate_sequences(sequences, layout, tokenizer.pad_token_id)
        past = Policy(tiny("llama", seed=seed)[0])
        precompute_reference(past, [batch])
        policy = Policy(tiny("llama")[0].train(), reference=past.reference)
        objective = KTO(beta=0.2, desirable=good, undesirable=bad)
        assert (objective.step_statistics(policy, batch)["divergence"].mean() > 0) == positive
        assert_same(policy, objective, batch, theirs, looked_over)
