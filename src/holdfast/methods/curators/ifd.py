"""IFD: rows whose question helps the model least with the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.data.rows import Row, Rows
from holdfast.methods.curators.clusters import cluster_questions, require_encoder, take_in_turns
from holdfast.methods.curators.pool import count_chosen, highest_numbers, keep_chosen, mean_losses, open_pool


class IFD(Curator):
    """Instruction-following difficulty: rows whose question helps least with the answer. [Li et al. 2024, 2308.12032]

    With L the mean loss per token of an answer a, behind its question q and by itself:

        IFD = L(a | q) / L(a)

    Rows with IFD of 1 or more are left out, for there the question makes the answer less likely, and does not belong to
    it; of the others those with the highest are chosen: the model does not yet make of the question what it could.

    The losses are those of a model with a little experience: the base tuned for one epoch on `experience` rows, drawn
    in turns from 100 clusters of like questions. With `experience: 0` they are the base's own, which ranks nearly alike
    and costs nothing [Superfiltering: Li et al. 2024, 2402.00530, who take a small model for it: `model`].

    When it helps: large instruction sets with easy and mismatched rows; the authors find 5 to 10 % of Alpaca to do
    better than all of it. When it fails: noisy answers have a high IFD as well; look at what was chosen.

    Columns: a question and an answer. The answer by itself is read as plain text, without the template.

    Paper: Li et al. 2024, "From Quantity to Quality: Boosting LLM Performance with Self-Guided Data Selection for
    Instruction Tuning" (arXiv 2308.12032).
    """

    paper = "Li et al. 2024 (2308.12032)"
    effect: ClassVar[Effect] = "select"

    share: float = Field(0.1, gt=0, le=1, description="Share of the rows that is chosen.")
    n: int | None = Field(None, ge=1, description="How many are chosen; goes before share.")
    experience: int = Field(1000, ge=0, description="Most rows the base is tuned on first; 0: none, it is asked as is.")
    clusters: int = Field(100, ge=1, description="Clusters of like questions that these rows come from.")
    encoder: str | None = Field(
        None, description="A sentence-transformers model that compares questions; default: the base's own states."
    )
    model: str | None = Field(None, description="Whose losses these are, instead of the base's; nothing is tuned then.")

    def named_models(self) -> tuple[str, ...]:
        return (self.model,) if self.model else ()

    def check_ready(self) -> None:
        require_encoder(self.encoder, "ifd")

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        open_pool("ifd", rows, self.n)

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        import numpy as np

        numbers, pool = open_pool("ifd", rows, self.n)
        if not pool:
            return rows
        model = self.model or self.gain_experience(pool, context)
        alone = [replace(row, messages=row.messages[-1:]) for row in pool]
        scores = mean_losses(context, pool, model) / mean_losses(context, alone, model)
        helpful = np.where(scores < 1, scores, np.nan)
        context.note("question of no help", int((scores >= 1).sum()))
        chosen = highest_numbers(helpful, count_chosen(len(pool), self.share, self.n))
        return keep_chosen(rows, numbers, chosen, scores, "difficulty", context)

    def gain_experience(self, rows: list[Row], context: CurationContext) -> str | None:
        """The base tuned for one epoch on rows of many kinds; `None`: the base itself."""
        import numpy as np

        if not self.experience:
            return None
        labels, distances = cluster_questions(rows, self.clusters, context, self.encoder)
        first_rows = take_in_turns(labels, np.argsort(distances, kind="stable"), self.experience)
        return context.train_reference([rows[i] for i in sorted(first_rows)], 1.0)
