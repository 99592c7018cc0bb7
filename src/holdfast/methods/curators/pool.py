"""What curators that choose by a number have in common: the rows to choose from, how many, and what is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.axes.curator import CurationContext
from holdfast.data.rows import Row, Rows
from holdfast.data.trace import record_decision
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def fresh_numbers(rows: Rows) -> list[int]:
    """Numbers of the rows to choose from: all but those that an earlier curator mixed in."""
    return [number for number, row in enumerate(rows) if not row.is_replayed]


def open_pool(curator: str, rows: Rows, n: int | None, *, question: bool = True) -> tuple[list[int], list[Row]]:
    """The rows to choose from: their numbers, and each as a conversation that ends with its answer.

    Args:
        n: How many are to be chosen, if that is said.
        question: As of `answer_conversations`.
    Raises:
        UserError: If there are fewer than `n`, or for the first row without an answer or a question.
    """
    numbers = fresh_numbers(rows)
    refuse_more_than_rows(curator, n, numbers)
    return numbers, answer_conversations(curator, [rows[i] for i in numbers], question=question)


def count_chosen(rows: int, share: float, n: int | None) -> int:
    """How many of `rows` are chosen: `n`, or where that is not given a share, at least one."""
    return n if n is not None else max(1, int(share * rows)) if rows else 0


def refuse_more_than_rows(curator: str, n: int | None, rows: Sequence[object]) -> None:
    """More rows than there are cannot be chosen."""
    if n is not None and len(rows) and n > len(rows):
        raise UserError(
            f"curator {curator}: n is {n:,}, but there are {len(rows):,} rows to choose from; give a smaller n or share"
        )


def refuse_overlap(curator: str, rows: Rows, target: Rows, path: str) -> None:
    """Rows that are chosen for a target must not be the target's."""
    from holdfast.data.reading.splits import count_shared_prompts

    if shared_count := count_shared_prompts(rows, target):
        raise UserError(
            f"curator {curator}: {shared_count:,} of the questions of target {path} stand among the training rows too; "
            "take them out of one of the two, as they would be chosen for being the same"
        )


def answer_conversations(curator: str, rows: Rows, *, question: bool = True) -> list[Row]:
    """Each row as a conversation that ends with its answer; of a pair that is the chosen one.

    Args:
        question: Whether a question must stand before the last answer, which alone is then trained.
    Raises:
        UserError: For the first row without an answer or a question.
    """
    from holdfast.data.chat.encoder import mask_answers

    out = []
    for number, row in enumerate(rows, 1):
        answer = row.chosen if row.chosen is not None else row.answer
        if answer is None:
            raise UserError(f"{row.describe_row(number)}: has no answer; {curator} needs one in every row")
        if question and not any(message["role"] == "user" for message in row.prompt):
            raise UserError(f"{row.describe_row(number)}: is plain text without a question; {curator} needs both")
        messages = [*(mask_answers(row.prompt) if question else row.prompt), {"role": "assistant", "content": answer}]
        out.append(replace(row, messages=messages, chosen=None, rejected=None))
    return out


def mean_losses(context: CurationContext, rows: Sequence[Row], model: str | None = None) -> np.ndarray:
    """Mean loss per token of each row's trained tokens in nats, [rows]; NaN where none fits into the context."""
    import numpy as np

    logps = context.compute_logps([row.messages for row in rows], model)
    return np.array([-float(one.mean()) if len(one) else np.nan for one in logps])


def highest_numbers(scores: np.ndarray, count: int) -> list[int]:
    """Numbers of the highest scores, the first of equals; those that are no numbers are never among them."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")  # NaN stands last
    return [int(i) for i in order[:count] if not np.isnan(scores[i])]


def keep_chosen(
    rows: Rows, numbers: Sequence[int], chosen: Sequence[int], scores: np.ndarray, what: str, context: CurationContext
) -> list[Row]:
    """The chosen rows and those that are not to be chosen from, in their order, the decision written on each.

    Args:
        numbers: Which rows were to be chosen from.
        chosen: Which of `numbers` stay, by their position there.
        scores: What decided, [numbers].
        what: Its name, in a few words.
    """
    import numpy as np

    score_by_number = dict(zip(numbers, np.asarray(scores, dtype=np.float64).tolist(), strict=True))
    stays = {numbers[i] for i in chosen}
    out = []
    for number, row in enumerate(rows):
        if number not in score_by_number:
            out.append(row)
        elif number in stays:
            score = round(score_by_number[number], 6)
            out.append(record_decision(row, context.curator, row, criterion=what, score=score))
        else:
            context.drop(row, f"not chosen by {what}: {score_by_number[number]:.4g}, {len(stays)} others were")
    context.note("chosen", len(stays))
    context.note(f"left out ({what})", len(numbers) - len(stays))
    return out
