"""LESS: rows whose gradients point where those of a target point."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.data.rows import Row, Rows
from holdfast.methods.curators.pool import (
    answer_conversations,
    count_chosen,
    highest_numbers,
    keep_chosen,
    open_pool,
    refuse_overlap,
)

if TYPE_CHECKING:
    import numpy as np

Paths = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value), Field(min_length=1)
]
"""One file or several."""


class LESS(Curator):
    """Rows whose gradients point where those of a target's rows point. [Xia et al. 2024, arXiv 2402.04333]

    A step along the gradient g(z) of row z changes the loss of a target's row z' by - rate * <g(z'), g(z)>. So rows are
    chosen by the cosine of the two, averaged over the rows of a target file, the best file counting:

        s(z) = max_T mean_{z' in T} cos(g(z'), g(z)),   g the gradient of the mean loss per token, projected at random

    at the base after a warm-up: `epochs` passes over a random `warmup` of the rows. Cosines, since the norm of a
    gradient falls with the length of its row, and inner products would choose the short ones.

    Three things are simpler here than in the paper: gradients are plain ones and not what Adam would make of them (its
    states are not kept), they are of all weights and not of an adapter's, and they are taken once, at the end of the
    warm-up, instead of after each of its epochs. The projection is a count sketch with the recipe's seed.

    When it helps: a pool of many kinds and a few rows of the task one cares for. When it fails: a target of the same
    form as other tasks, whose gradients are mostly about form.

    Cost: a backward pass for each row, and 4 bytes for each number of its projection, kept in the run's cache.

    Columns: an answer, in the target too. Paper: Xia et al. 2024, "LESS: Selecting Influential Data for Targeted
    Instruction Tuning" (arXiv 2402.04333).
    """

    paper = "Xia et al. 2024 (2402.04333)"
    effect: ClassVar[Effect] = "select"

    target: Paths = Field(description="File of rows like those to be good at, or several: none of the training rows.")
    columns: dict[str, int | str] | None = Field(None, description="Which column of these files is what.")
    ignore: tuple[str, ...] = Field((), description="Columns of these files that are not used.")
    share: float = Field(0.05, gt=0, le=1, description="Share of the rows that is chosen.")
    n: int | None = Field(None, ge=1, description="How many are chosen; goes before share.")
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the rows the base is tuned on first; 0: none.")
    epochs: float = Field(4.0, gt=0, description="Passes over them.")
    projection: int = Field(8192, ge=1, description="Numbers that are kept of a gradient.")

    def row_sources(self) -> tuple[RowSource, ...]:
        return tuple(RowSource(path, self.columns, self.ignore) for path in self.target)

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        open_pool("less", rows, self.n, question=False)
        for source in self.row_sources():
            self._open_target(rows, load(source), source.path)

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        import numpy as np

        numbers, pool = open_pool("less", rows, self.n, question=False)
        targets = [self._open_target(pool, context.load_rows(one), one.path) for one in self.row_sources()]
        if not pool:
            return rows
        model = self.warm_up(pool, context)
        own = unit_vectors(context.compute_gradients(pool, self.projection, model))  # [rows, projection]
        scores = np.full(len(pool), -np.inf)
        for target in targets:
            theirs = unit_vectors(context.compute_gradients(target, self.projection, model))
            scores = np.maximum(scores, own @ theirs.mean(0))  # the mean cosine with the target's rows
        chosen = highest_numbers(scores, count_chosen(len(pool), self.share, self.n))
        return keep_chosen(rows, numbers, chosen, scores, "influence on the target", context)

    def warm_up(self, rows: list[Row], context: CurationContext) -> str | None:
        """The base tuned on a random share of the rows; `None`: the base itself."""
        import numpy as np

        if not self.warmup:
            return None
        count = max(1, round(self.warmup * len(rows)))
        first_rows = np.random.default_rng(context.seed).permutation(len(rows))[:count]
        return context.train_reference([rows[i] for i in sorted(first_rows.tolist())], self.epochs)

    def _open_target(self, pool: Rows, target: Rows, path: str) -> list[Row]:
        refuse_overlap("less", pool, target, path)
        return answer_conversations("less", target, question=False)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors [rows, D] with norm 1; those that are 0 stay so."""
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)
