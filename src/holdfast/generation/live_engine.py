"""Answers to questions as they come, from several clients at once, each by its own thread of the model's.

A question joins the batch that is decoding; nobody waits for others to finish. On a CPU a small model decodes several
batches side by side, one a core, as `NativeEngine` does, once there are sequences enough for that.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
import torch

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.core.progress import ignore_call
from holdfast.data.chat.encoder import Chat
from holdfast.data.chat.settings import ChatSettings
from holdfast.data.rows import fingerprint_json
from holdfast.errors import UserError, first_line
from holdfast.generation.continuous_batch import PendingSample, read_prompts
from holdfast.generation.live_batch import LiveBatch, LiveJob, LiveSequence, TokenDetail
from holdfast.generation.live_speculative import LiveSpeculativeBatch
from holdfast.generation.local import LocalEngine
from holdfast.generation.native import FEWEST, SHARED, NativeEngine
from holdfast.generation.prompt_ids import answer_ids, opening_of, prompt_ids
from holdfast.generation.text_stream import TextStream

MOST_VARIANTS = 16
"""Settings of the chat template kept ready, beside the chat's own."""


class ContextOverflow(UserError):
    """A prompt that leaves no room for an answer in the model's context."""


class NoLogprobs(UserError):
    """Log-probabilities of answers that are not drawn token by token."""


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """What became of one sample of a question.

    Args:
        index: Which of its samples.
        text: So far; it only grows, until the end may cut off what a stop string began.
        details: Of the tokens so far, where they were asked for; do not change them.
        sample: The whole, once it is finished.
        error: Why there will be none.
    """

    index: int
    text: str = ""
    details: Sequence[TokenDetail] = ()
    sample: Sample | None = None
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class LiveQuestion:
    """Something to be answered, and who waits for it.

    Args:
        params: How; `n` samples of it.
        listener: Told what becomes of each, in a thread of the engine's, so it should return at once.
        request: A conversation.
        text, prompt: Plain text to go on from, in its place; or its token ids.
        streams: Whether events come before the end, too.
        top_logprobs: How many of the likeliest tokens are told with each; `None`: no log-probabilities.
        template_kwargs: What the chat template is given beside what it is given by itself.
        prompt_tokens: Tokens of the prompts read for it, once they are known.
        answer_tokens: Tokens sampled for it, where these are more than its answers'.
        is_cancelled: Whether nobody waits any more.
        children: What is asked in its place, where answers are made of several attempts.
    """

    params: SamplingParams
    listener: Callable[[AnswerEvent], Any]
    request: Request | None = None
    text: str = ""
    prompt: list[int] | None = None
    streams: bool = False
    top_logprobs: int | None = None
    template_kwargs: Mapping[str, Any] | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    is_cancelled: bool = False
    children: list[LiveQuestion] = field(default_factory=list)

    @property
    def key(self) -> str:
        """With the seed it fixes what is drawn."""
        return self.request.key if self.request else ""

    def cancel_answer(self) -> None:
        """Nobody waits for it: what decodes of it leaves the batch before the next step."""
        self.is_cancelled = True
        for child in self.children:
            child.cancel_answer()


Delivery = Callable[[list[tuple[LiveQuestion, AnswerEvent]]], Any]
"""Takes the events of a step to who listens."""


def call_listeners(events: list[tuple[LiveQuestion, AnswerEvent]]) -> None:
    """Tell who waits what there is."""
    for question, event in events:
        if not question.is_cancelled:
            question.listener(event)


class AnswerSource(Protocol):
    """Answers questions while others are being answered."""

    prompts: PromptReading

    def ask_question(self, question: LiveQuestion) -> None:
        """Take a question; its listener is told the rest.

        Raises:
            UserError: If it cannot be asked; nothing happens then.
        """

    def close(self) -> None:
        """End at once, whatever is still being answered."""


