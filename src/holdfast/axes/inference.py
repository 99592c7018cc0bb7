"""The contract of an inference method: what is done without, or after, training."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from holdfast.axes.method import Method
from holdfast.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

    from holdfast.axes.analysis import AnalysisSection
    from holdfast.axes.engine import Request, Sample, SamplingParams
    from holdfast.axes.judge import Judge
    from holdfast.data.rows import Message, Rows

CHANGES = ("weights", "prompt", "prefix", "logits", "choice_bias", "sampling", "attempts")
"""What a method may change: each is a method of `Inference`, and changed by who overrides it."""


class LogitStep(dict[str, Any]):
    """Logits of the next token, [n, V] fp32, by model: "tuned", "base", those of `extra_models`.

    Args:
        logits: By name. They may be changed in place.
        places: [n] int64: how many tokens of its answer stand before each, from 0.
        is_drawn: Whether a token is drawn from them; else they score a text that is given.
        answer_ids: The token ids of a text that an answer begins with.
    """

    def __init__(
        self,
        logits: Mapping[str, Tensor],
        places: Tensor,
        is_drawn: bool = True,
        answer_ids: Callable[[str], list[int]] | None = None,
    ) -> None:
        super().__init__(logits)
        self.places, self.is_drawn = places, is_drawn
        self.answer_ids: Callable[[str], list[int]] = answer_ids or _refuse_text


def _refuse_text(text: str) -> list[int]:
    raise RunError(f"inference: a method asks for the tokens of {text!r}, and no tokenizer was given to the decoder")


class InferenceBench(Protocol):
    """What a method may look at to find what it leaves open, once the model is trained."""

    rows: Rows
    """What was trained on."""
    test: Rows
    """What is measured."""
    is_choice: bool
    """Whether that is multiple choice."""

    def score_labels(self, model: str, rows: Rows, labels: Sequence[str], form: str) -> np.ndarray:
        """Log-probabilities [rows, labels] by a model: "tuned", "base", or what `train_copy` gave.

        Args:
            form: "choice": of each label as the whole answer; "first_token": of its first token.
        """

    def require_first_tokens(self, present: Sequence[str], absent: Sequence[str]) -> None:
        """See that first tokens tell absent labels from trained ones."""

    def train_copy(self, rows: Rows) -> str:
        """Train the base on rows, as the run trains; the name of the result for `score_labels`."""


@dataclass(frozen=True, slots=True)
class Draw:
    """An answer to be sampled with settings of its own.

    Args:
        request: What the model is asked.
        settings: Of `SamplingParams`, over those in force: `{"temperature": 0.7}`.
    """

    request: Request
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A response to be judged, by `request.judging`; what comes back is a `Verdict`."""

    request: Request
    response: str


@dataclass(frozen=True, slots=True)
class Weigh:
    """A response to be weighed: what comes back is the mean log-probability of its tokens in nats, a float.

    Args:
        request: What it answers.
        response: Its text; the end of the turn counts as a token of it.
    """

    request: Request
    response: str


Step: TypeAlias = "Request | Draw | Check | Weigh"
"""What `Inference.attempts` may ask for."""


