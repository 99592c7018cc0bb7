"""Parts of a command's work: `--shard 3/64` does one, in a directory of its own, and `--join` takes all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import UserError

NAME = re.compile(r"(\d+)-of-(\d+)")
MOST_LISTED = 8
"""Missing shards that a message names."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of the rows.

    Args:
        number: From 1 on.
        count: How many parts there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/64`.

        Raises:
            UserError: If it is not a part of so many.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if match is None:
            raise UserError(f"--shard: {text} is not I/N, as in 3/64: the third of 64 parts")
        number, count = int(match[1]), int(match[2])
        if not 1 <= number <= count:
            raise UserError(f"--shard: {text}: parts of {count} are numbered from 1/{count} to {count}/{count}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def directory_in(self, place: Path) -> Path:
        """Its own directory among those of the others."""
        return place / f"{self.number}-of-{self.count}"


def find_shards(place: Path, mark: str) -> dict[Shard, Path]:
    """The shards that lie in a directory, in their order.

    Args:
        mark: The file that every shard has.
    """
    found_shards = {}
    for path in place.glob("*"):
        if (match := NAME.fullmatch(path.name)) and (path / mark).is_file():
            found_shards[Shard(int(match[1]), int(match[2]))] = path
    return dict(sorted(found_shards.items(), key=lambda entry: (entry[0].count, entry[0].number)))


def refuse_missing(
    place: Path, shards: Mapping[Shard, Path], is_finished: Callable[[Path], bool], command: str
) -> None:
    """See that all parts of one number of parts came to their end.

    Args:
        command: What does one, after `holdfast`.
    Raises:
        UserError: If some did not; it names those of the number of which the smallest share is missing.
    """
    missing = {
        count: [n for n in range(1, count + 1) if (s := Shard(n, count)) not in shards or not is_finished(shards[s])]
        for count in {shard.count for shard in shards}
    }
    if not all(missing.values()):
        return
    count = min(missing, key=lambda each: len(missing[each]) / each)
    numbers = missing[count]
    names = ", ".join(map(str, numbers[:MOST_LISTED])) + (", ..." if len(numbers) > MOST_LISTED else "")
    raise UserError(
        f"{place}: {len(numbers)} of {count} shards not there or not finished: {names}; run holdfast {command} "
        f"--shard {numbers[0]}/{count}{', and so on' if len(numbers) > 1 else ''}, then --join again"
    )