class LiveEngine:
    """Answers token by token, with the native engine's batches.

    Args:
        engine: Its model, chat, slots, mixture and draft.
        deliver: Told the events of each step in one call, from the thread that took it.
        say: Told in a line what went wrong for all questions of a batch.
    """

    def __init__(
        self, engine: NativeEngine, deliver: Delivery = call_listeners, say: Callable[[str], Any] = ignore_call
    ) -> None:
        self.engine, self.deliver, self.say = engine, deliver, say
        self.draft = engine.choose_draft(engine.context)
        forward = engine.build_drafted_pass(self.draft) if self.draft else engine.build_forward_pass()
        self.prompts = PromptReading(engine)
        common_ids = self.prompts.find_common_ids()
        self.job = LiveJob(
            engine.model, engine.chat, forward, SamplingParams(), ends=None, reader=engine.choose_reader(),
            # A prompt's last token is never read, so one more stands behind what is.
            shared=read_prompts(forward, engine.model.device, [[*common_ids, common_ids[0]]]) if common_ids else None,
            shared_ids=tuple(common_ids),
        )  # fmt: skip
        self.cores = torch.get_num_threads()
        count = self.cores if forward.concurrent and engine.model.device.type == "cpu" else 1
        count = max(1, min(count, engine.slots))
        self.changed, self.is_closing = threading.Condition(), False
        self.workers = [_Worker(self, -(-engine.slots // count)) for _ in range(count)]
        for worker in self.workers:
            worker.thread.start()

    def ask_question(self, question: LiveQuestion) -> None:
        """Take a question; it joins the batch of the least busy thread, all its samples together.

        Raises:
            UserError: If its conversation cannot be rendered, or does not fit the context.
        """
        sequences = [self._build_sequence(question, one) for one in self.prompts.queue_question(question)]
        with self.changed:
            self._choose_worker(len(sequences)).arrivals.extend(sequences)
            self.changed.notify_all()

    def _build_sequence(self, question: LiveQuestion, one: PendingSample) -> LiveSequence:
        follows = question.streams or question.top_logprobs is not None or any(question.params.stop)
        return LiveSequence(
            one.key, one.index, one.prompt, one.limit, one.seed, one.opening, one.thought, one.pictures,
            params=question.params, top_logprobs=question.top_logprobs,
            stream=TextStream(self.engine.chat) if follows else None, owner=question,
        )  # fmt: skip

    def _choose_worker(self, more: int) -> _Worker:
        """Few sequences stay in one batch; of many, each core has its share."""
        loads = [worker.load for worker in self.workers]
        is_few = sum(loads) + more < 2 * FEWEST
        return self.workers[loads.index(max(loads) if is_few else min(loads))]

    def build_batch(self, sequences: list[LiveSequence], slots: int) -> LiveBatch:
        """A batch that begins with some sequences."""
        if self.draft is None:
            return LiveBatch(self.job, sequences, slots)
        return LiveSpeculativeBatch(self.job, sequences, slots, self.draft)

    def count_threads(self) -> int:
        """Cores for each batch that decodes now."""
        return max(1, self.cores // max(1, sum(worker.load > 0 for worker in self.workers)))

    def close(self) -> None:
        """End the threads, each after the step it is in."""
        with self.changed:
            self.is_closing = True
            self.changed.notify_all()
        for worker in self.workers:
            worker.thread.join()


class _Worker:
    """A batch, and the thread that decodes it."""

    def __init__(self, live: LiveEngine, slots: int) -> None:
        self.live, self.slots = live, slots
        self.arrivals: list[LiveSequence] = []
        self.batch: LiveBatch | None = None
        self.num_running = self.num_threads = 0
        self.thread = threading.Thread(target=self._run_steps, name="holdfast-decode", daemon=True)

    @property
    def load(self) -> int:
        """Sequences it has."""
        return self.num_running + len(self.arrivals)

    def _run_steps(self) -> None:
        while (arrivals := self._take_arrivals()) is not None:
            if (count := self.live.count_threads()) != self.num_threads:
                torch.set_num_threads(count)  # of this thread's operations
                self.num_threads = count
            try:
                events = self._take_step(arrivals)
            except Exception as error:  # no memory, say: those who wait are told, and the next batch begins anew
                victims = {id(one): one for one in [*(self.batch.list_sequences() if self.batch else ()), *arrivals]}
                events = [(one.owner, AnswerEvent(one.index, error=error)) for one in victims.values()]
                self.batch = None
                self.live.say(f"{len(victims)} answers failed: {type(error).__name__}: {first_line(error)}")
            self.num_running = len(self.batch.list_sequences()) if self.batch else 0
            if events:
                self.live.deliver(events)

    def _take_arrivals(self) -> list[LiveSequence] | None:
        """What has come since the last step, once there is something to do; `None` at the end."""
        with self.live.changed:
            while not (self.arrivals or self.batch or self.live.is_closing):
                self.live.changed.wait()
            if self.live.is_closing:
                return None
            arrivals, self.arrivals = self.arrivals, []
            self.num_running += len(arrivals)
        # Neighbours of like length are read with little padding, and samples of one prompt once.
        return sorted(arrivals, key=lambda one: (-len(one.prompt), one.prompt))

    def _take_step(self, arrivals: list[LiveSequence]) -> list[tuple[LiveQuestion, AnswerEvent]]:
        """Decode one token of everything; what there is to be told of it."""
        if self.batch is None:
            if not (arrivals := [one for one in arrivals if not one.owner.is_cancelled]):
                return []
            self.batch = self.live.build_batch(arrivals, self.slots)
        elif arrivals:
            self.batch.add_sequences(arrivals)
        batch = self.batch
        batch.drop_cancelled()
        endings = batch.decode_live() if batch.busy else []
        events = [
            (one.owner, AnswerEvent(one.index, sample.text, one.details, sample)) for one, sample in endings
        ]  # fmt: skip
        for one in batch.occupant:
            if one and one.owner.streams and one.stream and len(one.stream.text) > one.num_shown:
                one.num_shown = len(one.stream.text)
                events.append((one.owner, AnswerEvent(one.index, one.opening + one.stream.text, one.details)))
        if not batch.busy:
            self.batch = None
        return events


class PromptReading:
    """Questions to token ids, one at a time: a tokenizer is for one thread, and those that decode have the engine's."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine, self.lock = engine, threading.Lock()
        self.chat = copy_chat(engine.chat)
        self.variants: dict[str, Chat] = {}

    def queue_question(self, question: LiveQuestion) -> list[PendingSample]:
        """Its samples, to be decoded.

        Raises:
            UserError: If its conversation cannot be rendered, or does not fit the context.
        """
        engine, params = self.engine, question.params
        with self.lock:
            prompt, opening = self._read_prompt(question)
        budget = engine.build_thought_budget(params)
        queue = engine.queue_prompt(prompt, question.key, range(params.n), params, opening=opening, budget=budget)
        if not queue:
            raise ContextOverflow(
                f"the prompt has {len(prompt):,} tokens, and the model's context length of {engine.context:,} leaves "
                "no room for an answer; shorten it"
            )
        question.prompt_tokens += len(prompt)
        return queue

    def find_common_ids(self) -> list[int]:
        """What all conversations begin with that have no system message of their own; nothing if that is little."""
        with self.lock:
            one, other = self.chat.prompt_ids_many([[{"role": "user", "content": text}] for text in ("a", "Z 9")])
        common = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        return common if len(common) >= SHARED else []

    def count_tokens(self, text: str) -> int:
        """Tokens of what an answer begins with."""
        with self.lock:
            return len(answer_ids(self.chat, text))

    def _read_prompt(self, question: LiveQuestion) -> tuple[list[int], str]:
        """Token ids, and what they open of a thought."""
        request = question.request
        if request is None:
            ids = self.chat.tokenizer(question.text)["input_ids"] if question.prompt is None else question.prompt
            if not ids:
                raise UserError("the prompt is empty; give it at least one token")
            self.chat.refuse_unknown(np.array(ids))
            return list(ids), ""
        chat = self._choose_chat(question.template_kwargs)
        return prompt_ids(chat, [request])[0], opening_of(chat, request)

    def _choose_chat(self, kwargs: Mapping[str, Any] | None) -> Chat:
        """The chat whose template is given `kwargs` beside what it is given by itself."""
        if not kwargs:
            return self.chat
        name = fingerprint_json(dict(kwargs))
        if name not in self.variants:
            if len(self.variants) >= MOST_VARIANTS:
                self.variants.clear()
            self.variants[name] = copy_chat(self.chat, kwargs)
        return self.variants[name]


def copy_chat(chat: Chat, kwargs: Mapping[str, Any] | None = None) -> Chat:
    """A chat with a tokenizer of its own; with `kwargs` the same one, and a template that is given these, too.

    Raises:
        UserError: If the template never reads what it is to be given.
    """
    settings = ChatSettings.from_chat(chat)
    if kwargs is not None:
        settings = replace(settings, chat_template_kwargs={**settings.chat_template_kwargs, **kwargs})
    other = settings.build_chat(copy.deepcopy(chat.tokenizer) if kwargs is None else chat.tokenizer)
    if chat.embeddings is not None:
        other.limit_to(chat.embeddings)
    return other
