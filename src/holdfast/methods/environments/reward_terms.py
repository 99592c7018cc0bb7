"""The terms of a reward: what a judge says of an answer, how long it is, what form it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from holdfast.axes.environment import require_deciding_judge
from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.axes.registry import name_of
from holdfast.recipe.choices import JudgeChoice

if TYPE_CHECKING:
    from collections.abc import Sequence

PATTERN_SECONDS = 1.0
"""Longest search for a pattern in an answer: some patterns take for ever on texts that nearly fit."""


class RewardTerm(BaseModel):
    """One term of a reward, of one kind: a judge's score, the length of the answer, or its form; each in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: JudgeChoice = Field(None, description="Its score is the term.")
    words: int | None = Field(None, ge=0, description="Answers of at most so many words earn 1.")
    spare: int = Field(0, ge=0, description="Words beyond `words` over which the term falls to 0, in a line.")
    pattern: str | None = Field(
        None, min_length=1, description="Answers in which this regular expression is found earn 1."
    )
    weight: float = Field(1.0, allow_inf_nan=False, description="What 1 of the term is worth; below 0, what it costs.")
    name: str = Field("", description="In the log; default: the judge's name, words, or pattern.")

    @field_validator("weight")
    @classmethod
    def _weight_counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("0 would leave the term without effect; remove the term")
        return weight

    @field_validator("judge")
    @classmethod
    def _judge_decides(cls, judge: Judge | None) -> Judge | None:
        return require_deciding_judge(judge)

    @field_validator("pattern")
    @classmethod
    def _pattern_is_one(cls, pattern: str | None) -> str | None:
        import regex

        try:
            regex.compile(pattern or "", regex.DOTALL)
        except regex.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [kind for kind in ("judge", "words", "pattern") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"a term is one of judge, words, pattern; this has {' and '.join(kinds) or 'none'}")
        if self.spare and self.words is None:
            raise ValueError("spare goes with words alone; remove it")
        return self

    @property
    def label(self) -> str:
        """Its name in the log."""
        return self.name or (name_of(self.judge) if self.judge else "words" if self.words is not None else "pattern")

    def score_answers(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        """What the term says of each answer; lengths and forms are of the whole answer, thoughts included."""
        if self.judge is not None:
            return self.judge.judge_all(answers)
        score = self._score_length if self.words is not None else self._score_form
        scores = [score(answer.response) for answer in answers]
        return [Verdict(value == 1, value) for value in scores]

    def _score_length(self, text: str) -> float:
        assert self.words is not None
        excess = len(text.split()) - self.words
        return 1.0 if excess <= 0 else max(0.0, 1 - excess / self.spare) if self.spare else 0.0

    def _score_form(self, text: str) -> float:
        import regex

        try:
            return float(regex.search(self.pattern, text, regex.DOTALL, timeout=PATTERN_SECONDS) is not None)
        except TimeoutError:
            raise RuntimeError(
                f"term {self.label}: no end to the search for its pattern after {PATTERN_SECONDS:g} s"
            ) from None
