"""Answers that a judge cannot read: counted apart from wrong in items, reports, terminal and curation; never right."""

from __future__ import annotations

import pytest

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Sample, SamplingParams
from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.cli.render import describe_unreadable_answers, format_report
from holdfast.data.rows import Row
from holdfast.evaluation.subject import judge_without_engine, measurement_fingerprint
from holdfast.evaluation.summary import summarise_run
from holdfast.evaluation.task import ItemResult, Task
from holdfast.methods.curators.pairs import Pairs
from holdfast.methods.curators.rft import RFT
from holdfast.methods.curators.s3ft import S3FT
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.python import Python
from holdfast.report.html import render_run

JUDGE = Number(math_verify=False)
ROW = Row([{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "8"}])


def context_of(*responses):
    """A context whose model gives these answers, and the counters it was told."""
    notes: dict[str, int] = {}

    def draw(requests, params, on_sample=None):
        return {
            r.key: [Sample(r.key, i, responses[i % len(responses)], "stop", 3) for i in range(params.n)]
            for r in requests
        }

    def note(name, amount):
        notes[name] = notes.get(name, 0) + amount

    judge = lambda answers: judge_without_engine(JUDGE, answers)  # noqa: E731
    parts = {"sampling": SamplingParams(), "seed": 0, "load": None, "note": note, "drop": lambda row, reason: None}
    return CurationContext(curator="c", sample=draw, judge=judge, **parts), notes


def test_outcomes():
    assert Verdict(True, 1.0).outcome == "right"
    assert Verdict(False, 0.0).outcome == "wrong"
    assert Verdict(True, 1.0, failed=True).outcome == "unreadable"
    assert Verdict.as_unreadable("no number").outcome == "unreadable"
    assert Python(function="a:b").parse_result({"value": {"unreadable": True}, "type": "dict"}).outcome == "unreadable"


def test_curators_do_not_take_what_the_judge_cannot_read():
    bench, notes = context_of("(3, 9)", r"2\sqrt8")
    kept = RFT(k=2).curate([ROW], bench)
    assert [row.origin for row in kept] == ["gold"]
    assert (notes["accepted"], notes["unreadable"]) == (0, 2)
    bench, notes = context_of("(3, 8)")
    (row,) = S3FT(paraphrase=False).curate([ROW], bench)
    assert row.origin == "gold"
    assert notes["unreadable"] == 1


def test_pairs_do_not_reject_what_may_be_right():
    bench, notes = context_of("8", r"2\sqrt{16}x", "9", r"\sqrt{2}")
    (row,) = Pairs(n=4).curate([ROW], bench)
    assert (row.chosen, row.rejected) == ("8", "9")
    assert notes["unreadable"] == 2
    bench, notes = context_of("8", r"\sqrt{2}")
    assert Pairs(n=2).curate([ROW], bench) == []
    assert notes["too few answers"] == 1


def test_reports_count_them_apart():
    def item(number, passed, unreadable):
        return ItemResult(str(number), "?", "x", "8", float(passed), passed, True, 1, unreadable=unreadable)

    task = Task("sums", "generate", [], judge=JUDGE, role="target")
    base = [item(i, i < 1, i > 1) for i in range(5)]
    tuned = [item(i, i < 4, i > 3) for i in range(5)]
    report = summarise_run([task], {"sums": base}, {"sums": tuned})
    (row,) = report["tasks"]
    assert (row["unreadable_base"], row["unreadable_tuned"], row["base"]) == (3, 1, 20.0)
    line = "unreadable: sums: base 3, tuned 1 of 5 answers, which judge number counts as not right"
    assert line in format_report({**report, "gate": None}, None)
    page = render_run({**report, "gate": None})
    assert "Unreadable" in page
    assert "3 → 1" in page
    none = summarise_run([task], {"sums": [item(1, True, False)]}, {"sums": [item(1, False, False)]})
    assert "Unreadable" not in render_run({**none, "gate": None})
    assert describe_unreadable_answers(
        {"name": "t", "n": 9, "judge": "choice", "tuned": 1.0, "unreadable_tuned": 2}
    ) == ["unreadable: t: 2 of 9 answers, which judge choice counts as not right"]


def test_what_is_measured_depends_on_whether_math_verify_compares():
    class Chat:
        fingerprint = "c"

    class Subject:
        model, chat, extra, reference = "m", Chat(), {}, None

    task = [Task("sums", "generate", [ROW], judge=Number(math_verify=use)) for use in (False, None)]
    same = Number().identity["math_verify"] is None
    assert (measurement_fingerprint(task[0], Subject()) == measurement_fingerprint(task[1], Subject())) == same


@pytest.mark.parametrize("response", ["<think>8</think>9", "<think>It is 8"])
def test_no_judge_reads_the_thought(response):
    assert not JUDGE.judge(JudgeRequest([], response, "8")).passed
