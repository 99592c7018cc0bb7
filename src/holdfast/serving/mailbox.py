"""Where the answers to one request arrive, and whatever ends the waiting for them."""

from __future__ import annotations

import asyncio
from functools import partial

from holdfast.generation.live_engine import AnswerEvent, LiveQuestion


class Mailbox:
    """The newest of each answer of a request. Its methods are for the thread of the event loop.

    Args:
        questions: What is asked: one for each prompt.
        each: Answers to each.
    """

    def __init__(self, questions: list[LiveQuestion], each: int) -> None:
        self.questions, self.count = questions, each * len(questions)
        self.num_open = self.count
        self.newest: dict[int, AnswerEvent] = {}
        self.changed = asyncio.Event()
        self.failure: BaseException | None = None
        for number, question in enumerate(questions):
            question.listener = partial(self._take_event, number * each)

    def _take_event(self, offset: int, event: AnswerEvent) -> None:
        if event.error:
            self.fail_all(event.error)
        elif self.failure is None:
            self.newest[offset + event.index] = event
            self.num_open -= event.sample is not None
            self.changed.set()

    def fail_all(self, error: BaseException) -> None:
        """Stop waiting, for everything that is asked; the first reason counts."""
        self.failure = self.failure or error
        for question in self.questions:
            question.cancel_answer()
        self.changed.set()

    async def wait_events(self) -> dict[int, AnswerEvent]:
        """What has come since the last call, the newest of each answer by its index.

        Raises:
            BaseException: What ended the waiting.
        """
        await self.changed.wait()
        self.changed.clear()
        if self.failure:
            raise self.failure
        events, self.newest = self.newest, {}
        return events
