"""One description for every report: what is written fits it, what 0.1 wrote is read, sections reach page and card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from holdfast.errors import UserError
from holdfast.pipeline.damage import read_report
from holdfast.report.html import render_run
from holdfast.report.model_card import render_card
from holdfast.report.schema import VERSION, RunReport, TaskReport, complete_part, validate_report

OLD = Path(__file__).parent / "version01" / "report.json"
SECTION = {
    "name": "drift", "title": "Where the <weights> moved", "sentence": "Most in the last layer.",
    "table": {"columns": ["layer", "moved"], "rows": [["first", 0.25], ["last", None]]},
    "figure": {"x": "layer", "y": "per cent", "points": [[0, 1.0], [1, 2.5]]},
}  # fmt: skip


def test_a_report_of_version_01_is_read_as_it_is() -> None:
    found = read_report(OLD)
    assert found == json.loads(OLD.read_text(encoding="utf-8"))
    assert RunReport.model_validate(found).version == 1


def test_what_is_written_says_its_version_and_nothing_is_lost() -> None:
    content = {"name": "x", "tasks": [{"name": "sums", "base": 1, "won": 2, "new": [1]}], "more": {"a": None}}
    written = validate_report(RunReport, content)
    assert written == {"version": VERSION, **content}
    assert RunReport.model_validate(written).tasks[0].won == 2
    with pytest.raises(ValidationError):
        validate_report(RunReport, {"tasks": [{"name": "sums", "base": "many"}]})
    with pytest.raises(ValidationError):
        validate_report(RunReport, {"analyses": [{"sentence": "no title"}]})
    assert set(complete_part({"n": 3}, TaskReport)) == set(TaskReport.model_fields)


def test_a_report_that_is_none_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"tasks": [{"name": "sums", "n": "many"}]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"report\.json: tasks\.0\.n is not as this version of holdfast writes it"):
        read_report(tmp_path / "report.json")


def test_a_section_stands_on_the_page_and_in_the_card() -> None:
    report = validate_report(RunReport, {**read_report(OLD), "version": VERSION, "analyses": [SECTION]})
    page, card = render_run(report), render_card(report)
    assert "Where the &lt;weights&gt; moved" in page
    assert "Most in the last layer." in page
    assert "Where the \\<weights\\> moved" in card
    assert "Most in the last layer." in card
    assert "Most in the last layer." not in render_run({**report, "analyses": []})
