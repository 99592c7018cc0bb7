"""`holdfast compare` as a user types it: where it writes, what it refuses, and the gate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
evaluate: {keep: [lab:strings], items: 4, live_items: 0, every: 0, max_tokens: 16}
"""


pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def said(*arguments: str, code: int = 2) -> str:
    return run(*arguments, code=code).stderr.splitlines()[-1].removeprefix("holdfast: ")


def test_it_writes_where_the_recipe_or_the_command_line_says(place: Path) -> None:
    assert "report: runs/compare-sums/report.html" in run("compare", "run.yaml", "-m", "sft").stdout
    assert "report: mine/report.html" in run("compare", "run.yaml", "-m", "sft", "output=mine").stdout
    assert (place / "mine" / "sft-seed0" / "report.json").exists()
    both = run("compare", "run.yaml", "-m", "sft", "output=mine", "--out", "there")
    assert "report: there/report.html" in both.stdout
    named = run("compare", "run.yaml", "-m", "sft", "output=runs/{method}-{data}-{model}").stdout
    assert "report: runs/compare-sums-lab-small/report.html" in named
    for _ in range(2):  # finished, one with the time in its name is not found again: a repeated command begins another
        run("compare", "run.yaml", "-m", "sft", "output=timed/{data}-{time}")
    dated = sorted((place / "timed").iterdir())
    (dated[-1] / "compare.json").unlink()
    again = run("compare", "run.yaml", "-m", "sft", "output=timed/{data}-{time}")
    assert f"report: timed/{dated[-1].name}/report.html" in again.stdout
    assert "already finished" in again.stderr, "an unfinished one goes on"


def test_answers_without_an_end_and_clipped_steps_are_said_of_every_arm(place: Path) -> None:
    more = ["evaluate.max_tokens=1", "optimizer.max_grad_norm=1e-3"]
    found = run("compare", "run.yaml", "-m", "sft,dft", *more).stdout
    report = json.loads((place / "runs/compare-sums/compare.json").read_text(encoding="utf-8"))
    answers = sum(task["n"] for task in report["tasks"] if task["kind"] == "generate")
    page = (place / "runs/compare-sums/report.html").read_text(encoding="utf-8")
    for name, arm in [("base", report["base_answers"]), *((r["method"], r["answers"]) for r in report["runs"])]:
        assert 0 < arm["cut"] <= arm["answers"] == answers
        unreadable = f"{arm['unreadable']} unreadable for the judge, " if arm["unreadable"] else ""
        line = f"{name}: of {answers} answers {unreadable}{arm['cut']} cut at their longest"
        line += "" if name == "base" else "; gradient clipped in 100 % of the steps"
        assert f"{line}\n" in found
        assert f"<li>{line}</li>" in page


def test_what_trains_is_shown_where_methods_differ_in_it(place: Path) -> None:
    found = run("compare", "run.yaml", "-m", "lora,half", "evaluate.items=1").stdout
    runs = json.loads((place / "runs/compare-sums/compare.json").read_text(encoding="utf-8"))["runs"]
    page = (place / "runs/compare-sums/report.html").read_text(encoding="utf-8")
    assert len({one["trainable"] for one in runs}) == 2
    for one in runs:
        assert re.search(rf"{one['method']} +{one['trainable']:,} +{one['cost']['peak_memory_gib']:.2f} GiB\n", found)
        assert f"<td>{one['trainable']:,}</td>" in page


def test_a_recipe_that_measures_nothing_is_refused_before_anything_is_trained(place: Path) -> None:
    for keep in ("[]", "[none]"):
        words = ["compare", "run.yaml", "-m", "sft,dft", "evaluate.target=none", f"evaluate.keep={keep}"]
        assert "nothing is measured" in said(*words)
        assert "add evaluate.keep: [probe]" in said(*words)
    assert not (place / "runs").exists()


