"""Compare mathematics symbolically with the package math-verify (an extra), outside this process and in limited time.

math-verify bounds its own time by alarm signals, which belong to the program it runs in, and reads expressions with
Python's `eval`; so it runs contained like code written by a model, its own time limits off.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path

from holdfast.axes.judge import Verdict
from holdfast.methods.judges.text import shorten_text
from holdfast.sandbox.backends import WORKER
from holdfast.sandbox.pool import Limits, Sandbox

TARGET = f"{WORKER.with_name('mathematics.py')}:compare_expressions"
MEMORY_MB = 2048
CHUNK = 128
"""Comparisons that share a process; importing the package takes longer than most of them."""


def is_installed() -> bool:
    """Whether math-verify can be imported."""
    return importlib.util.find_spec("math_verify") is not None


def installed_version() -> str | None:
    """The version of math-verify, `None` where it is not installed."""
    return version_of("math-verify") if is_installed() else None


def compare_pairs(pairs: Sequence[tuple[str, str]], seconds: float) -> list[Verdict]:
    """Verdicts on pairs of (reference, answer), in order; doubt where one cannot be read, or in time.

    Args:
        pairs: Mathematics in LaTeX or plain text.
        seconds: Time for one pair.
    """
    path = tuple(dict.fromkeys(str(Path(p).resolve()) for p in sys.path if p))
    with Sandbox(Limits(seconds, MEMORY_MB, path=path)) as sandbox:
        results = sandbox.call_all(TARGET, [list(pair) for pair in pairs], chunk=CHUNK)
    return [_build_verdict(*pair, result) for pair, result in zip(pairs, results, strict=True)]


def _build_verdict(reference: str, response: str, result: dict[str, object]) -> Verdict:
    value = result.get("value")
    if not isinstance(value, bool):
        why = str(result.get("error") or (value.get("why") if isinstance(value, dict) else "no verdict"))
        return Verdict.as_unreadable(
            f"{shorten_text(response)} cannot be compared with {shorten_text(reference)}: {shorten_text(why)}"
        )
    return Verdict(
        value,
        float(value),
        f"{shorten_text(response)} {'equals' if value else 'is not'} {shorten_text(reference)} (math-verify)",
    )
