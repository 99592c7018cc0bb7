"""What stands beside a question and its answer: passages, options, a thought, a worked solution.

These change what a row means. Each is put where it belongs, or the row is refused with what to do; only what says
nothing about question or answer (an id, a source, a topic) is left out, and named as not used.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from holdfast.data.reading.messages import THOUGHTS
from holdfast.data.reading.values import BadRow, first_key, has_content, shorten_value, text_of

PASSAGES = (
    *("context", "contexts", "passage", "passages", "document", "documents", "article", "paragraph", "paragraphs"),
    *("background", "story"),
)
"""What a question is about; it is put under the question."""
UNSURE = ("text", "content", "body", "evidence", "facts", "knowledge", "schema", "table", "dialogue", "transcript")
"""What may be a passage, the whole example once more, or neither."""
_ABOUT = (*PASSAGES, *UNSURE)
FEW_WORDS = 5
"""A text of fewer words is a name or a topic."""
OPTIONS = ("choices", "options")
LETTERED = re.compile(r"(?:(?:option|choice|opt|op)[ _-]?)?([a-j]|[1-9])", re.IGNORECASE)
"""The name of a column that holds one option: `A`, `option_a`, `opa`, `choice1`."""
KEY = "answerkey"
"""How ARC and its like call the column with the label of the right option; in any case."""
COT = ("cot", "complex_cot", "chain_of_thought")
FINAL = ("reference", "tests", "expected_answer", "final_answer", "ground_truth")
"""What a judge compares with."""
_THINKING = (*THOUGHTS, *COT)
SETTINGS = ("low", "medium", "high", "on", "off", "yes", "no", "true", "false", "auto")
"""What a column `reasoning` or `thinking` holds where it is a setting rather than a thought."""

COLUMNS = {*PASSAGES, *UNSURE, *OPTIONS, *THOUGHTS, *COT, *FINAL}


# ---- passages -----------------------------------------------------------------------------------------------------


def passages_of(record: dict[str, Any], question: str, whole: str) -> list[str]:
    """The passages of a record; taken out of it.

    A text that the prompt already holds, or that holds the question (the example written out once more), is none.

    Args:
        question: The last thing asked.
        whole: All of the prompt.

    Raises:
        BadRow: A passage that is no text, or a text of which nobody knows whether it belongs to the question.
    """
    passages: list[str] = []
    if record.keys().isdisjoint(_ABOUT):
        return passages
    for name in _ABOUT:
        value = record.get(name)
        if not has_content(value):
            continue
        if name in UNSURE and not isinstance(value, str):
            continue
        text = _passage_text(value, name)
        if is_within(text, whole) or is_within(question, text):
            continue
        if name in UNSURE:
            if len(text.split()) < FEW_WORDS:
                continue
            raise BadRow(
                f"field {name} may be what the question is about, or not",
                f'write data.columns: {{{{prompt: "{{{{{name}}}}}\\n\\n{{{{question}}}}", ...}}}}, or '
                f"data.ignore: [{name}], or rename {{}}",
            )
        record.pop(name)
        passages.append(text)
    return passages


def _passage_text(value: Any, name: str) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(item for item in value if item.strip())
    if not isinstance(value, str):
        raise BadRow(
            f"field {name} is no text, so that it cannot be put under the question",
            f'write {{}} as text, or say in data.columns how, as in {{{{prompt: "{{{{question}}}} {{{{{name}}}}}"}}}}',
        )
    return text_of(value, f"field {name}")


def is_within(text: str, whole: str) -> bool:
    """Whether a text stands in another, white space aside."""
    return " ".join(text.split()) in " ".join(whole.split())


# ---- options ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """What a question lets one choose from.

    Args:
        column: Where they stand.
        labels: What each is called: "A", "B", ... where the file says nothing.
        texts: As many.
    """

    column: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]

    def find_index(self, answer: Any) -> int | None:
        """Which one an answer means: by its label, its letter, its number from 0, or its text; `None` if none."""
        if isinstance(answer, bool):
            return None
        word = shorten_value(int(answer) if isinstance(answer, float) and answer.is_integer() else answer, 500).strip(
            "'"
        )
        word = answer.strip() if isinstance(answer, str) else word
        letters = tuple(string.ascii_uppercase[: len(self.texts)])
        for names in (self.labels, letters, self.texts if isinstance(answer, str) else ()):
            if word in names:
                return names.index(word)
        number = int(word) if re.fullmatch(r"\d{1,3}", word) else -1
        return number if 0 <= number < len(self.texts) else None

    def format_lines(self) -> str:
        """A line each, as judges and people read them."""
        return "\n".join(f"{label}. {text}" for label, text in zip(self.labels, self.texts, strict=True))


def flatten_question(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose question, options and answer stand in columns of their own.

    ARC, OpenBookQA and CommonsenseQA are published as `question: {stem, choices}` with an `answerKey`; what else stands
    in the question becomes a column `question.KEY`.
    """
    question = record.get("question")
    if isinstance(question, dict) and "stem" in question and not record.keys() & {*OPTIONS, "stem"}:
        inner = {
            key if key in OPTIONS else f"question.{key}": value for key, value in question.items() if key != "stem"
        }
        record = {**record, "question": question["stem"], **inner}
    keys = [key for key in record if key.lower() == KEY]
    if len(keys) == 1 and not has_content(record.get("answer")):
        record = {("answer" if key in keys else key): value for key, value in record.items() if key != "answer"}
    return record


