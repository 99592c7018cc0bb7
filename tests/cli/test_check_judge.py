"""`holdfast check --judge`: how the judge reads the user's own first rows."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.rows import Row
from holdfast.methods.judges.choice import Choice
from holdfast.methods.judges.code import Code
from holdfast.methods.judges.exact import Exact
from holdfast.methods.judges.llm import LLM
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.trial import try_judge

RECIPE = """model: lab-small
method: sft
data: {train: rows.jsonl, test: 0}
evaluate: {target: none, keep: []}
"""
ANSWERS = ["3+4 = 7\n#### 7", r"So \boxed{\frac12}.", r"The answer is $2\sqrt2$.", "The answer is 9."]


def row(answer, reference=None, question="?"):
    return Row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], reference=reference)


def test_the_verb_prints_and_reports_the_reading(place: Path):
    lines = [json.dumps({"prompt": f"Question {i}?", "completion": answer}) for i, answer in enumerate(ANSWERS)]
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    plain = "judge={name: number, math_verify: false}"
    shown = CliRunner().invoke(app, ["check", "run.yaml", plain, "--judge"])
    assert shown.exit_code == 0, shown.output
    assert (
        "judge number: 3 of 3 answers pass against their own reference, 0 of 3 against that of another" in shown.output
    )
    assert "no plain number in it (a root" in shown.output
    found = json.loads(
        CliRunner().invoke(app, ["check", "run.yaml", plain, "--judge", "--json"]).stdout.splitlines()[-1]
    )
    assert {key: found["judge"][key] for key in ("judge", "rows", "right", "wrong", "unreadable", "skipped")} == {
        "judge": "number", "rows": 3, "right": 3, "wrong": 0, "unreadable": 0, "skipped": 1,
    }  # fmt: skip
    unasked = CliRunner().invoke(app, ["check", "run.yaml", plain])
    assert "own reference" not in unasked.output


def test_free_text_has_no_judge_to_try(place: Path):
    texts = ["It was in the year when nobody came", "Because the sun had risen long before noon"]
    lines = [json.dumps({"prompt": f"Question {i}?", "completion": text}) for i, text in enumerate(texts)]
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shown = CliRunner().invoke(app, ["check", "run.yaml", "--judge"])
    assert shown.exit_code == 0, shown.output
    assert "judge none: not tried, the references are free text, for which no judge is named" in shown.output


def test_a_judge_that_is_too_strict_or_too_lax_shows():
    worked = try_judge(Exact(), [row(f"<think>{n}?</think>It is {n}.", str(n)) for n in range(5)])
    assert (worked["right"], worked["wrong"], worked["mistaken"]) == (0, 5, 0)
    lax = try_judge(Number(tolerance=10), [row(f"It is {n}.", str(n)) for n in range(5)])
    assert (lax["right"], lax["mistaken"], lax["compared"]) == (5, 5, 5)
    doubtful = try_judge(Choice(), [row("A or B", "A", "Which?\nA. one\nB. two")])
    assert (doubtful["unreadable"], doubtful["examples"][0]["outcome"]) == (1, "unreadable")


def test_programs_are_run_and_models_are_not_asked():
    tests = ["assert f(2) == 4"]
    tried = try_judge(
        Code(), [row("```python\ndef f(x):\n    return 2 * x\n```", tests), row("def f(x): return x", tests)]
    )
    assert (tried["right"], tried["wrong"], tried["compared"]) == (1, 1, 0)
    assert "asks a model" in try_judge(LLM(), [row("a")])["why"]
