"""Files of a run that are torn, cut, emptied or gone: made again with the same result, or named in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.core import files
from holdfast.core.progress import Progress
from holdfast.errors import RunError
from holdfast.generation.journal import Journal
from holdfast.models.stored_values import PrecomputedStore, ReferenceCache
from holdfast.pipeline.train import train
from holdfast.recipe.loader import read_recipe

RECIPE = """\
model: lab-small
method: s3ft
data: {train: lab:sums, limit: 16}
train: {max_steps: 3, batch_tokens: 256, precision: fp32, save_every: 0.3, keep_checkpoints: 3}
sampling: {max_tokens: 8}
evaluate: {keep: [], items: 4, live_items: 2, every: 0.3, max_tokens: 8}
output: out
"""


class Killed(Exception):
    """Stands for a kill."""


class Ends(Progress):
    """A voice that does something when a step is done."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        super().__init__("silent")
        self.step, self.act = step, act

    def advance(self, n: int = 1, **shown: Any) -> None:
        super().advance(n, **shown)
        if self.name == "train" and self.done == self.step and "loss" in shown:
            self.act()


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run that was killed after two of three steps (`killed`), and the same finished (`whole`)."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOLDFAST_CACHE", str(place / "cache"))
        (place / "run.yaml").write_text(RECIPE, encoding="utf-8")
        with pytest.raises(Killed):
            train(read_recipe("run.yaml"), ui=Ends(3, kill))
        shutil.copytree("out", "killed")
        train(read_recipe("run.yaml"))
        os.rename("out", "whole")
    return place


