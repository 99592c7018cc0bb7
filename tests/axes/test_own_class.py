"""A class of the user's own, by `module:Class` or by an entry point, through the commands a user types."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holdfast.axes.registry import find_method, identity_of, name_of
from holdfast.cli.app import app

Run = Callable[..., Result]

RECIPE = """model: lab-small
data: {train: lab:story, limit: 8, test: 0.25}
train: {max_steps: 1, batch_tokens: 256}
optimizer: {name: adamw, learning_rate: 3e-3}
evaluate: {items: 2, live_items: 0, max_tokens: 4, every: 1.0}
"""
LOSS = '''from typing import ClassVar
from holdfast.axes.objective import Losses, Objective
from {module}_sign import SIGN

class Mine(Objective):
    """My loss. [me 2026]"""

    paper: ClassVar[str] = "me 2026"

    def normalizers(self, batch):
        return {{"nll": batch.weight}}

    def losses(self, policy, batch):
        return Losses({{"nll": SIGN * policy.weighted_nll(batch, batch.weights)}})
'''
TUNER = '''from holdfast.methods.tuners.lora import LoRA

class Narrow(LoRA):
    """My adapter. [me 2026]"""

    r: int = 2
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, two modules of the user's own, and a package that names one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "run.yaml").write_text(RECIPE)
    (tmp_path / "own_loss.py").write_text(LOSS.format(module="own_loss"))
    (tmp_path / "own_loss_sign.py").write_text("SIGN = 1\n")
    (tmp_path / "own_tuner.py").write_text(TUNER)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    """One command, in which modules are imported as a new process would import them."""
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def final_loss(folder: str) -> float:
    (task,) = (t for t in json.loads(Path(folder, "report.json").read_text())["tasks"] if t["kind"] == "held_out")
    return float(task["tuned"])


def test_an_edited_class_is_never_answered_with_numbers_of_before(project: Path) -> None:
    """The sign of the loss is in a module that the class's module imports: that is its source too."""
    command = ("train", "run.yaml", "objective=own_loss:Mine", "output=runs/mine")
    run(*command)
    assert "already finished" in run(*command).stderr
    (project / "unrelated.py").write_text("x = 1\n")
    assert "already finished" in run(*command).stderr
    (project / "own_loss_sign.py").write_text("SIGN = -1\n")
    line = run(*command, code=2).stderr
    assert "runs/mine: holds another run, a finished one: the source of own_loss:Mine has changed since; set" in line
    run(*command[:-1], "output=runs/{method}-2")
    assert final_loss("runs/Mine-2") > final_loss("runs/mine") + 1
    checked = run("compare", "run.yaml", "-m", "own_loss:Mine", "--out", "runs/cmp", "evaluate.items=1")
    assert "Mine" in checked.stdout
    (project / "own_loss_sign.py").write_text("SIGN = +1\n")
    line = run("compare", "run.yaml", "-m", "own_loss:Mine", "--out", "runs/cmp", "evaluate.items=1", code=2).stderr
    assert "whose run Mine-seed0 is a finished one: the source of own_loss:Mine has changed since" in line


def test_rows_of_an_edited_curator_are_curated_again(project: Path) -> None:
    """The run stops before its first step, so that its directory is free for the edited curator."""
    curator = (
        "from holdfast.axes.curator import Curator\n"
        "class Marked(Curator):\n    '''Marks every answer. [me 2026]'''\n"
        "    def curate(self, rows, bench):\n"
        "        return [row.with_answer('{mark}', 'model') for row in rows]\n"
    )
    stops = (
        "from holdfast.errors import UserError\nfrom own_loss import Mine\n"
        "class Stops(Mine):\n    '''Stops. [me 2026]'''\n"
        "    def losses(self, policy, batch):\n        raise UserError('stopped')\n"
    )
    (project / "own_stop.py").write_text(stops)
    command = ("train", "run.yaml", "objective=own_stop:Stops", "curate=own_rows:Marked", "output=runs/rows")
    for mark in ("first", "second"):
        (project / "own_rows.py").write_text(curator.format(mark=mark))
        said = run(*command, code=2).stderr
        assert "stopped" in said
        rows = [json.loads(line) for line in Path("runs/rows/curated.jsonl").read_text().splitlines()]
        assert {row["messages"][-1]["content"] for row in rows} == {mark}
    assert "takes the place of a run that had trained nothing yet: the source of own_rows:Marked has changed" in said


