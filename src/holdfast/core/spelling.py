"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_NAME = 100
"""Characters of a name that may be a misspelt one; comparing takes time that grows with its square."""
MOST_NAMES = 1000
"""Names that are compared and shown."""


def suggest_name(name: str, names: Iterable[str]) -> str:
    """ "; did you mean X?" for the closest of `names`, or the list of all when none is close."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names[:MOST_NAMES], n=1, cutoff=0.6) if len(name) <= LONGEST_NAME else []
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names[:MOST_NAMES])}{more}"
