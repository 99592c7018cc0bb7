"""Questions asked through a decoder while others are being answered: other prompts, other sampling, several attempts.

An answer out of several attempts is a thread that goes through its rounds as in a batch; what it asks the model joins
the running batch like anything else, and the answer comes whole, since only the last round knows it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.inference import Weigh
from holdfast.axes.registry import name_of
from holdfast.core.progress import ignore_call
from holdfast.errors import UserError
from holdfast.generation.attempts import judge_alone
from holdfast.generation.decoder import Decoder
from holdfast.generation.decoder_engine import DecoderEngine, complete_sample
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.live_engine import (
    AnswerEvent,
    AnswerSource,
    ContextOverflow,
    Delivery,
    LiveEngine,
    LiveQuestion,
    NoLogprobs,
    call_listeners,
    copy_chat,
)
from holdfast.generation.native import NativeEngine
from holdfast.generation.serial_engine import SerialEngine
from holdfast.generation.transformers_generate import GenerateEngine
from holdfast.models.loading import count_embeddings

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat

THREADS = 64
"""Answers out of several attempts that are on their way at once; others wait."""
LOOK = 0.2
"""Seconds after which a thread that waits for samples looks whether anybody waits for it."""


class AnswerDropped(Exception):
    """Nobody waits for the answer any more."""


class LiveDecoder:
    """A decoder that answers questions as they come.

    Args:
        decoder: The model and its methods.
        source: Its engine, without prompts, sampling and attempts.
        chat: Of the model.
        deliver: Told what becomes of attempts.
    """

    def __init__(self, decoder: Decoder, source: AnswerSource, chat: Chat, deliver: Delivery = call_listeners) -> None:
        self.decoder, self.source, self.deliver = decoder, source, deliver
        self.attempting = decoder.methods_changing("attempts")
        self.lock, self.is_closed = threading.Lock(), False
        # A tokenizer is for one thread: what attempts read and weigh has one of its own.
        self.chat = copy_chat(chat) if self.attempting else chat
        self.pool = ThreadPoolExecutor(THREADS, "holdfast-attempts")

    @property
    def is_whole(self) -> bool:
        """Whether answers come in one piece, and not token by token."""
        return not isinstance(self.source, LiveEngine) or bool(self.attempting)

    @property
    def is_quick(self) -> bool:
        """Whether a short question is asked in no time: no method looks anything up for it."""
        return not self.decoder.methods

    def ask_question(self, question: LiveQuestion) -> None:
        """Take a question; its listener is told the rest. May take a while, where a method looks something up.

        Raises:
            UserError: If it cannot be asked; nothing happens then.
        """
        self._refuse_unsupported(question)
        if not self.attempting:
            question.params = self.decoder.transform_params(question.params)
            self._ask_model(question)
            return
        with self.lock:
            if not self.is_closed:
                self.pool.submit(self._answer_by_attempts, question)

    def _refuse_unsupported(self, question: LiveQuestion) -> None:
        """See that the methods can answer a question at all."""
        asking = [each for what in ("prompt", "prefix") for each in self.decoder.methods_changing(what)]
        for method in (*asking, *self.attempting) if question.request is None else ():
            raise UserError(
                f"answers are made by {name_of(method)}, which asks with a conversation, and plain text to go on from "
                "is none; ask by chat"
            )
        for method in self.attempting if question.top_logprobs is not None else ():
            raise NoLogprobs(
                f"logprobs: answers are made by {name_of(method)} out of several attempts, whose tokens are not drawn "
                "one after another"
            )

    def _ask_model(self, question: LiveQuestion) -> None:
        """Ask with the prompt, and for the beginning, that the methods want."""
        if (request := question.request) is not None:
            sources = self.decoder.describe_sources(request.messages)
            question.request, prefix = self.decoder.transform_request(request)
            if prefix or sources:
                num_tokens = self.source.prompts.count_tokens(prefix) if prefix else 0
                question.listener = partial(_tell_completed, question.listener, prefix, num_tokens, sources)
        self.source.ask_question(question)

    def _answer_by_attempts(self, question: LiveQuestion) -> None:
        """Go through the rounds of all samples of a question; in a thread, where it may take its time."""
        assert question.request is not None
        engine = _AttemptAnswers(self, question)
        waiting = set(range(question.params.n))
        try:
            for sample in engine.sample([(question.request, range(question.params.n))], question.params):
                waiting.discard(sample.index)
                self.deliver([(question, AnswerEvent(sample.index, sample.text, (), sample))])
        except AnswerDropped:
            pass
        except Exception as error:  # a method is anybody's code: who waits for its answer is told
            self.deliver([(question, AnswerEvent(index, error=error)) for index in sorted(waiting)])

    def close(self) -> None:
        """End at once, whatever is still being answered."""
        with self.lock:
            self.is_closed = True
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.source.close()


class _AttemptAnswers(DecoderEngine):
    """The rounds of one question, whose samples join the batch that decodes for everybody."""

    def __init__(self, live: LiveDecoder, question: LiveQuestion) -> None:
        super().__init__(_WaitingEngine(live, question), live.decoder, live.chat, judge_alone, build_sample_fn)
        self.live = live

    def weigh_responses(self, weighings: Sequence[Weigh]) -> list[float]:
        with self.live.lock:
            return super().weigh_responses(weighings)


class _WaitingEngine:
    """An engine whose caller waits in a thread of its own for samples that are drawn beside others'."""

    fingerprint = ""

    def __init__(self, live: LiveDecoder, question: LiveQuestion) -> None:
        self.live, self.question = live, question

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as soon as it is finished."""
        inbox: queue.SimpleQueue[AnswerEvent] = queue.SimpleQueue()
        for request, indexes in requests:
            own = params.model_copy(update={"n": len(indexes)})
            child = LiveQuestion(own, inbox.put, request=request, template_kwargs=self.question.template_kwargs)
            self.question.children.append(child)
            try:
                self.live.source.ask_question(child)
            except ContextOverflow:  # as in a batch: empty answers, at which the method may look
                for index in indexes:
                    inbox.put(AnswerEvent(index, sample=Sample(request.key, index, "", "length", 0)))
            self.question.prompt_tokens += child.prompt_tokens
        for _ in range(sum(len(indexes) for _, indexes in requests)):
            event = self._wait_event(inbox)
            if event.error:
                raise event.error
            assert event.sample is not None
            self.question.answer_tokens += event.sample.tokens
            yield event.sample

    def _wait_event(self, inbox: queue.SimpleQueue[AnswerEvent]) -> AnswerEvent:
        while not (self.question.is_cancelled or self.live.is_closed):
            try:
                return inbox.get(timeout=LOOK)
            except queue.Empty:
                continue
        raise AnswerDropped


def _tell_completed(
    listener: Callable[[AnswerEvent], Any], prefix: str, num_tokens: int, sources: Mapping[str, Any], event: AnswerEvent
) -> None:
    """Tell of an answer that was given its beginning, or rests on something."""
    sample = event.sample and complete_sample(event.sample, prefix, num_tokens, sources)
    listener(event if event.error else replace(event, text=prefix + event.text, sample=sample))


def build_live_decoder(
    decoder: Decoder,
    chat: Chat,
    *,
    fingerprint: str,
    deliver: Delivery = call_listeners,
    say: Callable[[str], Any] = ignore_call,
    **options: Any,
) -> LiveDecoder:
    """The decoder as a source of answers to questions that come at any time.

    Args:
        chat: Renders conversations and knows what ends a turn.
        fingerprint: Of the model's weights.
        deliver: Told the events of a step in one call, from threads of its own.
        say: Told in a line what cannot be done, and what went wrong.
        options: Of the engine: `slots`, `draft`.
    """
    chat.limit_to(count_embeddings(decoder.model))
    engine = decoder.build_inner_engine(chat, fingerprint=fingerprint, say=say, **options)
    source: AnswerSource
    if isinstance(engine, NativeEngine):
        source = LiveEngine(engine, deliver, say)
    elif isinstance(engine, GenerateEngine):
        source = SerialEngine(engine, deliver, say)
    else:
        raise TypeError(f"{type(engine).__name__} is no engine of this process")
    return LiveDecoder(decoder, source, chat, deliver)
