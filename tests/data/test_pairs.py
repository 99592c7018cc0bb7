"""Pairs that share their prompt: the labels of two sequences, in one line, where each answer sees only itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.batching import shared_prefix
from holdfast.data.batching.batches import Batch, EncodedSequence, TokenTable
from holdfast.data.batching.shared_prefix import SharedPrefixTable, build_prefix_attention_mask, compute_prefix_lengths


def pair(prompt: list[int], chosen: list[int], rejected: list[int], row: int = 0, other: list[int] | None = None):
    """Chosen and rejected; rejected's prompt may be an `other`."""
    out = []
    for role, (start, answer) in enumerate(((prompt, chosen), (prompt if other is None else other, rejected))):
        ids = np.array([*start, *answer], np.int32)
        out.append(EncodedSequence(ids, np.arange(len(ids)) >= len(start), row, role, 1 + row / 2))
    return out


def table_of(*sequences: list[EncodedSequence]) -> TokenTable:
    return TokenTable.from_sequences([one for two in sequences for one in two])


def random_table(rows: int = 40, seed: int = 0) -> TokenTable:
    """Few different tokens, prompts that agree for a while only, labels anywhere."""
    random, out = np.random.default_rng(seed), []
    for row in range(rows):
        prompt = random.integers(0, 3, random.integers(1, 9))
        for role in (0, 1):
            ids = np.concatenate([prompt, random.integers(0, 3, random.integers(1, 9))]).astype(np.int32)
            trained = random.random(len(ids)) < (0.3 if row % 2 else 0.05)
            trained[-1] = True
            out.append(EncodedSequence(ids, trained, row, role, float(row)))
    return TokenTable.from_sequences(out)


def batch_of(table: TokenTable, rows: list[int] | None = None, pad_id: int = 0) -> Batch:
    batch = table.collate_rows(list(range(len(table))) if rows is None else rows, "padded", pad_id)
    assert batch is not None
    return batch


