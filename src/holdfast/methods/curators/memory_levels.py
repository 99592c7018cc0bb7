"""Memory levels: questions by how well the base already knows the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.data.rows import Row, Rows
from holdfast.data.trace import record_decision
from holdfast.errors import UserError
from holdfast.generation.memory_probe import LEVELS, TEMPLATES, MemoryProbe, Templates, find_level
from holdfast.methods.curators.pool import fresh_numbers, refuse_more_than_rows

Level = Annotated[int, Field(ge=0, le=4)]


class MemoryLevels(Curator):
    """Questions by how well the base knows their answers already. [Ye et al. 2024, arXiv 2409.15825]

    Each question is asked in every template, `draws` times at temperature 0.7. With R the share of the texts in which
    the answer stands (as a part, in any case), a row is of

        level 0   R = 0                        not known
        level i   (i - 1)/4 < R <= i/4         i = 1 .. 4, known ever better

    and `n` rows of the chosen `levels` are drawn at random; with one seed those of a smaller `n` are among those of a
    larger one. The authors find 60 rows enough to make a base answer questions, and what it does not know (level 0) to
    cost most of what it knows; middle levels did best over all.

    When it helps: closed-book questions with short answers. When it fails: answers that may be said in many ways are
    taken for unknown: give `aliases`, or all of them as the row's `reference`.

    Columns: a question, and an answer or `reference`; a template may name what else the row has in `meta`.
    Paper: Ye et al. 2024, "Empirical Insights on Fine-Tuning Large Language Models for Question-Answering"
    (arXiv 2409.15825).
    """

    paper = "Ye et al. 2024 (2409.15825)"
    effect: ClassVar[Effect] = "select"
    samples: ClassVar[bool] = True

    n: int | None = Field(60, ge=1, description="How many rows are drawn; null: all of the levels.")
    levels: tuple[Level, ...] = Field((1, 2, 3, 4), min_length=1, description="Levels that rows may be of.")
    templates: Templates = Field(
        TEMPLATES, min_length=1, description="Ways to ask: {question}, or other columns of the row, such as {subject}."
    )
    draws: int = Field(10, ge=1, description="Answers drawn for each template.")
    temperature: float = Field(0.7, gt=0, description="Sampling temperature.")
    max_tokens: int = Field(32, ge=1, description="Longest answer that is drawn.")
    aliases: dict[str, tuple[str, ...]] = Field({}, description="Other names of answers: {USA: [United States]}.")

    def samples_per_row(self) -> int:
        return len(self.templates) * self.draws

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        refuse_more_than_rows("memory_levels", self.n, rows)
        for number, row in enumerate(rows, 1):
            if not row.is_replayed:
                self.probe.build_requests(row, number)

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        import numpy as np

        numbers = fresh_numbers(rows)
        refuse_more_than_rows("memory_levels", self.n, numbers)
        if not numbers:
            return rows
        params = context.sampling.model_copy(update={"seed": context.seed})
        hits, tries = self.probe.count_hits([rows[i] for i in numbers], context.sample, params)
        levels = [find_level(h, t) for h, t in zip(hits, tries, strict=True)]
        counts = [levels.count(level) for level in range(LEVELS)]
        for level, count in enumerate(counts):
            context.note(f"level {level}", count)
        candidates = [i for i, level in enumerate(levels) if level in self.levels]
        if self.n is not None and len(candidates) < self.n:
            raise UserError(
                f"curator memory_levels: {len(candidates):,} rows are of levels {', '.join(map(str, self.levels))}, "
                f"fewer than n = {self.n:,} (levels 0 to 4: {', '.join(f'{n:,}' for n in counts)}); lower n or take "
                "more levels"
            )
        chosen = {numbers[i] for i in np.random.default_rng(context.seed).permutation(candidates)[: self.n]}
        place = {number: i for i, number in enumerate(numbers)}
        out: list[Row] = []
        for number, row in enumerate(rows):
            i = place.get(number)
            what = "" if i is None else f"level {levels[i]}: the answer in {hits[i]} of {tries[i]} texts"
            if i is None:
                out.append(row)
            elif number in chosen:
                out.append(record_decision(row, context.curator, row, level=levels[i], criterion=what))
            else:
                context.drop(row, what)
        context.note("left out (level)", len(numbers) - len(chosen))
        return out

    @property
    def probe(self) -> MemoryProbe:
        """How each question is asked."""
        return MemoryProbe(
            self.templates, self.draws, self.temperature, self.max_tokens, self.aliases, "curator memory_levels"
        )
