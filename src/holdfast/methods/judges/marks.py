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


def find_marks(text: str) -> list[Mark]:
    """Every marked answer of a text, in the order of their ends."""
    marks = [*find_boxes(text), *find_tags(text)]
    marks += [Mark(m[1], m.end(), "hashes") for m in _HASHES.finditer(text)]
    return sorted(marks, key=lambda mark: mark.end)


def find_boxes(text: str) -> list[Mark]:
    r"""The contents of every closed `\boxed{...}`, braces balanced; of boxes in boxes each."""
    marks = [Mark(m[1], m.end(), "box") for m in _BARE_BOX.finditer(text)]
    starts = {m.end() - 1 for m in _BOX.finditer(text)}
    if not starts:
        return marks
    stack = list[int]()
    for brace in _BRACE.finditer(text):
        at = brace.start()
        if at in starts or brace[0] == "{":
            stack.append(at)
        elif brace[0] == "}" and stack and (start := stack.pop()) in starts:
            marks.append(Mark(text[start + 1 : at], at + 1, "box"))
    return marks


def find_tags(text: str) -> list[Mark]:
    """The contents of every closed `<answer>...</answer>`."""
    marks, start = [], None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            marks.append(Mark(text[start : tag.start()], tag.end(), "tag"))
            start = None
    return marks
