"""Which sequences a row is tokenised into, and which numbers it must carry: what objectives ask of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from holdfast.core.source_hash import source_hash
from holdfast.data.rows import LazyRows, Message, Row, RowMap, Rows
from holdfast.errors import UserError

ShapeName = Literal["answer", "single", "pair", "triple", "group", "choices", "shifted", "taught", "text", "prompt"]
"""The shapes there are, by name; see `SHAPES`."""

TRUE, FALSE = 1.0, 0.0
LIMIT = 20
"""Longest value repeated in an error, in characters."""


@dataclass(frozen=True, slots=True)
class Column:
    """A number that rows carry: the row's field of this name, or `meta` under it.

    Args:
        name: `label`, `score`, or a name in `meta`.
        low, high: What it must lie between.
        truth: It is true or false.
        default: For rows without it; `None`: they are refused.
        each: A list of numbers, one for each sequence of the row.
    """

    name: str
    low: float = -math.inf
    high: float = math.inf
    truth: bool = False
    default: float | None = None
    each: bool = False

    def value_of(self, row: Row, where: str) -> float:
        """Its value in a row, which errors call `where`.

        Raises:
            UserError: If it is missing, of the wrong sort or out of range.
        """
        value = None if self.name == "place" else getattr(row, self.name, None)  # that field is for errors
        value = row.meta.get(self.name) if value is None else value
        if value is None:
            if self.default is None:
                raise UserError(f"{where} has no {self.name}, but the objective needs one in every row; add it")
            return self.default
        return self._check_number(value, where, self.name)

    def values_of(self, row: Row, where: str, count: int) -> list[float]:
        """Its values for the `count` sequences of a row: with `each` their own, else the row's.

        Raises:
            UserError: As `value_of`, or if there are not as many.
        """
        if not self.each:
            return [self.value_of(row, where)] * count
        values = row.meta.get(self.name)
        if not isinstance(values, list) or len(values) != count:
            raise UserError(f"{where} has no {self.name} for its {count} answers; give a list of as many numbers")
        return [self._check_number(value, where, f"{self.name}[{i}]") for i, value in enumerate(values)]

    def _check_number(self, value: Any, where: str, name: str) -> float:
        if self.truth:
            if not isinstance(value, bool):
                raise UserError(f"{where}: {name} is {_shorten_value(value)}, not true or false; mend it")
            return TRUE if value else FALSE
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{where}: {name} is {_shorten_value(value)}, not a number; mend it")
        if not self.low <= value <= self.high:
            raise UserError(
                f"{where}: {name} {value:g} is not between {self.low:g} and {self.high:g}; rescale the column"
            )
        return float(value)


def _shorten_value(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LIMIT else f"{text[:LIMIT]}..."


class RowShape:
    """Which sequences a row is trained as, in the order of their roles. An objective brings its own as `rows`.

    Attributes:
        name: What it is called in fingerprints and errors.
        needs: What it needs beyond an answer, in words for errors; "" where an answer is enough.
        takes_pairs: Whether it trains on chosen and rejected answers as they are.
        unpairs: Whether pairs are taken apart into single answers where these carry a label or a score.
        columns: Columns of a file that it reads from `meta` by itself, so that they are not put into the prompt.
        holds_answers: Whether these columns hold all answers, so that a row is a question and these.
        lab_form: What rows of the laboratory hold for it, if not pairs: "answer", "triple" or "choices".
        whole: Whether its only sequence is the row's own conversation, every answer of which is trained.
        cuttable: Whether long rows may lose their ends: not where sequences are compared token by token.
        looks_on: Whether all sequences but the first are only looked at, so that they may be cut anywhere.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = ""
    takes_pairs: ClassVar[bool] = False
    unpairs: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ()
    holds_answers: ClassVar[bool] = False
    lab_form: ClassVar[Literal["answer", "triple", "choices"]] = "answer"
    whole: ClassVar[bool] = False
    cuttable: ClassVar[bool] = True
    looks_on: ClassVar[bool] = False

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        """The conversations of a row, each with the answer that is trained last (`with_last_answer`).

        Args:
            where: What errors call it.
            before: The row before it; of the first of a shard, the shard's last.
        Raises:
            UserError: If the row is not of this shape.
        """
        raise NotImplementedError

    def count_sequences(self, row: Row, where: str) -> int:
        """How many sequences a row has.

        Raises:
            UserError: If it is not of this shape.
        """
        return len(self.build_sequences(row, where, row))

    def prepare_rows(self, rows: Rows) -> Rows:
        """The rows before they are split into sequences; as they are, if a shape has nothing to add to them."""
        return rows

    @property
    def identity(self) -> str:
        """What tables made of it depend on: its name, of a shape from elsewhere with the hash of its source."""
        if SHAPES.get(self.name) is self:
            return self.name
        cls: type = type(self)
        return f"{self.name} {source_hash(cls)}"


