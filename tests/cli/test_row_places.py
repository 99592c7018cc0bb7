"""Errors after curation name the user's file and line, whatever curators left out, made, mixed in or wrote down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.reading import readers
from holdfast.data.reading.formats import open_rows
from holdfast.data.row_store import RowFile
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.data.trace import record_decision

RECIPE = """\
model: lab-small
data: {train: rows.jsonl, test: 0}
method: s3ft
judge: number
sampling: {max_tokens: 24}
train: {max_steps: 2, batch_tokens: 512, max_length: 100, precision: fp32}
evaluate: {target: none, keep: []}
output: out
"""

MODULE = """\
from holdfast.axes.objective import Losses, Objective
class Breaks(Objective):
    "Breaks on a row of weight 7. [me 2026]"
    paper = "me 2026"
    def normalizers(self, batch):
        return {"nll": batch.weight}
    def losses(self, policy, batch):
        weights = batch.weights.masked_fill(batch.weights == 7, float("nan"))
        return Losses({"nll": policy.weighted_nll(batch, weights)})
"""

BROKEN_TEMPLATE = (
    "{%- for m in messages -%}{%- if 'Sorry' in m.content -%}{{ raise_exception('no apologies') }}{%- endif -%}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{%- endfor -%}"
)


def write_rows(path: Path, answers: dict[int, str] | None = None, weights: dict[int, float] | None = None) -> None:
    """Sums, one a line; line 3 is blank, and some lines have another answer or weight."""
    answers, weights = answers or {}, weights or {}
    lines = []
    for line in range(1, 15):
        answer = answers.get(line, f"{line} + 4 = {line + 4}")
        row = {"prompt": f"What is {line} + 4?", "response": answer, "reference": str(line + 4)}
        lines.append("" if line == 3 else json.dumps(row | ({"weight": weights[line]} if line in weights else {})))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_places_go_with_the_rows_through_curation_and_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))
    (place / "places_own.py").write_text(MODULE)
    long = "x " * 200
    write_rows(place / "rows.jsonl", {5: long, 8: "Guess."}, {9: 0.0, 12: 7.0})
    (place / "general.jsonl").write_text(json.dumps({"prompt": "Hello", "response": long}) + "\n")
    command = ["train", "run.yaml", "objective=places_own:Breaks", "data.replay={path: general.jsonl, share: 0.1}"]
    for attempt in ("curated", "read back"):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1, (attempt, result.output, result.exception)
        assert "the loss is not a finite number, in " in result.output
        assert "rows.jsonl:12 ('What is 12 + 4?'); nothing of this step" in result.output
        assert "weight 0 (" in result.output
        assert "rows.jsonl:9 'What is 9 + 4?')" in result.output
        assert "longer than max_length (rows.jsonl:5 'What is 5 + 4?', general.jsonl:1)" in result.output
    rows = list(RowFile(place / "out" / "curated.jsonl"))
    gold = {row.place for row in rows if row.origin == "gold"}
    made = [row for row in rows if row.origin in ("model", "paraphrase")]
    assert made
    for row in made:
        line = int(row.prompt[-1]["content"].split()[2])
        same = row.answer == f"{line} + 4 = {line + 4}"
        assert row.place == ("" if same else "a row made from ") + f"rows.jsonl:{line}"
    assert gold == {"rows.jsonl:5"}


def test_what_a_template_refuses_is_named_by_its_line(place: Path) -> None:
    (place / "broken.jinja").write_text(BROKEN_TEMPLATE)
    write_rows(place / "rows.jsonl", {6: "Sorry, 10."})
    result = CliRunner().invoke(app, ["check", "run.yaml", "data.chat_template=broken.jinja", "method=sft"])
    assert result.exit_code == 2, result.output
    assert "rows.jsonl:6: " in result.output
    assert "no apologies" in result.output


def test_a_place_is_no_part_of_a_row() -> None:
    row = Row([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], meta={"place": "Ulm", "n": 1})
    here = replace(row, place="rows.jsonl:7")
    assert (row, row.id, fingerprint_rows([row])) == (here, here.id, fingerprint_rows([here]))
    assert Row.from_json(json.loads(here.to_line())).place == "rows.jsonl:7"
    assert here.with_answer("c", "model").place == "a row made from rows.jsonl:7"
    assert here.with_answer("c", "model").with_answer("d", "model").place == "a row made from rows.jsonl:7"
    assert record_decision(here, "gold", here).place == "rows.jsonl:7"
    written = Row(here.prompt, chosen="x", rejected="y", origin="model")
    assert record_decision(written, "mine", here).place == "a row made from rows.jsonl:7"


def test_rows_on_disk_have_places_under_the_name_they_are_opened_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "renamed.jsonl"):
        write_rows(Path(name))
    in_memory = open_rows("rows.jsonl")
    monkeypatch.setattr(readers, "IN_MEMORY", 10)
    for name in ("rows.jsonl", "renamed.jsonl"):
        on_disk = open_rows(name, cache="cache")
        assert isinstance(on_disk, RowFile)
        assert [row.place for row in on_disk] == [f"{name}:{line}" for line in range(1, 15) if line != 3]
        assert on_disk[2].place == f"{name}:4"
        assert list(on_disk) == list(in_memory)
    assert len(list(Path("cache").glob("rows-*"))) == 1
    Path("with.jsonl").write_text("".join(row.to_line() for row in in_memory))
    Path("without.jsonl").write_text("".join(replace(row, place="").to_line() for row in in_memory))
    assert RowFile(Path("with.jsonl")).fingerprint == RowFile(Path("without.jsonl")).fingerprint
    (again, *_) = open_rows("with.jsonl")
    assert (again.place, again.meta) == ("with.jsonl:1", {})
