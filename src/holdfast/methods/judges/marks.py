r"""Where a text marks its final answer: `\boxed{...}`, `<answer>...</answer>`, a line after `####`. All in one pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\f?boxed ?\{")
_BARE_BOX = re.compile(r"\\f?boxed ([^\s${}\\]{1,30})")  # as TeX allows, and some solutions of MATH write
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<(/?)(?:final_?)?answer>", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\s#][^\n#]*)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked final answer.

    Args:
        text: What stands in it.
        end: Where it ends in the whole text.
        kind: "box", "tag" or "hashes".
    """

    text: str
    end: int
    kind: str


def marks(text: str) -> list[Mark]:
    """Every marked answer of a text, in the order of their ends."""
    found = [*boxes(text), *tags(text)]
    found += [Mark(m[1], m.end(), "hashes") for m in _HASHES.finditer(text)]
    return sorted(found, key=lambda mark: mark.end)


def boxes(text: str) -> list[Mark]:
    r"""The contents of every closed `\boxed{...}`, braces balanced; of boxes in boxes each."""
    found = [Mark(m[1], m.end(), "box") for m in _BARE_BOX.finditer(text)]
    starts = {m.end() - 1 for m in _BOX.finditer(text)}
    if not starts:
        return found
    stack = list[int]()
    for brace in _BRACE.finditer(text):
        at = brace.start()
        if at in starts or brace[0] == "{":
            stack.append(at)
        elif brace[0] == "}" and stack and (begun := stack.pop()) in starts:
            found.append(Mark(text[begun + 1 : at], at + 1, "box"))
    return found


def tags(text: str) -> list[Mark]:
    """The contents of every closed `<answer>...</answer>`."""
    found, begun = [], None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            begun = tag.end()
        elif begun is not None:
            found.append(Mark(text[begun : tag.start()], tag.end(), "tag"))
            begun = None
    return found
