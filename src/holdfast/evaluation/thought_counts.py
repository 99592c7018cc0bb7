"""Answers that came to no end, counted apart: thoughts, cut answers, prompts beyond the context."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.axes.engine import Sample
from holdfast.data.thoughts import split_thought
from holdfast.evaluation.task import Item

THOUGHT, ENDED, UNENDED = "thought", "ended", "did not end"
"""Key of `Item.extra` where an answer holds a thought, and its values."""


UNFIT = "unfit"
"""Key of `Item.extra` where a prompt did not fit into the model's context, so that there is no answer."""


def count_unanswered(items: Sequence[Item]) -> dict[str, int] | None:
    """`{"unfit": prompts beyond the context, "cut": answers cut at their longest}`; `None` where there are none."""
    unfit = sum(UNFIT in item.extra for item in items)
    cut = sum(not item.stopped for item in items) - unfit
    return {"unfit": unfit, "cut": cut} if unfit or cut else None


def thought_extra(sample: Sample) -> dict[str, str | int]:
    """What `Item.extra` says of an answer's thought; nothing where it has none.

    A thought that was closed at its budget did not end.
    """
    reply = split_thought(sample.text)
    if reply.marks is None or not (reply.thought or sample.thought_tokens):
        return {}
    ended = reply.ended and not sample.thought_cut
    return {THOUGHT: ENDED if ended else UNENDED, "thought_tokens": sample.thought_tokens}


def count_thoughts(items: Sequence[Item]) -> dict[str, int] | None:
    """`{"thought": answers that hold a thought, "unended": of these, those whose thought did not end}`; `None` where no
    answer thinks."""
    said = [item.extra[THOUGHT] for item in items if THOUGHT in item.extra]
    return {"thought": len(said), "unended": said.count(UNENDED)} if said else None
