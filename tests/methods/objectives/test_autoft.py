"""AutoFT: without weights it is SFT to the bit; each term against its formula; the space of its search."""

from __future__ import annotations

import pytest
import torch
from pydantic import BaseModel
from torch.nn import functional as F

from holdfast.data.batching.batches import Batch, collate_sequences
from holdfast.methods.objectives.likelihood.autoft import OF_TOKENS, OF_WEIGHTS, AutoFT
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.policy import Policy
from holdfast.pipeline.search.trials import plan_search
from holdfast.recipe.loader import resolve_any
from holdfast.testing.objectives import check_micro_batches


class Undecayed(BaseModel):
    """What a user's optimizer may be without."""

    learning_rate: float = 1.0


EVERY = dict.fromkeys((*OF_TOKENS, *OF_WEIGHTS), 0.5)


def shake(model) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))


@pytest.fixture
def weighted(make_rows):
    """Rows that count differently, one of them with an answer that repeats itself."""
    rows = make_rows()
    for i, row in enumerate(rows):
        row.weight = 0.5 + i
    where = rows[0].label_mask.nonzero()[0]
    rows[0].ids[where] = rows[0].ids[where[0]]
    return rows


def test_without_weights_it_is_sft_to_the_bit(tiny, weighted):
    model, _ = tiny("llama")
    policy, batch = Policy(model), collate_sequences(weighted, "packed", 0)
    ours, theirs = AutoFT().losses(policy, batch).sums, SFT().losses(policy, batch).sums
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["nll"], theirs["nll"])
    assert AutoFT().normalizers(batch) == SFT().normalizers(batch)
    assert "every weight is 0" in AutoFT().list_warnings(None)[0]
    assert AutoFT(kl=0.1).list_warnings(None) == []


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_terms_of_tokens_are_their_formulas(tiny, weighted, readied, layout):
    model, _ = tiny("llama")
    policy, batch = Policy(model), collate_sequences(weighted, layout, 0)
    objective = AutoFT(top=0, **{name: 0.1 * (i + 1) for i, name in enumerate(OF_TOKENS)})
    readied(policy, objective, [batch])
    base = policy.logits_at(batch, batch.label_positions).log_softmax(-1).detach()
    shake(model)
    logits = policy.logits_at(batch, batch.label_positions)
    logps, labels = logits.log_softmax(-1), batch.labels
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    terms = {
        "nll": F.cross_entropy(logits, labels, reduction="none"),
        # torch divides by the number of classes
        "hinge": 0.1 * F.multi_margin_loss(logits, labels, reduction="none") * logits.shape[-1],
        "entropy": 0.2 * entropy,
        "dcm": 0.3 * torch.where(logits.argmax(-1) == labels, 0.0, entropy),
        "unlikelihood": 0.4 * torch.stack([_unlikelihood(logps, batch, t) for t in range(len(labels))]),
        "kl": 0.5 * F.kl_div(logps, base, reduction="none", log_target=True).sum(-1),
    }
    out = objective.losses(policy, batch)
    assert out.sums.keys() == terms.keys() == objective.normalizers(batch).keys()
    assert terms["unlikelihood"].count_nonzero() > 0
    for name, each in terms.items():
        wanted = (each * batch.weights).sum()
        torch.testing.assert_close(out.sums[name], wanted, rtol=1e-4, atol=1e-4)
        ours, theirs = (torch.autograd.grad(v, model.get_input_embeddings().weight, retain_graph=True)[0]
                        for v in (out.sums[name], wanted))  # fmt: skip
        assert torch.dist(ours, theirs) <= 1e-3 * theirs.norm()
    total, count = out.metrics["autoft/entropy"]
    assert total / count == pytest.approx((entropy * batch.weights).sum().item() / batch.weight, rel=1e-4)


def _unlikelihood(logps: torch.Tensor, batch: Batch, t: int) -> torch.Tensor:
    labels, sequence = batch.labels.tolist(), batch.sequence.tolist()
    earlier = {labels[s] for s in range(t) if sequence[s] == sequence[t]} - {labels[t]}
    return -sum((torch.log1p(-logps[t, c].exp()) for c in earlier), torch.zeros(()))


def test_the_terms_of_weights_pull_in_proportion(tiny, weighted, readied):
    model, _ = tiny("llama")
    policy, batch = Policy(model), collate_sequences(weighted, "padded", 0)
    objective = AutoFT(l1_zero=2.0, l2_zero=3.0, l1_init=5.0, l2_init=7.0)
    began = [p.detach().clone() for p in model.parameters()]
    readied(policy, objective, [batch])
    shake(model)
    weights, sums = list(model.parameters()), objective.losses(policy, batch).sums
    count = sum(p.numel() for p in weights)
    apart = [p.detach() - start for p, start in zip(weights, began, strict=True)]
    wanted = {
        "l1_zero": [2 * p.detach().sign() / count for p in weights],
        "l2_zero": [3 * 2 * p.detach() / count for p in weights],
        "l1_init": [5 * d.sign() / count for d in apart],
        "l2_init": [7 * 2 * d / count for d in apart],
    }
    for name, gradients in wanted.items():
        for ours, theirs in zip(torch.autograd.grad(sums[name], weights), gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-12)
    assert {name: objective.normalizers(batch)[name] for name in OF_WEIGHTS} == dict.fromkeys(OF_WEIGHTS, 1.0)


def test_accumulation_and_packing_change_nothing_with_every_term(tmp_path):
    check_micro_batches(AutoFT(**EVERY), tmp_path, "llama")


def test_a_search_takes_its_space():
    recipe = {"model": "lab-small", "data": {"train": "lab:story"}, "method": "autoft", "search": {"sampler": "random"}}
    space = {d.key: d for d in plan_search(resolve_any(recipe), None).space}
    names = {f"objective.{name}" for name in (*OF_TOKENS, *OF_WEIGHTS)}
    assert space.keys() == names | {"optimizer.learning_rate", "optimizer.weight_decay", "train.seed"}
    assert {(space[name].kind, space[name].low, space[name].high) for name in names} == {("log", 1e-4, 10.0)}
    rate = space["optimizer.learning_rate"]
    assert (rate.low, rate.high) == pytest.approx((3e-6, 3e-2))
    assert "optimizer.weight_decay" not in AutoFT().search_space(Undecayed())
    own = {**recipe, "search": {"sampler": "random", "space": {"train.seed": [0, 1]}}}
    assert [d.key for d in plan_search(resolve_any(own), None).space] == ["train.seed"]
