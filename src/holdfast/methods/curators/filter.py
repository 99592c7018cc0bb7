"""Rows that pass every condition that is set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.axes.own_class import find_own_function, load_function
from holdfast.data.rows import Row, Rows
from holdfast.methods.curators import row_conditions as conditions
from holdfast.methods.curators.row_conditions import Condition

CHUNK = 1000
"""Rows looked at together; as many texts are in memory."""


class Filter(Curator):
    """Rows that pass every condition that is set; the others are left out, each with its reason. [Rae et al. 2021]

    In this order, each on the rows that passed those before:

        min_words, max_words             words of the answer (of a character each where a script has no spaces)
        max_question_words               words of the prompt, but for system messages
        languages                        of the answer, or of the whole row where that has fewer than 5 words
        matches, lacks                   regular expressions: found in the text `where` says, or not found there
        min_score                        of rows that come with a score
        function                         your own: a row as a dictionary (messages, reference, meta...) to true or false
        judge                            the recipe's judge finds the row's answer right by its reference

    A regular expression that repeats something runs in a process with a limit, so that none hangs on a bad row. `judge`
    needs references beside the answers: an answer held against itself is always right. With a judge that asks a model,
    or runs code, verdicts are kept in the journal.

    When it helps: rows of mixed worth whose faults can be named. When it fails: a fault that cannot; and conditions
    that shut out what is rare as well as what is wrong, so look at `dropped.jsonl`.

    Columns: an answer; a reference for `judge`, a score for `min_score`. Of pairs the chosen answer is looked at.

    Paper: Rae et al. 2021, "Scaling Language Models" (arXiv 2112.11446), appendix A: rules of length and form for texts
    to train on. These here are set by you, and none by default.
    """

    paper = "Rae et al. 2021 (2112.11446)"
    effect: ClassVar[Effect] = "select"
    judges: ClassVar[bool] = True

    min_words: int | None = Field(None, ge=0, description="Fewest words of an answer.")
    max_words: int | None = Field(None, ge=1, description="Most words of an answer.")
    max_question_words: int | None = Field(None, ge=1, description="Most words of a prompt.")
    languages: tuple[str, ...] = Field((), description="Languages that stay, as in ISO 639: [en, de].")
    matches: str | None = Field(None, description="A regular expression that must be found.")
    lacks: str | None = Field(None, description="A regular expression that must not be found.")
    where: Literal["answer", "question", "row"] = Field("answer", description="Where expressions are looked for.")
    min_score: float | None = Field(None, description="Least score of a row that has one.")
    function: str | None = Field(None, description="`module:function` or `file.py:function`, from a row to a bool.")
    judge: bool = Field(False, description="Only rows whose answer the recipe's judge finds right.")

    @field_validator("matches", "lacks")
    @classmethod
    def _require_expression(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return pattern

    @field_validator("languages", mode="before")
    @classmethod
    def _wrap_language(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def own_file(self) -> Path | None:
        return find_own_function(self.function) if self.function else None

    def check_ready(self) -> None:
        if self.languages:
            conditions.load_detector()
        if self.function is not None:
            load_function(self.function)

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        if self.judge:
            conditions.require_references(rows)

    def uses_judge(self) -> bool:
        return self.judge

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        reasons: dict[int, str] = {}
        checks = list(self.list_conditions(context))
        for indices in _list_chunks(rows):
            reasons |= _find_reasons({index: rows[index] for index in indices}, checks)
        return context.leave_out(rows, reasons)

    def list_conditions(self, context: CurationContext) -> Iterator[Condition]:
        """What is set, in the order in which rows are held against it."""
        lengths = (self.min_words, self.max_words, self.max_question_words)
        if any(limit is not None for limit in lengths):
            yield partial(conditions.find_lengths, limits=lengths)
        if self.languages:
            yield partial(conditions.find_languages, languages=self.languages)
        if self.matches is not None:
            yield partial(conditions.find_expression, knob="matches", pattern=self.matches, where=self.where)
        if self.lacks is not None:
            yield partial(conditions.find_expression, knob="lacks", pattern=self.lacks, where=self.where)
        if self.min_score is not None:
            yield partial(conditions.find_scores, least=self.min_score)
        if self.function is not None:
            yield partial(conditions.find_refused, predicate=load_function(self.function), name=self.function)
        if self.judge:
            yield partial(conditions.find_wrong, context=context)


def _find_reasons(rows: dict[int, Row], checks: Sequence[Condition]) -> dict[int, str]:
    """By index of a row why it is left out; each is held against what it passed so far."""
    reasons: dict[int, str] = {}
    for check in checks:
        some = [index for index in rows if index not in reasons]
        why = check([rows[index] for index in some]) if some else []
        reasons |= {index: reason for index, reason in zip(some, why, strict=True) if reason}
    return reasons


def _list_chunks(rows: Rows) -> Iterator[list[int]]:
    """Indices of rows to be looked at, `CHUNK` at a time; replayed rows stay anyway."""
    chunk: list[int] = []
    for index, row in enumerate(rows):
        chunk += [] if row.is_replayed else [index]
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    yield chunk
