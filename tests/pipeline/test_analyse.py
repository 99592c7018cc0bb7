"""`holdfast analyse`: sections of a finished run, several runs, a class of one's own; nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.testing.check import check_method

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 32}
train: {max_steps: 4, batch_tokens: 256, precision: fp32}
optimizer: {name: adamw, learning_rate: 1e-2}
evaluate: {keep: [lab:strings], items: 8, live_items: 0, every: 0, max_tokens: 6}
tuner: lora
"""
OWN = '''
from typing import ClassVar
from pydantic import Field
from holdfast.axes.analysis import Analysis, AnalysisSection, SectionFigure, Series, Table

class Lengths(Analysis):
    """How long the answers are. [ours 2026]"""
    paper: ClassVar[str] = "ours 2026"
    by: int = Field(1, description="Divided by this.")
    def measure(self, context):
        rows = tuple((t.name, len(t.tuned), len(t.rows_by_id)) for t in context.tasks)
        bars = Series("tuned", tuple((i, row[1] / self.by) for i, row in enumerate(rows)))
        labels = tuple(row[0] for row in rows)
        return AnalysisSection("Lengths", f"{len(rows)} tasks.", Table(("Task", "n", "rows"), rows),
                               (SectionFigure("task", "answers", (bars,), "bars", labels=labels),))

class Sides(Analysis):
    """Which runs there are. [ours 2026]"""
    paper: ClassVar[str] = "ours 2026"
    compares: ClassVar[bool] = True
    def measure(self, context):
        rows = tuple((run.name, run.group, run.seed, len(run.tasks)) for run in context.runs)
        return AnalysisSection("Sides", f"{len(rows)} runs.", Table(("Run", "Method", "Seed", "Tasks"), rows))

class Broken(Lengths):
    """Fails. [ours 2026]"""
    def measure(self, context):
        raise RuntimeError("halfway")
'''


def run(*arguments: str, code: int = 0):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("analyse")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HOLDFAST_CACHE", str(home / "cache"))
        Path("run.yaml").write_text(RECIPE)
        Path("looks.py").write_text(OWN)
        run("train", "run.yaml", "output=a")
        run("train", "run.yaml", "output=b", "train.seed=1")
        yield home


def test_the_sections_stand_in_report_page_and_files(home: Path) -> None:
    before = json.loads(Path("b/report.json").read_text())
    answered = run("analyse", "b", "lost_and_found", "{name: looks:Lengths, by: 2}", "layer_change", "--json")
    report = json.loads(Path("b/report.json").read_text())
    assert [s["name"] for s in report["analyses"]] == ["lost_and_found", "looks:Lengths", "layer_change"]
    assert {k: v for k, v in report.items() if k != "analyses"} == before, "nothing else of the report moves"
    page = Path("b/report.html").read_text()
    for section, file in zip(report["analyses"], ("lost_and_found", "Lengths", "layer_change"), strict=True):
        assert json.loads(Path(f"b/analyses/{file}.json").read_text()) == section
        assert section["sentence"].split(";")[0] in page
        assert f'id="analysis-{section["name"]}"' in page
    lengths = report["analyses"][1]
    assert lengths["table"]["rows"] == [[name, 8, 8] for name in ("sums", "held-out loss", "strings")]
    assert lengths["figures"][0]["series"][0]["points"][0][1] == 4.0
    assert json.loads(answered.stdout.strip().splitlines()[-1])["sections"][1] == lengths


def test_the_run_itself_and_the_verb_say_the_same_and_a_section_takes_its_place(home: Path) -> None:
    run("train", "run.yaml", "output=again", "analyses=[lost_and_found,layer_change]")
    by_train = json.loads(Path("again/report.json").read_text())["analyses"]
    run("analyse", "again", "lost_and_found")
    again = json.loads(Path("again/report.json").read_text())["analyses"]
    assert [s["name"] for s in again] == ["lost_and_found", "layer_change"]
    assert again[0] == by_train[0]
    run("report", "again")
    assert "Lost and found" in Path("again/report.html").read_text()


def test_several_runs_have_a_page_of_their_own(home: Path) -> None:
    before = Path("a/report.json").read_bytes()
    run("analyse", "a", "b", "looks:Sides", "--out", "both")
    content = json.loads(Path("both/analysis.json").read_text())
    assert content["analyses"][0]["table"]["rows"] == [["a", "sft", 0, 3], ["b", "sft", 1, 3]]
    assert "2 runs." in Path("both/report.html").read_text()
    assert Path("a/report.json").read_bytes() == before


def test_what_is_refused(home: Path) -> None:
    Path("open").mkdir(exist_ok=True)
    before = Path("b/report.json").read_bytes()
    for words, text in (
        (["b", "lost_and_fond"], "lost_and_found"),
        (["nowhere"], "nowhere: is neither the directory of a run nor an analysis"),
        (["lost_and_found"], "give the directory of a finished run"),
        (["open"], "open: is no finished run"),
        (["b", "looks:Sides"], "compares runs"),
        (["a", "b", "lost_and_found"], "looks at one run"),
        (["b", "{name: lost_and_found, exampels: 3}"], "exampels"),
        (["b", "lost_and_found", "--out", "c"], "--out"),
        (["a", "b", "looks:Sides", "--out", "b"], "is the directory of a run"),
    ):
        assert text in run("analyse", *words, code=2).stderr
    assert "holdfast analyse RUN RUN" in run("check", "run.yaml", "analyses=[looks:Sides]", code=2).stderr
    broken = CliRunner().invoke(app, ["analyse", "b", "looks:Broken"])
    assert broken.exit_code not in (0, 2)
    assert Path("b/report.json").read_bytes() == before, "what fails leaves the report as it was"


def test_a_class_of_ones_own_is_held_to_the_promises(home: Path) -> None:
    assert "check_section" in check_method("looks:Lengths")
