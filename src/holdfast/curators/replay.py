"""Rehearsal of general rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from holdfast.curators.base import Curator, Workbench
from holdfast.curators.select import record
from holdfast.data.rows import Row


class Replay(Curator):
    """Mix in general rows, so that old skills are rehearsed. [Robins 1995]

    `share` of all training rows come from `path`, drawn with the run's seed:

        m = n * share / (1 - share) replayed rows beside n others

    When it helps: nearly always against forgetting, if rows like those of the model's earlier training are at hand.
    When
    it fails: they are not, or their answers are worse than the model's. Put it last in a list of curators; others leave
    replayed rows alone.

    Columns: any that the objective takes. The recipe's `data.replay` is the same thing.

    Paper: Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal" (Connection Science 7); for language
    models Scialom et al. 2022 (arXiv 2205.12393).
    """

    paper = "Robins 1995; Scialom et al. 2022 (2205.12393)"

    path: str = Field(description="File of general rows (any format), or `lab` / `lab:SKILL`.")
    share: float = Field(0.1, gt=0, lt=1, description="Share of all training rows that are replayed.")

    def curate(self, rows: Sequence[Row], bench: Workbench) -> list[Row]:
        from holdfast.data.mixture import mix

        mixed = mix(rows, bench.load(self.path), share=self.share, seed=bench.seed)
        out = []
        for row in mixed:
            replayed = replace(row, origin="replay") if row.origin == "replay" else row
            out.append(record(replayed, "replay", row, path=self.path) if row.origin == "replay" else row)
        bench.note("replayed", sum(row.origin == "replay" for row in out) - sum(row.origin == "replay" for row in rows))
        return out
