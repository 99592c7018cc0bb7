"""The `code` judge."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.methods.judges.fences import candidate_programs, has_code
from holdfast.methods.judges.text import shorten_text
from holdfast.sandbox.backends import Backend, BackendName
from holdfast.sandbox.pool import CheckedProgram, Limits, Outcome, Sandbox
from holdfast.sandbox.protection import describe_walls

MOST_READINGS = 12
"""Readings of one answer that are tried."""


class Code(Judge):
    """The program in the answer passes the unit tests of the reference. [Chen et al. 2021, arXiv 2107.03374]

    The reference is a list of `assert` statements, one string of them, or `{"tests": either, "setup": code run between
    program and tests}`. The program is taken from between marks ([BEGIN] and [DONE], [PYTHON] and [/PYTHON]), from
    fenced blocks of every shape (with ``` or ~~~, indented in a list, unclosed, closed but never opened), or from the
    bare answer; of a model that thinks, from what it says after the thought. Of several readings (all blocks, those
    that define something, each by itself) the first that compiles and runs to its end counts, so that a failing example
    of use beside the program does no harm. An answer with nothing like a program in it is "unreadable".

    Program and tests run in two processes: a test calls the program's functions and gets plain values back, so what
    `all` or `math` mean in a test, or whether an object equals 2, the program does not decide. Only a program with
    which every test reaches its end passes; see docs/sandbox.md for what it is kept from.
    """

    seconds: float = Field(5.0, gt=0, description="Time for one program and its tests.")
    memory_mb: int = Field(512, ge=64, description="Memory for one program in MiB.")
    packages: bool = Field(False, description="Let programs import installed packages, not only the standard library.")
    backend: BackendName = Field(
        "own", description="`bwrap` or `docker`: what stands around the sandbox beside its own walls, where installed."
    )
    image: str = Field("", description="Image for `docker`; default: the official one of this Python's version.")

    def check_ready(self) -> None:
        self._build_backend().require_installed()

    def needs_answer_key(self) -> bool:
        return False

    def describe_protection(self) -> str | None:
        with self._open_sandbox(workers=1) as sandbox:
            return describe_walls(sandbox.walls, self.backend)

    def example_answers(self) -> Sequence[JudgeRequest]:
        program = "```python\ndef add(a, b):\n    return a + b\n```"
        return [JudgeRequest([{"role": "user", "content": "Add two numbers."}], program, ["assert add(1, 2) == 3"])]

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        readings = [candidate_programs(a.final_response)[:MOST_READINGS] for a in answers]
        tests = [parse_tests(a.reference) for a in answers]
        outcomes: dict[int, Outcome] = {}
        waiting = [i for i, a in enumerate(answers) if self.find_reference_problem(a.reference) is None]
        with self._open_sandbox() as sandbox:
            for turn in range(MOST_READINGS):
                waiting = [i for i in waiting if turn < len(readings[i])]
                programs = [CheckedProgram((readings[i][turn],), tests[i]) for i in waiting]
                for i, outcome in zip(waiting, sandbox.run_all(programs) if programs else (), strict=True):
                    outcomes.setdefault(i, outcome)
                    if not failed_before_tests(outcome):
                        outcomes[i] = outcome
                waiting = [i for i in waiting if failed_before_tests(outcomes[i])]
        return [
            self._build_verdict(a, test, outcomes.get(i))
            for i, (a, test) in enumerate(zip(answers, tests, strict=True))
        ]

    def _open_sandbox(self, workers: int | None = None) -> Sandbox:
        path = (sysconfig.get_path("purelib"),) if self.packages else ()
        return Sandbox(Limits(self.seconds, self.memory_mb, path=path), workers, self._build_backend())

    def _build_backend(self) -> Backend:
        return Backend(self.backend, self.image, 4 * self.memory_mb)

    def _build_verdict(self, answer: JudgeRequest, tests: Sequence[str], outcome: Outcome | None) -> Verdict:
        if outcome is None:
            return Verdict(False, 0.0, "no tests in the reference", failed=True)
        if failed_before_tests(outcome) and answer.final_response.strip() and not has_code(answer.final_response):
            return Verdict.as_unreadable(f"no program in the answer: {shorten_text(answer.final_response, 40)!r}")
        source = f" ({shorten_text(tests[outcome.check - 1])})" if outcome.check else ""
        is_right = outcome.status == "passed"
        return Verdict(is_right, float(is_right), outcome.reason + source, failed=outcome.status in ("broken", "lost"))

    def find_reference_problem(self, reference: Any) -> str | None:
        if isinstance(reference, str) and "assert" not in reference:
            return "no assert in it"
        return None if any(c.strip() for c in parse_tests(reference)) else "no tests in it"


def failed_before_tests(outcome: Outcome) -> bool:
    """Whether a reading did not compile or did not run to its end, before any test: another reading may be meant."""
    return outcome.check == 0 and outcome.status in ("failed", "exited")


def parse_tests(reference: Any) -> tuple[str, ...]:
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
