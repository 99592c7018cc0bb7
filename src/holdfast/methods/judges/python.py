"""The `python` judge."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import Field, field_validator

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.errors import UserError
from holdfast.sandbox.pool import Limits, Sandbox, one_line
from holdfast.sandbox.protection import describe_own_function


class Python(Judge):
    """A function of yours: `(prompt, response, reference) -> bool | float | dict`. [your own]

    `prompt` is the list of messages before the answer, `response` the answer's text (of a model that thinks, what it
    says after the thought), `reference` what the row holds. A bool is the verdict; a number in [0, 1] is the score,
    passing from `threshold` on; a dict has `passed` or `score` (or both) and perhaps `reason`, or `unreadable: True`
    where the function cannot tell. The function runs in a contained process, like code written by a model: if it
    raises, hangs, takes all memory, starts processes, writes files or opens sockets, only that row's judging fails.
    """

    function: str = Field(description="`module:function`, or `file.py:function` relative to the working directory.")
    threshold: float = Field(
        0.5, gt=0, le=1, description="Smallest score that passes, where the function gives a number."
    )
    seconds: float = Field(10.0, gt=0, description="Time for one call.")
    memory_mb: int = Field(4096, ge=64, description="Memory of the process in MiB.")

    @field_validator("function")
    @classmethod
    def _require_both_parts(cls, function: str) -> str:
        module, _, name = function.rpartition(":")
        if not module or not name.isidentifier():
            raise ValueError("must be module:function or file.py:function")
        return function

    def own_file(self) -> Path | None:
        file = Path(self.function.rpartition(":")[0])
        return file if file.suffix == ".py" and file.is_file() else None

    def check_ready(self) -> None:
        target, path = self._locate_function()
        with Sandbox(Limits(self.seconds, self.memory_mb, path=path), workers=1) as sandbox:
            sandbox.check_loads(target)

    def describe_protection(self) -> str | None:
        with Sandbox(Limits(self.seconds, self.memory_mb), workers=1) as sandbox:
            return describe_own_function(sandbox.walls)

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        inputs = [json.loads(json.dumps([a.prompt, a.final_response, a.reference], default=str)) for a in answers]
        target, path = self._locate_function()
        with Sandbox(Limits(self.seconds, self.memory_mb, path=path)) as sandbox:
            return [self.parse_result(result) for result in sandbox.call_all(target, inputs)]

    def _locate_function(self) -> tuple[str, tuple[str, ...]]:
        """The function's full name, and where imports are looked for."""
        module, _, name = self.function.rpartition(":")
        path = [os.getcwd(), *(str(Path(p).resolve()) for p in sys.path if p)]
        if not module.endswith(".py"):
            return self.function, tuple(dict.fromkeys(path))
        file = Path(module).resolve()
        if not file.is_file():
            raise UserError(f"judge.function: {module} is not a file; correct the path")
        return f"{file}:{name}", tuple(dict.fromkeys([str(file.parent), *path]))

    def parse_result(self, result: dict[str, Any]) -> Verdict:
        """The verdict in what the function returned."""
        if "error" in result:
            return Verdict(False, 0.0, one_line(result["error"]), failed=True)
        value, reason = result["value"], ""
        if isinstance(value, dict):
            reason = one_line(str(value.get("reason", "")))
            if value.get("unreadable") is True:
                return Verdict.as_unreadable(reason or "the function cannot tell")
            pass_flag, score = value.get("passed"), value.get("score")
            if isinstance(pass_flag, bool) and score is None:
                return Verdict(pass_flag, float(pass_flag), reason)
            if isinstance(pass_flag, bool) and is_usable_score(score):
                return Verdict(pass_flag, float(score), reason)
            value = score if pass_flag is None else None
        if isinstance(value, bool):
            return Verdict(value, float(value), reason)
        if is_usable_score(value):
            return Verdict(value >= self.threshold, float(value), reason or f"score {value:g}")
        kind = result["type"] if value is None else repr(value)
        return Verdict(
            False, 0.0, f"returned {kind}; expected a bool, a number in [0, 1], or a dict of them", failed=True
        )


def is_usable_score(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number in [0, 1]."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
