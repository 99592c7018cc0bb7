"""Every judge against a table of labelled answers: what passes, what does not, and where it must not guess.

`answers/NAME.jsonl` holds an answer a line with its right `outcome` ("right", "wrong" or "unreadable"). Agreement is
stated exactly: `KNOWN` lists the answers on which a judge is known to say something else.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from holdfast.axes.judge import JudgeRequest
from holdfast.axes.registry import find_method
from holdfast.methods.judges.number import Number

ANSWERS = Path(__file__).parent / "answers"
QUESTION = "Which is a city?\nA. apple\nB. Paris\nC. New York\nD. York"
REFERENCES = {"choice": "B", "code": ["assert f(2) == 4"]}
KNOWN: dict[str, set[str]] = {}
"""Responses on which judge and label disagree, by judge."""
MATH_VERIFY = importlib.util.find_spec("math_verify") is not None


def table(name: str) -> list[dict]:
    return [json.loads(line) for line in (ANSWERS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def outcomes(name: str, cases: list[dict], **knobs) -> list[str]:
    """What the judge says of every case, those of one setting judged in one call."""
    found: dict[int, str] = {}
    settings = {json.dumps(case.get("knobs", {}), sort_keys=True) for case in cases}
    for setting in sorted(settings):
        mine = [i for i, case in enumerate(cases) if json.dumps(case.get("knobs", {}), sort_keys=True) == setting]
        judge = find_method("judges", name)(**{**json.loads(setting), **knobs})
        verdicts = judge.judge_all([answer(name, cases[i]) for i in mine])
        found |= {i: verdict.outcome for i, verdict in zip(mine, verdicts, strict=True)}
    return [found[i] for i in range(len(cases))]


def answer(name: str, case: dict) -> JudgeRequest:
    question = case.get("question", QUESTION if name == "choice" else "?")
    return JudgeRequest(
        [{"role": "user", "content": question}], case["response"], case.get("reference", REFERENCES.get(name))
    )


def disagreements(cases: list[dict], labels: list[str], said: list[str]) -> set[str]:
    return {case["response"] for case, label, got in zip(cases, labels, said, strict=True) if label != got}


@pytest.mark.parametrize("name", ["exact", "overlap", "choice", "number", "code"])
def test_the_judge_agrees_with_its_labelled_answers(name):
    cases = table(name)
    assert len(cases) >= 100
    knobs = {"math_verify": False} if name == "number" else {}
    said = outcomes(name, cases, **knobs)
    assert disagreements(cases, [case["outcome"] for case in cases], said) == KNOWN.get(name, set())


@pytest.mark.skipif(not MATH_VERIFY, reason="math-verify is not installed")
def test_number_agrees_with_the_labels_of_its_expressions_where_math_verify_is_installed():
    cases = [case for case in table("number") if "symbolic" in case]
    assert len(cases) > 30
    assert disagreements(cases, [case["symbolic"] for case in cases], outcomes("number", cases)) == set()


def test_overlap_scores_are_those_of_squads_script_and_of_rouge_score():
    for case in table("overlap"):
        judge = find_method("judges", "overlap")(**case["knobs"])
        assert judge.judge(answer("overlap", case)).score == pytest.approx(case["score"], abs=1e-8), case


def test_a_number_that_the_fallback_cannot_read_is_never_passed_on_its_digits():
    """Every pair of answers that are not equal, of the kinds that were once taken for their first digits."""
    kinds = [
        (r"\boxed{2\sqrt{5}}", r"\boxed{2\sqrt{3}}"), (r"\boxed{(3,9)}", r"\boxed{(3,4)}"),
        (r"\boxed{10:45}", r"\boxed{10:30}"), (r"\boxed{[0,5)}", r"\boxed{[0,6)}"), (r"\boxed{2\pi}", r"\boxed{2e}"),
        (r"\boxed{3x+1}", r"\boxed{3x+2}"), (r"\boxed{101_2}", r"\boxed{101_3}"),
        (r"\boxed{5 \pm 1}", r"\boxed{5 \pm 2}"),
        (r"\boxed{\{1,2\}}", r"\boxed{\{1,3\}}"), (r"\boxed{\log_2 3}", r"\boxed{\log_2 5}"),
    ]  # fmt: skip
    for one, other in kinds:
        first, second = (Number(math_verify=False).judge(JudgeRequest([], one, r)) for r in (one, other))
        assert first.outcome == "right", one
        assert second.outcome == "unreadable", (one, other)
