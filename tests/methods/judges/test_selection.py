"""Whether a judge fits rows, and which one would; and what every registered judge must do."""

from __future__ import annotations

import pytest

from holdfast.axes.judge import Judge, JudgeRequest
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.judges.exact import Exact
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.selection import check_fit, guess_judge


def row(answer, reference=None, question="?"):
    return Row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], reference=reference)


def test_fit():
    assert check_fit(Number(), [row("7"), row("it is 8")]) is None
    warning = check_fit(Number(), [row("7"), row("eight")])
    assert "1 of 2 rows" in warning
    assert "row 2" in warning
    assert "'eight'" in warning
    with pytest.raises(UserError, match=r"number fits none of the 2 rows.*row 1"):
        check_fit(Number(), [row("seven"), row("eight")])
    assert check_fit(Exact(), []) is None


LISTED = "Which?\nA. one\nB. two"


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([row("x", 7), row("x", "8"), row("x", "$1,000")], "number"),
        ([row("2 + 2 = 4\n#### 4"), row("The answer is 5.")], "number"),
        ([row("def f(): ...", ["assert f() == 1"])], "code"),
        ([row("def f(): ...", {"tests": "assert f() == 1", "setup": ""})], "code"),
        ([row("A", None, LISTED), row("(B)", None, LISTED), row("two", None, LISTED)], "choice"),
        ([row("x", {"answer": 1, "options": ["a", "b"]})], "choice"),
        ([row("A"), row("B")], "exact"),
        ([row("PlayMusic"), row("card_arrival"), row("top up failed")], "exact"),
        ([row("It was 1969 when it happened")] * 5 + [row("Nobody knows what happened there")] * 4, "exact"),
        ([row("\u5317\u4eac")] * 2 + [row("\u4e0a\u6d77")], "exact"),
        ([row("It was 1969 when it happened"), row("Nobody knows what happened there")], None),
        (
            [
                row(
                    "\u4ed6\u4eec\u6628\u5929\u5728\u5317\u4eac\u7684\u516c\u56ed\u91cc\u770b\u89c1\u4e86\u4e00\u53ea\u5f88\u5927\u7684\u9e1f"
                ),
                row("x"),
            ],
            None,
        ),
        ([row("7")] * 9 + [row("seven")], "exact"),
        ([row("7")] * 19 + [row("seven")], "number"),
        ([], "exact"),
    ],
)
def test_guess(rows, name):
    judge, why = guess_judge(rows)
    assert (type(judge) is find_method("judges", name)) if name else judge is None, why
    assert why.startswith(f"judge {name}: " if name else "the references are free text")
    assert "\n" not in why


@pytest.mark.parametrize("name", sorted(REGISTRY["judges"]))
def test_every_judge_is_documented_and_total(name):
    kind = find_method("judges", name)
    assert issubclass(kind, Judge)
    assert kind.summary_line().rstrip(".").endswith("]")
    if name in ("lab", "reward_model"):  # tested with the laboratory, and with the objective that trains its model
        return
    assert all(field.description for field in kind.model_fields.values())
    judge = kind(function="x:y") if name == "python" else kind()
    assert judge.with_engine(lambda *a: {}) is not None
    if name not in ("llm", "python"):
        assert judge.find_reference_problem(None)
        for reference in (None, 7, "7", [], {}, {"tests": 3}, [[1]]):
            verdict = judge.judge(JudgeRequest([{"role": "user", "content": "?"}], "8", reference))
            assert not verdict.passed
            assert 0 <= verdict.score <= 1
            assert verdict.reason
        assert judge.judge_all([]) == []
