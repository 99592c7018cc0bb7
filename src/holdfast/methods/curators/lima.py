"""LIMA: few rows, good and different."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.data.rows import Row, Rows
from holdfast.errors import UserError
from holdfast.methods.curators.clusters import cluster_questions, require_encoder, take_in_turns
from holdfast.methods.curators.pool import fresh_numbers, keep_chosen, open_pool

FIRST_PERSON = re.compile(r"\bI\b|\b[Mm](?:y|e|ine|yself)\b")
REFERENCES = re.compile(
    r"\bas mentioned\b|\bstack ?(?:exchange|overflow)\b|\bother answers?\b|https?://", re.IGNORECASE
)


class LIMA(Curator):
    """Few rows that are good and differ from one another. [Zhou et al. 2023, arXiv 2305.11206]

    First the filters by which the authors took answers from Stack Exchange: a length in characters, no first person,
    no mention of other answers or links, at least `min_score` where rows carry a score. Of what passes, `n` rows: their
    questions are put into clusters (k-means of embeddings), one row of each is taken in turn, that with the highest
    score or, without scores, the nearest to the centre. The authors had exchanges and domains in place of clusters,
    wrote 200 rows themselves and read all of them; no filter does that.

    Their training: 15 epochs, learning rate 1e-5 falling linearly to 1e-6 without warm-up, AdamW with betas 0.9, 0.95
    and weight decay 0.1, batches of 32 to 64, and residual dropout that rises from 0 in the first layer to 0.3 in the
    last (0.2 in smaller models): `train.residual_dropout`. Held-out perplexity grew while answers got better, so they
    chose the checkpoint by hand.

    When it helps: style and format; what the base does not know it does not learn from so few. When it fails: pools
    with short answers, which the filters were not made for: set `min_characters`.

    Columns: a question and an answer; `score` if there is one.

    Paper: Zhou et al. 2023, "LIMA: Less Is More for Alignment" (arXiv 2305.11206).
    """

    paper = "Zhou et al. 2023 (2305.11206)"
    effect: ClassVar[Effect] = "select"

    n: int = Field(1000, ge=1, description="How many are chosen.")
    min_characters: int = Field(1200, ge=0, description="Shortest answer.")
    max_characters: int = Field(4096, ge=1, description="Longest answer.")
    min_score: float = Field(10.0, description="Least score of a row that carries one.")
    first_person: bool = Field(False, description="Let answers pass that say I or my.")
    references: bool = Field(False, description="Let answers pass that mention other answers, or link elsewhere.")
    clusters: int = Field(100, ge=1, description="Clusters of like questions that rows are taken from in turn.")
    encoder: str | None = Field(
        None, description="A sentence-transformers model that compares questions; default: the base's own states."
    )

    @model_validator(mode="after")
    def _lengths_in_order(self) -> Self:
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters {self.min_characters:,} is above max_characters {self.max_characters:,}")
        return self

    def check_ready(self) -> None:
        require_encoder(self.encoder, "lima")

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        _, pool = open_pool("lima", rows, self.n)
        self._refuse_too_few([self.find_fault(row) for row in pool])

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        import numpy as np

        numbers, pool = open_pool("lima", rows, self.n)
        if not pool:
            return rows
        faults = [self.find_fault(row) for row in pool]
        self._refuse_too_few(faults)
        for number, fault in zip(numbers, faults, strict=True):
            if fault:
                context.drop(rows[number], f"fails the filters: {fault}")
        context.note("left out (filters)", len(faults) - faults.count(""))
        bad = {number for number, fault in zip(numbers, faults, strict=True) if fault}
        left_rows = [row for number, row in enumerate(rows) if number not in bad]
        good_rows = [row for row, fault in zip(pool, faults, strict=True) if not fault]
        labels, distances = cluster_questions(good_rows, self.clusters, context, self.encoder)
        scores = np.array([row.score if row.score is not None else 0.0 for row in good_rows])
        chosen = take_in_turns(labels, np.lexsort((distances, -scores)), self.n)
        context.note("clusters", len(set(labels.tolist())))
        return keep_chosen(left_rows, fresh_numbers(left_rows), chosen, labels, "cluster", context)

    def find_fault(self, row: Row) -> str:
        """Why a row fails the filters, in a few words; "" where it passes."""
        answer = row.answer or ""
        if len(answer) < self.min_characters:
            return f"shorter than {self.min_characters:,} characters"
        if len(answer) > self.max_characters:
            return f"longer than {self.max_characters:,} characters"
        if row.score is not None and row.score < self.min_score:
            return f"score below {self.min_score:g}"
        if not self.first_person and FIRST_PERSON.search(answer):
            return "in the first person"
        return "mentions other answers or links" if not self.references and REFERENCES.search(answer) else ""

    def _refuse_too_few(self, faults: list[str]) -> None:
        good_count = faults.count("")
        if faults and good_count < self.n:
            counts = Counter(filter(None, faults)).most_common()
            raise UserError(
                f"curator lima: of {len(faults):,} rows {good_count:,} pass its filters, fewer than n = {self.n:,} "
                f"({', '.join(f'{n:,} {fault}' for fault, n in counts)}); lower n, or change the filters"
            )