Kind = RowShape | ShapeName
"""A shape, or the name of one of ours."""


class AnswerShape(RowShape):
    """The row's conversation; every turn of the assistant is trained."""

    name: ClassVar[str] = "answer"
    whole: ClassVar[bool] = True

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        answer_of(row, where)
        return [row.messages]


class TextShape(AnswerShape):
    """Plain text, or a conversation."""

    name: ClassVar[str] = "text"
    whole: ClassVar[bool] = False


class SingleShape(RowShape):
    """The row's conversation; only the last turn is trained."""

    name: ClassVar[str] = "single"
    unpairs: ClassVar[bool] = True

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        return [with_last_answer(row, answer_of(row, where))]


class PairShape(RowShape):
    """The prompt with chosen, with rejected."""

    name: ClassVar[str] = "pair"
    needs: ClassVar[str] = "pairs (chosen, rejected)"
    takes_pairs: ClassVar[bool] = True

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        if row.chosen is None or row.rejected is None:
            raise UserError(f"{where} has no chosen and rejected answer, but the objective compares them; add them")
        if row.chosen == row.rejected:
            raise UserError(f"{where}: chosen and rejected are the same; remove the row or mend it")
        return [with_last_answer(row, row.chosen), with_last_answer(row, row.rejected)]


class TripleShape(PairShape):
    """The prompt with chosen, with rejected, with the answer."""

    name: ClassVar[str] = "triple"
    needs: ClassVar[str] = "pairs with a gold answer"
    lab_form: ClassVar[Literal["answer", "triple", "choices"]] = "triple"

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        both = super().build_sequences(row, where, before)
        if row.answer is None:
            raise UserError(f"{where} has no gold answer beside chosen and rejected; add a column gold, or use cpo")
        return [*both, with_last_answer(row, row.answer)]


class GroupShape(RowShape):
    """The prompt with each of `meta.answers`, of which `meta.scores` says how good they are."""

    name: ClassVar[str] = "group"
    needs: ClassVar[str] = "several scored answers"
    takes_pairs: ClassVar[bool] = True

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        answers = row.meta.get("answers")
        if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(text, str) for text in answers):
            raise UserError(
                f"{where} has no answers to compare, but the objective does that; add columns answers and scores, or "
                "chosen and rejected"
            )
        return [with_last_answer(row, text) for text in answers]

    def prepare_rows(self, rows: Rows) -> Rows:
        """A pair is a group of two."""
        return RowMap(rows, _pair_as_group)


class ChoicesShape(RowShape):
    """The prompt with the right choice, then with each other one."""

    name: ClassVar[str] = "choices"
    needs: ClassVar[str] = "several choices"
    columns: ClassVar[tuple[str, ...]] = ("choices",)
    lab_form: ClassVar[Literal["answer", "triple", "choices"]] = "choices"

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        choices, right = row.meta.get("choices"), row.meta.get("right", row.reference)
        if not isinstance(choices, list) or not isinstance(right, int) or not 0 <= right < len(choices):
            raise UserError(f"{where} has no choices with the index of the right one; add columns choices and answer")
        if len(set(choices)) < len(choices):
            raise UserError(f"{where}: two of its choices are the same; mend it")
        return [with_last_answer(row, text) for text in (choices[right], *choices[:right], *choices[right + 1 :])]


class ShiftedShape(RowShape):
    """The prompt with its answer, and with the answer of the row before (the first of a shard: of its last row)."""

    name: ClassVar[str] = "shifted"
    unpairs: ClassVar[bool] = True
    looks_on: ClassVar[bool] = True

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        others = answer_of(before, f"the row before {where}")
        return [with_last_answer(row, answer_of(row, where)), with_last_answer(row, others)]


class TaughtShape(RowShape):
    """The prompt with its answer, and the same with `meta.context` before the last question."""

    name: ClassVar[str] = "taught"
    columns: ClassVar[tuple[str, ...]] = ("context",)
    cuttable: ClassVar[bool] = False  # or one answer is cut at two places

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        answer = answer_of(row, where)
        context = row.meta.get("context", "")
        if not isinstance(context, str):
            raise UserError(f"{where}: context is {_shorten_value(context)}, not text; mend it")
        taught = replace(row, messages=[dict(m) for m in row.messages])
        if context:
            question = taught.prompt[-1]
            question["content"] = f"{context}\n{question['content']}"
        return [with_last_answer(row, answer), with_last_answer(taught, answer)]


class PromptShape(RowShape):
    """The prompt alone: what follows it is sampled while the model trains."""

    name: ClassVar[str] = "prompt"
    holds_answers: ClassVar[bool] = True  # those of the model

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        if not row.prompt:
            raise UserError(f"{where} is plain text, which asks the model nothing; give rows with a prompt")
        return [row.prompt]


