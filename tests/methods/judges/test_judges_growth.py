"""Hostile answers: the time of every judge grows with their length, not with a power of it.

No clock is read: at these sizes what is quadratic takes minutes, and what is cubic does not end.
"""

from __future__ import annotations

import pytest

from holdfast.axes.engine import Sample
from holdfast.axes.judge import JudgeRequest
from holdfast.data.rows import Row
from holdfast.methods.judges.choice import Choice, parse_options
from holdfast.methods.judges.choices import stated
from holdfast.methods.judges.fences import candidate_programs, has_code
from holdfast.methods.judges.llm import parse_verdict
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.numbers import final_number
from holdfast.methods.judges.overlap import common_subsequence, rouge_l
from holdfast.methods.judges.selection import guess_judge
from holdfast.methods.judges.text import LONGEST

QUESTION = [{"role": "user", "content": "Which is a city?\nA. apple\nB. Paris"}]
PIECES = [
    "answer",
    "answer ",
    " ",
    "\n",
    "\\boxed{",
    "(",
    "[",
    "#### ",
    "<answer>",
    "1",
    "1 ",
    "1,",
    "so ",
    "\\frac",
    "no, wait, ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_choice_and_number_on_a_piece_repeated(piece):
    for begin, end in (("", "!"), ("answer is", "!"), ("\\boxed{", "")):
        response = begin + piece * (20_000 // len(piece)) + end
        assert not Choice().judge(JudgeRequest(QUESTION, response, "B")).passed
        assert not Number(math_verify=False).judge(JudgeRequest(QUESTION, response, "8")).passed


@pytest.mark.parametrize(
    "piece", ["[", "```", "```\n", "[BEGIN]", "[BEGIN", "<code>", "~~~python\n", "def ", '"""\n', "- ", "\n"]
)
def test_code_is_looked_for_in_one_pass(piece):
    for begin in ("", "[BEGIN]", "```python\n", "def f(x):\n"):
        response = begin + piece * (40_000 // len(piece))
        assert len(candidate_programs(response)) < 200
        has_code(response)


def test_rouge_takes_one_operation_on_long_integers_a_word():
    """20,000 words against 20,000: word by word that were 400 million steps."""
    assert rouge_l("a b c d " * 5000, "a b c d " * 5000) == 1.0
    assert common_subsequence(["a", "b"] * 10_000, ["b", "a"] * 10_000) == 19_999
    assert [common_subsequence("AGCAT", "GAC"), common_subsequence("", "A"), common_subsequence("AB", "CD")] == [
        2,
        0,
        0,
    ]


def test_of_a_very_long_answer_the_end_is_read():
    long = "The answer is A. 7 " + "word " * LONGEST
    assert Choice().judge(JudgeRequest(QUESTION, f"{long}\nThe answer is B.", "B")).passed
    assert Number().judge(JudgeRequest(QUESTION, f"{long}\nThe answer is 8.", "8")).passed
    assert stated.parse_choice(long, {}).letter is None
    assert final_number.find_number(long) is None


def test_what_looks_at_questions_references_and_replies_is_linear_too():
    spaces = " " * 60_000
    assert parse_options([{"role": "user", "content": f"A.{spaces}\nB.{spaces}"}]) == {}
    assert parse_verdict(Sample("k", 0, "correct" + spaces + "yes", "stop", 9), "?").failed is False
    row = Row(
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": "answer" + spaces + "\\boxed{" * 5000}]
    )
    assert guess_judge([row])[0] is None
