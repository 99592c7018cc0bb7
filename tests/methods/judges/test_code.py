"""code: where the program is found, and that its tests decide."""

from __future__ import annotations

import pytest

from holdfast.axes.judge import JudgeRequest
from holdfast.methods.judges.code import Code, candidate_programs, parse_tests

TESTS = ["assert double(2) == 4", "assert double(0) == 0"]
RIGHT = "def double(x):\n    return 2 * x"
WRONG = "def double(x):\n    return x + 2 * (x > 0)"


def answers(*pairs):
    return [JudgeRequest([{"role": "user", "content": "?"}], response, reference) for response, reference in pairs]


@pytest.mark.parametrize(
    "response",
    [
        RIGHT,
        f"```python\n{RIGHT}\n```",
        f"Sure!\n```python\n{RIGHT}\n```\nIt doubles.\n```\n>>> double(2)\n```",
        f"```\n{RIGHT}\n```",
        f"```py\n{RIGHT}",
        f"[BEGIN]\n{RIGHT}\n[DONE]\nmore",
        f"[[BEGIN]]\n{RIGHT}\n[[DONE]]",
        f"{RIGHT}\n[DONE]\nand so on",
        f"[BEGIN]\n```python\n{RIGHT}\n```\n[DONE]",
        f"Here is the code:\n\n{RIGHT}",
        f"Here is the code:\n\n{RIGHT}\n\nThis function doubles its argument.",
        f"```python\nimport math\n```\nthen\n```python\n{RIGHT}\n```",
        "```python\ndef two():\n    return 2\n```\nthen\n```python\ndef double(x):\n    return two() * x\n```",
        f"```bash\npip install x\n```\n```python\n{RIGHT}\n```",
        f"  \n{RIGHT}\nprint('\ud800')",
    ],
)
def test_the_program_is_found(response):
    verdict = Code().judge(JudgeRequest([], response, TESTS))
    assert verdict.passed or "\ud800" in response, verdict.reason


def test_verdicts_in_order_with_reasons():
    verdicts = Code(seconds=1).judge_all(
        answers(
            (RIGHT, TESTS),
            (WRONG, [*TESTS, "assert double(3) == 6"]),
            ("while True: pass", TESTS),
            ("hello there", TESTS),
            ("", TESTS),
        )
    )
    assert [v.passed for v in verdicts] == [True, False, False, False, False]
    assert not any(v.failed for v in verdicts)
    assert "check 3 of 3" in verdicts[1].reason
    assert "assert double(3) == 6" in verdicts[1].reason
    assert "1 second" in verdicts[2].reason


def test_reason_names_the_test():
    verdict = Code().judge(JudgeRequest([], "def double(x): return 4", TESTS))
    assert "assert double(0) == 0" in verdict.reason
    assert verdict.score == 0.0


def test_reference_forms():
    forms = [TESTS, "\n".join(TESTS), {"tests": TESTS}, {"tests": "\n".join(TESTS), "setup": "import math\nTWO = 2"}]
    verdicts = Code().judge_all(answers(*[(RIGHT, f) for f in forms], *[(WRONG, "assert double(3) == 6")] * 2))
    assert [v.passed for v in verdicts] == [True] * 4 + [False] * 2
    assert parse_tests({"tests": ["a"], "setup": "b"}) == ("b", "a")


def test_setup_runs_before_the_tests():
    reference = {"tests": ["assert double(N) == 10"], "setup": "N = 5"}
    assert Code().judge(JudgeRequest([], RIGHT, reference)).passed


def test_bad_references_are_failures_of_judging():
    no_tests, broken = Code().judge_all(answers((RIGHT, []), (RIGHT, ["assert double("])))
    assert no_tests.failed
    assert broken.failed
    assert not no_tests.passed
    assert not broken.passed


def test_usable():
    judge = Code()
    assert judge.find_reference_problem(TESTS) is None
    assert judge.find_reference_problem("assert f()") is None
    assert judge.find_reference_problem({"tests": "f()"}) is None
    for bad in (None, 7, "a poem", [], {"tests": []}, {"setup": "x"}, [1]):
        assert judge.find_reference_problem(bad), bad


def test_packages_are_off_unless_asked_for():
    source = "import numpy\ndef double(x): return int(numpy.multiply(x, 2))"
    assert not Code().judge(JudgeRequest([], source, TESTS)).passed
    assert Code(packages=True, memory_mb=2048).judge(JudgeRequest([], source, TESTS)).passed


def test_candidates_never_empty():
    assert candidate_programs("") == ("",)
    assert candidate_programs(" ") == ("",)