ANSWER, SINGLE, PAIR, TRIPLE, GROUP = AnswerShape(), SingleShape(), PairShape(), TripleShape(), GroupShape()
CHOICES, SHIFTED, TAUGHT, TEXT = ChoicesShape(), ShiftedShape(), TaughtShape(), TextShape()
PROMPT = PromptShape()
SHAPES: dict[str, RowShape] = {
    shape.name: shape for shape in (ANSWER, SINGLE, PAIR, TRIPLE, GROUP, CHOICES, SHIFTED, TAUGHT, TEXT, PROMPT)
}


def shape_of(kind: Kind) -> RowShape:
    """The shape of a name; a shape as it is."""
    return SHAPES[kind] if isinstance(kind, str) else kind


def answer_of(row: Row, where: str) -> str:
    """The row's answer.

    Raises:
        UserError: If it has none.
    """
    if row.answer is None:
        has = "chosen and rejected" if row.chosen is not None else "no answer"
        raise UserError(f"{where} has {has}, but the objective trains on answers; use rows with answers, or dpo")
    return row.answer


def with_last_answer(row: Row, text: str) -> list[Message]:
    """The prompt with an answer; only that is trained: earlier turns of the assistant belong to the prompt."""
    prompt = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in row.prompt]
    return [*prompt, {"role": "assistant", "content": text}]


def build_conversations(
    shard: Sequence[Row], start: int, kind: Kind, prompts: Sequence[str] = ()
) -> Iterator[list[list[Message]]]:
    """The conversations of each row of a shard that begins with row number `start` + 1, in the order of their roles.

    Then the same once more under each of the system `prompts`.

    Raises:
        UserError: If a row is not of this shape.
    """
    shape = shape_of(kind)
    for index, row in enumerate(shard):
        plain = shape.build_sequences(row, row.describe_place(start + index + 1), shard[index - 1])
        yield [*plain, *(_add_system_prompt(prompt, one) for prompt in prompts for one in plain)]


def _add_system_prompt(prompt: str, messages: list[Message]) -> list[Message]:
    """The conversation with a system prompt before its own."""
    own = messages[0] if messages[0]["role"] == "system" else None
    text = f"{prompt}\n{own['content']}" if own else prompt
    return [{"role": "system", "content": text}, *messages[1 if own else 0 :]]


class UnpairedRows(LazyRows):
    """Pairs as two rows each: chosen with label true; after all of these, rejected with label false.

    `meta.score_chosen` and `meta.score_rejected` become the rows' scores.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def _read_row(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        row, good = self.rows[index % len(self.rows)], index < len(self.rows)
        answer, name = (row.chosen, "score_chosen") if good else (row.rejected, "score_rejected")
        messages = [*row.prompt, {"role": "assistant", "content": answer or ""}]
        return replace(
            row, messages=messages, chosen=None, rejected=None, label=good, score=row.meta.get(name, row.score),
            id=f"{row.id}-{'chosen' if good else 'rejected'}",
        )  # fmt: skip

    def _take_slice(self, index: slice) -> Rows:
        return [self._read_row(i) for i in range(*index.indices(len(self)))]


def _pair_as_group(row: Row) -> Row:
    """A pair without other scored answers as two of them; of scores 1 and 0, if it has none."""
    if row.chosen is None or row.rejected is None or isinstance(row.meta.get("scores"), list):
        return row
    scores = [row.meta.get("score_chosen"), row.meta.get("score_rejected")]
    pair = {"answers": [row.chosen, row.rejected], "scores": [1.0, 0.0] if None in scores else scores}
    return replace(row, meta={**row.meta, **pair})


def rows_for(kind: Kind, columns: Sequence[Column], rows: Rows) -> Rows:
    """The rows as an objective of this shape takes them.

    Pairs are taken apart where single answers are judged, and are groups of two where groups are wanted.
    """
    shape = shape_of(kind)
    apart = not shape.takes_pairs and takes_pairs(shape, columns) and len(rows) and rows[0].chosen is not None
    return UnpairedRows(rows) if apart else shape.prepare_rows(rows)


def takes_pairs(kind: Kind, columns: Sequence[Column]) -> bool:
    """Whether an objective trains on pairs: as they are, or taken apart into answers that are judged."""
    shape, verdict_columns = shape_of(kind), {column.name for column in columns} & {"label", "score"}
    return shape.takes_pairs or (shape.unpairs and bool(verdict_columns))


def check_row(row: Row, where: str, kind: Kind, columns: Sequence[Column]) -> None:
    """Check that an objective can take a row; errors call it `where`.

    Raises:
        UserError: If it is not of this shape, or a number is missing or out of range.
    """
    shape = shape_of(kind)
    for one in rows_for(shape, columns, [row]):
        count = shape.count_sequences(one, where)
        for column in columns:
            column.values_of(one, where, count)
