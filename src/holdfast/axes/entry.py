"""What a line of the registry may say beside where the class is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Entry(NamedTuple):
    """A class of the registry, and what choosing it by `method:` chooses besides.

    Args:
        target: "module:Class".
        implies: Recipe key to the method chosen there, where neither the recipe nor another method does.
    """

    target: str
    implies: Mapping[str, str] = NOTHING


class Variant(NamedTuple):
    """A name of the field for a method with some of its knobs set; without knobs, another name of the same.

    Args:
        of: The method, by its name in the registry.
        summary: One line: what it is. The paper stands beside it.
        paper: Authors, year, arXiv number.
        knobs: What is set. A word or a switch makes the variant what it is and cannot be set otherwise; a number is the
            default of its paper.
        beside: What its paper does besides and the method does not; a sentence for the page.
    """

    of: str
    summary: str
    paper: str
    knobs: Mapping[str, Any] = NOTHING
    beside: str = ""
