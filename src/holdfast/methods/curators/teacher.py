"""What curators share whose rows a language model writes: whom they ask, how, and what that may cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, model_validator

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.rows import Message, Row, Rows, mark_made
from holdfast.data.thoughts import final_answer
from holdfast.data.trace import record_decision
from holdfast.methods.curators.self_generation import is_truncated

GROUP = 32
"""Requests after which what they cost is counted."""


class TeacherCurator(Curator):
    """A curator that has rows written by a model: the base, another one, or one behind an address."""

    samples: ClassVar[bool] = True
    effect: ClassVar[Effect] = "generate"

    engine: str | None = Field(None, description="native, vllm or a URL; default: the engine that samples.")
    model: str | None = Field(None, description="Who writes; default: the base itself, at a URL its first model.")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the sampling.")
    max_tokens: int = Field(512, ge=1, description="Longest text it may write at once.")
    budget: int | None = Field(None, ge=1, description="Most tokens it may write in all.")
    price: float | None = Field(None, gt=0, description="What a million written tokens cost, for the count of costs.")
    max_cost: float | None = Field(None, gt=0, description="Most that they may cost; needs price.")

    @model_validator(mode="after")
    def _cost_has_price(self) -> Any:
        if self.max_cost is not None and self.price is None:
            raise ValueError("max_cost needs price, what a million tokens cost")
        return self

    def teacher_engine(self) -> tuple[str | None, str | None]:
        return self.engine, self.model

    def named_models(self) -> tuple[str, ...]:
        here = self.engine is None or not self.engine.startswith("http")
        return (self.model,) if self.model and here else ()

    def build_params(self, context: CurationContext, n: int = 1, **more: Any) -> SamplingParams:
        """How it samples."""
        own = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        return context.sampling.model_copy(update={**own, "n": n, "seed": context.seed, **more})

    def token_limit(self) -> float:
        """Most tokens that may be written."""
        paid = 1e6 * self.max_cost / self.price if self.max_cost is not None and self.price else float("inf")
        return min(paid, float("inf") if self.budget is None else self.budget)


class Account:
    """Asks a model for texts as long as the budget allows, and counts what they cost.

    A request is made only if the longest answers to it are within what is left, so that the limit is never passed;
    texts that the journal holds count as they did when they were drawn.
    """

    def __init__(self, curator: TeacherCurator, context: CurationContext) -> None:
        self.curator, self.context = curator, context
        self.spent = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether not even the shortest request is within what is left."""
        return self.spent >= self.curator.token_limit()

    def ask_model(self, requests: Sequence[Request], params: SamplingParams) -> dict[str, list[Sample]]:
        """Samples by request key; requests that the budget does not allow have none.

        Args:
            requests: Of different keys.
        """
        out: dict[str, list[Sample]] = {}
        longest = params.max_tokens + (params.max_thinking_tokens or 0 if self.context.thinks else 0)
        waiting = list(requests)
        while waiting:
            affordable = min(GROUP, (self.curator.token_limit() - self.spent) // (params.n * longest))
            if affordable < 1:
                self.context.note("requests beyond the budget", len(waiting))
                break
            group, waiting = waiting[: int(affordable)], waiting[int(affordable) :]
            samples = self.context.sample(group, params)
            self._count_tokens(sum(self._bound_tokens(one, longest) for s in samples.values() for one in s))
            out |= samples
        return out

    def _bound_tokens(self, sample: Sample, longest: int) -> int:
        """The tokens of a text; where a server does not say, one for each byte, as there cannot be more."""
        if sample.tokens or not sample.text:
            return sample.tokens
        self.context.note("texts counted by their bytes", 1)
        return min(longest, len(sample.text.encode("utf-8", "replace")))

    def _count_tokens(self, tokens: int) -> None:
        before = self._count_cents()
        self.spent += tokens
        self.context.note("tokens written", tokens)
        if self.curator.price is not None:
            self.context.note("cost in hundredths", self._count_cents() - before)

    def _count_cents(self) -> int:
        return round(100 * (self.curator.price or 0) * self.spent / 1e6)


def whole_texts(samples: Sequence[Sample]) -> Iterator[tuple[Sample, str]]:
    """The samples that came to their end and say something, each with what it says after its thought."""
    for sample in samples:
        text = final_answer(sample.text.encode("utf-8", "replace").decode()).strip()
        if text and not is_truncated(sample):
            yield sample, text


def make_row(
    curator: str, source: Row, prompt: Sequence[Message], answer: str, *, number: int | str, reason: str, **fields: Any
) -> Row:
    """A row that a model wrote beside `source`, with the decision in its trace.

    Args:
        number: Of the row among those made of the source, part of its id.
        reason: How it came about.
    """
    origin = fields.pop("origin", "model")
    row = Row(
        [*prompt, {"role": "assistant", "content": answer}], origin=origin, place=mark_made(source.place), **fields
    )
    row = replace(row, id=f"{row.id}.{number}")
    attempt = {"kind": "teacher", "index": 0, "response": answer, "finish": "stop", "passed": True, "reason": reason}
    return record_decision(row, curator, source, [attempt])


def select_fresh(rows: Rows) -> list[Row]:
    """The rows that no earlier curator replayed."""
    return [row for row in rows if not row.is_replayed]
