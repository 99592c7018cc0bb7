"""What of an answer can be shown while it grows: nothing that its end may take back.

A stop string is cut off once it is whole, so what may be its beginning waits; and so does what may be a mark between
thought and answer. What was shown is always the beginning of what the whole answer shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.data.thoughts import MARKS, opened_by, split_thought

LONGEST_TURN = 64
"""Characters that may stand between thought and answer besides the marks."""


@dataclass(frozen=True, slots=True)
class Visible:
    """A text as the protocol tells it.

    Args:
        thought: What the model thought, where its text begins with a thought.
        answer: The rest.
    """

    thought: str
    answer: str


def split_whole(text: str) -> Visible:
    """A finished text. Only a mark that opens a thought begins one: a closing one alone could not be told in time."""
    if opened_by(text) is None:
        return Visible("", text)
    reply = split_thought(text)
    return Visible(reply.thought, reply.answer)


def split_growing(text: str, stop: Iterable[str] = ()) -> Visible:
    """As much of a text that still grows as will stay."""
    marks = opened_by(text)
    if marks is None:
        openings = [opening for opening, _ in MARKS if opening.startswith(text.lstrip())]
        return Visible("", "" if openings else hold_back(text, stop))
    reply = split_thought(text)
    if not reply.has_ended:
        # The beginning of the turn that follows is taken off with the mark, so everything from a "<" on waits.
        begin = text.find(marks[0]) + len(marks[0])
        place = text.find("<", max(begin, len(text) - LONGEST_TURN))
        certain = hold_back(text if place < 0 else text[:place], (marks[1],))
        return Visible(split_thought(certain).thought.strip(), "")
    if marks[0].startswith(reply.answer.lstrip()):  # it may think again
        return Visible(reply.thought, "")
    return Visible(reply.thought, hold_back(reply.answer, stop))


def hold_back(text: str, ends: Iterable[str]) -> str:
    """A text without what may be the beginning of one of `ends` at its end, and without what follows a whole one."""
    length = len(text)
    for end in ends:
        place = text.find(end)
        if place >= 0:
            length = min(length, place)
        for size in range(min(len(end) - 1, len(text)), 0, -1):
            if text.endswith(end[:size]):
                length = min(length, len(text) - size)
                break
    return text[:length]
