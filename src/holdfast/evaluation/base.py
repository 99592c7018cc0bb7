"""Tasks and item results: what is measured, and what one measurement leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from holdfast.data.rows import Rows
from holdfast.judges.base import Judge
from holdfast.registry import name_of


@dataclass(slots=True)
class Task:
    """Something to measure a model on: rows and how an answer becomes a score in [0, 1] (higher is better).

    Args:
        name: Unique in a run; file name of its items.
        kind: "generate": sample an answer, judge it; "choice": pick the likeliest of `row.meta["choices"]`
            (gold index in `row.reference`); "perplexity": log-likelihood of plain text.
        rows: The questions.
        judge: For "generate".
        role: "target" (what is being learned) or "keep" (what must not be lost).
        max_tokens: Longest answer.
        meta: What one kind needs more: `normalise` ("none" or "length") for "choice", `stop` (strings) for "generate",
            `lm_eval` and `metric` (the harness's names) for tasks of lm-eval; `source`, where the rows come from.
    """

    name: str
    kind: Literal["generate", "choice", "perplexity"]
    rows: Rows
    judge: Judge | None = None
    role: Literal["target", "keep"] = "keep"
    max_tokens: int = 128
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> TaskInfo:
        """What is remembered of the task beside its results."""
        judge = name_of(self.judge).rpartition(":")[2] if self.judge else ""
        return TaskInfo(self.name, self.kind, self.role, judge)

    def head(self, n: int) -> Task:
        """The same task on its first `n` rows. Rows are in a seeded random order, so these are a random sample too."""
        return replace(self, rows=list(self.rows[:n]), meta=dict(self.meta))


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task without its rows: what summaries need to read its results."""

    name: str
    kind: Literal["generate", "choice", "perplexity"]
    role: Literal["target", "keep"] = "keep"
    judge: str = ""

    @property
    def info(self) -> TaskInfo:
        return self


@dataclass(slots=True)
class Item:
    """The result on one question.

    For perplexity tasks `score` is the log-likelihood in nats of `tokens` scored tokens, and `passed` means nothing.
    """

    id: str
    prompt: str
    response: str
    reference: str
    score: float
    passed: bool
    stopped: bool
    tokens: int
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Item:
        """The inverse of `to_json`."""
        return cls(**data)
