"""The budget of a thought: how it is followed while a sequence decodes, and how it is closed.

A thought that reaches its budget is closed by force: the marks that a model's template writes between thought and
answer are put behind it, as if the model had written them, and the model answers ("budget forcing", Muennighoff et al.
2025, arXiv 2501.19393). The answer then has its own budget. Such a thought counts as one that did not end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from holdfast.data.thoughts import opened_by, split_thought

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat

LOOKS = (1, 4, 16)
"""Tokens after which a text is looked at for the beginning of a thought that the prompt did not open."""


@dataclass(frozen=True)
class ThoughtBudget:
    """What the sequences of one call have in common.

    Args:
        thinking: Most tokens of a thought.
        answer: Most tokens of the answer after it.
        closers: Gives which tokens can complete a closing mark, bool [vocabulary]; called once something is thought.
    """

    chat: Chat
    thinking: int
    answer: int
    closers: Callable[[], np.ndarray]

    @cached_property
    def closing(self) -> int:
        """Tokens that close a thought by force; asked for at every token of one."""
        return len(self.chat.ids_of(self.chat.closing))

    @property
    def most(self) -> int:
        """Most tokens of a sample."""
        return self.thinking + self.answer + self.closing


@dataclass(slots=True)
class ThoughtState:
    """One sequence under a budget.

    Args:
        opening: What its prompt opened.
        room: Most tokens it may get in all, by budgets and the model's context.
        limit: Most tokens it may get as things stand.
        thinking: Whether it thinks; `None` while that is not known.
        forced_ids: Ids that are still to be put behind the thought.
        tokens: Tokens of the thought, its marks included, once it is over.
        cut: Whether it was closed by force.
    """

    budget: ThoughtBudget
    opening: str
    room: int
    limit: int = 0
    thinking: bool | None = None
    forced_ids: tuple[int, ...] = ()
    tokens: int = 0
    cut: bool = False

    def __post_init__(self) -> None:
        self.thinking = True if self.opening else None
        self.limit = self.room if self.opening else min(self.room, self.budget.answer)

    @property
    def most(self) -> int:
        """Most tokens of the thought: its budget, or what a short context leaves beside the answer."""
        return max(1, min(self.budget.thinking, self.room - self.budget.answer - self.budget.closing))

    def follow_token(self, num_tokens: int, token: int, text: Callable[[], str]) -> None:
        """Take note of a token.

        Args:
            num_tokens: Tokens so far, this one included.
            token: Its id.
            text: Gives the text so far; called only where something may have changed.
        """
        last = min(LOOKS[-1], self.limit)
        if self.thinking is None and (num_tokens in LOOKS or num_tokens == last):
            has_opened = opened_by(text()) is not None
            self.thinking = True if has_opened else False if num_tokens == last else None
            self.limit = self.room if has_opened else self.limit
            self._check_end(num_tokens, text())
        elif self.thinking and not self.cut and self.budget.closers()[token]:
            self._check_end(num_tokens, self.opening + text())
        if self.thinking and not self.cut and num_tokens >= self.most:
            self._force_closing(num_tokens, self.opening + text())
        elif self.cut and self.thinking and not self.forced_ids:
            self._start_answer(num_tokens)

    def _check_end(self, num_tokens: int, text: str) -> None:
        """See whether the thought is over."""
        if self.thinking and split_thought(text).has_ended:
            self._start_answer(num_tokens)

    def _start_answer(self, num_tokens: int) -> None:
        """From here on it answers."""
        self.thinking, self.tokens = False, num_tokens
        self.limit = min(self.room, num_tokens + self.budget.answer)

    def _force_closing(self, num_tokens: int, text: str) -> None:
        """Close the thought: with the template's marks, or those it was opened with."""
        chat, marks = self.budget.chat, opened_by(text)
        own = marks is None or marks == chat.template.thoughts.marks
        self.forced_ids = tuple(chat.ids_of(chat.closing if own or marks is None else f"\n{marks[1]}\n\n"))
        self.cut = True
        self.limit = self.room