@pytest.fixture
def place(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that, as the current directory."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def begin(kind: str) -> Path:
    """`out` as a copy of one of the runs."""
    shutil.rmtree("out", ignore_errors=True)
    return Path(shutil.copytree(kind, "out"))


def weights(directory: str) -> bytes:
    return Path(directory, "model", "model.safetensors").read_bytes()


def figures(directory: str) -> dict[str, Any]:
    report = json.loads(Path(directory, "report.json").read_text(encoding="utf-8"))
    return {key: report[key] for key in ("tasks", "gain", "curves", "curation", "training")}


def test_what_can_be_made_again_is(place: Path) -> None:
    out = begin("killed")
    samples = (out / "samples.jsonl").read_bytes()
    with (out / "log.jsonl").open("r+b") as log:  # its last line torn, as by a power cut
        log.truncate(log.seek(0, os.SEEK_END) - 5)
    for header in [*(place / "cache" / "eval").glob("*.json"), *out.glob("eval/*/*.json")]:
        header.write_text("" if "step" in str(header) else "{", encoding="utf-8")
    (out / "data.json").write_bytes(b"\0" * 40)
    text = (out / "curated.jsonl").read_bytes()
    (out / "curated.jsonl").write_bytes(text[: len(text) // 2])
    left = [out / ".run.json.999999999", out / "eval" / "base" / ".sums.json.6416", out / f".env.json.{os.getpid()}"]
    for path in left:
        path.write_text("{", encoding="utf-8")
    (out / ".model.999999999.partial").mkdir()
    run("train", "run.yaml")
    assert weights("out") == weights("whole")
    made, whole = figures("out"), figures("whole")
    lost = [n for n, entry in enumerate(whole["curves"]) if entry not in made["curves"]]
    assert len(lost) <= 1, "no more than the torn step is missing from the curves"
    assert {**made, "curves": 0} == {**whole, "curves": 0}
    assert not [p for p in out.rglob(".*") if files.SIDE.fullmatch(p.name)]
    drawn = [json.loads(line)["id"] for line in (out / "samples.jsonl").read_text().splitlines()]
    assert (out / "samples.jsonl").read_bytes().startswith(samples)
    assert len(drawn) == len(set(drawn)), "nothing is drawn twice"


def test_rows_that_somebody_changed_are_put_aside(place: Path) -> None:
    out = begin("killed")
    text = (out / "curated.jsonl").read_text(encoding="utf-8")
    (out / "curated.jsonl").write_text("".join(text.splitlines(keepends=True)[1:]), encoding="utf-8")
    assert "what was there is now out/curated.jsonl.old-1" in run("train", "run.yaml")
    assert weights("out") == weights("whole")
    assert (out / "curated.jsonl").read_text(encoding="utf-8") == text


def test_what_cannot_be_made_again_is_named(place: Path) -> None:
    def cut(name: str, size: int = 30) -> Callable[[Path], None]:
        return lambda out: os.truncate(out / name, size)

    def write(name: str, text: str) -> Callable[[Path], None]:
        return lambda out: (out / name).write_text(text, encoding="utf-8") and None

    def change(name: str, **parts: Any) -> Callable[[Path], None]:
        def act(out: Path) -> None:
            known = json.loads((out / name).read_text(encoding="utf-8"))
            (out / name).write_text(json.dumps({**known, **parts}), encoding="utf-8")

        return act

    state = "checkpoints/step-000002/state.json"
    for damage, words in (
        (cut(state), f"out/{state}: missing or damaged; remove out/checkpoints/step-000002"),
        (write(state, "{}"), f"out/{state}: missing or damaged"),
        (write(state, "[]"), f"out/{state}: missing or damaged"),
        (change(state, step=1), f"out/{state}: missing or damaged"),
        (change(state, files=[]), f"out/{state}: missing or damaged"),
        (cut("checkpoints/step-000002/optimizer.safetensors"), "optimizer.safetensors: missing or damaged"),
        (change("run.json", seconds=[]), "out/run.json: damaged"),
        (change("run.json", seconds={"train": "1"}), "out/run.json: damaged"),
        (change("run.json", created=None), "out/run.json: damaged"),
        (write("samples.jsonl", "\0\0\0\n"), "out/samples.jsonl:1: not a line of a sample journal"),
        (lambda out: os.symlink("/etc", out / "model"), "out/model: is a link"),
    ):
        damage(begin("killed"))
        lines = run("train", "run.yaml", code=2).splitlines()
        assert words in lines[-1]
        assert sum(line.startswith("holdfast:") for line in lines) == 1
    shutil.rmtree(begin("killed") / "checkpoints" / "step-000002")  # as the line says
    run("train", "run.yaml")
    assert weights("out") == weights("whole")


def test_a_finished_run_is_made_whole_again(place: Path) -> None:
    out = begin("whole")
    (out / "report.json").unlink()
    assert "holdfast train out" in run("report", "out", code=2)
    assert "out/report.json is missing; it is made again" in run("train", "run.yaml")
    assert figures("out") == figures("whole")
    assert "already finished" in run("train", "run.yaml")
    os.truncate(out / "model" / "model.safetensors", 5000)
    for words in (("eval", "out"), ("export", "out", "plain")):
        assert "out/model/model.safetensors" in run(*words, code=2).splitlines()[-1]
    assert "out/model/model.safetensors: has 5,000 of" in run("train", "out")
    assert weights("out") == weights("whole")
    (out / "report.json").write_text("[1", encoding="utf-8")
    assert "out/report.json: damaged" in run("report", "out", code=2)
    shutil.rmtree(out / "checkpoints")
    assert "no checkpoint is left to make it again from" in run("train", "run.yaml", code=2)
    shutil.copyfile("whole/report.json", out / "report.json")
    shutil.rmtree(out / "model")
    assert "already finished" in run("train", "run.yaml"), "models and checkpoints may be removed to make room"


def test_a_directory_that_is_removed_while_its_run_trains(place: Path) -> None:
    with pytest.raises(RunError, match="out: was removed while the run worked in it"):
        train(read_recipe("run.yaml"), ui=Ends(1, lambda: shutil.rmtree("out")))
    run("train", "run.yaml", "output=out2")
    assert weights("out2") == weights("whole")


def test_paths_that_no_system_takes(place: Path) -> None:
    for output in ("a" * 300, "b/" + "c" * 300 + "/d", "x" * 5000, "nul\0byte", "half\ud800"):
        lines = run("train", "run.yaml", f"output={json.dumps(output)}", code=2).splitlines()
        assert sum(line.startswith("holdfast:") for line in lines) == 1
        assert "Error" not in lines[-1]


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    target, foreign = tmp_path / "target", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine").write_text("mine", encoding="utf-8")
    target.symlink_to(foreign)
    with pytest.raises(FileNotFoundError), files.fresh_directory(target) as side:
        shutil.copyfile(tmp_path / "missing", side / "half")
    assert target.is_symlink()
    (tmp_path / ".target.999999999.partial").mkdir()
    with files.fresh_directory(target) as side:
        (side / "whole").write_text("whole", encoding="utf-8")
    assert not target.is_symlink()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["foreign", "mine", "target", "whole"]
    with files.fresh_directory(target, replace=False) as side:
        (side / "other").write_text("other", encoding="utf-8")
    assert [p.name for p in target.iterdir()] == ["whole"]
    for other in (os.getppid(), 999999999):
        (tmp_path / f".file.{other}").write_text("half", encoding="utf-8")
    files.replace_file(tmp_path / "file", "text")
    assert sorted(p.name for p in tmp_path.glob(".*")) == [f".file.{os.getppid()}"], "of a process that runs it stays"
    files.append_line(tmp_path / "log", {"a": 1})
    with (tmp_path / "log").open("ab") as handle:
        handle.write(b'{"torn')
    files.append_line(tmp_path / "log", {"b": 2})
    assert list(files.read_json_lines(tmp_path / "log")) == [{"a": 1}, {"b": 2}]


def test_a_journal_without_a_file_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal(None) as journal:
        journal.record_fact("verdict", 1, [True, 1.0, ""])
        assert journal.recall_fact("verdict", 1) == [True, 1.0, ""]
    assert not list(tmp_path.iterdir())


def test_what_is_kept_of_rows_and_of_the_untouched_model(tmp_path: Path) -> None:
    with files.fresh_directory(tmp_path / "rows") as side:
        (side / "a").write_text("aaa", encoding="utf-8")
        files.seal_directory(side)
    assert files.is_sealed(tmp_path / "rows")
    for damage in ("aab", "aa", ""):
        (tmp_path / "rows" / "a").write_text(damage, encoding="utf-8")
        assert not files.is_sealed(tmp_path / "rows")
    assert not files.is_sealed(tmp_path / "none")
    cache = ReferenceCache.in_directory(tmp_path, "model")
    cache.values = {(0, 0): torch.tensor([-1.0, -2.0]), (1, 0): torch.tensor([-3.0])}
    cache.save()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    assert {key: v.tolist() for key, v in ReferenceCache.in_directory(tmp_path, "model").values.items()} == {
        (0, 0): [-1.0, -2.0], (1, 0): [-3.0],
    }  # fmt: skip
    for damage in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\0" * 40):
        path.write_bytes(damage)
        assert not ReferenceCache.in_directory(tmp_path, "model").values, "computed again"
    kept = PrecomputedStore(tmp_path / "kept", "model")
    kept.tensors["half"] = torch.ones(3, dtype=torch.bfloat16)
    kept.save()
    assert PrecomputedStore(tmp_path / "kept", "model").is_loaded
    assert not PrecomputedStore(tmp_path / "kept", "other").is_loaded
