"""DavIR: rows whose loss a brief fine-tuning reduces most, for their loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.data.rows import Rows
from holdfast.methods.curators.pool import count_chosen, highest_numbers, keep_chosen, mean_losses, open_pool

if TYPE_CHECKING:
    import numpy as np


class DavIR(Curator):
    """Rows whose loss falls most, for their loss, when the base is briefly tuned. [Zhou et al. 2023, arXiv 2310.13008]

    With L the mean loss per token of the answer, of the base and of a reference, which is the base fine-tuned on all
    the rows:

        S = (L_base - L_ref) / L_base = 1 - L_ref / L_base

    and the rows with the highest S are chosen. Noise cannot be learned (S near 0 or below), what is known has nothing
    to lose. The difference alone (RHO-LM), without the division, prefers hard and long rows; S is the same for sums and
    for means per token. The base is then trained on the choice, by whatever the recipe says.

    The reference is trained by this curator, as the recipe trains but on plain answers, once, in the run's cache; the
    authors train it as long as the final run (3 epochs; set `epochs`). Trained too long it has learned every row by
    heart, and S is near 1 for all. Give `reference` where there is one already.

    When it helps: large sets of which much is noise, or known. When it fails: few rows, for whose choice the reference
    has seen each of them; rows that are right and rare, which a brief tuning does not reach.

    Columns: an answer. Rows whose `L_base` is below `min_loss` are not chosen: the ratio of two zeros says nothing.

    Paper: Zhou et al. 2023, "DavIR: Data Selection via Implicit Reward for Large Language Models" (arXiv 2310.13008).
    """

    paper = "Zhou et al. 2023 (2310.13008)"
    effect: ClassVar[Effect] = "select"

    share: float = Field(0.06, gt=0, le=1, description="Share of the rows that is chosen.")
    n: int | None = Field(None, ge=1, description="How many are chosen; goes before share.")
    epochs: float = Field(1.0, gt=0, description="Passes over all rows by which the reference is trained.")
    reference: str | None = Field(
        None, description="A model tuned from the base, instead of one that is trained: a path or a run's directory."
    )
    min_loss: float = Field(1e-3, ge=0, description="Least loss of the base, in nats per token, of a chosen row.")

    def compared_models(self) -> tuple[str, ...]:
        return (self.reference,) if self.reference else ()

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        open_pool("davir", rows, self.n, question=False)

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        numbers, pool = open_pool("davir", rows, self.n, question=False)
        if not pool:
            return rows
        reference = self.reference or context.train_reference(pool, self.epochs)
        scores = self.compute_scores(mean_losses(context, pool), mean_losses(context, pool, reference))
        chosen = highest_numbers(scores, count_chosen(len(pool), self.share, self.n))
        return keep_chosen(rows, numbers, chosen, scores, "share of the loss learned", context)

    def compute_scores(self, base: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """S [rows] from the losses of base and reference [rows]; NaN where the base has none to lose."""
        import numpy as np

        has_loss = base > max(self.min_loss, 0.0)
        return np.where(has_loss, 1 - reference / np.where(has_loss, base, 1.0), np.nan)
