"""Columns under the user's own names: which of them is the prompt, which the answer; and how a file's were read."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.spelling import suggest_name
from holdfast.data.reading.beside import COT, FINAL, OPTIONS, PASSAGES, letter_of
from holdfast.data.reading.converters import ANSWERS, CONVERSATIONS, PROMPTS
from holdfast.data.reading.messages import THOUGHTS
from holdfast.data.reading.values import BadRow, has_content
from holdfast.errors import UserError

ROLES = {
    "prompt": "prompt",
    "answer": "answer",
    "context": "context",
    "system": "system",
    "history": "history",
    "messages": "messages",
    "text": "text",
    "chosen": "chosen",
    "rejected": "rejected",
    "reference": "reference",
    "choices": "choices",
    "label": "label",
    "score": "score",
    "weight": "weight",
    "completions": "completions",
    "scores": "scores",
    "ranks": "ranks",
}
"""What a column can be, and the name under which the formats know it."""

TEXTS = ("prompt", "answer", "context", "system", "text", "chosen", "rejected")
"""Roles that are texts: they may be made of several columns by a template."""

OPENERS = ("prompt", "messages", "text", "chosen")
"""A row has at least one of these."""

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """`data.columns`, ready to be applied.

    A column is called by its name, by its place (from 0) where records are lists, or by a path into what it holds
    (`question.stem`, `instances.0.output`). A text with `{...}` in it is a template of such names.

    Args:
        columns: Role to column or template, as in the recipe.
        parts: Role to the columns it needs: one, or those of its template in order.
    """

    columns: dict[str, str]
    parts: dict[str, tuple[str, ...]]

    @classmethod
    def from_mapping(cls, columns: Mapping[str, str | int]) -> ColumnMap:
        """Read a mapping as the recipe has it.

        Raises:
            ValueError: If a role is unknown, a template cannot be read, or no role begins a row.
        """
        parts: dict[str, tuple[str, ...]] = {}
        for role, column in columns.items():
            if role not in ROLES:
                raise ValueError(f"{role} is not something that a column can be{suggest_name(role, ROLES)}")
            names = _names_in(column) if isinstance(column, str) else (str(column),)
            if is_template(column) and role not in TEXTS:
                raise ValueError(f"{role} must be one column; a text in braces may stand for {', '.join(TEXTS)}")
            parts[role] = names
        if not any(role in columns for role in OPENERS):
            raise ValueError(
                f"must say which column is the prompt (or messages, text, chosen); given: {', '.join(columns)}"
            )
        if "context" in columns and "prompt" not in columns:
            raise ValueError("context needs a prompt that it belongs to")
        return cls({role: str(column) for role, column in columns.items()}, parts)

    def map_record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record in the names the formats know; columns without a role go to its `meta`.

        Raises:
            BadRow: A column of a template is missing or empty in this row.
        """
        out: dict[str, Any] = {}
        for role, names in self.parts.items():
            column = self.columns[role]
            if is_template(column):
                value: Any = _fill_template(column, {name: _value_for(record, name) for name in names})
            else:
                value = look_up(record, names[0])
                if value is not _ABSENT and role in TEXTS:
                    value = as_text(value)
            if value is not _ABSENT:
                out["gold" if role == "answer" and "chosen" in self.parts else ROLES[role]] = value
        rest = {key: record[key] for key in self.unused_columns(record)}
        return out | ({"meta": rest} if rest else {})

    def unused_columns(self, record: Mapping[str, Any]) -> list[str]:
        """The columns of a record that have no role."""
        return [key for key in record if not self._reads_column(key, record)]

    def _reads_column(self, key: str, record: Mapping[str, Any]) -> bool:
        """Whether a column, or something in it, has a role."""
        return any(name == key or (name not in record and name.split(".")[0] == key) for name in self.all_columns)

    @property
    def all_columns(self) -> list[str]:
        """Every column it needs, once."""
        return list(dict.fromkeys(name for names in self.parts.values() for name in names))

    def describe_missing(self, columns: Collection[str], there: Collection[str]) -> str | None:
        """What is wrong with a file whose records have `columns`, in the words of an error; `None` if nothing is.

        Args:
            columns: Of all records together.
            there: Those of `all` that some record has something under.
        """
        for role, names in self.parts.items():
            for name in names:
                if name not in there:
                    close = suggest_name(name, columns) if columns else ""
                    hint = close if "did you mean" in close else ""
                    alternatives = f"; there are {format_columns(sorted(columns))}" if columns else ""
                    return f"there is no column {name}, which data.columns has for {role}{hint}{alternatives}"
        return None

    def check_all_used(self, leftover: Collection[str], meta: Mapping[str, Any], where: str) -> None:
        """Refuse a role that the row's format has no use for.

        Args:
            leftover: What its format left, by the names that formats know.
            meta: Where that lies now.
        """
        for role in self.parts:
            if role != "choices" and ROLES[role] in leftover and meta.get(ROLES[role]) not in (None, ""):
                beside = ", ".join(other for other in self.parts if other != role)
                raise UserError(f"{where}: data.columns gives {role}, which has no use beside {beside}; leave it out")

    def reword_for_user(self, text: str) -> str:
        """A complaint about a role's field as one about the column, or template, that it was read from."""
        back = {field_name: role for role, field_name in ROLES.items() if role in self.parts} | {"gold": "answer"}

        def name_column(match: re.Match[str]) -> str:
            role = back.get(match[1])
            if role is None or role not in self.parts:
                return match[0]
            names = ", ".join(self.parts[role])
            return f"the {role} (of {names})" if is_template(self.columns[role]) else f"column {names} ({role})"

        return re.sub(r"\bfield (\w+)", name_column, text)


