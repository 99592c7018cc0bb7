"""Sums of task vectors: against the formula, its limits, and TIES on numbers worked out by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.axes.registry import find_method
from holdfast.errors import UserError
from holdfast.methods.inference.combine import Combine

NAME = "model.layers.1.mlp.up_proj.weight"


def save(model: Any, path: Path, tokenizer: Any) -> str:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_task_vectors_add_up(tiny: Any, tmp_path: Path) -> None:
    (base, tokenizer), tuned = tiny("llama", seed=0), tiny("llama", seed=1)[0]
    others = [save(tiny("llama", seed=seed)[0], tmp_path / str(seed), tokenizer) for seed in (2, 3)]
    start = dict(base.named_parameters())
    ends = [dict(tiny("llama", seed=seed)[0].named_parameters()) for seed in (1, 2, 3)]
    merged = dict(Combine(runs=tuple(others), scale=0.4).weights(base, tuned).named_parameters())
    for name, weight in merged.items():
        total = sum(end[name].double() - start[name].double() for end in ends)
        torch.testing.assert_close(weight.double(), start[name].double() + 0.4 * total, atol=1e-6, rtol=0)
    untrained = dict(Combine(runs=(others[0],), scale=1.0).weights(base, copy.deepcopy(base)).named_parameters())
    torch.testing.assert_close(untrained[NAME], ends[1][NAME], atol=1e-6, rtol=0)  # nothing was trained here: no vector
    gone = dict(Combine(scale=-1.0).weights(base, tuned).named_parameters())
    torch.testing.assert_close(gone[NAME], 2 * start[NAME] - ends[0][NAME], atol=1e-6, rtol=0)


def test_limits_are_exact_and_inputs_untouched(tiny: Any) -> None:
    base, tuned = tiny("llama", seed=0)[0], tiny("llama", seed=1)[0]
    for method, end in ((Combine(scale=1.0), tuned), (Combine(scale=0.0), base)):
        model = method.weights(base, tuned)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), end.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), tiny("llama", seed=0)[0].parameters(), strict=True))


def test_ties_trims_elects_and_averages() -> None:
    """Of [4, -1, 0.5, 0], [2, 3, -1, 0.1], [-1, 2, 0.2, 0.3] the two largest of each are kept."""
    vectors = torch.tensor([[4.0, -1.0, 0.5, 0.0], [2.0, 3.0, -1.0, 0.1], [-1.0, 2.0, 0.2, 0.3]])
    ties: Any = find_method("inference", "ties")
    assert (ties().density, ties().scale, ties().elect) == (0.2, 1.0, True)
    # Kept: [4, -1, 0, 0], [2, 3, 0, 0], [-1, 2, 0, 0]; sums 5 and 4, so both signs are +.
    expected = [(4 + 2) / 2, (3 + 2) / 2, 0.0, 0.0]
    assert ties(density=0.5).merge_vectors(vectors).tolist() == expected
    assert Combine(density=0.5).merge_vectors(vectors).tolist() == [5.0, 4.0, 0.0, 0.0]
    assert Combine(elect=True).merge_vectors(vectors).tolist() == pytest.approx([3.0, 2.5, -1.0, 0.2])
    one = torch.tensor([[1.0, -2.0, 3.0]])
    assert ties(density=1.0).merge_vectors(one).tolist() == one[0].tolist()


def test_runs_of_other_bases_are_refused(tiny: Any, tmp_path: Path) -> None:
    base, tokenizer = tiny("llama", seed=0)
    other = save(tiny("llama", intermediate_size=48)[0], tmp_path / "other", tokenizer)
    with pytest.raises(UserError, match=r"weight .* is not the same in base and .*other; combine needs"):
        Combine(runs=other).weights(base, base)
    with pytest.raises(UserError, match="nowhere"):
        Combine(runs=("/nowhere/run",)).check_ready()
    assert not Combine.needs_training()
