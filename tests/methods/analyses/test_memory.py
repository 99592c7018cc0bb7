"""Memory: levels of a model that is a table, and what a section says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.memory_probe import MemoryProbe, find_level
from holdfast.methods.analyses.memory import Memory, build_section
from holdfast.testing.analyses import build_context


class TableEngine:
    """Answers each question so many times of eight rightly, in capitals."""

    fingerprint = "table"

    def __init__(self, table: dict[str, tuple[str, int]]) -> None:
        self.table = table

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        assert params.temperature == 0.7
        for request, indices in requests:
            answer, right = self.table[str(request.messages[-1]["content"])[-1]]
            for index in indices:
                yield Sample(
                    request.key, index, f"It is {answer.upper()}." if index < right else "Who knows?", "stop", 4
                )


def row(name: str, answer: str) -> Row:
    return Row([{"role": "user", "content": f"Where is {name}"}, {"role": "assistant", "content": answer}])


def test_levels_of_a_table_are_exact() -> None:
    table = {name: ("Bonn", right) for name, right in zip("abcdefgh", (0, 1, 2, 3, 4, 5, 6, 8), strict=True)}
    probe = MemoryProbe(templates=("{question}",), draws=8)
    rows = [row(name, "Bonn") for name in table]
    hits, tries = probe.count_hits(rows, build_sample_fn(TableEngine(table)), SamplingParams())
    assert (hits, set(tries)) == ([0, 1, 2, 3, 4, 5, 6, 8], {8})
    assert [find_level(h, t) for h, t in zip(hits, tries, strict=True)] == [0, 1, 1, 2, 2, 3, 3, 4]


def test_another_name_of_the_answer_is_the_answer() -> None:
    for aliases, hits in (({}, [0]), ({"Bundesstadt": ("Bonn",)}, [8])):
        probe = MemoryProbe(templates=("{question}",), draws=8, aliases=aliases)
        counts = probe.count_hits(
            [row("a", "Bundesstadt")], build_sample_fn(TableEngine({"a": ("Bonn", 8)})), SamplingParams()
        )
        assert counts == (hits, [8])


def test_levels_count_alike_whatever_their_size() -> None:
    """Nine unknown questions of which none is right, and one known that is: the mean over levels is 50, not 10."""
    section = build_section([0] * 9 + [4], [0] * 6 + [2] * 3 + [3], [(False, False)] * 9 + [(True, True)])
    *lines, mean = section.table.rows
    assert mean[:5] == ("mean over levels", 10, 50.0, 50.0, 0.0)
    assert mean[5:] == (6, 0, 3, 1, 0)
    assert lines == [
        ("level 0 (unknown)", 9, 0.0, 0.0, 0.0, 6, 0, 3, 0, 0),
        ("level 4", 1, 100.0, 100.0, 0.0, 0, 0, 0, 1, 0),
    ]
    assert section.sentence == (
        "Of 10 questions the base knew 9 not at all, of which 0 % were right before training and 0 % are now; of those "
        "it knew best (level 4) 100 % were right and 100 % are."
    )


def test_what_was_lost_is_said_by_level() -> None:
    section = build_section([4, 4, 2], [1, 4, 0], [(True, False), (True, True), (False, True)])
    assert [line[:5] for line in section.table.rows] == [
        ("level 2", 1, 0.0, 100.0, 100.0),
        ("level 4", 2, 100.0, 50.0, -50.0),
        ("mean over levels", 3, 50.0, pytest.approx(75.0), pytest.approx(25.0)),
    ]
    assert section.sentence.startswith("Of 3 questions the base knew 0 not at all; of those it knew best")


def test_tasks_are_named_as_they_are_called() -> None:
    context, _ = build_context()
    assert [task.name for task in Memory().choose_tasks(context)] == ["sums"]
    assert [task.name for task in Memory(tasks=("other sums",)).choose_tasks(context)] == ["other sums"]
    with pytest.raises(UserError, match="othersums is not a task with judged answers; did you mean other sums"):
        Memory(tasks=("othersums",)).choose_tasks(context)
