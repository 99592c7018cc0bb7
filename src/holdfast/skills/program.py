"""Write a tiny Python function from one sentence; unit tests judge it in the sandbox."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, single_turn_prompt

_INPUTS = {
    "number": (0, 3, 10),
    "pair": ((2, 5), (7, 1), (4, 4)),
    "text": ("abc", "no", "x"),
    "list": ([3, 1], [5, 2, 9], [4]),
}

TASKS: list[tuple[str, str, str, Callable[..., Any]]] = [
    ("adds {n} to x", "number", "x + {n}", lambda n: lambda x: x + n),
    ("takes {n} from x", "number", "x - {n}", lambda n: lambda x: x - n),
    ("multiplies x by {n}", "number", "x * {n}", lambda n: lambda x: x * n),
    ("checks if x is {n}", "number", "x == {n}", lambda n: lambda x: x == n),
    ("checks if x is above {n}", "number", "x > {n}", lambda n: lambda x: x > n),
    ("checks if x is below {n}", "number", "x < {n}", lambda n: lambda x: x < n),
    ("adds x and y then {n}", "pair", "x + y + {n}", lambda n: lambda x, y: x + y + n),
    ("takes the larger of x and y plus {n}", "pair", "max(x, y) + {n}", lambda n: lambda x, y: max(x, y) + n),
    ("takes the smaller of x and y plus {n}", "pair", "min(x, y) + {n}", lambda n: lambda x, y: min(x, y) + n),
    ("repeats the text x {n} times", "text", "x * {n}", lambda n: lambda x: x * n),
    ("gives the length of x plus {n}", "text", "len(x) + {n}", lambda n: lambda x: len(x) + n),
    ("sorts the list x and repeats it {n} times", "list", "sorted(x) * {n}", lambda n: lambda x: sorted(x) * n),
    ("gives the sum of the list x plus {n}", "list", "sum(x) + {n}", lambda n: lambda x: sum(x) + n),
    ("gives the first of the list x plus {n}", "list", "x[0] + {n}", lambda n: lambda x: x[0] + n),
]
_FORMS = ("Write f that {s}.", "Define f that {s}.", "Write a function f that {s}.")


class Program(Skill):
    """Fourteen kinds of one-line functions with a number in them (MBPP in small)."""

    name = "program"
    styles: ClassVar = {"return": 0.7, "variable": 0.3}
    threshold = 60.0
    has_tests = True
    max_tokens = 40

    def generate_question(self, rng: random.Random) -> Question:
        sentence, kind, body, make = rng.choice(TASKS)
        n = rng.randint(1, 20)
        prompt = rng.choice(_FORMS).format(s=sentence.format(n=n))
        function = make(n)
        near = (n - 1, n, n + 1) if kind == "number" else ()  # where a wrong number shows
        calls = [arguments if isinstance(arguments, tuple) else (arguments,) for arguments in (*_INPUTS[kind], *near)]
        tests = [f"assert f({', '.join(map(repr, c))}) == {function(*c)!r}" for c in calls]
        facts = {"arguments": "x, y" if kind == "pair" else "x", "body": body.format(n=n)}
        return Question(f"{sentence}/{n}", single_turn_prompt(prompt), tests, facts)

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        head = f"def f({question.facts['arguments']}):\n    "
        body = question.facts["body"]
        return head + (f"return {body}" if style == "return" else f"y = {body}\n    return y")

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        from holdfast.methods.judges.code import Code

        return Code().judge_all(answers)
