"""Which turns an environment broke on in a round, on record: a round that is played again is the same one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from holdfast.axes.breakdowns import Breakdowns
from holdfast.errors import RunError

KIND = "breakdowns"


class FactRecord(Protocol):
    """What keeps facts over a kill, as the journal does."""

    def recall_fact(self, kind: str, key: Any, default: Any = None) -> Any: ...

    def record_fact(self, kind: str, key: Any, value: Any) -> None: ...


class BreakdownRecord:
    """The breakdowns of a run's rounds.

    Args:
        facts: `None`: nothing is kept.
        parts: What rounds depend on beside their number.
    """

    def __init__(self, facts: FactRecord | None, parts: Any) -> None:
        self.facts, self.parts, self.hangs = facts, parts, 0

    @contextlib.contextmanager
    def open_round(self, number: int) -> Iterator[Breakdowns]:
        """The breakdowns of a round that is played inside: those on record, which further ones are added to.

        Hangs are on record as they happen, all else once the round was played to its end. Where it could not be, they
        are forgotten: whoever runs the same command again has mended something.
        """
        value = self.facts.recall_fact(KIND, [self.parts, number]) if self.facts is not None else None
        if not isinstance(value, dict) or not isinstance(value.get("reasons"), dict):  # nothing yet, or a damaged line
            value = {"reasons": {}}
        breakdowns = Breakdowns(value["reasons"].copy(), value.get("are_all") is True, self.hangs)
        breakdowns.keep = lambda so_far: self._write(number, so_far.reasons, so_far.are_all)
        try:
            yield breakdowns
        except RunError:
            if not breakdowns.are_all:
                self._write(number, {}, False)
            raise
        finally:
            self.hangs = breakdowns.hangs
        if not breakdowns.are_all:
            self._write(number, breakdowns.reasons, True)

    def _write(self, number: int, reasons: dict[str, str], are_all: bool) -> None:
        if self.facts is not None:
            self.facts.record_fact(KIND, [self.parts, number], {"reasons": reasons.copy(), "are_all": are_all})