def test_rows_that_do_not_fit_a_method_are_refused_before_another_is_trained(place: Path) -> None:
    lines = [{"prompt": f"What is {k} + 1?", "chosen": str(k + 1), "rejected": "0"} for k in range(16)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    text = said("compare", "run.yaml", "-m", "dpo,uft", "data.train=pairs.jsonl", "data.limit=12", "judge=number")
    assert text.startswith("uft: pairs.jsonl has rejected answers without a score")
    assert not (place / "runs").exists()


def test_an_arm_takes_the_steps_it_sets_and_what_all_are_given_is_refused(place: Path) -> None:
    arms = place / "arms.yaml"
    arms.write_text("sft: [method=sft]\nlonger: [method=sft, train.max_steps=3]\n", encoding="utf-8")
    found = run("compare", "run.yaml", "--arms", "arms.yaml", "--out", "own").stdout
    assert "budget: 1 steps of 256 tokens; longer: 3 steps" in found
    report = json.loads((place / "own/compare.json").read_text(encoding="utf-8"))
    assert {entry["method"]: entry["steps"] for entry in report["runs"]} == {"sft": [1], "longer": [3]}
    run("compare", "run.yaml", "--arms", "arms.yaml", "--out", "two", "--steps", "2")
    report = json.loads((place / "two/compare.json").read_text(encoding="utf-8"))
    assert {entry["method"]: entry["steps"] for entry in report["runs"]} == {"sft": [2], "longer": [3]}
    for setting, instead in [
        ("train.epochs=2", "all of a comparison take as many steps, unless one sets train.max_steps"),
        ("train.seed=3", "--seeds says which seeds all of them have"),
        ("output=mine", "--out says where all of them go"),
    ]:
        arms.write_text(f"sft: [method=sft]\nother: [method=sft, {setting}]\n", encoding="utf-8")
        key = setting.partition("=")[0]
        line = said("compare", "run.yaml", "--arms", "arms.yaml", "--out", "none")
        assert line == f"other: {key} is not an arm's own; {instead}"
    assert not (place / "none").exists()


def test_beside_a_run_of_the_same_recipe(place: Path) -> None:
    run("train", "run.yaml", "output=mine")
    assert "report: mine-compare/report.html" in run("compare", "run.yaml", "-m", "sft", "output=mine").stdout
    assert said("compare", "run.yaml", "-m", "sft", "--out", "mine") == (
        "mine: holds a run; a comparison needs a directory of its own, set another --out"
    )
    assert said("train", "run.yaml", "output=mine-compare") == "mine-compare: holds a comparison; set another output"


def test_another_recipe_is_refused_by_what_differs_or_begins_anew(place: Path) -> None:
    run("compare", "run.yaml", "-m", "sft", "output=mine")
    assert "already finished" in run("compare", "run.yaml", "-m", "sft", "output=mine").stderr
    both = run("compare", "run.yaml", "-m", "sft,half", "output=mine").stdout
    assert "against sft, paired" in both
    assert "not to be judged here: sft: the target did not clearly move at learning rate 0.0003" in both
    (sft, half), page = json.loads((place / "mine/compare.json").read_text())["runs"], place / "mine/report.html"
    assert sft["versus"]["half"]["gain"]["delta"] == -half["versus"]["sft"]["gain"]["delta"]
    assert half["versus"]["sft"]["loss"]["reading"] == "cannot tell", "four questions"
    assert "Against sft, paired" in page.read_text(encoding="utf-8")
    end = "; set another output (or --out), or add --restart, which keeps the old ones as mine.old-1"
    assert said("compare", "run.yaml", "-m", "sft", "output=mine", "data.limit=12") == (
        "mine: holds another comparison, whose run sft-seed0 is a finished one: data.limit is 12 here and 16 there"
        + end
    )
    assert said("compare", "run.yaml", "-m", "lora", "output=mine", "data.limit=12") == (
        "mine: holds another comparison: data.limit is 12 here and 16 there" + end
    )
    anew = run("compare", "run.yaml", "-m", "sft", "output=mine", "data.limit=12", "--restart")
    assert "mine: begun anew; the comparison that was there is now mine.old-1" in anew.stderr
    assert (place / "mine.old-1" / "half-seed0" / "report.json").exists()
    assert json.loads((place / "mine" / "compare.json").read_text())["recipe"]["data"]["limit"] == 12
    (place / "file").write_text("x")
    assert said("compare", "run.yaml", "-m", "sft", "output=file").startswith("file: is a file, and a comparison needs")


def test_the_gate_is_held_against_every_method(place: Path) -> None:
    gate = "evaluate.gate.min_gain"
    none = run("compare", "run.yaml", "-m", "sft,half", f"{gate}=101", "output=none", code=3)
    assert none.stderr.splitlines()[-1] == "holdfast: the gate refused every method"
    assert "gate: refused sft, seed 0: " in none.stdout
    assert "gate: refused half, seed 0: " in none.stdout
    found = json.loads((place / "none" / "compare.json").read_text())
    assert [entry["gate"]["passed"] for entry in found["runs"]] == [False, False]
    assert "gate: passed by sft" in run("compare", "run.yaml", "-m", "sft", f"{gate}=-101", "output=all").stdout


def test_one_method_that_passes_is_enough() -> None:
    from holdfast.cli.render import format_gates, refuse_if_none_passed
    from holdfast.pipeline.compare import join_gates

    good, bad = ({"gate": {"passed": p, "reasons": [] if p else ["lost 9"]}} for p in (True, False))
    runs = [
        {"method": "sft", "gate": join_gates([0, 7], [good, bad])},
        {"method": "s3ft", "gate": join_gates([0, 7], [good, good])},
    ]
    assert format_gates({"runs": runs}) == ["gate: passed by s3ft", "gate: refused sft, seed 7: lost 9"]
    refuse_if_none_passed({"runs": runs})
    assert join_gates([0], [{"gate": None}]) is None
    refuse_if_none_passed({"runs": [{"method": "sft", "gate": None}]})


def test_the_demo_ends_with_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.lab import demo

    small = {"model": "lab-small", "data": {"train": "lab:story", "limit": 16}, "train": {"max_steps": 1},
             "evaluate": {"keep": ["lab:sums"], "items": 4, "live_items": 0, "max_tokens": 8}}  # fmt: skip
    monkeypatch.setattr(demo, "RECIPE", small)
    monkeypatch.setattr(demo, "METHODS", ("sft", "half"))
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"report: {tmp_path / 'demo' / 'report.html'}" in done.stdout


def test_methods_at_several_learning_rates_are_compared_at_equal_gain(place: Path) -> None:
    done = run("compare", "run.yaml", "-m", "sft,half", "--learning-rates", "1e-4,1e-3", "output=rates").stdout
    found = json.loads((place / "rates/compare.json").read_text())
    assert [r["method"] for r in found["runs"]] == ["sft at 0.0001", "sft at 0.001", "half at 0.0001", "half at 0.001"]
    assert [r["of"]["learning_rate"] for r in found["runs"]] == [1e-4, 1e-3] * 2
    assert [[r["rate"] for r in m["rates"]] for m in found["matched"]["methods"]] == [[1e-4, 1e-3]] * 2
    recipe = (place / "rates/half-at-0.001-seed0/resolved.yaml").read_text()
    assert "learning_rate: 0.001" in recipe
    assert "no gain that every method reaches" in done or "where all gain" in done
    assert "At equal gain" in (place / "rates/report.html").read_text(encoding="utf-8")
    assert said("compare", "run.yaml", "--learning-rates", "1e-4,fast") == (
        "--learning-rates must be numbers, such as 1e-5,3e-5, not 1e-4,fast"
    )
    assert said("compare", "run.yaml", "--learning-rates", "1e-4").startswith("--learning-rates: name at least two")
    assert "is no learning rate" in said("compare", "run.yaml", "--learning-rates", "1e-4,nan")
