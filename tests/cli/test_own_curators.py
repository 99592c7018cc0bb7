"""Curators of one's own, each a class in a file, through the commands a user types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.axes.registry import REGISTRY
from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy
from holdfast.models.row_features import label_logps
from holdfast.recipe.shorthand import expand_method

RECIPE = """\
model: lab-small
data: {train: train.jsonl, test: 0}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
sampling: {max_tokens: 8}
evaluate: {keep: [lab:strings], target: none, items: 4, live_items: 0, every: 0, max_tokens: 16}
output: out
"""
ROWS = [{"question": f"What is {n} + 1?", "answer": "It is " + "well " * (n % 3 * 3) + str(n + 1)} for n in range(9)]


@pytest.fixture(autouse=True)
def files(place: Path) -> None:
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_length_filter_of_one_line_in_the_registry(monkeypatch):
    monkeypatch.setitem(REGISTRY["curators"], "length", "curator_experiments:Length")
    run("check", "run.yaml", "curate=length")
    said = run("train", "run.yaml", "curate={name: length, words: 6}").stderr
    assert "left out (longer than 6 words) 3" in said
    assert len(lines("out/curated.jsonl")) == 6
    assert {row["meta"]["trace"][0]["curator"] for row in lines("out/curated.jsonl")} == {"length"}
    drops = lines("out/dropped.jsonl")
    assert [(d["curator"], d["reason"]) for d in drops] == [("length", "longer than 6 words")] * 3
    assert [d["row"]["messages"][-1]["content"] for d in drops] == [row["answer"] for row in ROWS[2::3]]
    assert json.loads(Path("out/report.json").read_text())["curation"]["notes"] == {"left out (longer than 6 words)": 3}
    refused = run("train", "run.yaml", "curate={name: length, words: 1}", "output=none", code=2).stderr
    assert "the curators left no row to train on" in refused
    assert "none/dropped.jsonl" in refused
    assert len(lines("none/dropped.jsonl")) == 9


def test_a_writer_of_pairs_brings_its_objective():
    spin = "curator_experiments:SPIN"
    said = run("check", "run.yaml", f"curate={spin}", code=2).stderr
    assert f"objective sft trains on answers, but curator {spin} writes pairs" in said
    run("train", "run.yaml", f"curate={spin}", "objective=dpo")
    rows = lines("out/curated.jsonl")
    assert [row["chosen"] for row in rows] == [row["answer"] for row in ROWS]
    assert all(row["rejected"] != row["chosen"] for row in rows)


def test_models_are_asked_once_for_each_row_killed_or_repeated():
    name = "curate={name: 'curator_experiments:Surprise', share: %s}"
    run("curate", "run.yaml", name % 0.5)
    stayed = [row["messages"] for row in lines("out/curated.jsonl")]
    assert len(stayed) == 5
    files = {path: path.stat().st_mtime_ns for path in Path("out/cache").rglob("arrays.bin")}
    assert {path.parent.name for path in files} == {"logps", "gradients", "embeddings"}
    Path("out/curated.jsonl").unlink()  # as after a kill between asking and writing
    run("curate", "run.yaml", name % 0.5)
    assert {path: path.stat().st_mtime_ns for path in Path("out/cache").rglob("arrays.bin")} == files
    assert [row["messages"] for row in lines("out/curated.jsonl")] == stayed
    # What stayed is what the model finds least likely, by its own figures.
    loaded = load_model("lab-small", device="cpu")
    from holdfast.data.chat.encoder import Chat

    chat = Chat(loaded.tokenizer)
    talks = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}] for row in ROWS
    ]
    losses = [-v.mean() for v in label_logps(Policy(loaded.model), chat.encode_many(talks), chat.pad_id)]
    least = sorted(np.argsort(losses)[-5:])
    assert [one[-1]["content"] for one in stayed] == [ROWS[i]["answer"] for i in least]


@pytest.mark.parametrize("name", ["spin", "curator_experiments:SPIN"])
def test_by_method_a_writer_of_pairs_has_an_objective(name, monkeypatch):
    monkeypatch.setitem(REGISTRY["curators"], "spin", "curator_experiments:SPIN")
    assert expand_method(name) == {"curate": [name], "objective": ["dpo"]}
    assert expand_method(f"{name}+ipo") == {"curate": [name], "objective": ["ipo"]}
    with pytest.raises(UserError, match=r"both gold and s3ft choose the rows"):
        expand_method("gold+s3ft")
    run("check", "run.yaml", f"method={name}")
