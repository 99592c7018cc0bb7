"""Conditions on rows: each takes some rows and gives, for each, why it is left out, or `None`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.axes.curator import CurationContext
from holdfast.axes.judge import JudgeRequest
from holdfast.core.bounded import LimitExceeded, search_pattern
from holdfast.data.chat.prompts import text_of
from holdfast.data.overlap.words import message_text, split_words
from holdfast.data.rows import Row
from holdfast.errors import UserError

Condition = Callable[[Sequence[Row]], "list[str | None]"]

FEWEST = 5
"""Words of an answer below which the whole row is read for its language."""
MOST = 2000
"""Characters of a text that are read for its language."""


def answer_of(row: Row) -> str:
    """The answer that a row trains on; of pairs the chosen one."""
    return text_of(row.chosen if row.chosen is not None else row.answer or "")


def find_lengths(rows: Sequence[Row], limits: tuple[int | None, int | None, int | None]) -> list[str | None]:
    """Rows whose texts are too short or too long.

    Args:
        limits: Fewest and most words of the answer, and most of the prompt.
    """
    fewest, most, most_asked = limits
    out: list[str | None] = []
    for row in rows:
        count, reason = len(split_words(answer_of(row))), None
        if fewest is not None and count < fewest:
            reason = f"answer shorter than {fewest} words: {count}"
        elif most is not None and count > most:
            reason = f"answer longer than {most} words: {count}"
        elif most_asked is not None and (length := len(split_words(message_text(row.prompt)))) > most_asked:
            reason = f"question longer than {most_asked} words: {length}"
        out.append(reason)
    return out


def load_detector() -> Callable[[str], tuple[str, float]]:
    """What gives the language of a text and how sure that is.

    Raises:
        UserError: If the library is not installed.
    """
    try:
        from py3langid import langid
    except ImportError as error:
        raise UserError(
            "filter.languages needs py3langid: pip install 'holdfast[language]', or remove languages"
        ) from error
    return langid.classify  # type: ignore[no-any-return]


def find_languages(rows: Sequence[Row], languages: Sequence[str]) -> list[str | None]:
    """Rows in another language than these (ISO 639-1).

    Raises:
        UserError: If the library is not installed, or does not know one of them.
    """
    classify = load_detector()
    out: list[str | None] = []
    for row in rows:
        answer = answer_of(row)
        text = answer if len(split_words(answer)) >= FEWEST else f"{message_text(row.prompt)}\n{answer}"
        spoken = str(classify(text[:MOST])[0])
        out.append(None if spoken in languages else f"not in {' or '.join(languages)}: {spoken}")
    return out


def find_expression(rows: Sequence[Row], knob: str, pattern: str, where: str) -> list[str | None]:
    """Rows in which a regular expression is not found ("matches"), or is found ("lacks").

    Args:
        where: "answer", "question" or "row".
    Raises:
        UserError: If it does not come to an end.
    """
    texts = [
        answer_of(row) if where == "answer" else message_text(row.prompt if where == "question" else row.messages)
        for row in rows
    ]
    try:
        hits = search_pattern(pattern, texts)
    except LimitExceeded as error:
        raise UserError(
            f"filter.{knob}: {pattern} {error} on the rows from {rows[0].describe_place(1)} to "
            f"{rows[-1].describe_place(len(rows))}; write it without a repetition inside a repetition"
        ) from None
    reason = f"{where} {'does not match' if knob == 'matches' else 'has what lacks forbids'}"
    return [None if hit == (knob == "matches") else reason for hit in hits]


def find_scores(rows: Sequence[Row], least: float) -> list[str | None]:
    """Rows that come with a lower score."""
    low = [row.score is not None and row.score < least for row in rows]
    return [f"score below {least:g}: {row.score:g}" if out else None for row, out in zip(rows, low, strict=True)]


def find_refused(rows: Sequence[Row], predicate: Callable[..., Any], name: str) -> list[str | None]:
    """Rows of which a function of the user's own says no.

    Raises:
        UserError: If it raises; naming the row.
    """
    out: list[str | None] = []
    for number, row in enumerate(rows, 1):
        try:
            out.append(None if predicate(row.to_json()) else f"{name.rpartition(':')[2]} says no")
        except Exception as error:  # whatever the user's own code raises
            raise UserError(
                f"{row.describe_row(number)}: filter.function {name} raises {type(error).__name__}: {error}"
            ) from error
    return out


def find_wrong(rows: Sequence[Row], context: CurationContext) -> list[str | None]:
    """Rows whose answer the judge does not find right by their reference.

    Raises:
        UserError: If a row has no reference.
    """
    require_references(rows)
    verdicts = context.judge([JudgeRequest(row.prompt, answer_of(row), row.reference) for row in rows])
    return [
        None if one.outcome == "right" else f"judged wrong: {' '.join(one.reason.split())[:80]}" for one in verdicts
    ]


def require_references(rows: Sequence[Row]) -> None:
    """Refuse rows without references, whose answers a judge would hold against themselves.

    Raises:
        UserError: Naming the first.
    """
    for number, row in enumerate(rows, 1):
        if row.reference is None and not row.is_replayed:
            raise UserError(
                f"{row.describe_row(number)}: has no reference beside its answer, which filter.judge would hold "
                "against itself; say which column it is (data.columns: {reference: ...}), or remove judge"
            )
