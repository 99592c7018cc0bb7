"""Each row once."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.data.overlap.words import hash_runs, hash_words, message_text, row_text
from holdfast.data.rows import Row, Rows
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np

BUCKETS = 1 << 24
"""Counters of runs of words, which share one by chance: that a template stands in a tenth of the rows shows all the
same."""
TEMPLATE = 0.1
"""A run of words in more than this share of the rows (and more than `FEW`) is template."""
FEW = 10
SLACK = 0.8
"""Tables are laid out for a J lower by this factor: at their own threshold they miss some, and candidates are looked at
again anyway."""


class Dedup(Curator):
    """Of rows that say the same, or nearly, the first. [Lee et al. 2022, arXiv 2107.06499]

    Two rows are duplicates if their texts are equal (white space aside), and near duplicates if

        J = |A and B| / |A or B| >= near        A, B: the runs of `words` words in a row of each

    Candidates come from MinHash signatures in locality-sensitive tables (`datasketch`), so that no row is compared with
    all; the J of each candidate is then counted, not estimated. Runs of words in more than a tenth of the rows (and
    more than ten) are template and do not count: rows that differ in a few words behind long instructions all stay.
    Rows with fewer words than a run can only be equal. The first of a group stays, in its place.

    Memory holds a signature for each row that stays (about 2 KiB with its tables), never the rows.

    When it helps: scraped and merged data; what stands there ten times is learned ten times, word for word. The paper
    finds that models write down what they memorised a tenth as often, and need fewer steps. When it fails: where the
    number of times says how often something occurs. After curators that add answers to a question (`rft`), rows that
    differ little may be what they are for: put it before them.

    Columns: any.

    Paper: Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better" (arXiv 2107.06499); MinHash:
    Broder 1997. The paper's runs of 5 words; it demands an edit similarity of 0.8 of candidates, here J is that.
    """

    paper = "Lee et al. 2022 (2107.06499)"
    effect: ClassVar[Effect] = "select"

    of: Literal["row", "question"] = Field("row", description="What is compared: question and answer, or the question.")
    near: float | None = Field(0.8, gt=0, le=1, description="Least J of near duplicates; null: equal ones only.")
    words: int = Field(5, ge=1, description="Words of a run.")
    permutations: int = Field(128, ge=16, description="Numbers of a signature; more find more near duplicates.")

    def check_ready(self) -> None:
        if self.near is not None and importlib.util.find_spec("datasketch") is None:
            raise UserError(
                "dedup.near needs datasketch, which this install lacks: pip install datasketch, or set near: null"
            )

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        reasons = self.find_equal_rows(rows)
        equal = len(reasons)
        context.note("duplicates", equal)
        if self.near is not None:
            reasons |= self.find_near_rows(rows, reasons)
            context.note("near duplicates", len(reasons) - equal)
        return context.leave_out(rows, reasons)

    def read_text(self, row: Row) -> str:
        """What is compared of a row."""
        return row_text(row) if self.of == "row" else message_text(row.prompt or row.messages)

    def find_equal_rows(self, rows: Rows) -> dict[int, str]:
        """By index why a row is left out that is equal to one before it."""
        first: dict[bytes, int] = {}
        reasons = {}
        for index, row in enumerate(rows):
            if row.is_replayed:
                continue
            # System messages are left out of runs, not of this: they may ask for another answer.
            system = [str(message["content"]) for message in row.messages if message["role"] == "system"]
            label = [str(row.label)] if self.of == "row" else []  # the same answer may be good or bad
            key = hash_texts([*system, self.read_text(row), *label])
            if first.setdefault(key, index) != index:
                reasons[index] = f"duplicate: of {rows[first[key]].describe_place(first[key] + 1)}"
        return reasons

    def find_near_rows(self, rows: Rows, equal: dict[int, str]) -> dict[int, str]:
        """By index why a row is left out that is nearly one before it; those left out already are not looked at."""
        import numpy as np
        from datasketch import MinHash, MinHashLSH

        template = self.count_runs(rows, equal)
        assert self.near is not None
        tables = MinHashLSH(threshold=SLACK * self.near, num_perm=self.permutations)
        empty = MinHash(num_perm=self.permutations, hashfunc=int)
        reasons: dict[int, str] = {}
        for index, row in enumerate(rows):
            if index in equal or row.is_replayed:
                continue
            runs = self.select_runs(row, template)
            if not len(runs):
                continue
            signature = empty.copy()
            signature.update_batch((runs >> np.uint64(32)).tolist())  # numbers of 32 bits, as its permutations take
            for other in sorted(tables.query(signature)):
                common = len(np.intersect1d(runs, others := self.select_runs(rows[other], template), True))
                alike = common / (len(runs) + len(others) - common)
                if alike >= self.near:
                    reasons[index] = f"near duplicate: {alike:.2f} of {rows[other].describe_place(other + 1)}"
                    break
            else:
                tables.insert(index, signature)
        return reasons

    def count_runs(self, rows: Rows, equal: dict[int, str]) -> np.ndarray:
        """Which of `BUCKETS` kinds of runs are template, bool [BUCKETS]."""
        import numpy as np

        counts, number = np.zeros(BUCKETS, np.uint32), 0
        for index, row in enumerate(rows):
            if index not in equal and not row.is_replayed:
                number += 1
                counts[np.unique(hash_runs(hash_words(self.read_text(row)), self.words) % np.uint64(BUCKETS))] += 1
        return counts > max(FEW, TEMPLATE * number)

    def select_runs(self, row: Row, template: np.ndarray) -> np.ndarray:
        """The different runs of a row that are no template, uint64 [runs]."""
        import numpy as np

        runs = np.unique(hash_runs(hash_words(self.read_text(row)), self.words))
        return runs[~template[runs % np.uint64(BUCKETS)]]


def hash_texts(texts: Sequence[str]) -> bytes:
    """What names some texts, white space aside."""
    whole = "\0".join(" ".join(text.split()) for text in texts)
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()
