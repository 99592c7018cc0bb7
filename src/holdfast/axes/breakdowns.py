"""Where an environment broke: what became of a turn once is the same in every start of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.axes.registry import name_of
from holdfast.core.time_limit import OutOfTime
from holdfast.errors import RunError, UserError, first_line

if TYPE_CHECKING:
    from holdfast.axes.environment import Environment

MOST_HANGS = 8
"""Turns for which an environment may be waited for in vain: each costs its whole time, and one more stops the run."""


@dataclass(slots=True)
class Breakdowns:
    """Where an environment broke, and why: what a clock or a network decided once is not left to it again.

    Args:
        reasons: By the key of the turn, or the id of a row whose episodes did not begin.
        are_all: Whether everything was played before with these alone: what is not among them came back then.
        hangs: How often the environment was waited for in vain since the command was started.
        keep: Called when it was once more, so that no other start waits for the same turn.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    are_all: bool = False
    hangs: int = 0
    keep: Callable[[Breakdowns], Any] = lambda breakdowns: None

    def describe_breakdown(self, key: str, place: str, environment: Environment, error: Exception) -> str:
        """Take down why a turn was not answered, in one line.

        Raises:
            UserError: If the environment refuses it; the row is named.
            RunError: If it hung too often to go on, or came back when the same was played before.
        """
        whose = f"{place}: environment {name_of(environment)}"
        if isinstance(error, UserError):
            raise UserError(f"{whose}: {error}") from error
        reason = describe_failure(error)
        if self.are_all:
            raise RunError(
                f"{whose} broke: {reason}; it answered when this round was played before, and another answer now would "
                "give other weights: run the same command again once it does"
            ) from error
        self.reasons[key] = reason
        if isinstance(error, OutOfTime):
            self.hangs += 1
            self.keep(self)
        if self.hangs > MOST_HANGS:
            raise RunError(
                f"{whose} gave {reason}, as {MOST_HANGS} times before since the command was started; mend it, "
                "or set its step_seconds"
            ) from error
        return reason


def describe_false_start(environment: Environment, place: str, error: Exception) -> UserError:
    """The refusal of a row on which an environment broke before anything was asked."""
    return UserError(
        f"{place}: environment {name_of(environment)} does not begin: {describe_failure(error)}; mend it, or "
        "remove the row"
    )


def describe_failure(error: Exception) -> str:
    """What an environment raised, or that it took too long, in one line."""
    return str(error) if isinstance(error, OutOfTime) else f"{type(error).__name__}: {first_line(error)}"


def describe_exit(error: SystemExit) -> RuntimeError:
    """What an environment that would end the whole program did."""
    return RuntimeError(f"it calls sys.exit({'' if error.code is None else repr(error.code)[:40]})")