def is_template(column: str | int) -> bool:
    """Whether a column of the mapping is a text with braces."""
    return isinstance(column, str) and ("{" in column or "}" in column)


def _names_in(column: str) -> tuple[str, ...]:
    """The one column, or those that a template names."""
    if not is_template(column):
        return (column,)
    try:
        pieces = list(string.Formatter().parse(column))
    except ValueError as error:
        raise ValueError(f"{column!r} is not a template: {error}; a brace of the text itself is doubled") from None
    for _, name, form, conversion in pieces:
        if name is not None and (not name.strip() or form or conversion):
            slot = "{" + name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
            raise ValueError(f"{slot} in {column!r} is not the name of a column; a brace of the text itself is doubled")
    names = tuple(dict.fromkeys(name for _, name, _, _ in pieces if name is not None))
    if not names:
        raise ValueError(f"{column!r} names no column in braces")
    return names


def _fill_template(template: str, values: Mapping[str, str]) -> str:
    return "".join(
        literal + (values[name] if name is not None else "")
        for literal, name, _, _ in string.Formatter().parse(template)
    )


def look_up(record: Mapping[str, Any], name: str) -> Any:
    """What a record has under a column's name, or under a path such as `question.stem` or `instances.0.output`."""
    if name in record:
        return record[name]
    here: Any = record
    for step in name.split("."):
        if isinstance(here, Mapping) and step in here:
            here = here[step]
        elif isinstance(here, (list, tuple)) and step.isdigit() and int(step) < len(here):
            here = here[int(step)]
        else:
            return _ABSENT
    return here


def has_column(record: Mapping[str, Any], name: str) -> bool:
    """Whether a record has a column of that name or path."""
    return look_up(record, name) is not _ABSENT


def as_text(value: Any) -> Any:
    """A number, or an object, as JSON text; texts and lists as they are."""
    if isinstance(value, (bool, int, float)) or (isinstance(value, dict) and not {"role", "from"} & value.keys()):
        return json.dumps(value, ensure_ascii=False)
    return value


def _value_for(record: Mapping[str, Any], name: str) -> str:
    """A column as a template takes it: a list of texts line by line."""
    value = look_up(record, name)
    if value is _ABSENT or value is None:
        raise BadRow(f"column {name} is {'missing' if value is _ABSENT else 'empty'}", "fill {} in")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- how the columns of a file were read --------------------------------------------------------------------------

