"""Batches: labels stand where they are predicted, in both layouts, from lists and from tables alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import Batch, EncodedSequence, TokenTable, collate_sequences

Layout = Literal["padded", "packed"]
LAYOUTS: list[Layout] = ["padded", "packed"]


def encoded(count: int, pairs: bool = False, seed: int = 0) -> list[EncodedSequence]:
    random = np.random.default_rng(seed)
    out = []
    for k in range(count * (2 if pairs else 1)):
        length = int(random.integers(2, 12))
        ids = random.integers(1, 99, length).astype(np.int32)
        trained = random.random(length) < 0.5
        trained[0], trained[-1] = False, True
        row = k // 2 if pairs else k
        out.append(EncodedSequence(ids, trained, row, k % 2 if pairs else 0, 1.0 + row / 4))
    return out


def equal(one: Batch, other: Batch) -> None:
    for name in ("input_ids", "position_ids", "labels", "label_positions", "sequence", "weights", "rows", "roles"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype, name
        assert first.tolist() == second.tolist(), name
    assert (one.n_sequences, one.tokens, one.weight) == (other.n_sequences, other.tokens, other.weight)


def test_padded_by_hand() -> None:
    rows = [
        EncodedSequence(np.array([5, 6, 7], np.int32), np.array([False, True, True]), 3, weight=2.0),
        EncodedSequence(np.array([8, 9], np.int32), np.array([False, True]), 4, weight=0.5),
    ]
    batch = collate_sequences(rows, "padded", 0)
    assert batch is not None
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch.labels.tolist() == [6, 7, 9]
    assert batch.label_positions.tolist() == [0, 1, 3]
    assert batch.sequence.tolist() == [0, 0, 1]
    assert batch.weights.tolist() == [2.0, 2.0, 0.5]
    assert (batch.rows.tolist(), batch.roles.tolist()) == ([3, 4], [0, 0])
    assert (batch.n_sequences, batch.tokens, batch.attention_mask) == (2, 5, None)
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert (batch.weight, batch.n_sequences) == (4.5, 2)


def test_packed_by_hand() -> None:
    rows = [
        EncodedSequence(np.array([5, 6, 7], np.int32), np.array([False, True, True]), 0),
        EncodedSequence(np.array([8, 9], np.int32), np.array([False, True]), 1),
    ]
    batch = collate_sequences(rows, "packed", 0)
    assert batch is not None
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.label_positions.tolist() == [0, 1, 3]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.input_ids.dtype == batch.labels.dtype == batch.label_positions.dtype == torch.int64


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pairs", [False, True])
def test_every_label_is_predicted_by_the_token_before_it(layout: Layout, pairs: bool) -> None:
    rows = encoded(9, pairs)
    batch = collate_sequences(rows, layout, 0)
    assert batch is not None
    flat = batch.input_ids.flatten()
    positions = batch.position_ids.flatten()
    wanted = [
        (k, e.ids[i - 1], e.ids[i], i - 1) for k, e in enumerate(rows) for i in range(len(e.ids)) if e.label_mask[i]
    ]
    got = zip(batch.sequence, flat[batch.label_positions], batch.labels, positions[batch.label_positions], strict=True)
    assert [tuple(int(v) for v in item) for item in got] == [tuple(int(v) for v in item) for item in wanted]
    assert flat[batch.label_positions + 1].tolist() == batch.labels.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pad_equal_to_a_real_token_changes_no_label(layout: Layout) -> None:
    rows = encoded(9)
    one, other = collate_sequences(rows, layout, 0), collate_sequences(rows, layout, int(rows[0].ids[-1]))
    assert one is not None
    assert other is not None
    for name in ("labels", "label_positions", "sequence", "weights"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_a_first_token_is_never_a_label() -> None:
    rows = [EncodedSequence(np.array([1, 2], np.int32), np.array([True, True]), k) for k in range(3)]
    for layout in LAYOUTS:
        batch = collate_sequences(rows, layout, 0)
        assert batch is not None
        assert batch.labels.tolist() == [2, 2, 2]


def test_nothing_collates_to_none() -> None:
    assert collate_sequences([], "padded", 0) is None
    assert TokenTable.from_sequences(encoded(2)).collate_rows([], "packed", 0) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pairs", [False, True])
def test_a_table_gives_what_its_sequences_give(layout: Layout, pairs: bool) -> None:
    rows = encoded(20, pairs)
    table = TokenTable.from_sequences(rows)
    assert len(table) == 20
    for pick in ([3], [7, 0, 19], list(range(20))[::-1]):
        from_sequences = collate_sequences([e for r in pick for e in table.row_sequences(r)], layout, 7)
        from_table = table.collate_rows(pick, layout, 7)
        assert from_sequences is not None
        assert from_table is not None
        equal(from_table, from_sequences)
    assert table.lengths.tolist() == [sum(len(e.ids) for e in table.row_sequences(r)) for r in range(20)]
    assert table.widths.tolist() == [max(len(e.ids) for e in table.row_sequences(r)) for r in range(20)]


def test_pairs_are_adjacent_chosen_first() -> None:
    batch = TokenTable.from_sequences(encoded(5, pairs=True)).collate_rows([4, 1], "packed", 0)
    assert batch is not None
    assert batch.rows.tolist() == [4, 4, 1, 1]
    assert batch.roles.tolist() == [0, 1, 0, 1]
    assert batch.n_rows == 2


def test_per_sequence_sums_and_differentiates() -> None:
    batch = collate_sequences(encoded(6), "packed", 0)
    assert batch is not None
    values = torch.arange(len(batch.labels), dtype=torch.float64, requires_grad=True)
    sums = batch.sum_per_sequence(values)
    wanted = [sum(float(v) for v, s in zip(values.detach(), batch.sequence, strict=True) if s == k) for k in range(6)]
    assert sums.tolist() == wanted
    (sums * torch.arange(6)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == batch.sequence.tolist()


def test_to_moves_every_tensor() -> None:
    for layout in LAYOUTS:
        batch = collate_sequences(encoded(3), layout, 0)
        assert batch is not None
        moved = batch.to("meta")
        assert {getattr(moved, n).device.type for n in ("input_ids", "labels", "weights", "cu_seqlens")} == {"meta"}
        assert moved.weight == batch.weight


def test_the_first_sequences_of_each_row() -> None:
    table = TokenTable.from_sequences(encoded(20, pairs=True))
    firsts = table.keep_first_sequences(1)
    assert (len(firsts), firsts.per_row) == (len(table), 1)
    assert table.keep_first_sequences(None) is table
    assert firsts.fingerprint == table.fingerprint
    for row in range(len(table)):
        (only,), (first, _) = firsts.row_sequences(row), table.row_sequences(row)
        assert (only.row, only.role, only.weight, only.values) == (first.row, first.role, first.weight, first.values)
        assert only.ids.tolist() == first.ids.tolist()
        assert only.label_mask.tolist() == first.label_mask.tolist()
    batch = table.collate_rows(range(20), "packed", 0)
    assert batch is not None
    assert torch.equal(firsts.collate_rows(range(20), "packed", 0).labels, batch.select_roles(0).labels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_longest_holds_the_longest_row_and_fills_the_area(layout: Layout) -> None:
    table = TokenTable.from_sequences(encoded(100))
    batch = table.collate_rows(table.build_sampler(batch_tokens=60, layout=layout).largest_micro_batch(), layout, 0)
    assert batch is not None
    assert int(table.lengths.argmax()) in batch.rows.tolist() or table.lengths.max() == table.lengths[batch.rows[0]]
    assert 60 - table.lengths.max() < batch.input_ids.numel() <= 60


def test_sampler_of_a_pair_table_respects_the_area() -> None:
    table = TokenTable.from_sequences(encoded(60, pairs=True))
    one = table.build_sampler(batch_tokens=300, micro_tokens=80, layout="padded", seed=1)
    for step in range(one.count_steps(1)):
        for part in one.rank_micro_batches(step):
            batch = table.collate_rows(part, "padded", 0)
            assert batch is not None
            assert batch.input_ids.numel() <= 80
