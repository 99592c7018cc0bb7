"""The exceptions Holdfast raises on purpose, each tied to one exit code of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class HoldfastError(Exception):
    """Base of every deliberate error; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(HoldfastError):
    """Something the user can mend: one line naming the file, row or key, what is wrong and what to do."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Mistake:
    """A line of what is wrong, and the same in parts, for pages that say it in another language.

    Args:
        line: In words.
        place, key: Where it stands, and of which setting.
        kind, values: What is wrong; "" where there are only the words.
    """

    line: str
    place: str = ""
    key: str = ""
    kind: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


class UserErrors(UserError):
    """Several mistakes in one recipe, one on each line of the message.

    Args:
        mistakes: Them; text alone stands for a mistake of each line.
    """

    def __init__(self, text: str, mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(text)
        self.mistakes = tuple(mistakes) or list_mistakes(UserError(text))


class RunError(HoldfastError):
    """A run that had to stop by itself: a loss that is not a number, no memory, a full disk."""

    exit_code = 1


class TrainingDiverged(RunError):
    """Training whose loss or gradient is no longer a number: another recipe may take its place."""


class BrokenWeights(TrainingDiverged):
    """Weights that a step has made infinite or no numbers at all: the recipe's step size is too large."""

    exit_code = 2


class GateRefused(HoldfastError):
    """The evaluation gate of the recipe said no: the run finished, but lost more than was allowed."""

    exit_code = 3


class UserInterrupt(HoldfastError):
    """The user pressed Ctrl-C; the state is saved and the same command goes on from there."""

    exit_code = 130


def list_mistakes(error: UserError) -> tuple[Mistake, ...]:
    """The mistakes that an error names."""
    return error.mistakes if isinstance(error, UserErrors) else tuple(map(Mistake, str(error).split("\n")))


def first_line(error: BaseException) -> str:
    """Give the first line of what another library says of its error, or the error's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