class TextEmbedder(Protocol):
    """Embeddings of texts by the model that answers: its last hidden states, averaged over the tokens."""

    @property
    def fingerprint(self) -> str:
        """Of what computes them."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """fp32 [texts, D], as they are: neither centred nor of unit length."""


class Inference(Method):
    """What is done without, or after, training.

    A method overrides what it changes: `weights` once, before anything is measured or saved; the others whenever the
    model is asked. Evaluation, chat and export all go through them
    (`generation.decoder`).
    """

    needs_base: ClassVar[bool] = True
    """Whether `weights` or `logits` reads the base model; otherwise it is not loaded."""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    """Knobs with which the tuned model is used as it is, bit for bit; `None` where no knobs do that."""
    original: ClassVar[Mapping[str, Any] | None] = None
    """Knobs with which the base is used in its place, bit for bit; `None` where no knobs do that."""

    @classmethod
    def overridden_methods(cls) -> tuple[str, ...]:
        """Which of `CHANGES` the method makes: those it overrides."""
        return tuple(name for name in CHANGES if getattr(cls, name) is not getattr(Inference, name))

    def list_changes(self) -> tuple[str, ...]:
        """Which of these it makes with its knobs; by default all."""
        return self.overridden_methods()

    @classmethod
    def reads_base(cls) -> bool:
        """Whether the base model has to be there."""
        return cls.needs_base and not {"weights", "logits"}.isdisjoint(cls.overridden_methods())

    @classmethod
    def needs_training(cls) -> bool:
        """Whether it does nothing for a model that was not trained; by default where it reads the base beside it.

        Another one, named alone as a recipe's `method`, answers with the model as it is: nothing is trained.
        """
        return cls.reads_base()

    def extra_models(self) -> Mapping[str, str]:
        """Models that `logits` reads beside "tuned" and "base": their names there, and as in a recipe's `model`.

        All must have the tokenizer of the tuned model, unless the method `translates_tokens`.
        """
        return {}

    def translates_tokens(self) -> bool:
        """Whether extra models may have other tokens: those of the same text then stand for each other."""
        return False

    def describe_translation(self) -> str:
        """The setting by which extra models with other tokens could be read; "" where none would help."""
        return ""

    def unsettled_knobs(self) -> Sequence[str]:
        """Knobs whose values `settle_knobs` finds from a run; by default none."""
        return ()

    def check_rows(self, rows: Rows, test: Rows) -> None:
        """See, before anything is trained, that `settle_knobs` will find what it needs in these rows.

        Raises:
            UserError: If not.
        """

    def settle_knobs(self, bench: InferenceBench) -> Inference:
        """The method with all knobs settled, which is what is kept beside the weights; called once after training."""
        return self

    def build_section(self, bench: InferenceBench) -> AnalysisSection | None:
        """What the report says of the method; called after `settle_knobs`, where that is overridden."""
        return None

    def check_ready(self) -> None:
        """See that what it reads is there, before anything is asked.

        Raises:
            UserError: If not; of one line that begins with "inference.NAME".
        """

    def list_notes(self) -> list[str]:
        """Lines to be said before anything is asked: what it was given and does not use."""
        return []

    def with_portable_paths(self) -> Inference:
        """This method with the files it reads named so that they are found from another working directory too."""
        return self

    def content_fingerprint(self) -> str:
        """Fingerprint of the files it reads, on which answers depend beside its knobs; "" where it reads none."""
        return ""

    def with_embedder(self, embedder: TextEmbedder) -> Inference:
        """This method, able to embed texts; itself for one that does not."""
        return self

    def find_task_problem(self, judge: Judge | None) -> str | None:
        """Why it cannot answer tasks with this judge, which then the model answers without it; `None` where it can."""
        return None

    def describe_sources(self, messages: list[Message]) -> Mapping[str, Any]:
        """What the answer to a conversation rests on, JSON-able, to be kept in its `trace`; by default nothing."""
        return {}

    def weights(self, base: PreTrainedModel, tuned: PreTrainedModel) -> PreTrainedModel:
        """The model to use in the place of the tuned one; it is what is saved.

        Args:
            base: The model before training; left as it is.
            tuned: The model after training, plain (what a tuner trained beside the base is folded in); left as it is.
        Raises:
            UserError: If the two do not belong together.
        """
        raise NotImplementedError

    def prompt(self, messages: list[Message]) -> list[Message]:
        """The conversation to ask the model with, in the place of `messages`, which end before the answer."""
        raise NotImplementedError

    def prefix(self, messages: list[Message]) -> str:
        """The text that the answer begins with: the model goes on from it. Likelihoods know nothing of it.

        Args:
            messages: The question as it came, before `prompt` changes it.
        """
        raise NotImplementedError

    def choice_bias(self, choice: str) -> float:
        """What is added to the score of one choice of several, in nats, before the highest is picked."""
        raise NotImplementedError

    def logits(self, step: LogitStep) -> Tensor:
        """The logits [n, V] of the next token, fp32, out of those of each model."""
        raise NotImplementedError

    def attempts(self, request: Request) -> Generator[Sequence[Step], Sequence[Any], Sample]:
        """Ask the model as often as it takes, and return the answer: `samples = yield requests`, then `return sample`.

        A round may also hold `Draw` (a request with sampling of its own), `Check` and `Weigh`; of each comes back what
        it says, in order. The rounds of all questions are gone through together. Keys of requests do not matter; the
        first of the first round is seeded as the plain model's answer is. What is returned may be another text
        (`dataclasses.replace(samples[0], text=...)`) and have a `trace`, in which texts under "beside", by name, are
        judged and shown beside the answer. Likelihoods know nothing of attempts.
        """
        raise NotImplementedError

    def sampling(self, params: SamplingParams) -> SamplingParams:
        """How to sample, in the place of what was asked for; by default just that."""
        return params
