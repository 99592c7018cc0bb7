"""Work whose length a stranger's file decides, tried out in a process that may only take so long and so much."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SECONDS = 2
"""Of computing, not of waiting: what is tried here takes hundredths of a second when it is honest."""
BYTES = 1 << 29
WAIT = 60
"""Seconds after which a child that neither ends nor computes is given up."""
CHILD = Path(__file__).with_name("bounded_child.py")
PATTERNS = Path(__file__).with_name("pattern_trial.py")
SEARCH = Path(__file__).with_name("pattern_search.py")
QUANTIFIERS = frozenset("*+{")
"""Without one of these a regular expression takes no more time than the text is long."""

FEW = 8
"""Regular expressions that are tried one by one, to name the one at fault."""


class LimitExceeded(Exception):
    """A trial took more than it may; the text says of what, as in "takes more than 2 s to compute"."""


def run_bounded(script: Path, request: Any, packages: Iterable[str] = ()) -> Any:
    """Run a script in a child process with the limits of this module.

    Args:
        script: It reads the request as JSON from standard input and writes its answer as JSON to standard output.
        request: What JSON can hold.
        packages: Folders it imports from besides the standard library.
    Raises:
        LimitExceeded: It took more time or memory than it may.
        RuntimeError: It failed in another way, which is a fault of ours.
    """
    limits = [str(SECONDS), str(BYTES), "\n".join(packages), str(script)]
    command = [sys.executable, "-I", "-S", str(CHILD), *limits]
    try:
        process = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=WAIT)
    except subprocess.TimeoutExpired:
        raise LimitExceeded(f"does not end within {WAIT} s") from None
    if process.returncode == 77:
        raise LimitExceeded(f"takes more than {BYTES >> 20} MiB of memory")
    if process.returncode < 0:
        raise LimitExceeded(f"takes more than {SECONDS} s to compute")
    if process.returncode:
        raise RuntimeError(f"{script.name} failed: {process.stderr.decode(errors='replace').strip()}")
    return json.loads(process.stdout)


def find_slow_pattern(patterns: Sequence[str], texts: Sequence[str]) -> str | None:
    """The first regular expression that does not come to an end on one of the texts; `None` where all do.

    Ordinary ones cost nothing: a process is started only where one repeats something.
    """
    suspects = [pattern for pattern in patterns if QUANTIFIERS & set(pattern)]
    if not suspects:
        return None
    try:
        run_bounded(PATTERNS, {"patterns": suspects, "texts": list(texts)})
        return None
    except LimitExceeded:
        if len(suspects) == 1:
            return suspects[0]
    few = suspects[:FEW]  # each takes as long as it may
    return next((one for one in few if find_slow_pattern([one], texts)), ", ".join(suspects))


def search_pattern(pattern: str, texts: Sequence[str]) -> list[bool]:
    """Whether each text holds a regular expression (`re.search`).

    One that repeats something runs in a process with the limits of this module, since a text may be found on which it
    does not come to an end.

    Raises:
        LimitExceeded: It took more time or memory than it may.
    """
    if not QUANTIFIERS & set(pattern):
        find = re.compile(pattern).search
        return [find(text) is not None for text in texts]
    return list(run_bounded(SEARCH, {"pattern": pattern, "texts": list(texts)}))
