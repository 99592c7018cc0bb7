"""Tasks and item results: what is measured, and what one measurement leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import log
from typing import Any, Literal

from holdfast.axes.environment import Environment
from holdfast.axes.judge import Judge
from holdfast.axes.registry import name_of
from holdfast.data.rows import Rows

Kind = Literal["generate", "choice", "perplexity", "held_out", "probe", "episodes"]
"""How a task is measured. Stored with every measurement, so that these names do not change ("perplexity" is shown as
text, whose figure is bits per byte)."""
ANSWERED: frozenset[Kind] = frozenset({"generate", "episodes"})
"""Kinds of which the model writes the answers, which end or do not and have a length."""
JUDGED: frozenset[Kind] = ANSWERED | {"choice"}
"""Kinds of which every answer is right or wrong."""
PAIRS = "held-out pairs"
"""The name of the task of the held-out pairs' order, of kind "choice": a model that gives rewards ranks by these."""
RATED = "rated"
"""In `ItemResult.extra` of a pair: a model that gives rewards has ranked it."""
Role = Literal["target", "keep", "watch"]
"""What a task is for: to be learned, not to be lost, or only to be looked at."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What the figure of a task is counted in.

    Args:
        name: As shown.
        scale: Turns the mean of `ItemResult.score` into the figure; negative where a lower figure is better.
        per: What the scores are divided by: the number of items, their UTF-8 bytes or their scored tokens.
    """

    name: str
    scale: float
    per: Literal["item", "byte", "token"] = "item"

    @property
    def better_direction(self) -> Literal["higher", "lower"]:
        return "higher" if self.scale > 0 else "lower"


POINTS = Unit("points", 100.0)
BITS_PER_BYTE = Unit("bits per byte", -1 / log(2), "byte")
AGREEMENT = Unit("% agreement", 100.0)
BITS_PER_TOKEN = Unit("bits per token", -1 / log(2), "token")
UNITS: Mapping[str, Unit] = {
    "generate": POINTS,
    "choice": POINTS,
    "perplexity": BITS_PER_BYTE,
    "held_out": BITS_PER_TOKEN,
    "probe": AGREEMENT,
    "episodes": POINTS,
}
"""The unit of every kind of task; figures of different units are never averaged."""


@dataclass(slots=True)
class Task:
    """Something to measure a model on: rows, and how what the model does with them becomes a score.

    Args:
        name: Unique in a run; file name of its items.
        kind: "generate": sample an answer, judge it; "choice": pick the likeliest of `row.meta["choices"]`
            (gold index in `row.reference`); "perplexity": log-likelihood of plain text; "held_out": log-likelihood of
            the rows' own answers, as they would be trained on; "probe": agreement with the base on its own answers;
            "episodes": play in an environment, and succeed or not.
        rows: The questions.
        judge: For "generate".
        role: "target" (what is being learned), "keep" (what must not be lost) or "watch" (measured beside the target).
        max_tokens: Longest answer.
        max_thinking_tokens: Longest thought before it; `None`: it counts as a part of the answer.
        environment: For "episodes".
        meta: What one kind needs more: `normalise` ("none" or "length") for "choice", `stop` (strings) for "generate",
            `lm_eval` and `metric` (the harness's names) for tasks of lm-eval; `source`, where the rows come from;
            `live`, the most rows of an evaluation during training.
    """

    name: str
    kind: Kind
    rows: Rows
    judge: Judge | None = None
    role: Role = "keep"
    max_tokens: int = 128
    max_thinking_tokens: int | None = None
    environment: Environment | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> TaskInfo:
        """What is remembered of the task beside its results."""
        decider = self.judge or self.environment
        judge = name_of(decider).rpartition(":")[2] if decider else ""
        return TaskInfo(self.name, self.kind, self.role, judge)

    def limit_rows(self, n: int) -> Task:
        """The same task on its first `n` rows. Rows are in a seeded random order, so these are a random sample too."""
        return replace(self, rows=list(self.rows[:n]), meta=dict(self.meta))


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task without its rows: what summaries need to read its results."""

    name: str
    kind: Kind
    role: Role = "keep"
    judge: str = ""

    @property
    def info(self) -> TaskInfo:
        return self

    @property
    def unit(self) -> Unit:
        """What its figure is counted in."""
        return UNITS[self.kind]


@dataclass(slots=True)
class ItemResult:
    """The result on one question.

    Where likelihood is measured ("perplexity", "held_out") `score` is the log-likelihood in nats of `tokens` scored
    tokens, which stand for `bytes` bytes of UTF-8 text (0: for all of `prompt`), and `passed` means nothing.
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
    bytes: int = 0
    unreadable: bool = False
    """Whether the judge could not tell if the answer is right; it counts as not right."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What one kind of task knows more of it, by name."""

    def size_per(self, per: Literal["item", "byte", "token"]) -> int:
        """How much the item counts in a figure per item, byte or token."""
        if per == "item":
            return 1
        if per == "token":
            return self.tokens
        return self.bytes or len(self.prompt.encode("utf-8", "surrogatepass"))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ItemResult:
        """The inverse of `to_json`."""
        return cls(**data)
