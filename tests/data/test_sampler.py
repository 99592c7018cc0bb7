"""The sampler: every row exactly once, the same global batch for any world, seeking instead of replaying."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.batching.batch_sampler import StepPlan
from holdfast.data.batching.batches import BatchSampler
from holdfast.data.batching.step_size import count_steps
from holdfast.errors import UserError
from holdfast.recipe.schema import Train

LENGTHS = np.random.default_rng(0).integers(4, 60, 500)


def sampler(lengths: np.ndarray = LENGTHS, **options: object) -> BatchSampler:
    settings = {"batch_tokens": 1000, "micro_tokens": 200, "layout": "padded", "seed": 5} | options
    return BatchSampler(lengths, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_row_exactly_once_per_epoch(layout: str, world: int) -> None:
    ranks = [sampler(layout=layout, rank=r, world=world) for r in range(world)]
    steps = ranks[0].count_steps(1)
    for epoch in range(2):
        first = ranks[0].count_steps(epoch) if epoch else 0
        for one in ranks:
            one.count_steps(epoch + 1)
        seen = [
            row
            for step in range(first, ranks[0].count_steps(epoch + 1))
            for one in ranks
            for part in one.rank_micro_batches(step)
            for row in part
        ]
        assert sorted(seen) == list(range(len(LENGTHS)))
    assert 0 < steps <= ranks[0].count_steps(2)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_global_batch_is_the_same_for_any_world(layout: str) -> None:
    alone = sampler(layout=layout)
    for world in (2, 3, 4):
        ranks = [sampler(layout=layout, rank=r, world=world) for r in range(world)]
        for step in range(alone.count_steps(1.5)):
            mine = [one.rank_micro_batches(step) for one in ranks]
            assert len({len(parts) for parts in mine}) == 1
            together = [part for parts in mine for part in parts if part]
            assert sorted(together) == sorted(alone.rank_micro_batches(step))
            assert sorted(r for part in together for r in part) == sorted(alone.step_rows(step).tolist())


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_budgets(layout: str) -> None:
    one = sampler(layout=layout)
    for step in range(one.count_steps(2)):
        assert one.count_tokens(step) <= 1000
        for part in one.rank_micro_batches(step):
            widths = LENGTHS[part]
            assert list(widths) == sorted(widths, reverse=True)
            assert (widths.max() * len(part) if layout == "padded" else widths.sum()) <= 200
    # The budget is used: no more steps than greedy filling needs.
    assert one.count_steps(1) <= np.ceil(LENGTHS.sum() / (1000 - 60))


def test_rows_longer_than_the_budgets_stand_alone() -> None:
    one = sampler(np.array([50, 3000, 60, 2000]), layout="packed")
    parts = [part for step in range(one.count_steps(1)) for part in one.rank_micro_batches(step)]
    assert [1] in parts
    assert [3] in parts
    assert sorted(r for part in parts for r in part) == [0, 1, 2, 3]


def test_pairs_are_counted_by_their_two_lines() -> None:
    one = sampler(np.full(100, 40), widths=np.full(100, 25), per_row=2)
    assert {len(part) for step in range(one.count_steps(1)) for part in one.rank_micro_batches(step)} <= {1, 2, 3, 4}
    assert max(len(part) for part in one.rank_micro_batches(0)) == 200 // 50


def test_seeking_is_replaying() -> None:
    replayed = sampler()
    wanted = [replayed.rank_micro_batches(i) for i in range(replayed.count_steps(4))]
    for step in (len(wanted) - 1, 0, len(wanted) // 2, 7):
        assert sampler().rank_micro_batches(step) == wanted[step]
    backwards = sampler()
    assert [backwards.rank_micro_batches(i) for i in reversed(range(len(wanted)))][::-1] == wanted


def test_epochs_and_seeds_differ() -> None:
    one = sampler()
    assert one.step_rows(0).tolist() != one.step_rows(one.count_steps(1)).tolist()
    assert one.step_rows(0).tolist() != sampler(seed=6).step_rows(0).tolist()
    assert one.step_rows(0).tolist() == sampler().step_rows(0).tolist()


def test_the_order_is_pinned() -> None:
    """A changed order would make interrupted runs go on differently after an update."""
    assert StepPlan(np.ones(10, dtype=np.int64), 4, seed=1, epoch=2).order.tolist() == (
        np.random.default_rng((1, 2)).permutation(10).tolist()
    )


def test_parts_of_epochs() -> None:
    one = sampler()
    whole = one.count_steps(1)
    assert one.count_steps(0.5) == round(whole / 2)
    assert one.count_steps(1.5) == whole + round(0.5 * (one.count_steps(2) - whole))
    assert one.count_steps(1e-6) == 1
    assert one.epoch_at(0) == 0
    assert one.epoch_at(whole) == 1
    assert 0.4 < one.epoch_at(whole // 2) < 0.6
    with pytest.raises(UserError, match="no row to train on"):
        sampler(np.array([], dtype=np.int64))


def test_max_steps_go_before_epochs_and_no_epoch_beyond_them_is_planned() -> None:
    whole = sampler().count_steps(1)
    for steps in (1, whole, 3 * whole + 1):
        one = sampler()
        assert count_steps(Train(epochs=1e9, max_steps=steps), one) == steps
        assert one._first == [0]
    assert count_steps(Train(epochs=2), sampler()) == sampler().count_steps(2)


def test_a_thousand_short_epochs_are_the_passes_they_are() -> None:
    one = sampler(np.full(64, 10), batch_tokens=640)
    assert one.count_steps(1000) == 1000
    assert one.epoch_at(1000) == 1000


def test_steps_are_of_like_size() -> None:
    """1010 rows of 10 tokens at 1000 tokens: eleven steps of 91 or 92 rows, not ten of 100 and one of 10."""
    sizes = np.diff(StepPlan(np.full(1010, 10), 1000, seed=0, epoch=0).bounds)
    assert len(sizes) == 11
    assert set(sizes.tolist()) == {91, 92}


def test_longest_and_padding() -> None:
    one = sampler()
    rows = one.largest_micro_batch()
    assert LENGTHS[rows[0]] == LENGTHS.max()
    for step in range(one.count_steps(1)):
        for part in one.rank_micro_batches(step):
            assert LENGTHS[part].max() * len(part) <= 200
    assert len(rows) == 200 // LENGTHS.max()
    assert 0 < one.padding_share() < 0.3
    assert sampler(layout="packed").padding_share() == 0
