"""Measuring shared out: what shards measure is joined into the report of one process, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.evaluation.tasks import probe
from holdfast.pipeline.evaluate import evaluate

PROSE = "The tide comes in twice a day.\n\nA weed that grips the rock stays.\n\nWhat is loose drifts away.\n"
CHOICES = [{"question": f"Which is {n}?", "choices": ["one", "two", "three", "four"], "answer": n - 1} for n in (1, 2)]


def settings_of(place: Path, **changes: Any) -> dict[str, Any]:
    """Tasks of every way of measuring: judged answers, the probe, text, and choices of fewer rows than shards."""
    tasks = ["lab:sums", "probe", f"text:{place / 'prose.txt'}", str(place / "choices.jsonl")]
    return {"against": "lab-small", "tasks": tasks, "items": 4, "max_tokens": 6, "out": place / "out", **changes}


def measure_whole_and_shards(place: Path) -> None:
    (place / "prose.txt").write_text(PROSE)
    (place / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES[:1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(place / "cache"))
        patch.setattr(probe, "APART", 1)  # so that each shard has an item more with noise than the whole has
        evaluate("lab", **settings_of(place, out=place / "whole"))
        for shard in ("1/2", "2/2"):
            evaluate("lab", **settings_of(place, shard=shard))


@pytest.fixture(scope="module")
def measured(make_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """What one process measures, and what three shards measure of it."""
    return make_once("evaluation-shards", measure_whole_and_shards)


@pytest.fixture
def shards(measured: Path, tmp_path: Path) -> Path:
    """A copy of all of it, to be changed."""
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    return tmp_path


def round_floats(value: Any) -> Any:
    """Plain data whose numbers differ by no more than batches of other shapes make them."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-4, abs=1e-4)
    if isinstance(value, dict):
        return {key: round_floats(each) for key, each in value.items()}
    return [round_floats(each) for each in value] if isinstance(value, list) else value


def test_shards_joined_are_the_whole(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "APART", 1)
    report = evaluate("lab", **settings_of(shards, join=True))
    whole = json.loads((shards / "whole/report.json").read_text())
    assert json.loads(json.dumps(report)) == round_floats(whole)
    for path in sorted((shards / "whole/eval").rglob("*.jsonl")):
        joined = shards / "out/eval" / path.relative_to(shards / "whole/eval")
        ours, theirs = ([json.loads(line) for line in each.read_text().splitlines()] for each in (joined, path))
        for item in (*ours, *theirs):
            item.pop("reason")  # holds log-likelihoods as text
        assert ours == round_floats(theirs), path.name
        keys = [json.loads(each.with_suffix(".json").read_text())["fingerprint"] for each in (joined, path)]
        assert keys[0] == keys[1], "the same command without shards finds it measured"
    assert (shards / "out/report.html").exists()


def test_what_shards_are_not_joined(shards: Path) -> None:
    place = shards / "out/eval-shards"

    def refuse(words: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=words):
            evaluate("lab", **settings_of(shards, join=True, **changes))

    refuse("1-of-2: is a shard of another measurement: items is 5 here and 4 there", items=5)
    refuse("1-of-2: .*: the weights of lab are others here", against="lab")
    refuse("1-of-2: .*: task choices is only there", tasks=["probe"])
    shutil.copytree(place / "2-of-2", place / "1-of-3")
    refuse(r"1-of-3/shard.json: is 2/2, and its directory is that of 1/3; remove the directory")
    mark = place / "1-of-3/shard.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "shard": "1/3"}))
    refuse("1-of-2 and .*1-of-3: measure the same questions; remove the shards of one number")
    shutil.rmtree(place / "1-of-3")
    items = place / "2-of-2/eval/tuned/sums.jsonl"
    items.write_bytes(items.read_bytes()[:-9])
    refuse("sums.jsonl: is missing or damaged; measure it again with --shard 2/2")
    mark = place / "2-of-2/shard.json"
    state = json.loads(mark.read_text())
    state["measurements"]["tuned"]["sums"] = "of bf16"
    mark.write_text(json.dumps(state))
    refuse("2-of-2: is a shard .*: sums was computed in another way than in .*1-of-2")
    with (shards / "prose.txt").open("a") as prose:
        prose.write("\nOne more.\n")
    refuse("1-of-2: .*: the questions of .*prose.* are others here")
    mark.unlink()
    refuse(r"eval-shards: 1 of 2 shards not there or not finished: 2; run holdfast eval .* --shard 2/2, then --join")
    shutil.rmtree(place)
    refuse("eval-shards: there are no shards; run holdfast eval MODEL --out")
    assert not (shards / "out/eval").exists(), "refused before anything is written"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "1/2"], "--out: the shards of a measurement meet beneath a directory"),
        (["--join"], "--out: the shards of a measurement meet beneath a directory"),
        (["--out", "x", "--shard", "3/2"], "--shard: 3/2: parts of 2 are numbered from 1/2"),
        (["--out", "x", "--shard", "1/2", "--join"], "--join: a shard only measures"),
        (["--out", "x", "--shard", "1/2", "--max-loss", "1"], "--max-loss: a shard only measures"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["eval", "lab-small", "lab:sums", *words])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_a_shard_says_what_it_measured(tmp_path: Path) -> None:
    words = ["eval", "lab-small", "lab:sums", "--items", "3", "--max-tokens", "4", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--shard", "2/2"])
    assert "shard 2/2: 1 items; when all are there, add --join" in done.output, done.output
    joined = CliRunner().invoke(app, [*words, "--join"])
    assert (joined.exit_code, "1 of 2 shards not there or not finished: 1" in joined.output) == (2, True), joined.output