SAME = {
    **dict.fromkeys(PROMPTS, "prompt"),
    **dict.fromkeys(ANSWERS, "answer"),
    **dict.fromkeys(CONVERSATIONS, "messages"),
    **dict.fromkeys(("chosen_messages", "chosen_response", "chosen_conversations", "preferred_output"), "chosen"),
    **dict.fromkeys(("rejected_messages", "rejected_response", "rejected_conversations"), "rejected"),
    **dict.fromkeys(("gold", "gold_answer", "gold_response", "reference_answer", "reference_response"), "answer"),
    **dict.fromkeys(("responses", "answers", "candidates", "generations"), "completions"),
    **dict.fromkeys(("ratings", "rewards"), "scores"),
    **dict.fromkeys(PASSAGES, "context"),
    **dict.fromkeys(OPTIONS, "choices"),
    **dict.fromkeys((*THOUGHTS, *COT), "thought"),
    **dict.fromkeys(FINAL, "reference"),
    **dict.fromkeys(("rankings", "ranking"), "ranks"),
    **dict.fromkeys(("answerKey", "answerkey"), "answer"),
    "non_preferred_output": "rejected",
    "system_prompt": "system",
    "kto_tag": "label",
    "rating": "score",
}
"""Columns that the formats know, and what each is when it is not called by its role."""

NAMES_SHOWN = 12
"""Columns that are named in one line; more are counted."""
LONGEST = 60
"""The longest name of a column that is shown whole."""


def format_columns(columns: Sequence[str]) -> str:
    """Names of columns in one line, however many and however long they are."""
    names = [name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in columns[:NAMES_SHOWN]]
    more = f" and {len(columns) - NAMES_SHOWN} more" if len(columns) > NAMES_SHOWN else ""
    return (", ".join(name if name.strip() else "(no name)" for name in names) or "(none)") + more


@dataclass(slots=True)
class ColumnUsage:
    """How the columns of a file were read, gathered row by row; rows of the same columns are looked at once."""

    columns: ColumnMap | None = None
    roles: dict[str, str] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    row_keys: set[tuple[Any, ...]] = field(default_factory=set)

    def add_record(
        self, record: Mapping[str, Any], leftover: Collection[str], to_known_name: Callable[[str], str]
    ) -> None:
        """A row that was read.

        Args:
            record: As it stands in the file.
            leftover: What was not used of it: columns by the names that formats know them by.
            to_known_name: A column's name to the one that formats know it by.
        """
        columns = [column for column, value in record.items() if has_content(value)]
        if (key := (*columns, None, *leftover)) in self.row_keys:
            return
        self.row_keys.add(key)
        names = {column: to_known_name(column) for column in columns}
        names_in_use = [name for name in names.values() if name not in leftover]
        prompt_name = next((name for name in PROMPTS if name in names_in_use), None)
        has_solution = "answer" in names_in_use and sum(name in names_in_use for name in ANSWERS) > 1
        for column, name in names.items():
            if name in leftover:
                self.others[column] = None
            elif name in PROMPTS and name != prompt_name:
                self.roles[column] = "context"
            elif name == "answer" and has_solution:
                self.roles[column] = "reference"
            elif prompt_name and name not in SAME and letter_of(name):
                self.roles[column] = "choices"
            else:
                self.roles[column] = SAME.get(name, name)
        self.others |= dict.fromkeys(name for name in leftover if name not in names.values())  # keys of messages

    def format_line(self, name: str) -> str:
        """`train.jsonl: question -> prompt, answer -> answer; not used: id`."""
        if self.columns is not None:
            pairs = [f"{' + '.join(names)} -> {role}" for role, names in self.columns.parts.items()]
        else:
            pairs = [f"{column} -> {role}" for column, role in self.roles.items()]
        others = [column for column in self.others if column not in self.roles]
        rest = f"; not used: {format_columns(others)}" if others else ""
        return f"{name}: {', '.join(pairs)}{rest}"
