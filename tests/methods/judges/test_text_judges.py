"""exact, number, choice, overlap: what passes and what does not."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import pytest
from pydantic import ValidationError

from holdfast.axes.judge import JudgeRequest
from holdfast.errors import UserError
from holdfast.methods.judges.choice import Choice
from holdfast.methods.judges.exact import Exact
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.numbers.final_number import find_number
from holdfast.methods.judges.overlap import Overlap, rouge_l, token_f1


def verdict(judge, response, reference, question="?"):
    return judge.judge(JudgeRequest([{"role": "user", "content": question}], response, reference))


@pytest.mark.parametrize(
    ("knobs", "response", "reference", "passed"),
    [
        ({}, " yes \n", "yes", True),
        ({}, "a  b\nc", "a b c", True),
        ({}, "Yes", "yes", False),
        ({}, "yes.", "yes", False),
        ({"ignore_case": True}, "Yes", "yes", True),
        ({"ignore_punctuation": True}, "yes.", "yes", True),
        ({"ignore_punctuation": True}, "yes .", "yes", True),
        ({"collapse_whitespace": False}, "a  b", "a b", False),
        ({"strip": False}, "yes ", "yes", False),
        ({"strip": False}, "a  b", "a b", True),
        ({}, "b", ["a", "b"], True),
        ({}, "c", ["a", "b"], False),
        ({}, "7", 7, True),
    ],
)
def test_exact(knobs, response, reference, passed):
    assert verdict(Exact(**knobs), response, reference).passed is passed


def test_exact_says_what_differs():
    assert verdict(Exact(), "no", "yes").reason == "'no' is not 'yes'"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 and 4 make 7.\n#### 7", 7),
        ("#### 1,234", 1234),
        ("so #### 5 then 9", 5),
        ("#### 3\nwait\n#### 4", 4),
        ("The answer is 12. It took 3 steps.", 12),
        ("the final answer is: $1,250.50 in 2020", 1250.5),
        ("Answer: -3", -3),
        ("The answer is 5 + 3 = 8", 8),
        (r"So \boxed{\frac{3}{4}} of 100", 0.75),
        (r"\boxed{-\frac{1}{2}}", -0.5),
        ("There are 3 cats and 4 dogs", 4),
        ("10 - 5", 5),
        ("x = -5", -5),
        ("x = \u22125", -5),
        ("10-5", None),  # a range as much as a difference
        ("- 5 apples", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("it costs €3.50.", 3.5),
        ("about 50%", 50),
        ("3/4", 0.75),
        ("1.5e3", 1500),
        (".5", 0.5),
        ("1,2,3", None),
        ("5km", 5),
        ("H2O", None),
        ("1/0", None),
        ("none", None),
        ("1e999", None),
        ("answer is unknown, though 6 was said", 6),
    ],
)
def test_final_number(text, number):
    found = find_number(text)
    value = found.quantity.value if found is not None and found.quantity is not None else None
    assert value == (None if number is None else Fraction(str(number)))


def test_number_compares_within_tolerance():
    assert verdict(Number(), "0.3333333", 1 / 3).passed
    assert not verdict(Number(), "0.33", 1 / 3).passed
    assert verdict(Number(tolerance=0.01), "0.33", 1 / 3).passed
    assert not verdict(Number(), "1000001", 1000000).passed
    assert verdict(Number(), "#### 72", "48/2 = 24\n48+24 = 72\n#### 72").passed


def test_number_names_unusable_references():
    assert Number().find_reference_problem("seven") == "no number in it"
    assert Number().find_reference_problem(True) == "no number in it"
    assert Number().find_reference_problem(None) is not None
    assert Number().find_reference_problem(7) is None
    assert Number().find_reference_problem("it is 7") is None
    assert verdict(Number(), "7", "seven").failed


def test_number_says_what_it_cannot_read():
    judge = Number(math_verify=False)
    assert verdict(judge, r"\boxed{2\sqrt5}", "5").reason == r"cannot read 2\sqrt5 (a root); expected 5"
    assert verdict(judge, "(3, 4)", "5").outcome == "unreadable"
    assert verdict(judge, "I do not know.", "5").reason == "no number in the answer; expected 5"
    assert "a root" in judge.find_reference_problem(r"\boxed{2\sqrt5}")
    assert verdict(judge, "5 km", "5 m").reason == "5 kilometer and 5 meter have different units"


def test_number_without_math_verify_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("sys.path", [p for p in sys.path if not (Path(p) / "math_verify").is_dir()])
    assert Number().identity["math_verify"] is None
    with pytest.raises(UserError, match="pip install math-verify"):
        verdict(Number(math_verify=True), "1", "1")


LISTED = "Which is a city?\nA. apple\nB. Paris\nC. New York\nD. York"


@pytest.mark.parametrize(
    ("response", "reference", "passed"),
    [
        ("B", "B", True),
        ("b", "B", True),
        ("(B)", "(B)", True),
        ("B. Paris", "B", True),
        ("The answer is B.", "B", True),
        ("The answer is (C), not B", "C", True),
        ("Answer: C", "B", False),
        (r"\boxed{B}", "B", True),
        ("I think (A) is wrong, so (B)", "B", True),
        ("It is Paris.", "B", True),
        ("It is New York.", "C", True),
        ("It is New York.", "D", False),
        ("Paris or New York", "B", False),
        ("B", "Paris", True),
        ("B", 1, True),
        ("B", 0, False),
        ("**B**", "B", True),
        ("The answer is E", "E", False),
        ("The answer is a city, namely Paris", "B", True),
        ("the answer is b", "B", True),
        ("ANSWER: (b).", "B", True),
        ("A good question: Paris", "B", True),
    ],
)
def test_choice(response, reference, passed):
    assert verdict(Choice(), response, reference, LISTED).passed is passed


def test_choice_takes_options_from_the_reference():
    reference = {"answer": "yes", "options": ["no", "yes"]}
    assert verdict(Choice(), "B", reference).passed
    assert verdict(Choice(), "I say yes", reference).passed
    assert not verdict(Choice(), "A", reference).passed
    assert verdict(Choice(), "x", {"options": ["a", "b"]}).failed
    assert Choice().find_reference_problem(["a"])
    assert Choice().find_reference_problem("")
    assert not Choice().find_reference_problem({"answer": 0})


def test_choice_says_why_it_does_not_tell():
    for response, why in [
        ("A or B", "names A and B"), ("Is it B?", "no choice in the answer"), ("Not Paris.", "speaks against B"),
        ("A is correct, and so is this: C is correct.", "calls A and C right"), ("A. Wait, no.", "takes back A"),
    ]:  # fmt: skip
        found = verdict(Choice(), response, "B", LISTED)
        assert found.outcome == "unreadable", response
        assert found.reason == f"{why}; expected B"


def test_overlap_f1_is_squads():
    assert token_f1("The cat sat.", "a cat sat") == 1.0
    assert token_f1("cat cat", "cat") == pytest.approx(2 * 0.5 / 1.5)
    assert token_f1("", "") == 1.0
    assert token_f1("the", "cat") == 0.0


def test_overlap_rouge_l_keeps_order():
    assert rouge_l("a b c", "a b c") == 1.0
    assert rouge_l("c b a", "a b c") == pytest.approx(1 / 3)
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    assert rouge_l("", "a") == 0.0


def test_overlap_threshold_and_best_reference():
    assert verdict(Overlap(threshold=0.66), "cat cat", ["dog", "cat"]).passed
    assert not verdict(Overlap(threshold=0.67), "cat cat", ["dog", "cat"]).passed
    assert verdict(Overlap(metric="rouge_l"), "c b a", "a b c").score == pytest.approx(1 / 3)
    with pytest.raises(ValidationError):
        Overlap(threshold=0)
