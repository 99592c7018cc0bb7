"""Answers to questions as they come, where the engine cannot let a sequence join: whole batches, whole answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from holdfast.axes.engine import SamplingParams
from holdfast.core.progress import ignore_call
from holdfast.errors import first_line
from holdfast.generation.continuous_batch import PendingSample
from holdfast.generation.live_engine import (
    AnswerEvent,
    Delivery,
    LiveQuestion,
    NoLogprobs,
    PromptReading,
    call_listeners,
)
from holdfast.generation.transformers_generate import GenerateEngine


class SerialEngine:
    """Answers what waits, in batches of questions that are asked alike; what comes meanwhile waits for the next.

    Args:
        engine: `transformers.generate`.
        deliver: Told each answer, from the thread that decodes.
        say: Told in a line what went wrong for all questions of a batch.
    """

    def __init__(
        self, engine: GenerateEngine, deliver: Delivery = call_listeners, say: Callable[[str], Any] = ignore_call
    ) -> None:
        self.engine, self.deliver, self.say = engine, deliver, say
        self.prompts = PromptReading(engine)
        self.changed, self.is_closing = threading.Condition(), False
        self.waiting: list[tuple[LiveQuestion, list[PendingSample]]] = []
        self.thread = threading.Thread(target=self._run_batches, name="holdfast-decode", daemon=True)
        self.thread.start()

    def ask_question(self, question: LiveQuestion) -> None:
        """Take a question for the next batch.

        Raises:
            UserError: If its conversation cannot be rendered, does not fit the context, or log-probabilities are asked
                for.
        """
        if question.top_logprobs is not None:
            raise NoLogprobs("logprobs: this model is run by transformers' generate, which does not tell them")
        queue = self.prompts.queue_question(question)
        with self.changed:
            self.waiting.append((question, queue))
            self.changed.notify_all()

    def close(self) -> None:
        """End the thread, after the batch it is in."""
        with self.changed:
            self.is_closing = True
            self.changed.notify_all()
        self.thread.join()

    def _run_batches(self) -> None:
        while batch := self._take_batch():
            owners = {str(number): question for number, (question, _) in enumerate(batch)}
            sequences = [replace(one, key=str(k)) for k, (_, queue) in enumerate(batch) for one in queue]
            missing = {(one.key, one.index) for one in sequences}
            try:
                for sample in self.engine.sample_sequences(sequences, batch[0][0].params):
                    missing.discard((sample.key, sample.index))
                    self.deliver([(owners[sample.key], AnswerEvent(sample.index, sample.text, (), sample))])
            except Exception as error:  # no memory, say: those who wait are told, and the next batch begins anew
                self.say(f"{len(missing)} answers failed: {type(error).__name__}: {first_line(error)}")
                self.deliver([(owners[key], AnswerEvent(index, error=error)) for key, index in sorted(missing)])

    def _take_batch(self) -> list[tuple[LiveQuestion, list[PendingSample]]]:
        """What waits and is asked as the first is, as many as decode together; nothing at the end."""
        with self.changed:
            while not self.is_closing:
                self.waiting = [entry for entry in self.waiting if not entry[0].is_cancelled]
                if self.waiting:
                    manner = _manner_of(self.waiting[0][0].params)
                    batch = [entry for entry in self.waiting if _manner_of(entry[0].params) == manner]
                    batch = batch[: self.engine.slots]
                    chosen = {id(question) for question, _ in batch}
                    self.waiting = [entry for entry in self.waiting if id(entry[0]) not in chosen]
                    return batch
                self.changed.wait()
            return []


def _manner_of(params: SamplingParams) -> SamplingParams:
    """What questions must have in common to decode together."""
    return params.model_copy(update={"n": 1, "seed": 0})
