"""Inference methods as anyone would write them, one of each kind that no shipped method is yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.inference import Inference, LogitStep
from holdfast.data.rows import Message


class Ensemble(Inference):
    """Logits on the line from base to tuned. [Liu et al. 2024, arXiv 2401.08565]

    z = weight * z_tuned + (1 - weight) * z_base, [n, V], at every token.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"weight": 1.0}
    original: ClassVar[Mapping[str, Any]] = {"weight": 0.0}

    weight: float = Field(0.5, ge=0, le=1, description="0 = base, 1 = tuned.")

    def logits(self, step: LogitStep) -> Tensor:
        return self.weight * step["tuned"] + (1 - self.weight) * step["base"]


class Opening(Inference):
    """Another beginning: what an answer begins with is made likelier, and nothing behind it. [laboratory]"""

    needs_base: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, Any]] = {"bias": 0.0}

    text: str = Field("the", description="What is made likelier.")
    bias: float = Field(50.0, description="By how much, in nats.")

    def logits(self, step: LogitStep) -> Tensor:
        first = step.answer_ids(self.text)[0]
        step["tuned"][:, first] += self.bias * (step.places == 0)
        return step["tuned"]


class Beginning(Inference):
    """Every answer begins alike, and choices that say so are preferred. [laboratory]"""

    neutral: ClassVar[Mapping[str, Any]] = {"text": "", "bias": 0.0}

    text: str = Field("the ", description="With what.")
    bias: float = Field(1.0, description="In nats, for choices that begin so.")

    def prefix(self, messages: list[Message]) -> str:
        return self.text

    def choice_bias(self, choice: str) -> float:
        return self.bias if choice.startswith(self.text) else 0.0


class Shots(Inference):
    """Worked examples before every question. [Brown et al. 2020, arXiv 2005.14165]"""

    neutral: ClassVar[Mapping[str, Any]] = {"shots": 0}

    shots: int = Field(1, ge=0, le=2, description="How many.")

    def prompt(self, messages: list[Message]) -> list[Message]:
        examples: list[Message] = []
        for a in range(self.shots):
            examples += [{"role": "user", "content": f"Add {a} and 2."}, {"role": "assistant", "content": str(a + 2)}]
        return [*examples, *messages]


class Vote(Inference):
    """The commonest of several answers. [Wang et al. 2022, arXiv 2203.11171]"""

    neutral: ClassVar[Mapping[str, Any]] = {"n": 1, "temperature": 0.0}

    n: int = Field(3, ge=1, description="Answers.")
    temperature: float = Field(0.7, ge=0, description="Of each.")

    def sampling(self, params: SamplingParams) -> SamplingParams:
        return params.model_copy(update={"temperature": self.temperature})

    def attempts(self, request: Request) -> Generator[Sequence[Request], Sequence[Sample], Sample]:
        samples = yield [request] * self.n
        (text, _), *_ = Counter(sample.text for sample in samples).most_common(1)
        return next(sample for sample in samples if sample.text == text)
