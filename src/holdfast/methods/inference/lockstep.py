"""Several chains of attempts gone through together, a round of all of them at a time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from holdfast.axes.inference import Step

T = TypeVar("T")


def run_together(
    *chains: Generator[Sequence[Step], Sequence[Any], T],
) -> Generator[Sequence[Step], Sequence[Any], list[T]]:
    """What each chain returns; a round asks for what all chains that still run ask for."""
    returns: dict[int, T] = {}
    results: dict[int, Sequence[Any] | None] = dict.fromkeys(range(len(chains)))
    while results:
        next_steps: dict[int, Sequence[Step]] = {}
        for number, result in list(results.items()):
            try:
                next_steps[number] = chains[number].send(result)  # type: ignore[arg-type]  # None starts it
            except StopIteration as end:
                returns[number] = end.value
                del results[number]
        if not next_steps:
            break
        everything = yield [step for steps in next_steps.values() for step in steps]
        start = 0
        for number, steps in next_steps.items():
            results[number] = everything[start : start + len(steps)]
            start += len(steps)
    return [returns[number] for number in range(len(chains))]
