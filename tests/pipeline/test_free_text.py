"""Free text, labels and text through the command line: what is measured, and what is refused, as a user sees it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from holdfast.cli.app import app
from holdfast.pipeline.run_dir import RunDirectory
from holdfast.skills.rows import lab_rows

WORDS = ["the", "fox", "saw", "a", "lake", "and", "walked", "slowly", "around", "it", "because", "cold", "today"]
MODEL = "lab-small"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh directory with its own cache, a free-text file in alpaca's shape, a file of labels and a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    told = [{"instruction": f"Tell me of {w} {i}", "input": "", "output": f"{' '.join(WORDS[i % 5 :])} number {i}."}
            for i, w in enumerate(WORDS * 2)]  # fmt: skip
    asked = [{"instruction": f"Play song {i}" if i % 2 else f"Book table {i}", "output": "Music" if i % 2 else "Table"}
             for i in range(30)]  # fmt: skip
    for name, rows in (("free.jsonl", told), ("labels.jsonl", asked)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    known = [row.messages for row in lab_rows("lab:story", n=40)]  # what the model can say already
    (tmp_path / "known.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in known), encoding="utf-8")
    (tmp_path / "prose.txt").write_text("\n".join(m[-1]["content"] for m in known), encoding="utf-8")
    return tmp_path


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def recipe(data: str, **changes: Any) -> str:
    """Write a quick recipe on a file."""
    evaluate = {"keep": ["none"], "items": 8, "live_items": 0, "max_tokens": 8, **changes.pop("evaluate", {})}
    train = {"max_steps": 4, "batch_tokens": 512, "precision": "fp32", **changes.pop("train", {})}
    told = {"model": MODEL, "data": {"train": data, "test": 0.3}, "train": train, "evaluate": evaluate,
            "sampling": {"max_tokens": 8}, "output": "out", **changes}  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return "run.yaml"


def report_of(run: str = "out") -> dict[str, Any]:
    return json.loads((Path(run) / "report.json").read_text(encoding="utf-8"))


def test_the_target_of_free_text_is_the_loss_of_its_answers() -> None:
    result = cli("train", recipe("free.jsonl", optimizer={"name": "adamw", "learning_rate": 1e-3}))
    assert result.exit_code == 0, result.output
    said = "the target is the loss of the held-out answers, in bits per token; name a judge to score answers"
    assert result.output.count(said) == 1
    report = report_of()
    (task,) = report["tasks"]
    assert (task["kind"], task["role"], task["unit"], task["better"]) == (
        "held_out", "target", "bits per token", "lower",
    )  # fmt: skip
    assert task["tuned"] < task["base"]
    assert report["gain"]["delta"] == pytest.approx(task["base"] - task["tuned"])
    assert report["held_out"]["tuned"] == task["tuned"]
    assert "lowered the target's loss by" in result.output.replace("Lowered", "lowered")
    assert "points" not in result.output.split("95 % interval")[0]
    assert said in cli("check", "run.yaml").output
    judged = cli("train", "run.yaml", "judge=overlap", "output=judged")
    assert judged.exit_code == 0, judged.output
    found = {task["kind"]: task["role"] for task in report_of("judged")["tasks"]}
    assert found == {"generate": "target", "held_out": "watch"}
    assert report_of("judged")["held_out"]["base"] == pytest.approx(task["base"], rel=1e-6)


def test_a_method_that_needs_a_judge_refuses_to_guess_one() -> None:
    file = recipe("free.jsonl")
    for verb in ("check", "train"):
        for method in ("s3ft", "dpo+pairs") if verb == "check" else ("s3ft",):
            result = cli(verb, file, f"method={method}")
            assert result.exit_code == 2, result.output
            assert "judge: overlap" in result.output
            assert "{name: llm}" in result.output
    assert not Path("out").exists()
    assert cli("check", file, "method=s3ft", "judge=overlap").exit_code == 0
    assert cli("check", file, "method=lora").exit_code == 0
    compared = cli("compare", file, "-m", "sft,s3ft")
    assert compared.exit_code == 2, compared.output
    assert not list(Path("runs").glob("*/sft-*")), "it is refused before the first method has trained"


def test_labels_are_judged_exactly() -> None:
    result = cli("check", recipe("labels.jsonl"))
    assert result.exit_code == 0, result.output
    assert "judge exact: the references are labels or short answers" in result.output
    assert cli("check", "run.yaml", "method=s3ft").exit_code == 0


def test_eval_says_how_a_file_is_measured() -> None:
    free = cli("eval", MODEL, "free.jsonl", "--items", "4")
    assert free.exit_code == 0, free.output
    assert "free.jsonl: the references are free text and no judge is named" in free.output
    assert "bits per token" in free.output.splitlines()[-1]
    labels = cli("eval", MODEL, "labels.jsonl", "--items", "4", "--max-tokens", "4")
    assert "labels.jsonl: judge exact: the references are labels" in labels.output
    same = cli("eval", MODEL, "free.jsonl", "prose.txt", "--items", "4", "--against", MODEL, "--out", "same")
    assert same.exit_code == 0, same.output
    report = report_of("same")
    assert [(t["delta"], t["low"], t["high"], t["percent"]) for t in report["tasks"]] == [(0, None, None, 0)] * 2
    assert report["text"] == {"percent": 0.0, "low": None, "high": None, "worst": report["text"]["worst"]}


def test_a_catastrophe_of_text_is_refused() -> None:
    evaluate = {"keep": ["text:prose.txt"], "gate": {"max_loss": 3.5}}
    file = recipe("labels.jsonl", evaluate=evaluate, optimizer={"name": "adamw", "learning_rate": 0.3})
    for verb in ("check", "train"):
        result = cli(verb, file)
        assert result.exit_code == 2, result.output
        assert "max_loss is in points" in result.output
        assert "max_bits" in result.output
    result = cli("train", file, "evaluate.gate={max_bits: 5}")
    assert result.exit_code == 3, result.output
    text = report_of()["text"]
    assert text["percent"] > 5
    assert "% more bits" in report_of()["gate"]["reasons"][0]


def test_the_held_out_loss_is_the_training_loss_of_the_same_rows() -> None:
    Path("other.jsonl").write_text(Path("free.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    one_step = {"max_steps": 1, "batch_tokens": 100_000}
    file = recipe("free.jsonl", train=one_step, evaluate={"items": 100})
    refused = cli("train", file, "data.test=other.jsonl")
    assert "data.decontaminate: false trains on rows that are measured" in refused.output
    result = cli("train", file, "data.test=other.jsonl", "data.decontaminate=false")
    assert result.exit_code == 0, result.output
    (step,) = [json.loads(line) for line in Path("out/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert report_of()["held_out"]["base"] == pytest.approx(step["loss"] / math.log(2), rel=1e-4)


def test_the_held_out_loss_is_followed_through_training_and_its_best_step_kept() -> None:
    """The rows that are trained on spoil what the held-out ones ask: the best step is not the last."""
    train = {"max_steps": 8, "keep": "best", "save_every": 0.5}
    changes = {"evaluate": {"every": 0.25, "items": 12}, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    result = cli("train", recipe("free.jsonl", train=train, **changes), "data.test=known.jsonl")
    assert result.exit_code == 0, result.output
    report = report_of()
    curve = {point["step"]: point["held_out"] for point in report["curves"] if point["held_out"] is not None}
    assert list(curve) == [0, 2, 4, 6, 8]
    logged = [json.loads(line) for line in Path("out/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {e["step"]: e["held_out"] for e in logged if "held_out" in e} == {s: v for s, v in curve.items() if s}
    kept = report["training"]["kept_step"]
    assert curve[kept] == min(value for step, value in curve.items() if step)
    assert report["held_out"]["tuned"] == pytest.approx(curve[kept], rel=1e-6), "what is measured is what is kept"
    assert report["held_out"]["base"] == pytest.approx(curve[0], rel=1e-6)
    saved = cli("eval", "out", "--against", MODEL, "--out", "again")
    assert saved.exit_code == 0, saved.output
    assert report_of("again")["held_out"]["tuned"] == pytest.approx(curve[kept], rel=1e-4), "and what is saved"
    assert kept < 8
    assert f"step {kept} kept" in result.output
    assert f"step {kept} kept" in Path("out/report.html").read_text(encoding="utf-8")


def test_broken_off_and_repeated_the_same_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the disk fails at another line of the log, after which the same command goes on."""
    train = {"max_steps": 8, "keep": "best", "save_every": 0.5}
    changes = {"evaluate": {"every": 0.25, "items": 8}, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    file = recipe("free.jsonl", train=train, **changes)
    known = "data.test=known.jsonl"
    assert cli("train", file, known).exit_code == 0
    write = RunDirectory.append_log
    for step in (3, 6, 8):

        def fail(folder: RunDirectory, entry: dict[str, Any], at: int = step) -> None:
            if entry["step"] == at and "loss" in entry:
                raise OSError("no space left")
            write(folder, entry)

        monkeypatch.setattr(RunDirectory, "append_log", fail)
        assert cli("train", file, known, "output=broken").exit_code != 0
    monkeypatch.setattr(RunDirectory, "append_log", write)
    assert cli("train", file, known, "output=broken").exit_code == 0
    whole, broken = report_of(), report_of("broken")
    assert whole["training"]["kept_step"] < 8, "training spoils what the held-out rows ask"
    for part in ("tasks", "held_out", "curves", "training"):
        assert whole[part] == broken[part]
    weights = [next(Path(run, "model").glob("*.safetensors")).read_bytes() for run in ("out", "broken")]
    assert weights[0] == weights[1]


def test_choosing_a_step_needs_something_to_choose_by() -> None:
    file = recipe("free.jsonl", train={"keep": "best"})
    for settings in (["evaluate.every=0"], ["data.test=0", "evaluate.target=none"]):
        result = cli("check", file, *settings)
        assert result.exit_code == 2, result.output
        assert "train.keep: best" in result.output


def test_a_comparison_says_which_method_stopped_early() -> None:
    train = {"max_steps": 8, "patience": 1}
    changes = {"evaluate": {"every": 0.25}, "optimizer": {"name": "adamw", "learning_rate": 0.3}}
    result = cli("compare", recipe("free.jsonl", train=train, **changes), "-m", "sft", "--out", "cmp")
    assert result.exit_code == 0, result.output
    (run,) = json.loads(Path("cmp/compare.json").read_text(encoding="utf-8"))["runs"]
    assert run["stopped_early"]
    assert run["steps"][0] < 8
    assert f"steps of sft: {run['steps'][0]}" in result.output
