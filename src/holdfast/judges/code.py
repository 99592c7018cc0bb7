"""The `code` judge."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from holdfast.judges.backends import Backend, BackendName
from holdfast.judges.base import Answer, Judge, Verdict
from holdfast.judges.protection import describe_walls
from holdfast.judges.sandbox import Limits, Outcome, Program, Sandbox
from holdfast.judges.text import short

FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
TAGS = re.compile(r"\[BEGIN\]+(.*?)(?:\[+/?(?:DONE|END)\]|\Z)", re.DOTALL)
CLOSING = re.compile(r"\[+/?(?:DONE|END)\]")
START = re.compile(r"^(?:def|class|import|from|async|@)\b|^@", re.MULTILINE)


class Code(Judge):
    """The program in the answer passes the unit tests of the reference. [Chen et al. 2021, arXiv 2107.03374]

    The reference is a list of `assert` statements, one string of them, or `{"tests": either, "setup": code run between
    program and tests}`. The program is taken from between [BEGIN] and [DONE], from a fenced block, or from the bare
    answer. Program and tests run in two processes: a test calls the program's functions and gets plain values back, so
    what `all` or `math` mean in a test, or whether an object equals 2, the program does not decide. Only a program with
    which every test reaches its end passes; see docs/sandbox.md for what it is kept from.
    """

    seconds: float = Field(5.0, gt=0, description="Time for one program and its tests.")
    memory_mb: int = Field(512, ge=64, description="Memory for one program in MiB.")
    packages: bool = Field(False, description="Let programs import installed packages, not only the standard library.")
    backend: BackendName = Field(
        "own", description="`bwrap` or `docker`: what stands around the sandbox beside its own walls, where installed."
    )
    image: str = Field("", description="Image for `docker`; default: the official one of this Python's version.")

    def look_ahead(self) -> None:
        self._backend().look_ahead()

    def protection(self) -> str | None:
        with self._sandbox(workers=1) as sandbox:
            return describe_walls(sandbox.walls, self.backend)

    def judge(self, answer: Answer) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        programs = [Program(candidates(a.response), checks(a.reference)) for a in answers]
        testable = [program for program, a in zip(programs, answers, strict=True) if self.usable(a.reference) is None]
        with self._sandbox() as sandbox:
            outcomes = dict(zip(map(id, testable), sandbox.run_all(testable), strict=True))
        return [self._verdict(program, outcomes.get(id(program))) for program in programs]

    def _sandbox(self, workers: int | None = None) -> Sandbox:
        path = (sysconfig.get_path("purelib"),) if self.packages else ()
        return Sandbox(Limits(self.seconds, self.memory_mb, path=path), workers, self._backend())

    def _backend(self) -> Backend:
        return Backend(self.backend, self.image, 4 * self.memory_mb)

    def _verdict(self, program: Program, outcome: Outcome | None) -> Verdict:
        if outcome is None:
            return Verdict(False, 0.0, "no tests in the reference", failed=True)
        source = f" ({short(program.checks[outcome.check - 1])})" if outcome.check else ""
        passed = outcome.status == "passed"
        return Verdict(passed, float(passed), outcome.reason + source, failed=outcome.status in ("broken", "lost"))

    def usable(self, reference: Any) -> str | None:
        if isinstance(reference, str) and "assert" not in reference:
            return "no assert in it"
        return None if any(c.strip() for c in checks(reference)) else "no tests in it"


def checks(reference: Any) -> tuple[str, ...]:
    """The sources to run after the program: the setup if there is one, then each test."""
    setup: tuple[str, ...] = ()
    if isinstance(reference, dict):
        setup = (reference["setup"],) if isinstance(reference.get("setup"), str) and reference["setup"].strip() else ()
        reference = reference.get("tests")
    if isinstance(reference, str):
        return (*setup, reference) if reference.strip() else ()
    if isinstance(reference, (list, tuple)) and reference and all(isinstance(test, str) for test in reference):
        return (*setup, *reference)
    return ()


def candidates(response: str) -> tuple[str, ...]:
    """Readings of an answer as a program, likeliest first; the sandbox runs the first that compiles."""
    found: list[str] = []
    tagged = [m[1] for m in TAGS.finditer(response)] or CLOSING.split(response, maxsplit=1)[:-1]
    for text in [*tagged, response]:
        blocks = [(m[1].lower(), m[2]) for m in FENCE.finditer(text)]
        python = [code for language, code in blocks if language in ("python", "py", "python3")]
        fenced = python or [code for language, code in blocks if not language]
        found += ["\n".join(fenced)] if len(fenced) > 1 else []
        found += sorted(fenced, key=len, reverse=True)
        found += [text, text.strip()] if not blocks else []
        if not blocks and (start := START.search(text)):
            found += prefixes(text[start.start() :])
    unique = dict.fromkeys(code for code in found if code.strip())
    return tuple(unique) or ("",)


def prefixes(text: str, most: int = 20) -> list[str]:
    """A text that starts with code, whole and then without its last paragraphs (which may be an explanation)."""
    paragraphs = re.split(r"\n(?=\S)", text)
    return ["\n".join(paragraphs[:n]) for n in range(len(paragraphs), max(0, len(paragraphs) - most), -1)]
