"""A step's rows split over cores: the same sums, gradients and weights, to the bit when repeated."""

from __future__ import annotations

from collections.abc import Iterator

import material
import numpy as np
import pytest
import torch

from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.policy import ObjectiveModule, Policy
from holdfast.training.distributed import Machine
from holdfast.training.memory import first_micro_tokens
from holdfast.training.probe import probe_largest_batch
from holdfast.training.setup import TrainerState
from holdfast.training.threaded_step import partition_rows, run_threaded_backward
from holdfast.training.trainer import Trainer


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """What a machine of two cores has, whatever this one has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_micro_batches_of_large_models_are_larger():
    cpu = torch.device("cpu")
    with torch.device("meta"):
        small, large = torch.nn.Linear(4000, 4000, bias=False), torch.nn.Linear(4001, 4000, bias=False)
    assert [first_micro_tokens(model, cpu, 10_000, "off") for model in (small, large)] == [2048, 4096]
    assert [first_micro_tokens(model, cpu, 3000, "off") for model in (small, large)] == [2048, 3000]


def test_rows_are_dealt_evenly_and_each_once():
    lengths = np.random.default_rng(0).integers(5, 100, 50)
    rows = np.argsort(-lengths).tolist()
    hands = partition_rows(rows, lengths, 3)
    assert sorted(row for hand in hands for row in hand) == list(range(50))
    held = [lengths[hand].sum() for hand in hands]
    assert max(held) - min(held) <= lengths.min() + 5
    assert partition_rows([4, 2], lengths, 3) == [[4], [2]]


@pytest.mark.parametrize("lanes", [2, 3])
def test_gradients_are_those_of_one_pass(lanes):
    table, model = material.table(10), material.model().train()
    scorer = ObjectiveModule(Policy(model), SFT())
    parameters = list(model.parameters())
    whole = table.collate_rows(range(10), "packed", 0)
    (scorer(whole)[0]["nll"] / whole.weight).backward()
    wanted = [p.grad.clone() for p in parameters]
    model.zero_grad()
    batches = [table.collate_rows(hand, "packed", 0) for hand in partition_rows(range(10), table.lengths, lanes)]
    found = []
    for _ in range(3):  # adds to what is there, as backward() does
        scored = run_threaded_backward(scorer, batches, {"nll": 1 / whole.weight / 3}, parameters, lanes)
        found.append([sums["nll"].item() for sums, _ in scored])
    assert found[0] == found[1] == found[2]
    assert sum(found[0]) == pytest.approx(scorer(whole)[0]["nll"].item(), rel=1e-6)
    for p, gradient in zip(parameters, wanted, strict=True):
        assert torch.dist(p.grad, gradient) <= 1e-5 * gradient.norm() + 1e-9
    assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_is_raised():
    def score(batch):
        raise ZeroDivisionError

    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        run_threaded_backward(score, [None, None], {}, [], 2)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("axes", "kind", "lanes"),
    [
        ({}, "llama", True),
        ({"tuner": "lora"}, "llama", True),
        ({"objective": "neftune"}, "llama", False),
        ({"tuner": {"name": "lora", "dropout": 0.1}}, "llama", False),
        ({"optimizer": "lomo"}, "llama", False),
        ({}, "gpt2", False),
    ],
    ids=["full", "lora", "noise", "dropout", "in the backward pass", "another family"],
)
def test_only_where_nothing_random_is_drawn(axes, kind, lanes):
    recipe = material.recipe(**axes)
    bench = TrainerState(recipe, material.model(kind), material.table(), Machine("fp32", torch.device("cpu")), 0)
    bench.build({})
    probe_largest_batch(bench, print)
    assert (bench.num_workers > 1) == lanes


def test_runs_repeat_to_the_bit(tmp_path):
    ends = [
        Trainer(material.recipe(), material.model(), material.table(), tmp_path / name, pad_id=0).fit().model
        for name in ("one", "two")
    ]
    assert all(torch.equal(p, q) for p, q in zip(*(end.parameters() for end in ends), strict=True))