def test_by_hand() -> None:
    table = SharedPrefixTable(table_of(pair([5, 6, 7], [8, 9], [10, 11, 12]), pair([5], [6], [6, 7], row=1)))
    batch = batch_of(table, pad_id=99)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 6, 7, 99, 99, 99, 99]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 1, 2, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [8, 9, 10, 11, 12, 6, 6, 7]
    assert batch.label_positions.tolist() == [2, 3, 2, 5, 6, 8, 8, 10]
    assert batch.sequence.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    assert batch.weights.tolist() == [1, 1, 1, 1, 1, 1.5, 1.5, 1.5]
    assert (batch.rows.tolist(), batch.roles.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert (batch.n_sequences, batch.tokens, batch.weight) == (4, 12, 9.5)
    assert batch.cu_seqlens.diff().tolist() == [5, 6, 2, 3]
    assert (batch.weight, batch.n_sequences, batch.n_rows) == (9.5, 4, 2)
    assert batch.attention_mask is not None
    assert batch.attention_mask.shape == (2, 1, 8, 8)
    wanted = ["1.......", "11......", "111.....", "1111....", "11111...", "111..1..", "111..11.", "111..111"]
    assert ["".join(".1"[x] for x in line) for line in batch.attention_mask[0, 0].tolist()] == wanted


def test_content_and_order_are_those_of_separate_sequences() -> None:
    plain = random_table()
    shared = SharedPrefixTable(plain)
    assert shared.prefixes.max() > 3
    assert shared.prefixes.min() <= 1
    for rows in ([3], [7, 0, 19], list(range(40))[::-1]):
        one, other = batch_of(plain, rows), batch_of(shared, rows)
        for name in ("labels", "sequence", "weights", "rows", "roles", "cu_seqlens"):
            first, second = getattr(one, name), getattr(other, name)
            assert first.dtype == second.dtype, name
            assert first.tolist() == second.tolist(), name
        assert (one.n_sequences, one.weight) == (other.n_sequences, other.weight)
        for batch in (one, other):  # each label is predicted by the token before it, at its position
            ids, positions = (
                batch.input_ids.flatten()[batch.label_positions],
                batch.position_ids.flatten()[batch.label_positions],
            )
            sequences = [s for row in rows for s in plain.row_sequences(row)]
            labels = [(e, i) for e in sequences for i in np.flatnonzero(e.label_mask) if i]
            assert ids.tolist() == [int(e.ids[i - 1]) for e, i in labels]
            assert positions.tolist() == [i - 1 for _, i in labels]


def test_a_position_sees_exactly_its_own_sequence_up_to_itself() -> None:
    plain = random_table()
    batch = batch_of(SharedPrefixTable(plain))
    assert batch.attention_mask is not None
    width = batch.input_ids.shape[1]
    flat = batch.attention_mask[:, 0].flatten(0, 1)  # [B L, L]
    assert flat.any(1).all()
    for place, sequence in zip(batch.label_positions.tolist(), batch.sequence.tolist(), strict=True):
        row, role = divmod(sequence, 2)
        ids = plain.row_sequences(row)[role].ids
        seen = flat[place]
        positions = batch.position_ids[row][seen].tolist()
        assert positions == list(range(int(batch.position_ids[row, place % width]) + 1))
        assert batch.input_ids[row][seen].tolist() == ids[: len(positions)].tolist()


def test_the_prefix_ends_before_the_first_label_and_the_first_difference() -> None:
    cases = {
        3: pair([1, 2, 3], [4, 5], [4, 6]),  # the answers begin alike, but that is trained
        2: pair([1, 2, 9], [4], [5], other=[1, 2, 8]),
        0: pair([9, 2, 3], [4], [5], other=[8, 2, 3]),
        1: pair([1], [1, 1], [1, 1, 1]),  # one answer is the beginning of the other
        4: pair([1, 2, 3, 4], [4], [5], other=[1, 2, 3, 4, 6, 7]),  # one prompt is the beginning of the other
    }
    assert compute_prefix_lengths(table_of(*cases.values())).tolist() == list(cases)
    early = pair([1, 2, 3, 4], [5], [6])
    early[1].label_mask[2] = True
    assert compute_prefix_lengths(table_of(early)).tolist() == [2]
    first = pair([1, 2, 3, 4], [5], [6])
    first[0].label_mask[0] = True  # the first token is never a label
    assert compute_prefix_lengths(table_of(first)).tolist() == [4]
    same = pair([1, 2], [3], [3])
    assert batch_of(SharedPrefixTable(table_of(same))).input_ids.tolist() == [[1, 2, 3, 3]]


def test_prefixes_against_the_definition_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "BLOCK", 7)
    table = random_table(50, seed=1)
    for row, found in enumerate(compute_prefix_lengths(table).tolist()):
        one, other = table.row_sequences(row)
        together = zip(one.ids, other.ids, one.label_mask, other.label_mask, strict=False)
        ends = [i for i, (a, b, s, t) in enumerate(together) if a != b or (i and (s or t))]
        assert found == min([*ends, len(one.ids), len(other.ids)])


def test_lines_are_budgeted_as_computed_and_steps_as_without_sharing() -> None:
    plain = random_table(200)
    shared = SharedPrefixTable(plain)
    settings = {"batch_tokens": 400, "micro_tokens": 90, "layout": "padded", "seed": 3}
    one, other = plain.build_sampler(**settings), shared.build_sampler(**settings)
    assert one.count_steps(2) == other.count_steps(2)
    fewer = 0
    for step in range(one.count_steps(1)):
        assert one.step_rows(step).tolist() == other.step_rows(step).tolist()
        fewer += len(one.rank_micro_batches(step)) - len(other.rank_micro_batches(step))
        for part in other.rank_micro_batches(step):
            batch = batch_of(shared, part)
            assert batch.input_ids.numel() <= 90
            assert batch.tokens == shared.lengths[part].sum()
            assert batch.input_ids.shape[1] == shared.widths[part].max()
    assert fewer > 0
    assert 0 < other.padding_share() < 0.3
    biggest = batch_of(shared, shared.build_sampler(batch_tokens=90, layout="padded").largest_micro_batch())
    assert 90 - shared.widths.max() < biggest.input_ids.numel() <= 90


def test_nothing_collates_to_none_and_batches_move() -> None:
    shared = SharedPrefixTable(random_table(3))
    assert shared.collate_rows([], "padded", 0) is None
    moved = batch_of(shared).to("meta")
    assert moved.attention_mask is not None
    assert moved.attention_mask.device.type == "meta"
    assert shared.fingerprint == ""


def test_sight_without_a_prefix() -> None:
    seen = build_prefix_attention_mask(torch.tensor([0]), torch.tensor([2]), 4)[0, 0]
    assert seen.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
