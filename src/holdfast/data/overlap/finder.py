"""Which rows stand, whole or in part, among the questions that a run is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.data.overlap.words import hash_runs, hash_words, question_key, row_text
from holdfast.data.rows import Row, Rows

COMMON = 10
"""A run of words that stands in more than this many rows is form, not content [Brown et al. 2020, appendix C]."""
NOTHING = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class RowOverlap:
    """What a row has in common with a measured one.

    Args:
        task: The task that asks it.
        item: The id of the measured row.
        share: Of the runs of words of the shorter of the two those that stand in both; 1 for the same question.
        same_question: Whether the questions are the same, word for word.
    """

    task: str
    item: str
    share: float
    same_question: bool

    def format_reason(self, words: int) -> str:
        """Why the row is left out: what is counted, and after the colon which row it is about."""
        if self.same_question:
            return f"asks a question of {self.task}: that of item {self.item}"
        return f"has {words} words in a row from {self.task}: {self.share:.0%} of item {self.item} or of the row itself"


class OverlapFinder:
    """Finds the rows that overlap with what is measured.

    Two ways: the same question (case and white space aside), and runs of `words` words that stand in both texts. Runs
    that more than `COMMON` rows of one side hold, or more than half of them, count as form: instructions and
    templates stand in training rows and questions alike, and give nothing away. A question that more than half of the
    rows ask is form too.

    Memory holds 16 bytes for each run of the measured texts, and the few runs that rows share with them.

    Args:
        tasks: Task to what it measures on; what several tasks hold belongs to the first.
        words: Length of a run.
        share: Least share of runs in common, of the shorter of the two texts, that counts; 0: one is enough.
    """

    def __init__(self, tasks: Mapping[str, Rows], words: int = 13, share: float = 0.7) -> None:
        self.words, self.share = words, share
        self.names: list[tuple[str, str]] = []
        self.questions: dict[int, int] = {}
        runs: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        texts: set[bytes] = set()
        for task, rows in tasks.items():
            begin = len(runs)
            for row in rows:
                number = len(self.names)
                self.names.append((task, row.place or row.id))
                self.questions.setdefault(question_key(row), number)
                words_of_row = hash_words(measured_text(row))
                is_new = (name := words_of_row.tobytes()) not in texts
                texts.add(name)
                runs.append(np.unique(hash_runs(words_of_row, words)) if is_new else NOTHING)
                owners.append(np.full(len(runs[-1]), number, np.int64))
            _drop_form(runs, owners, begin)
        self._index_runs(runs, owners)

    def _index_runs(self, runs: list[np.ndarray], owners: list[np.ndarray]) -> None:
        """Sorted runs [R] with the item each belongs to [R], and how many each item has [items]."""
        all_runs = np.concatenate([NOTHING, *runs])
        all_owners = np.concatenate([np.zeros(0, np.int64), *owners])
        order = np.argsort(all_runs, kind="stable")
        self.runs, self.owners = all_runs[order], all_owners[order]
        self.keys = np.unique(self.runs)
        self.sizes = np.bincount(self.owners, minlength=len(self.names))

    def find_overlaps(self, rows: Rows) -> dict[int, RowOverlap]:
        """By the index of a row what it has in common with what is measured; replayed rows are looked at too."""
        if not self.questions:
            return {}
        same: dict[int, int] = {}
        hits: list[tuple[int, int, np.ndarray]] = []  # row, its number of runs, indices into `keys` of those in common
        counts_by_key: dict[int, int] = {}
        held_counts = np.zeros(len(self.keys), np.int64)
        for index, row in enumerate(rows):
            key = question_key(row)
            if key in self.questions:
                same[index] = key
                counts_by_key[key] = counts_by_key.get(key, 0) + 1
            runs = np.unique(hash_runs(hash_words(row_text(row)), self.words))
            shared_runs = self._find_runs(runs)
            if len(shared_runs):
                hits.append((index, len(runs), shared_runs))
                held_counts[shared_runs] += 1
        form_questions = {key for key, count in counts_by_key.items() if count > 1 and count > len(rows) / 2}
        out = {
            index: RowOverlap(*self._name_item(self.questions[key]), 1.0, True)
            for index, key in same.items()
            if key not in form_questions
        }
        content = ~_is_form(held_counts, len(rows))
        out |= dict(self._shared_runs((h for h in hits if h[0] not in out), content))
        return dict(sorted(out.items()))

    def _find_runs(self, runs: np.ndarray) -> np.ndarray:
        """Which measured runs are among `runs` (each once), as indices into `keys`, int64 [shared]."""
        if not len(self.keys):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self.keys, runs), len(self.keys) - 1)
        return at[self.keys[at] == runs]

    def _shared_runs(
        self, hits: Iterator[tuple[int, int, np.ndarray]], content: np.ndarray
    ) -> Iterator[tuple[int, RowOverlap]]:
        for index, count, key_indices in hits:
            keys = self.keys[key_indices[content[key_indices]]]
            if not len(keys):
                continue
            begins, ends = np.searchsorted(self.runs, keys, "left"), np.searchsorted(self.runs, keys, "right")
            items = np.concatenate([self.owners[b:e] for b, e in zip(begins, ends, strict=True)])
            shares = np.bincount(items, minlength=len(self.sizes)) / np.maximum(1, np.minimum(self.sizes, count))
            best = int(shares.argmax())
            if shares[best] >= self.share:
                yield index, RowOverlap(*self._name_item(best), min(1.0, float(shares[best])), False)

    def _name_item(self, number: int) -> tuple[str, str]:
        return self.names[number]


def measured_text(row: Row) -> str:
    """All of a measured row that must not be trained on: its text, and its reference where that is one."""
    return "\n".join([row_text(row), *([row.reference] if isinstance(row.reference, str) else [])])


def _is_form(counts: np.ndarray, rows: int) -> np.ndarray:
    """Which runs are form, bool [runs], by the number of rows that hold each."""
    return (counts > COMMON) | ((counts > 1) & (counts > rows / 2))


def _drop_form(runs: list[np.ndarray], owners: list[np.ndarray], begin: int) -> None:
    """Take the runs that many items of one task hold out of these items, in place; they begin at `begin`."""
    if len(runs) - begin < 2:
        return
    keys, counts = np.unique(np.concatenate(runs[begin:]), return_counts=True)
    form = keys[_is_form(counts, len(runs) - begin)]
    for number in range(begin, len(runs)):
        content = ~np.isin(runs[number], form, assume_unique=True)
        runs[number], owners[number] = runs[number][content], owners[number][content]
