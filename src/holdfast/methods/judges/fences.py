"""Where the program stands in an answer: fenced blocks of every shape, marks such as [PYTHON], or bare code.

One pass over the lines, so that the time is linear in the text.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

PYTHON = frozenset(
    [
        "python",
        "py",
        "python3",
        "python2",
        "py3",
        "ipython",
        "ipython3",
        "pycon",
        "pyi",
        "python-repl",
        "pyodide",
        "sage",
    ]
)
DEFINES = re.compile(
    r"^(?:def|class|import|from|async def|@)\b|^@|^[A-Za-z_]\w* *(?::[^=\n]{1,60})?=(?!=)", re.MULTILINE
)
"""A line that defines something, at the margin."""
START = re.compile(r"^(?:def|class|import|from|async|@)\b|^@", re.MULTILINE)
"""A line with which code begins."""
_FENCE = re.compile(r"^(?P<lead>[ \t>]*(?:(?:[-*+\u2022]|\d{1,3}[.)])[ \t]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_CLOSING = re.compile(r"^[ \t>]*(?P<fence>`{3,}|~{3,})[ \t]*$")
_ONE_LINE = re.compile(
    r"^[ \t>]*```[ \t]*(?P<language>python3?|py)?[ \t]+(?P<code>[^`]+?)[ \t]*```[ \t]*$", re.IGNORECASE
)
_LANGUAGE = re.compile(r"[{.\s]*([\w+#.-]*)")
_MARKS = re.compile(
    r"(?P<open>\[{1,2}BEGIN\]{1,2}|\[PYTHON\]|\[CODE\]|<(?:code|python|solution|answer)>)"
    r"|(?P<close>\[{1,2}/?(?:DONE|END)\]{1,2}|\[/(?:PYTHON|CODE)\]|</(?:code|python|solution|answer)>)",
    re.IGNORECASE,
)
MOST_BLOCKS = 40
MOST_ENDS = 20
"""Ways of leaving out the end of bare code, which may be an explanation."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Args:
        language: As the fence says, in lower case; "" where it does not.
        code: What stands in it, without the indentation that all of it shares.
    """

    language: str
    code: str

    @property
    def has_definitions(self) -> bool:
        """Whether it defines something, rather than only using or showing it."""
        return DEFINES.search(self.code) is not None


def candidate_programs(response: str) -> tuple[str, ...]:
    """Readings of an answer as a program, likeliest first; the first that compiles and runs to its end is meant."""
    response = response.replace("\r\n", "\n").replace("\r", "\n")
    programs: list[str] = []
    for text in [*extract_marked_code(response), response]:
        blocks, before = parse_fenced_blocks(text)
        python = [block for block in blocks if block.language in PYTHON]
        no_language = [block for block in blocks if not block.language]
        if before and START.search(before) and not any(block.has_definitions for block in python):
            programs += extract_bare_code(before)  # the first fence closes code that no fence opened
        for group in (python or no_language, [b for b in blocks if b in python or b in no_language], blocks):
            programs += combine_blocks(group)
        if not blocks:
            session = "\n".join(strip_prompts(text.split("\n")))
            programs += [
                text,
                textwrap.dedent(text).strip(),
                *([session] if session != text else []),
                *extract_bare_code(text),
            ]
        elif START.match(text.lstrip()):
            programs += extract_bare_code(text)  # code that holds fences in a docstring
        for outer in blocks:
            if outer.language in ("markdown", "md"):
                programs += combine_blocks(
                    [b for b in parse_fenced_blocks(outer.code)[0] if b.language in PYTHON or not b.language]
                )
    unique = dict.fromkeys(code for code in programs if code.strip())
    return tuple(unique) or ("",)


def has_code(response: str) -> bool:
    """Whether there is anything in an answer that looks like a program."""
    return (
        "```" in response
        or "~~~" in response
        or _MARKS.search(response) is not None
        or ">>> " in response
        or START.search(response) is not None
    )


def combine_blocks(blocks: Sequence[Block]) -> list[str]:
    """Readings of several blocks: all as one program, those that define something, each by itself."""
    if not blocks:
        return []
    every = [block.code for block in blocks]
    defining = [block.code for block in blocks if block.has_definitions]
    return ["\n".join(every), "\n".join(defining), *sorted(defining or every, key=len, reverse=True)[:4]]


def extract_marked_code(text: str) -> list[str]:
    """What stands between marks such as [PYTHON] and [/PYTHON]; where one is missing, what is before or after it."""
    pieces, start, head = [], None, None
    for mark in _MARKS.finditer(text):
        if mark["open"]:
            start = mark.end() if start is None else start
        elif start is not None:
            pieces.append(text[start : mark.start()])
            start = None
        elif head is None and not pieces:
            head = text[: mark.start()]
    if start is not None:
        pieces.append(text[start:])
    return pieces[:MOST_BLOCKS] + ([head] if head is not None and not pieces else [])


def parse_fenced_blocks(text: str) -> tuple[list[Block], str]:
    """The fenced blocks of a text, an unclosed one up to its end; the text before a first fence without language."""
    blocks: list[Block] = []
    lines = text.split("\n")
    before, number = "", 0
    while number < len(lines) and len(blocks) < MOST_BLOCKS:
        line = lines[number]
        if (whole := _ONE_LINE.match(line)) is not None:
            blocks.append(Block((whole["language"] or "").lower(), whole["code"]))
        elif (fence := _FENCE.match(line)) is not None:
            info = fence["info"].strip()
            if not blocks and not info:
                before = "\n".join(lines[:number])
            end = find_closing_line(lines, number, fence["fence"])
            is_quote = ">" in fence["lead"]
            blocks.append(build_block(info, lines[number + 1 : end], lines[end] if end < len(lines) else "", is_quote))
            number = end
        number += 1
    return [b for b in blocks if b.code.strip()], before


def find_closing_line(lines: Sequence[str], number: int, fence: str) -> int:
    """The line that closes the fence opened on line `number`, the number of lines where none does.

    A fence inside a docstring does not close: the quotes before it are open.
    """
    single = double = 0
    for at in range(number + 1, len(lines)):
        line = lines[at]
        if single % 2 == 0 and double % 2 == 0:
            mark = _CLOSING.match(line)
            if mark is not None and mark["fence"].startswith(fence):
                return at
            if fence in line and line.rstrip().endswith(fence) and _FENCE.match(line) is None:
                return at  # "    return x```"
        single += line.count("'" * 3)
        double += line.count('"' * 3)
    if single % 2 or double % 2:  # the quotes never close: it was no docstring
        for at in range(number + 1, len(lines)):
            if _CLOSING.match(lines[at]):
                return at
    return len(lines)


def build_block(info: str, lines: Sequence[str], last: str, is_quote: bool) -> Block:
    """A block by what its fence says, its lines and the line that closes it."""
    lines = list(lines)
    if not _CLOSING.match(last) and (tail := last.rstrip().rstrip("`~")).strip():
        lines.append(tail)
    if is_quote:
        lines = [re.sub(r"^[ \t]*> ?", "", line) for line in lines]
    language = _LANGUAGE.match(info)[1].lower()  # type: ignore[index]
    if START.match(info) and len(info.split()) > 1:  # "```def f(x):"
        lines, language = [info, *lines], ""
    elif (
        language in PYTHON
        and (rest := info[info.lower().index(language) + len(language) :].strip())
        and START.match(rest)
    ):
        lines = [rest, *lines]
    lines = strip_prompts(lines)
    return Block(language, textwrap.dedent("\n".join(lines)))


def strip_prompts(lines: Sequence[str]) -> list[str]:
    """Lines of an interactive session as a program; other lines as they are."""
    first = next((line.strip() for line in lines if line.strip()), "")
    if not first.startswith(">>> "):
        return list(lines)
    return [line.strip()[4:] for line in lines if line.strip()[:4] in (">>> ", "... ")]


def extract_bare_code(text: str) -> list[str]:
    """Code that begins somewhere in a text, whole, then without its last paragraphs (they may explain)."""
    start = START.search(text)
    if start is None:
        text = textwrap.dedent(text)
        start = START.search(text)
    if start is None:
        return []
    paragraphs = re.split(r"\n(?=\S)", text[start.start() :])
    most = max(0, len(paragraphs) - MOST_ENDS)
    return ["\n".join(paragraphs[:n]) for n in range(len(paragraphs), most, -1)]
