"""The size of micro-batches by measurement: the knee, a fifth of the memory free, and clear advice where nothing fits.

A card is a table here: seconds and bytes of a pass by its tokens. What is measured with it is what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import material
import numpy as np
import pytest
import torch

from holdfast.errors import RunError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.lm_head import choose_chunk_rows
from holdfast.models.placement import GIB
from holdfast.training import micro_batch_search, probe
from holdfast.training.batch_source import build_trainer_state
from holdfast.training.callbacks import Hooks
from holdfast.training.distributed import Machine
from holdfast.training.memory import count_fitting_tokens
from holdfast.training.micro_batch_search import PassCost, PassMeter, search_micro_tokens
from holdfast.training.trainer import Trainer


class TableCard:
    """A clock and a memory that passes of some tokens move; `total` bytes, `tokens` it was asked for."""

    def __init__(self, seconds: Callable[[int], float], size: Callable[[int], float], total: int = 1000) -> None:
        self.seconds, self.size, self.total = seconds, size, total
        self.now, self.peak, self.tokens = 0.0, 0.0, list[int]()

    def run_pass(self, tokens: int) -> None:
        self.tokens.append(tokens)
        if self.size(tokens) > self.total:
            raise torch.OutOfMemoryError("out of memory")
        self.now += self.seconds(tokens)
        self.peak = max(self.peak, self.size(tokens))

    def start_peak(self) -> None:
        self.peak = 0.0

    def wait_for_device(self) -> None:
        self.now += 0.0

    def read_free(self) -> tuple[int, int]:
        return int(self.total - self.peak), self.total

    def clock(self) -> float:
        return self.now

    def measure_size(self, size: int) -> PassCost | None:
        def finds_memory() -> bool:
            try:
                self.run_pass(size)
            except torch.OutOfMemoryError:
                return False
            return True

        return PassMeter(self, self.clock).measure_pass(finds_memory, size)


def until_busy(busy: int) -> Callable[[int], float]:
    """A second for every pass of up to so many tokens, then in proportion."""
    return lambda tokens: max(1.0, tokens / busy)


# name: (seconds of tokens, bytes of tokens, least, first, most) -> size, the sizes that were tried
CASES = {
    "two rows are as fast as four": ((until_busy(16), lambda n: 20 * n, 8, 8, 32), 16, [8, 16, 32]),
    "a tenth faster is worth it": ((lambda n: n / (1 + n / 80), lambda n: n, 8, 8, 16), 16, [8, 16]),
    "a twenty-fifth is not": ((lambda n: n / (1 + n / 200), lambda n: n, 8, 8, 16), 8, [8, 16]),
    "a whole step is enough": ((until_busy(1000), lambda n: n, 8, 8, 20), 20, [8, 16, 20]),
    "a fifth stays free, to the byte": ((until_busy(1000), lambda n: 50 * n, 8, 8, 64), 16, [8, 16]),
    "one byte too many": ((until_busy(1000), lambda n: 50 * n + 1, 8, 8, 64), 8, [8, 16]),
    "what a line says would not fit is not tried": ((until_busy(1000), lambda n: 20 * n, 8, 8, 64), 32, [8, 16, 32]),
    "larger finds no memory at all": ((until_busy(1000), lambda n: 4 * n * n, 8, 8, 64), 8, [8, 16]),
    "the first size is too large": ((until_busy(1000), lambda n: 50 * n, 4, 40, 64), 10, [40, 20, 10]),
    "not less than one row": ((until_busy(1000), lambda n: 50 * n, 15, 40, 64), 15, [40, 20, 15]),
    "one row that leaves less than a fifth": ((until_busy(1000), lambda n: 50 * n, 18, 18, 64), 18, [18]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_size_is_the_knee_and_leaves_a_fifth(case: str) -> None:
    (seconds, size_of, least, first, most), wanted, tried = CASES[case]
    card = TableCard(seconds, size_of)
    size, cost = search_micro_tokens(card.measure_size, least, first, most)
    assert cost is not None
    assert (size, list(dict.fromkeys(card.tokens))) == (wanted, tried)
    assert cost.leaves_room == (case != "one row that leaves less than a fifth")


def test_where_not_even_the_least_fits_there_is_no_cost() -> None:
    card = TableCard(until_busy(1), lambda n: 300 * n)
    assert search_micro_tokens(card.measure_size, 4, 16, 64) == (4, None)
    assert card.tokens == [16, 8, 4]


def test_a_measurement_is_the_faster_of_two_passes_after_one_that_warms_up() -> None:
    times, card = iter([9.0, 4.0, 2.0]), TableCard(lambda tokens: next(times), lambda n: n)
    cost = card.measure_size(100)
    assert cost == PassCost(tokens=100, seconds=2.0, free=900, total=1000)
    assert cost.describe_cost() == "50 tokens/s, 0.0 of 0.0 GiB in use at the peak"
    full = PassCost(tokens=90_000, seconds=2.0, free=37 * GIB, total=80 * GIB)
    assert full.describe_cost() == "45,000 tokens/s, 43.0 of 80.0 GiB in use at the peak"


def test_a_first_guess_leaves_a_fifth_too() -> None:
    for free, per_token, share, wanted in ((700, 10, 64, 50), (700, 10, 32, 32), (100, 1, 9, 1)):
        assert count_fitting_tokens(free, 1000, per_token, share) == wanted


def test_rows_of_logits_at_a_time() -> None:
    """On a CPU as ever; on a card a power of two, at most 4,096, by all of its memory."""
    assert choose_chunk_rows(torch.device("cpu"), 32_000, None) == (64 << 20) // (4 * 32_000)
    cuda = torch.device("cuda")
    assert choose_chunk_rows(cuda, 151_936, None) == 441
    for gib, vocabulary, wanted in (
        (80, 151_936, 4096), (139, 151_936, 4096), (40, 151_936, 2048), (24, 151_936, 1024), (24, 32_000, 4096),
        (8, 262_144, 256),
    ):  # fmt: skip
        assert choose_chunk_rows(cuda, vocabulary, gib * GIB) == wanted


class OnCard(SFT):
    """Passes take what a table says."""

    def losses(self, policy, batch):
        card.run_pass(batch.tokens)
        return super().losses(policy, batch)


card = TableCard(until_busy(1), lambda n: n)


def fit(out, monkeypatch, table_card: TableCard, train=None, **axes):
    """A run that measures its micro-batches on a card: the result and its lines."""
    monkeypatch.setattr(probe, "build_meter", lambda device: PassMeter(table_card, table_card.clock))
    monkeypatch.setattr(probe, "LEAST_TOKENS", 1)
    monkeypatch.setitem(globals(), "card", table_card)
    notes: list[str] = []
    recipe = material.recipe({"micro_tokens": None} | (train or {}), objective=OnCard(), **axes)
    trainer = Trainer(recipe, material.model(), material.table(), out, pad_id=0, hooks=Hooks(on_note=notes.append))
    return trainer.fit(), notes


def test_a_run_takes_the_size_it_measured_and_its_weights_are_those_of_that_size(tmp_path, monkeypatch) -> None:
    busy_card = TableCard(until_busy(54), lambda n: 4 * n)
    result, notes = fit(tmp_path / "a", monkeypatch, busy_card)
    longest = int(material.table().lengths.max())
    assert result.micro_tokens == 2 * longest
    line = next(note for note in notes if note.startswith("micro-batch: "))
    assert line.startswith(f"micro-batch: {2 * longest:,} tokens: ")
    assert "tokens/s" in line
    said, _ = fit(tmp_path / "b", monkeypatch, busy_card, {"micro_tokens": result.micro_tokens})
    assert all(torch.equal(p, q) for p, q in zip(result.model.parameters(), said.model.parameters(), strict=True))


def test_what_the_recipe_or_an_interrupted_run_says_is_not_measured(tmp_path) -> None:
    def build(stored, **train):
        recipe = material.recipe({"micro_tokens": None} | train)
        machine = Machine("fp32", torch.device("cpu"))
        state = build_trainer_state(recipe, material.model(), material.table(), machine, 0)
        state.build(stored)
        return state.chooses_micro_tokens, state.micro_tokens, state.policy.chunk_rows

    rows = build({})[2]
    assert build({}) == (True, 200, rows)
    assert build({}, micro_tokens=80) == (False, 80, rows)
    assert build({"micro_tokens": [None, 64], "head_rows": 32}) == (False, 64, 32)


def test_a_row_that_leaves_less_than_a_fifth_runs_with_a_line_and_one_that_does_not_fit_ends_in_advice(
    tmp_path, monkeypatch
) -> None:
    longest = int(material.table().lengths.max())
    result, notes = fit(tmp_path / "a", monkeypatch, TableCard(until_busy(1), lambda n: 900 * n / longest))
    assert result.micro_tokens == longest
    assert any(note.startswith(f"one row of {longest} tokens leaves ") and "than a fifth" in note for note in notes)
    with pytest.raises(RunError, match=rf"not enough memory even for 1 row\(s\) of {longest} tokens.*goes to: .*Try: "):
        fit(tmp_path / "b", monkeypatch, TableCard(until_busy(1), lambda n: 1001 * n / longest))


def test_a_single_row_gets_fewer_rows_of_logits_before_it_is_given_up(tmp_path, monkeypatch) -> None:
    longest, chunks = int(material.table().lengths.max()), [0]
    tight_card = TableCard(until_busy(1), lambda n: n * (60 - 10 * chunks[0]))

    def shrink_head(state) -> bool:
        chunks[0] += 1
        return True

    monkeypatch.setattr("holdfast.training.setup.TrainerState.shrink_head", shrink_head)
    result, _ = fit(tmp_path, monkeypatch, tight_card)
    assert result.micro_tokens == longest
    assert longest * (60 - 10 * (chunks[0] - 1)) > 1000 >= longest * (60 - 10 * chunks[0])


def test_only_devices_that_say_their_peak_are_measured() -> None:
    assert micro_batch_search.build_meter(torch.device("cpu")) is None


@pytest.mark.parametrize(("layout", "objective"), [("padded", "sft"), ("packed", "sft"), ("padded", "dpo")])
def test_the_longest_row_counts_as_micro_batches_count_it(layout, objective) -> None:
    """Two of it go into twice its tokens, and not into one less."""
    recipe = material.recipe({"layout": layout}, objective=objective)
    machine = Machine("fp32", torch.device("cpu"))
    state = build_trainer_state(recipe, material.model(), material.table(8, 2), machine, 0)
    state.build({})
    counts, costs = [], state.table.widths if layout == "padded" else state.table.lengths
    for size in (2 * probe.count_longest_row(state) - 1, 2 * probe.count_longest_row(state)):
        sampler = state.table.build_sampler(batch_tokens=size, micro_tokens=size, layout=layout)
        counts.append(len(sampler.cut_micro_batches(np.repeat(costs.argmax(), 2))))
    assert counts == [2, 1]
