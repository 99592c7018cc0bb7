"""Preference labels that are wrong as often as people's are."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.data.rows import Row, RowMap, Rows
from holdfast.data.trace import record_decision


class LabelNoise(Curator):
    """Pairs of which some are labelled the wrong way round, to see what a method does then. [Chowdhury et al. 2024]

        chance of a swap = share                                                     temperature not set
        chance of a swap = 1 / (1 + exp((score_chosen - score_rejected) / temperature))      set: Bradley and Terry

    An instrument, not a help: people agree with each other on some 60 to 80 % of such pairs, and a method that is
    best on clean labels need not be best on theirs. `dpo` with `label_smoothing` at the share is the known answer to
    noise of one rate, `ipo` and `rpo` bound what one wrong pair can do.

    Which pairs are swapped depends on the seed and each pair alone: two methods see the same wrong labels.

    When it helps: to choose a loss for labels that are not clean. When it fails: it says nothing on labels that are
    wrong in one direction (for the longer answer, say), as people's also are.

    Columns: chosen and rejected; with `temperature`, `meta.score_chosen` and `meta.score_rejected`. Rows without a pair
    stay as they are.

    Paper: Chowdhury, Kini, Natarajan 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback"
    (arXiv 2403.00409): noise of one rate, and of Bradley and Terry's.
    """

    paper = "Chowdhury et al. 2024 (2403.00409)"
    effect: ClassVar[Effect] = "rewrite"

    share: float = Field(0.2, ge=0, le=1, description="Pairs swapped, of all, where no temperature is set.")
    temperature: float | None = Field(
        None, gt=0, description="Scores this far apart are confused in 27 % of the pairs; equal scores in half of them."
    )

    def keeps_shape(self, kind: str) -> bool:
        return True

    def swap_chance(self, row: Row) -> float:
        """How likely this pair is labelled the wrong way round."""
        if self.temperature is None:
            return self.share
        apart = row.meta.get("score_chosen", 0.0) - row.meta.get("score_rejected", 0.0)
        return 0.5 * (1 - math.tanh(apart / (2 * self.temperature)))

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        def swap_labels(row: Row) -> Row:
            draw = random.Random(f"label noise/{context.seed}/{row.id}").random()
            if row.is_replayed or row.chosen is None or draw >= self.swap_chance(row):
                return record_decision(row, context.curator, row)
            meta = dict(row.meta)
            for one, other in (("score_chosen", "score_rejected"), ("score_rejected", "score_chosen")):
                if other in row.meta:
                    meta[one] = row.meta[other]
            return record_decision(
                replace(row, chosen=row.rejected, rejected=row.chosen, meta=meta), context.curator, row, swapped=True
            )

        pairs = sum(row.chosen is not None for row in rows)
        context.note("pairs, of which some are swapped", pairs)
        return RowMap(rows, swap_labels)
