"""Rehearsal of general rows."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.data.rows import Row, RowMap, Rows
from holdfast.data.trace import record_decision


class Replay(Curator):
    """Mix in general rows, so that old skills are rehearsed. [Robins 1995]

    `share` of all training rows come from `path`, drawn with the run's seed:

        m = n * share / (1 - share) replayed rows beside n others

    When it helps: nearly always against forgetting, if rows like those of the model's earlier training are at hand.
    When it fails: they are not, or their answers are worse than the model's. Put it last in a list of curators; others
    leave replayed rows alone.

    Columns: any that the objective takes, or as `columns` maps them. The recipe's `data.replay` is the same thing.

    Paper: Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal" (Connection Science 7); for language
    models Scialom et al. 2022 (arXiv 2205.12393).
    """

    paper = "Robins 1995; Scialom et al. 2022 (2205.12393)"
    effect: ClassVar[Effect] = "mix"

    path: str = Field(description="File of general rows (any format), or `lab` / `lab:SKILL`.")
    share: float = Field(0.1, gt=0, lt=1, description="Share of all training rows that are replayed.")

    columns: dict[str, int | str] | None = Field(
        None, description="Which column of the file is what, as in data.columns, which is not for this file."
    )
    ignore: tuple[str, ...] = Field((), description="Columns of the file that are not used, as in data.ignore.")

    def row_sources(self) -> tuple[RowSource, ...]:
        return (RowSource(self.path, self.columns, self.ignore),)

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        from holdfast.data.mixture import mix_replay

        mixture = mix_replay(rows, context.load_rows(self.row_sources()[0]), share=self.share, seed=context.seed)
        context.note("replayed", len(mixture) - len(rows))
        # Rows that an earlier curator replayed have told so already.
        return RowMap(
            mixture,
            lambda row: (
                record_decision(row, "replay", row, path=self.path)
                if row.origin == "replay" and not has_trace(row)
                else row
            ),
        )


def has_trace(row: Row) -> bool:
    """Whether a curator has left its trace on the row."""
    return bool(row.meta.get("trace"))
