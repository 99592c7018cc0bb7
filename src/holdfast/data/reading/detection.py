"""Which format the columns of a file are of, all its rows together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from holdfast.data.reading import beside, preferences
from holdfast.data.reading.columns import ROLES, ColumnMap, format_columns, has_column
from holdfast.data.reading.converters import ANSWERS, CONVERSATIONS, MEDIA, PROMPTS, TOOLS
from holdfast.data.reading.json_stream import ByPlace
from holdfast.data.reading.messages import SKIP_FLAGS, TRAIN_FLAGS
from holdfast.data.reading.picture_parts import COLUMNS as PICTURES
from holdfast.data.reading.preferences import label_kind, ranked_column
from holdfast.data.reading.readers import Source, refuse_splits
from holdfast.errors import UserError

KNOWN_FORMATS = (
    "alpaca (instruction, output), messages or conversations, prompt and completion (or question and answer), "
    "chosen and rejected (or completions with scores), or text"
)


class UnknownColumns(UserError):
    """Columns that are those of no known format."""


NOT_PLAIN = {*ANSWERS, "code", "label", "target", "summary", "translation", "chosen", "rejected"}
"""Columns beside `text` that say the text alone is not what should be learned."""

COLUMNS = {
    *CONVERSATIONS,
    *PROMPTS,
    *ANSWERS,
    *MEDIA,
    *PICTURES,
    *TOOLS,
    *TRAIN_FLAGS,
    *SKIP_FLAGS,
    *NOT_PLAIN,
    *beside.COLUMNS,
    *preferences.COLUMNS,
    *("text", "system", "system_prompt", "history", "score", "weight"),
}
LONGEST = 60
"""Longer names of columns are none that anybody knows."""


@lru_cache(4096)
def known_name(column: str) -> str:
    """The name of a column as it is known here: in lower case, if that is one of the names known."""
    return low if len(column) <= LONGEST and (low := column.strip().lower()) in COLUMNS else column


def normalize_columns(record: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The record with the columns known here in lower case.

    Raises:
        UserError: If its columns have no names, or two of them the same; `where` it stands is told.
    """
    if isinstance(record, ByPlace):
        raise UserError(
            f"{where}: a row must be an object with named columns, not a list; say what stands where, as in "
            "data.columns: {prompt: 0, answer: 1}"
        )
    out = {known_name(key): value for key, value in record.items()}
    if len(out) < len(record):
        names = [known_name(key) for key in record]
        same = [key for key in record if names.count(known_name(key)) > 1]
        raise UserError(f"{where}: columns {' and '.join(same)} are the same by name; rename one")
    return beside.flatten_question(out)


def record_signature(record: Mapping[str, Any]) -> frozenset[str]:
    """The columns of a record that hold something; whether its label is a truth value, and its answers are ranked."""
    keys = {key for key, value in record.items() if value is not None} or set(record)
    if "label" in keys:
        keys.add(f"label={label_kind(record['label'])}")
    answers_column = ranked_column(record)
    return frozenset(keys - {answers_column} | {"ranked="} if answers_column else keys)


def format_of(keys: frozenset[str]) -> str | None:
    """alpaca, messages, prompt, preference, kto or text, or None if the columns fit none of them."""
    sides = preferences.sides_of(keys)
    if sides and (set(sides) <= keys or sides[1] in preferences.REJECTED_ALONE):
        return "preference"
    answer = any(k in keys for k in ANSWERS)
    if any(k in keys for k in CONVERSATIONS) and "ranked=" not in keys:
        base: str | None = "messages"
    elif "instruction" in keys and answer:
        base = "alpaca"
    elif any(k in keys for k in PROMPTS) and (answer or keys & set(beside.FINAL)):
        base = "prompt"
    elif sides or "ranked=" in keys:
        return "preference"
    else:
        return "text" if "text" in keys and not keys & NOT_PLAIN else None
    return "kto" if keys & {"label=truth", "label=bit", "kto_tag"} else base


def check_columns(source: Source, limit: int | None, column_map: ColumnMap) -> None:
    """Refuse a mapping onto columns that no row has."""
    columns: dict[str, None] = {}
    open_yet, start = set(column_map.all_columns), 0
    for number, record in islice(source.records(), limit):
        start = start or number
        columns |= dict.fromkeys(record)
        open_yet -= {name for name in open_yet if has_column(record, name)}
        if not open_yet:
            return
    wrong = column_map.describe_missing(columns, set(column_map.all_columns) - open_yet) if start else None
    if wrong:
        raise UserError(f"{source.describe_place(start)}: {wrong}")


def detect_format(
    source: Source, limit: int | None, column_map: ColumnMap | None = None, answers: Collection[str] | None = None
) -> str:
    """The one format that the columns of all rows agree on.

    Args:
        answers: Columns in which an objective finds all answers by itself, so that beside them a question is enough;
            `None`: it needs the answers of the format.
    """
    if column_map is not None:
        return _mapped_format(source, column_map)
    first_rows: dict[frozenset[str], int] = {}  # columns: the first row that has them
    for number, record in islice(source.records(), limit):
        first_rows.setdefault(record_signature(normalize_columns(record, source.describe_place(number))), number)
    kinds = frozenset().union(*first_rows)
    if "label=other" in kinds and "label=truth" not in kinds:  # class labels, not KTO's
        first_rows = {
            frozenset(k for k in keys if not k.startswith("label=")): n for keys, n in reversed(first_rows.items())
        }
    formats: dict[str, int] = {}
    for keys, number in sorted(first_rows.items(), key=lambda item: item[1]):
        form = format_of(keys)
        if form is None and answers is not None and keys.issuperset(answers) and any(key in keys for key in PROMPTS):
            form = "question"
        if form is not None:
            formats.setdefault(form, number)
    if not first_rows:
        raise UserError(f"{source.name}: there are no rows in it; write one example per line")
    if not formats:
        keys, number = min(first_rows.items(), key=lambda item: item[1])
        refuse_splits(source)
        raise UnknownColumns(
            f"{source.describe_place(number)}: no known format has the columns {format_columns(_plain_names(keys))}; "
            "say which is which, "
            f"as in data.columns: {{prompt: question, answer: label}}, or rename them to those of {KNOWN_FORMATS}"
        )
    if "kto" in formats and len(formats) == 2 and formats.keys() & {"messages", "prompt", "alpaca"}:
        return "kto"  # rows without a label are named as such
    if len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        raise UserError(
            f"{source.describe_place(second)}: the row is in the {other} format, but {source.describe_place(first)} "
            f"is in the {one} format; put each format into a file of its own"
        )
    return next(iter(formats))


def _plain_names(keys: Collection[str]) -> list[str]:
    return sorted(key for key in keys if key != "ranked=" and not key.startswith("label="))


def _mapped_format(source: Source, column_map: ColumnMap) -> str:
    """The format that a mapping makes of a file: its roles say it, whatever the rows hold."""
    keys = frozenset(ROLES[role] for role in column_map.parts) | (
        {"label=truth"} if "label" in column_map.parts else set()
    )
    form = format_of(keys | {"ranked="} if "completions" in column_map.parts else keys)
    if form is None:
        raise UserError(
            f"{source.name}: data.columns gives {', '.join(column_map.parts)}, which makes no row; add an answer (or a "
            "reference for a judge, or chosen and rejected)"
        )
    return form
