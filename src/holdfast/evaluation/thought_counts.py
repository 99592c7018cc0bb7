"""Answers that came to no end, counted apart: thoughts, cut answers, prompts beyond the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.axes.engine import Sample
from holdfast.data.thoughts import split_thought
from holdfast.errors import UserError
from holdfast.evaluation.task import ItemResult

THOUGHT, ENDED, UNENDED = "thought", "ended", "did not end"
"""Key of `ItemResult.extra` where an answer holds a thought, and its values."""


UNFIT = "unfit"
"""Key of `ItemResult.extra` where a prompt did not fit into the model's context, so that there is no answer."""


BROKEN = "broken"
"""Key of `ItemResult.extra` where the environment broke, so that nothing can be said of the model."""


def count_unanswered(items: Sequence[ItemResult]) -> dict[str, int] | None:
    """`{"unfit": prompts beyond the context, "cut": answers cut at their longest}`; `None` where there are none.

    `"broken"` stands beside them where an environment broke.
    """
    unfit, broken = (sum(key in item.extra for item in items) for key in (UNFIT, BROKEN))
    cut = sum(not item.stopped and not item.extra.keys() & {UNFIT, BROKEN} for item in items)
    if not (unfit or cut or broken):
        return None
    return {"unfit": unfit, "cut": cut, **({"broken": broken} if broken else {})}


def drop_unfit(*sides: Mapping[str, Sequence[ItemResult]]) -> list[dict[str, list[ItemResult]]]:
    """Measurements of the same tasks without the questions that were beyond the context in any of them, or on which an
    environment broke.

    A model that was never asked is neither right nor wrong. Where one model read the question and another did not, it
    says nothing about the two either: it is left out of all.
    """
    unfit: dict[str, set[str]] = {}
    for side in sides:
        for name, items in side.items():
            unfit.setdefault(name, set()).update(item.id for item in items if item.extra.keys() & {UNFIT, BROKEN})
    return [{name: [i for i in items if i.id not in unfit[name]] for name, items in side.items()} for side in sides]


def refuse_unasked(name: str, items: Sequence[ItemResult], items_in_context: Sequence[ItemResult]) -> None:
    """See that a task has a question that could be asked.

    Args:
        items_in_context: Those of `items` that were not beyond the context.
    Raises:
        UserError: If all were.
    """
    if items and not items_in_context and any(BROKEN in item.extra for item in items):
        reason = next(item.reason for item in items if BROKEN in item.extra)
        raise UserError(f"{name}: none of its {len(items):,} episodes could be played: {reason}")
    if items and not items_in_context:
        raise UserError(
            f"{name}: none of its {len(items):,} prompts fits into the model's context; give shorter ones, or leave "
            "this task out"
        )


def thought_extra(sample: Sample) -> dict[str, str | int]:
    """What `ItemResult.extra` says of an answer's thought; nothing where it has none.

    A thought that was closed at its budget did not end.
    """
    reply = split_thought(sample.text)
    if reply.marks is None or not (reply.thought or sample.thought_tokens):
        return {}
    has_ended = reply.has_ended and not sample.thought_cut
    return {THOUGHT: ENDED if has_ended else UNENDED, "thought_tokens": sample.thought_tokens}


def count_thoughts(items: Sequence[ItemResult]) -> dict[str, int] | None:
    """`{"thought": answers that hold a thought, "unended": of these, those whose thought did not end}`; `None` where no
    answer thinks."""
    states = [item.extra[THOUGHT] for item in items if THOUGHT in item.extra]
    return {"thought": len(states), "unended": states.count(UNENDED)} if states else None