def options_of(record: dict[str, Any]) -> Options | None:
    """The options of a record, taken out of it; `None` if it has none.

    Known are a list of texts; `{text: [...], label: [...]}`; `[{label, text}, ...]`; `{A: ..., B: ...}`; and columns
    `A`, `B`, ... or `option_a`, `option_b`, ...

    Raises:
        BadRow: They are something else.
    """
    column = first_key(record, OPTIONS)
    if column is None or not has_content(record[column]):
        return _take_lettered_options(record)
    value = record.pop(column)
    labels, texts = _parse_options(value)
    are_valid = isinstance(texts, list) and all(
        isinstance(text, (str, int, float)) and has_content(text) for text in texts
    )
    if texts is None or not are_valid:
        raise BadRow(f"field {column} is not a list of texts", "write {} as one, or name the column in data.ignore")
    if len(texts) < 2:
        raise BadRow(f"field {column} has fewer than two choices", "mend {}")
    names = [str(label).strip() for label in labels or string.ascii_uppercase[: len(texts)]]
    if len(names) != len(texts) or len(set(names)) < len(names):
        raise BadRow(f"field {column} has {len(texts)} texts and {len(set(names))} labels", "mend {}")
    return Options(column, tuple(names), tuple(map(_as_text, texts)))


def _parse_options(value: Any) -> tuple[Sequence[Any] | None, list[Any] | None]:
    """`(labels, texts)` of options in any shape; no labels where they are not said."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return value.get("label"), value["text"]
    if isinstance(value, dict) and len(value) > 1:
        return list(value), list(value.values())
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        label, text = (first_key(value[0], names) for names in (("label", "key", "id"), ("text", "value", "content")))
        if label and text:
            return [item.get(label) for item in value], [item.get(text) for item in value]
    return None, value if isinstance(value, list) else None


@lru_cache(4096)
def letter_of(name: str) -> str:
    """Which option the name of a column stands for; "" for any other name."""
    match = LETTERED.fullmatch(name)
    return match[1].upper() if match else ""


def _take_lettered_options(record: dict[str, Any]) -> Options | None:
    """Options in columns of their own: at least the first two of a row of letters or numbers."""
    columns = {letter: name for name in record if (letter := letter_of(name))}
    if len(columns) < 2:
        return None
    for marks in (string.ascii_uppercase[:10], string.digits[1:]):
        names = [columns[mark] for mark in marks if mark in columns]
        texts = [
            (mark, record[columns[mark]]) for mark in marks if mark in columns and has_content(record[columns[mark]])
        ]
        if {marks[0], marks[1]} <= columns.keys() and len(texts) > 1:
            for name in names:
                record.pop(name)
            return Options(names[0], tuple(mark for mark, _ in texts), tuple(_as_text(text) for _, text in texts))
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else shorten_value(value)


def lists_options(options: Options, question: str) -> bool:
    """Whether a question lists its options already."""
    return all(is_within(text, question) for text in options.texts)


# ---- the answer ---------------------------------------------------------------------------------------------------


def thought_of(record: dict[str, Any]) -> str | None:
    """The thought before a record's answer in a column of its own; taken out of it."""
    if record.keys().isdisjoint(_THINKING):
        return None
    for name in _THINKING:
        value = record.get(name)
        if isinstance(value, str) and has_content(value) and value.strip().lower() not in SETTINGS:
            return text_of(record.pop(name), f"field {name}")
    return None


def worked_answer(record: dict[str, Any], answers: Sequence[str]) -> tuple[str | None, Any]:
    """The column of the answer to train on, and the bare answer beside it, which is taken out of the record.

    Of a worked `solution` and a bare `answer` the solution is trained; so is an `output`, `completion` or `response`
    that has an `answer` beside it.

    Args:
        answers: The columns that may hold an answer, the first one first.
    """
    key = first_key(record, tuple(answers))
    there = [name for name in answers if has_content(record.get(name))]
    if "answer" not in there or len(there) < 2:
        return key, None
    return next(name for name in there if name != "answer"), record.pop("answer")


def reference_of(record: Mapping[str, Any]) -> Any:
    """What a judge compares with; taken out of `record`."""
    for key in FINAL:
        if record.get(key) is not None:
            return record.pop(key)  # type: ignore[attr-defined]
    return None
