"""An engine asked through a decoder: other prompts, beginnings of answers, other sampling, several attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.axes.engine import Engine, Request, Sample, SampleFn, SamplingParams
from holdfast.axes.inference import Weigh
from holdfast.axes.registry import name_of
from holdfast.data.chat.encoder import mask_answers
from holdfast.generation.attempts import AttemptRunner, JudgeFn
from holdfast.generation.prompt_ids import answer_ids

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.generation.decoder import Decoder
    from holdfast.models.joint_policy import JointPolicy
    from holdfast.models.policy import Policy


class DecoderEngine:
    """An engine asked through a decoder.

    Args:
        engine: Of the model.
        decoder: With at least one method.
        chat: Of the model.
        judge: Verdicts, for methods that ask for them while they answer.
        keep: Makes of an engine what single attempts are drawn through.
        seed: Of attempts, added to that of whoever asks.
    """

    def __init__(
        self, engine: Engine, decoder: Decoder, chat: Chat, judge: JudgeFn, keep: Callable[[Engine], SampleFn],
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.engine, self.decoder, self.chat, self.judge = engine, decoder, chat, judge
        self.keep, self.seed = keep, seed

    @property
    def fingerprint(self) -> str:
        return self.engine.fingerprint

    @cached_property
    def policy(self) -> Policy | JointPolicy:
        """The log-probabilities that responses are weighed by."""
        return self.decoder.build_policy(self.chat)

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as soon as it is finished."""
        params = self.decoder.transform_params(params)
        if attempting := self.decoder.methods_changing("attempts"):
            draw = self.keep(_AttemptEngine(self))
            method, params = attempting[0], params.model_copy(update={"seed": params.seed + self.seed})
            runner = AttemptRunner(name_of(method), method.attempts, draw, self.judge, self.weigh_responses)
            return runner.sample_answers(requests, params)
        return self.ask_model(requests, params)

    def ask_model(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Samples of the requests as the methods change them; what an answer begins with is a part of its text."""
        new_requests = {request.key: self.decoder.transform_request(request) for request, _ in requests}
        sources = {request.key: self.decoder.describe_sources(request.messages) for request, _ in requests}
        changed_requests = [(new_requests[request.key][0], indexes) for request, indexes in requests]
        for sample in self.engine.sample(changed_requests, params):
            prefix = new_requests[sample.key][1]
            num_tokens = len(answer_ids(self.chat, prefix)) if prefix else 0
            yield complete_sample(sample, prefix, num_tokens, sources[sample.key])

    def weigh_responses(self, weighings: Sequence[Weigh]) -> list[float]:
        """Mean log-probability in nats of each response's tokens, the end of the turn included."""
        from holdfast.models.row_features import label_logps

        conversations = [
            [
                *mask_answers(self.decoder.transform_prompt(one.request.messages)),
                {"role": "assistant", "content": one.response},
            ]
            for one in weighings
        ]
        names = [one.request.key for one in weighings]
        encodings = self.chat.encode_many(conversations, names)
        values = label_logps(self.policy, encodings, self.chat.pad_id)
        return [float(logps.mean()) if len(logps) else float("-inf") for logps in values]


def complete_sample(sample: Sample, prefix: str, num_tokens: int, sources: Mapping[str, Any]) -> Sample:
    """A sample as the answer it is a part of.

    Args:
        prefix: What it was given to begin with; its tokens, `num_tokens`, count.
        sources: What it rests on.
    """
    if prefix:
        sample = replace(sample, text=prefix + sample.text, tokens=sample.tokens + num_tokens)
    return replace(sample, trace={**(sample.trace or {}), **sources}) if sources else sample


class _AttemptEngine:
    """What single attempts are drawn from; its samples are not those of the whole method, and so neither its name."""

    def __init__(self, whole: DecoderEngine) -> None:
        self.whole = whole

    @property
    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint}/attempt"

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        return self.whole.ask_model(requests, params)
