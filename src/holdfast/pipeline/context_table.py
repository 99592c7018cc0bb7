"""The table of `score_in_context`: rows behind examples, computed and kept in cells of one example and some rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from holdfast.data.rows import fingerprint_json
from holdfast.models.in_context import InContextReader, without_system
from holdfast.models.row_features import group_into_stretches

if TYPE_CHECKING:
    from holdfast.axes.curator import AnswerScore
    from holdfast.data.chat.encoder import Chat, Encoding
    from holdfast.data.rows import Message, Rows
    from holdfast.models.policy import Policy


class ContextCell(NamedTuple):
    """One example before a block of rows, both by number."""

    example: int
    block: int


class RowBlock(NamedTuple):
    """Some rows with one system message (none: an empty list), by number: seconds of work behind an example."""

    system: list[Message]
    rows: list[int]


class ContextTable:
    """Scores of the rows' last answers behind examples.

    Args:
        policy, chat: The model.
        rows, examples: Conversations that end with an answer.
        score: From an answer's log-probabilities to a number.
    Attributes:
        blocks: The rows, those with one system message together, which can stand behind the same copy of an example.
        cells: Every example before every block, those of an example together.
    """

    def __init__(self, policy: Policy, chat: Chat, rows: Rows, examples: Rows, score: AnswerScore) -> None:
        self.reader, self.score = InContextReader(policy, chat), score
        self.rows = [list(row.messages) for row in rows]
        self.examples = [without_system(example.messages) for example in examples]
        self.blocks = build_blocks(self.rows, policy, chat)
        self.cells = [ContextCell(e, b) for e in range(len(self.examples)) for b in range(len(self.blocks))]
        self._block_names = [fingerprint_json([one.system, [self.rows[i] for i in one.rows]]) for one in self.blocks]
        self._suffixes: dict[int, list[Encoding] | None] = {}

    def describe_cell(self, cell: ContextCell) -> list[object]:
        """What its scores depend on, beside the model."""
        return [self.examples[cell.example], self._block_names[cell.block]]

    def score_cell(self, cell: ContextCell) -> np.ndarray:
        """Scores of a block's rows behind an example, fp32 [rows of the block]."""
        block = self.blocks[cell.block]
        rows, example = [self.rows[i] for i in block.rows], [*block.system, *self.examples[cell.example]]
        if cell.block not in self._suffixes:
            self._suffixes[cell.block] = self.reader.encode_suffixes(example, rows)
        logps = self.reader.read_rows(example, rows, self._suffixes[cell.block])
        return np.array([np.nan if one is None else self.score(one) for one in logps], np.float32)

    def fill_scores(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The whole table, fp32 [rows, examples], from the scores of all cells in order."""
        scores = np.full((len(self.rows), len(self.examples)), np.nan, np.float32)
        for cell, values in zip(self.cells, arrays, strict=True):
            scores[self.blocks[cell.block].rows, cell.example] = values
        return scores


def build_blocks(rows: Sequence[Sequence[Message]], policy: Policy, chat: Chat) -> list[RowBlock]:
    """Rows in blocks with one system message and of like length, each of at most what the model reads in seconds."""
    by_system: dict[str, RowBlock] = {}
    for number, messages in enumerate(rows):
        system = [message for message in messages if message["role"] == "system"]
        by_system.setdefault(repr(system), RowBlock(system, [])).rows.append(number)
    encodings = chat.encode_many(rows)
    return [
        RowBlock(same.system, [same.rows[n] for n in group])
        for same in by_system.values()
        for group in group_into_stretches(policy, [encodings[i] for i in same.rows])
    ]
