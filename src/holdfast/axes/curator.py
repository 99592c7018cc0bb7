"""The contract of a curator: rows in, rows out, every decision recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from holdfast.axes.engine import Draw, SamplingParams
from holdfast.axes.judge import Answer, Verdict
from holdfast.axes.method import Method
from holdfast.data.rows import Rows


@dataclass(frozen=True, slots=True)
class Workbench:
    """What a curator may use; everything is resumable and seeded.

    Args:
        draw: Samples from the base model through the journal: nothing is drawn twice, nothing lost.
        judge: Verdicts on answers, in order.
        sampling: The recipe's sampling settings (temperature, tokens), to be adapted with `model_copy(update=...)`.
        seed: The run's seed.
        load: Opens another data file by the recipe's names, and which of its columns is what (for `replay`).
        note: Called with a counter name and amount for the report's curation table.
    """

    draw: Draw
    judge: Callable[[Sequence[Answer]], list[Verdict]]
    sampling: SamplingParams
    seed: int
    load: Callable[..., Rows]
    note: Callable[[str, int], Any]


class Curator(Method):
    """Which rows are trained on, and who wrote them."""

    samples: ClassVar[bool] = False
    """Whether it needs the base model to answer."""

    judges: ClassVar[bool] = False
    """Whether it needs a judge."""

    writes: ClassVar[Literal["answers", "pairs"]] = "answers"
    """What its rows are trained on: their answer, or chosen and rejected with the scores of both in `meta`."""

    def draws(self) -> int:
        """Most answers it samples for a row, by which `check` estimates the time that takes."""
        return 0

    rewrites: ClassVar[bool] = False
    """Whether every row stays, and nothing but its answer becomes another."""

    def fits(self, kind: str) -> bool:
        """Whether rows of a shape that holds more than an answer (`data.row_shapes`) are still of it afterwards."""
        return self.rewrites and kind == "triple"  # the gold answer of a triple is the row's answer

    def curate(self, rows: Rows, bench: Workbench) -> Rows:
        """The rows to train on, each with its `origin` and, in `meta`, the trace of the decision.

        `rows` may be on disk; a curator that decides on each by itself returns a `RowMap`, and memory holds none.
        """
        raise NotImplementedError
