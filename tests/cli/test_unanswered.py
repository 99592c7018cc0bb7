"""Prompts beyond the context and answers that were cut are said, before a run and in its results; no figure
counts the former."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: base
method: sft
data: {train: rows.jsonl, test: test.jsonl}
judge: number
train: {max_steps: 1, batch_tokens: 128}
evaluate: {keep: [], live_items: 0, every: 0, max_tokens: 3}
output: out
"""
UNFIT = "prompts that do not fit into the model's context: 1 of 3"
CUT = "answers cut at their longest (max_tokens): 2 of 2"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_prompts_that_do_not_fit_and_cut_answers_are_said(place: Path, tiny_dir) -> None:
    (place / "base").symlink_to(tiny_dir("gpt2", n_positions=64))
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"{i + 2}"} for i in range(8)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    test = [*({"prompt": f"Sort {i} and 3.", "completion": "3"} for i in range(2)),
            {"prompt": "Sort the letters. " * 30, "completion": "4"}]  # fmt: skip
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test), encoding="utf-8")
    for verb in ("check", "train"):
        said = run(verb, "run.yaml")
        assert "test: 1 of 3 prompts do not fit into the model's context of 64 tokens" in said
    assert f"test: {UNFIT}, 1 of 3 before; left out of all figures\n" in said
    assert f"test: {CUT}, 2 of 2 before" in said
    alone = run("eval", "out")
    assert f"test: {UNFIT}; left out of all figures\n" in alone
    assert f"test: {CUT}\n" in alone
    report = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))
    (task,) = [task for task in report["tasks"] if task["name"] == "test"]
    assert task["unanswered"] == {when: {"unfit": 1, "cut": 2} for when in ("base", "tuned")}
    assert (task["n"], task["left_out"]) == (2, 1)
    for page in ("report.html", "README.md"):
        text = (place / "out" / page).read_text(encoding="utf-8").replace("&#39;", "'")
        assert UNFIT in text, page
    items = [
        json.loads(line) for line in (place / "out/eval/final/test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    (unfit,) = [item for item in items if item.get("extra", {}).get("unfit")]
    assert unfit["reason"] == "the prompt does not fit into the model's context"
    # Not a word that this model can be asked: refused before anything is trained, and by eval.
    (place / "test.jsonl").write_text(json.dumps(test[-1]) + "\n", encoding="utf-8")
    for words in (["check", "run.yaml"], ["train", "run.yaml", "output=other"], ["eval", "base", "test.jsonl"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2, done.output
        assert "none of its 1 prompts fits into the model's context" in done.stderr
    assert not (place / "other" / "model").exists()
