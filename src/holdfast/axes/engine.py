"""The one interface of every sampling engine, and what it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from holdfast.data.rows import Message

if TYPE_CHECKING:
    from holdfast.axes.judge import Judging


class SamplingParams(BaseModel):
    """How to sample; the same names as in vLLM and the OpenAI API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(512, ge=1, description="Longest answer in tokens.")
    max_thinking_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest thought before the answer, whose tokens count apart; one that reaches it is closed, and "
        "the model answers. Default: thoughts count as a part of the answer.",
    )
    temperature: float = Field(0.0, ge=0, description="0 = greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: smallest set of tokens with this mass.")
    top_k: int = Field(0, ge=0, description="Keep only the k likeliest tokens; 0 = off.")
    stop: tuple[str, ...] = Field((), description="Strings that end an answer (and are cut from it).")
    n: int = Field(1, ge=1, description="Samples per prompt.")
    seed: int = Field(0, description="With (prompt key, sample index) this fixes the sample, whatever the batch.")
    keep_ids: bool | None = Field(
        None,
        description="Keep the token ids of answers beside their text, for training on exactly what was sampled, and "
        "how likely each was.",
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer: `key` names it in the journal and seeds its samples."""

    key: str
    messages: list[Message]
    prefill: str = ""
    """Text the answer is forced to start with; it is not repeated in the sample's text."""
    judging: Judging | None = None
    """How its answers are judged, for inference methods that ask while they answer; engines do not look at it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished answer; `text` begins with what the prompt had opened of a thought, if it had."""

    key: str
    index: int
    text: str
    finish: Literal["stop", "length"]
    """"stop": the model ended its turn (or a stop string matched); "length": cut at `max_tokens`."""
    tokens: int
    thought_tokens: int = 0
    """Of these, tokens of the thought before the answer, where thoughts have a budget of their own."""
    thought_cut: bool = False
    """Whether the thought reached its budget and was closed by force."""
    ids: tuple[int, ...] = ()
    """With `keep_ids`: the token ids as they were sampled, what ended the turn included. To encode the text again can
    give others, wherever a tokenizer has two ways to write it."""
    logps: tuple[float, ...] = ()
    """With `keep_ids`, of each of `ids` the log-probability by the model that was sampled from, as the engine computed
    it: before temperature, `top_k` and `top_p`, so that it can be compared with another computation of the same. Empty
    where the engine gives none, or put tokens of its own into the answer (the end of a thought over budget)."""
    trace: Mapping[str, Any] | None = None
    """How an inference method came to the answer, JSON-able: its sources, its attempts, what it cost."""


class Engine(Protocol):
    """Answers prompts. Samples arrive in the order they finish."""

    @property
    def fingerprint(self) -> str:
        """What the samples depend on besides prompt and parameters: model weights, template, engine."""

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, sample index) asked for, as soon as it is finished."""


class SampleFn(Protocol):
    """Sampling through the journal, as curators and evaluation see it (`sampling.journal.Journal.build_sample_fn`)."""

    def __call__(
        self, requests: Sequence[Request], params: SamplingParams, on_sample: Callable[[Sample], Any] | None = None
    ) -> dict[str, list[Sample]]:
        """All samples by request key, ordered by index; what the journal already holds is not drawn again."""
