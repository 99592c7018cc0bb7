"""Curators as a reader of the papers would add them: each in a page, with nothing changed elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.axes.engine import Request
from holdfast.data.rows import Rows


class Length(Curator):
    """Rows whose answer is not too long. [Zhou et al. 2023, arXiv 2305.11206]

    Leaves out rows whose answer has more than `words` words. Columns: an answer.
    """

    paper = "after Zhou et al. 2023 (2305.11206), who keep the long ones"
    effect: ClassVar[Effect] = "select"

    words: int = Field(6, ge=1, description="Most words of an answer.")

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        short = [len((row.answer or "").split()) <= self.words for row in rows]
        return context.keep(rows, short, f"longer than {self.words} words")


class SPIN(Curator):
    """Self-play: the gold answer is chosen, the model's own rejected. [Chen et al. 2024, arXiv 2401.01335]

    Rows that the model answers word for word as the gold says are left out. Columns: an answer.
    """

    paper = "Chen et al. 2024 (2401.01335)"
    effect: ClassVar[Effect] = "pair"
    samples: ClassVar[bool] = True

    def samples_per_row(self) -> int:
        return 1

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        params = context.sampling.model_copy(update={"n": 1, "seed": context.seed})
        asked = {row.id: Request(row.id, row.prompt) for row in rows if not row.is_replayed}
        drawn = context.sample(list(asked.values()), params)
        own = [row.answer if row.is_replayed else drawn[row.id][0].text for row in rows]
        kept = context.keep(rows, [a != row.answer for row, a in zip(rows, own, strict=True)], "answered as the gold")
        texts = {row.id: text for row, text in zip(rows, own, strict=True)}
        return [row if row.is_replayed else replace(row, chosen=row.answer, rejected=texts[row.id]) for row in kept]


class Surprise(Curator):
    """Rows whose answer surprises the model most, one of each kind. [Li et al. 2023, arXiv 2308.12032]

    Of rows whose gradients point the same way one is enough. Columns: an answer.
    """

    paper = "after Li et al. 2023 (2308.12032) and Xia et al. 2024 (2402.04333)"
    effect: ClassVar[Effect] = "select"

    share: float = Field(0.5, gt=0, le=1, description="Share of the rows that stay.")
    alike: float = Field(0.999, description="Cosine from which on two rows are alike.")

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        losses = np.array([-values.mean() for values in context.compute_logps([row.messages for row in rows])])
        gradients = context.compute_gradients(rows, 256)
        gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
        questions = context.embed([row.beginning for row in rows])
        chosen = np.zeros(len(rows), bool)
        for i in np.argsort(-losses, kind="stable"):
            near = (gradients[chosen] @ gradients[i] > self.alike) & (questions[chosen] @ questions[i] > self.alike)
            chosen[i] = chosen.sum() < self.share * len(rows) and not near.any()
        return context.keep(rows, chosen, "known to the model, or like another")