def test_the_source_of_a_class(project: Path) -> None:
    """Bases and imports of the same project belong to it; a class of the package has none."""
    run("list", "own_loss:Mine")
    first = identity_of(find_method("objectives", "own_loss:Mine")())
    assert (first[0], first[1]) == ("own_loss:Mine", {})
    run("list", "own_loss:Mine")
    assert identity_of(find_method("objectives", "own_loss:Mine")()) == first
    (project / "own_loss_sign.py").write_text("SIGN = 2\n")
    run("list", "own_loss:Mine")
    assert identity_of(find_method("objectives", "own_loss:Mine")())[2] != first[2]
    assert identity_of(find_method("objectives", "sft")()) == ["sft", {"reduction": "token"}, None]


def test_a_class_stands_wherever_a_name_stands(project: Path) -> None:
    assert "My loss." in run("show", "own_loss:Mine").stdout
    assert "In a recipe:  tuner: own_tuner:Narrow" in run("show", "own_tuner:Narrow").stdout
    assert run("list", "own_tuner:Narrow").stdout.startswith("tuners: ")
    methods = "sft,own_loss:Mine+own_tuner:Narrow"
    found = run("compare", "run.yaml", "-m", methods, "--out", "runs/cmp", "--json").stdout.splitlines()[-1]
    assert [entry["method"] for entry in json.loads(found)["runs"]] == ["sft", "Mine+Narrow"]
    report = json.loads(Path("runs/cmp/Mine+Narrow-seed0/report.json").read_text())
    assert (report["recipe"]["tuner"]["name"], report["recipe"]["tuner"]["r"]) == ("own_tuner:Narrow", 2)
    assert Path("runs/cmp/Mine+Narrow-seed0/model/adapter_config.json").exists()
    for arguments, line in (
        (("method=own_loss:Mien",), "own_loss has no Mien; did you mean Mine?"),
        (("method=own_nowhere:Mine",), "there is no module own_nowhere; is its folder on PYTHONPATH?"),
        (("method=own_loss:Mine+dpo",), "both own_loss:Mine and dpo are objectives; choose one"),
        (("tuner=own_loss:Mine",), "own_loss:Mine is not one of the tuners: it belongs to the objectives"),
        (("method=own_loss:Losses",), "own_loss:Losses is not a Method class"),
    ):
        assert line in run("train", "run.yaml", *arguments, code=2).stderr
    (project / "own_broken.py").write_text("import json\nx = json.nothing\n")
    line = run("show", "own_broken:Mine", code=2).stderr
    assert "importing own_broken failed: AttributeError" in line
    assert line.rstrip().endswith("own_broken.py:2)")
    assert line.count("\n") == 1


def test_a_package_names_its_methods(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip leaves it: a .dist-info beside the modules, on the path."""
    info = project / "own_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-methods\nVersion: 1.0\n")
    points = "[holdfast.methods]\nnarrow = own_tuner:Narrow\nlost = own_lost:Lost\nsft = own_loss:Mine\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(project)
    listed = run("list", "tuners").stdout
    assert "\nnarrow " in listed
    assert "lost: there is no module own_lost" in listed
    assert "In a recipe:  tuner: narrow" in run("show", "narrow").stdout
    assert "Supervised" in run("show", "sft").stdout, "a name of the package stays what it is"
    assert "did you mean narrow?" in run("show", "narow", code=2).stderr
    run("train", "run.yaml", "method=narrow", "output=runs/narrow")
    assert json.loads(Path("runs/narrow/report.json").read_text())["method"] == "narrow"
    assert name_of(find_method("tuners", "narrow")) == "narrow"
    (project / "own_tuner.py").write_text(TUNER.replace("r: int = 2", "r: int = 3"))
    line = run("train", "run.yaml", "method=narrow", "output=runs/narrow", code=2).stderr
    assert "the source of narrow has changed since" in line
