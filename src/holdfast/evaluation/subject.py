"""A model under measurement: how it is asked, and the log-likelihood it gives to sequences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from holdfast.axes.engine import SampleFn, SamplingParams
from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.axes.registry import identity_of, name_of, source_of
from holdfast.data.batching.batches import EncodedSequence, collate_on_device
from holdfast.data.rows import Message, fingerprint_json, fingerprint_rows
from holdfast.errors import RunError
from holdfast.evaluation.task import PAIRS, Task
from holdfast.models.loading import eval_mode
from holdfast.models.row_groups import run_by_area

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch, Layout
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.tasks.probe import Reference
    from holdfast.models.loading import Model


T = TypeVar("T")


JUDGES = 2
"""Part of the fingerprint of every judged measurement; raised when judges read answers differently."""


VERSION = 1
"""Part of every measurement's fingerprint; raised when the way of measuring changes."""


def judge_without_engine(judge: Judge, answers: Sequence[JudgeRequest]) -> list[Verdict]:
    """Verdicts of a judge that needs no engine."""
    return judge.judge_all(answers)


class Likelihood(Protocol):
    """What measuring asks of log-probabilities: a `Policy`, or several models as one (`JointPolicy`)."""

    model: Model

    @property
    def config(self) -> Any:
        """Of the model with the shortest context."""

    @property
    def batch_layout(self) -> Layout:
        """How batches lie best for it."""

    def token_logps(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the labels."""

    def greedy_tokens(self, batch: Batch, where: Tensor) -> Tensor:
        """The likeliest next token [M] after the flat positions `where` [M]."""

    def over_vocabulary(self, batch: Batch, score: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """What `score` makes of whole distributions, a chunk at a time."""


class Rater(Protocol):
    """What says how good answers are, in place of their likelihood: a reward model."""

    fingerprint: str

    def score_conversations(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """The reward of the last answer of each conversation."""


@dataclass(slots=True)
class EvaluatedModel:
    """A model under measurement.

    Args:
        model: Fingerprint of its weights (`models.LoadedModel.fingerprint`); measurements are stored under it.
        chat: Its tokenizer and template.
        draw: Answers prompts (`drawing(engine)`, or a journal's `draw`, which survives a kill); `None` when no task
            samples.
        policy: Its log-probabilities; `None` when all tasks are "generate".
        prompt: The conversation that is asked in the place of another (`Decoder.transform_prompt`); `draw` does so by
            itself.
        choice_bias: What is added to the score of each choice of several, in nats; `None`: nothing.
        judge: Called as `judge(task.judge, answers)`; replace it to give judges an engine, or to remember verdicts.
        count_passes: Forward passes that its sampled answers have taken so far: one a token of every model.
        width: Most tokens of a perplexity window; the model's context if that is shorter.
        micro_tokens: Tokens of one forward pass, padding included.
    """

    model: str
    chat: Chat
    draw: SampleFn | None = None
    policy: Likelihood | None = None
    prompt: Callable[[list[Message]], list[Message]] = list
    choice_bias: Callable[[str], float] | None = None
    judge: Callable[[Judge, Sequence[JudgeRequest]], list[Verdict]] = judge_without_engine
    count_passes: Callable[[], int] | None = None
    width: int = 1024
    micro_tokens: int = 8192
    gives_judge: bool = False
    """Whether questions come with their judge, which a method asks while it answers."""
    describe_sources: Callable[[list[Message]], dict[str, Any]] | None = None
    """What the answer to a conversation rests on (`Decoder.describe_sources`); `draw` says so by itself."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else the figures depend on (precision, adapter state); part of the fingerprint."""
    reference: Reference | None = None
    """What the base did on the probe; `None` for the base itself."""
    elsewhere: EvaluatedModel | None = None
    """What answers tasks that are to be kept, where that is another model; `None`: this one answers all."""
    rater: Rater | None = None
    """What ranks held-out pairs; `None`: the likelihood of their answers."""
    own_reference: Reference | None = None
    """What `measure_all` learned of a base on the probe: the reference of those it is compared with."""

    def select_subject(self, task: Task) -> EvaluatedModel:
        """Who answers a task: this one, or what answers elsewhere."""
        return self if self.elsewhere is None or task.role != "keep" else self.elsewhere

    @property
    def window(self) -> int:
        """Tokens of a perplexity window for this model."""
        return min(self.width, context_of(self) or self.width)


def precision_of(model: Model) -> dict[str, Any]:
    """What `EvaluatedModel.extra` says of a model's precision: nothing for fp32."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {} if dtype == "float32" else {"dtype": dtype}


def require_part(part: T | None, name: str) -> T:
    """The part of a subject, or an error that it is missing."""
    if part is None:
        raise RunError(f"this task cannot be measured without a {name}")
    return part


def measurement_fingerprint(task: Task, subject: EvaluatedModel) -> str:
    """Fingerprint of everything the items depend on: weights, template, questions, judge, settings."""
    how: Any = None
    if task.kind == "perplexity":
        how = [subject.window, "every byte"]
    elif task.kind == "generate":
        how = task.max_tokens if task.max_thinking_tokens is None else [task.max_tokens, task.max_thinking_tokens]
    elif task.kind == "episodes":
        environment = require_part(task.environment, "environment")
        how = [task.max_tokens, task.max_thinking_tokens, identity_of(environment)]
    elif task.name == PAIRS and subject.rater is not None:
        how = ["rated", subject.rater.fingerprint]
    elif task.kind == "probe":
        how = [task.max_tokens, subject.reference.base if subject.reference else "itself"]
    meta = {name: task.meta.get(name) for name in ("stop", "normalise", "lm_eval", "metric")}
    settings = [VERSION, task.kind, how, meta, judge_identity(task.judge), subject.extra]
    return fingerprint_json([subject.model, subject.chat.fingerprint, fingerprint_rows(task.rows), settings])


def judge_identity(judge: Judge | None) -> Any:
    """A judge by name and settings, and by the source of what is the user's own: its class, or the file it runs."""
    if judge is None:
        return None
    file = judge.own_file()
    own = hashlib.sha256(file.read_bytes()).hexdigest() if file else source_of(judge)
    return [name_of(judge), JUDGES, judge.identity, own]


def build_sampling_params(task: Task) -> SamplingParams:
    """Greedy, as far as the task allows."""
    return SamplingParams(
        max_tokens=task.max_tokens,
        max_thinking_tokens=task.max_thinking_tokens,
        stop=tuple(task.meta.get("stop", ())),
    )


def format_prompt(prompt: Sequence[Message]) -> str:
    """A prompt as one text for reports: the question alone, or the turns with their roles."""
    if len(prompt) == 1:
        return as_text(prompt[0]["content"])
    return "\n".join(f"{m['role']}: {as_text(m['content'])}" for m in prompt)


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def cut_to_context(sequence: EncodedSequence, subject: EvaluatedModel) -> EncodedSequence:
    """The sequence with its beginning cut off where it is longer than the model's context."""
    limit = context_of(subject)
    if limit is None or len(sequence.ids) <= limit:
        return sequence
    label_mask = sequence.label_mask[-limit:].copy()
    label_mask[0] = False
    if sequence.pictures is not None:  # without some of their tokens they cannot be read: nothing of it is measured
        return EncodedSequence(ids=sequence.ids[:1], label_mask=np.zeros(1, dtype=bool), row=sequence.row)
    return EncodedSequence(ids=sequence.ids[-limit:], label_mask=label_mask, row=sequence.row)


def rewrite_prompt(messages: Sequence[Message], subject: EvaluatedModel) -> list[Message]:
    """A conversation that ends in an answer, asked as the subject asks it."""
    return [*subject.prompt(list(messages[:-1])), messages[-1]]


def context_of(subject: EvaluatedModel) -> int | None:
    """Tokens that fit into the model; `None` where it has no limit."""
    config = require_part(subject.policy, "policy").config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def begin_of_text(chat: Chat) -> list[int]:
    """What stands before a text: the begin token, or for want of one what ends the text before it."""
    begin, end = chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id
    return [begin if begin is not None else end if end is not None else min(chat.stop_ids)]


def score_sequences(sequences: Sequence[EncodedSequence], subject: EvaluatedModel) -> list[float]:
    """Log-likelihood in nats of the `trained` tokens of each sequence, in the order given."""
    policy = require_part(subject.policy, "policy")
    scores = [0.0] * len(sequences)

    def score_group(numbers: list[int]) -> None:
        batch = build_batch([sequences[i] for i in numbers], subject)
        logps = policy.token_logps(batch).cpu().double().numpy()  # [N]
        sums = np.bincount(batch.sequence.cpu().numpy(), weights=logps, minlength=len(numbers))
        for i, value in zip(numbers, sums, strict=True):
            scores[i] = float(value)

    for sequence in sequences:
        subject.chat.refuse_unknown(sequence.ids)
    run_groups(sequences, subject, score_group)
    return scores


def run_groups(
    sequences: Sequence[EncodedSequence], subject: EvaluatedModel, run_group: Callable[[list[int]], None]
) -> None:
    """Call a function with the numbers of some sequences after the others, in eval mode; see `run_by_area`."""
    model = require_part(subject.policy, "policy").model
    with eval_mode(model):
        run_by_area(sequences, subject.micro_tokens, next(model.parameters()).device, run_group)


def build_batch(sequences: Sequence[EncodedSequence], subject: EvaluatedModel) -> Batch:
    """Sequences as one batch on the model's device, in the layout that costs the model least."""
    policy = require_part(subject.policy, "policy")
    device = next(policy.model.parameters()).device
    return collate_on_device(sequences, policy.batch_layout, subject.chat.pad_id, device)
