"""What needs no judge to be told of held-out rows: the loss of their answers, and which of a pair is the likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.evaluation.task import PAIRS, Role, Task

HELD_OUT = "held-out loss"
"""The task of the held-out answers' likelihood."""


def select_answer_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of a conversation whose answers can be measured, as they would be trained on.

    That is the whole conversation where it ends with an answer (unless it is labelled as a bad one), else its prompt
    with the preferred answer, or with the reference where that is text.
    """
    result = []
    for row in rows:
        if not row.prompt or row.label is False:
            continue
        gold = row.chosen if row.chosen is not None else row.reference
        if row.answer is not None:
            result.append(row)
        elif isinstance(gold, str):
            prompt = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in row.prompt]
            result.append(replace(row, messages=[*prompt, {"role": "assistant", "content": gold}]))
    return result


def select_pair_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that hold a pair, as questions with two choices of which the chosen answer is right."""
    return [
        Row(list(row.prompt), reference=0, meta={**row.meta, "choices": [row.chosen, row.rejected]}, id=row.id)
        for row in rows
        if row.prompt and row.chosen and row.rejected and row.chosen != row.rejected
    ]


def build_beside_tasks(rows: Sequence[Row], targets: Sequence[Task]) -> list[Task]:
    """What is watched beside the target: the loss of the answers, and the order of the pairs, where there are such.

    Args:
        rows: The held-out rows that are measured.
        targets: Of them, one may itself be either.
    """
    answers, pairs = select_answer_rows(rows), build_pairs_task(rows)
    loss = Task(HELD_OUT, "held_out", answers, role="watch", meta={"source": "test"}) if answers else None
    kinds = {task.kind for task in targets if task.meta["source"] == "test"}
    return [task for task in (loss, pairs) if task is not None and task.kind not in kinds]


def build_pairs_task(rows: Sequence[Row], role: Role = "watch") -> Task | None:
    """Held-out pairs: is the chosen answer likelier than the rejected one, each by its likelihood per character?

    Long answers are less likely than short ones whatever they say, so that likelihoods are divided by lengths (Meng et
    al. 2024, arXiv 2405.14734). It asks the same of every objective, also of those that train no pairs.

    Returns:
        `None` where no row holds a pair.
    """
    pairs = select_pair_rows(rows)
    return Task(PAIRS, "choice", pairs, role=role, meta={"source": "test", "normalise": "length"}) if pairs else None


def build_ranked_pairs(rows: Sequence[Row]) -> Task | None:
    """Held-out pairs as what a reward model is for; `None` where no row holds a pair."""
    task = build_pairs_task(rows, "target")
    why = "the target is how many held-out pairs the reward model ranks as labelled; before it, the likelihood does"
    return task and replace(task, meta={**task.meta, "why": why})


def find_pairs_target(tasks: Sequence[Task]) -> Task | None:
    """The held-out pairs where their order is the target."""
    return next((task for task in tasks if task.role == "target" and task.name == PAIRS), None)


def build_free_text_task(name: str, rows: Sequence[Row], role: Role, meta: dict[str, Any], why: str) -> Task:
    """Questions whose references no answer can be expected to equal: what can be told of them without a judge.

    Of held-out pairs that is which answer is the likelier one, of everything else the likelihood of the references.

    Raises:
        UserError: If no row has an answer.
    """
    answers, pairs = select_answer_rows(rows), build_pairs_task(rows, role)
    if not answers:
        raise UserError(
            f"evaluate: {meta['source']}: {why}; name one, since no row has an answer whose loss can be told"
        )
    is_target = role == "target" and meta["source"] == "test"
    task = Task(HELD_OUT if is_target else name, "held_out", answers, role=role, meta=meta)
    what = "the target is the loss of the held-out answers" if role == "target" else "what is measured is their loss"
    what += ", in bits per token"
    if is_target and pairs is not None and 2 * len(pairs.rows) >= len(rows):
        task, what = pairs, "the target is in how many held-out pairs the chosen answer is the likelier one"
    place = "" if meta["source"] == "test" else f"{meta['source']}: "
    return replace(task, meta={**task.meta, "why": f"{place}{why}: {what}; name a judge to score answers"})
