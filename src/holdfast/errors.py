"""The exceptions Holdfast raises on purpose, each tied to one exit code of the command line."""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of every deliberate error; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(HoldfastError):
    """Something the user can mend: one line naming the file, row or key, what is wrong and what to do."""

    exit_code = 2


class UserErrors(UserError):
    """Several mistakes in one recipe, one on each line of the message."""


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


def first_line(error: BaseException) -> str:
    """Give the first line of what another library says of its error, or the error's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
