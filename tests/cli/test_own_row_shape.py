"""A row shape that an objective of one's own brings, through the commands a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.row_shapes import PAIR, SHAPES, shape_of
from holdfast.data.rows import Row

RECIPE = """\
model: lab-small
data: {train: train.jsonl, test: 0}
objective: {name: 'ranking_experiment:PRO'}
train: {max_steps: 2, batch_tokens: 512, precision: fp32}
evaluate: {keep: [lab:strings], target: none, items: 4, live_items: 0, every: 0, max_tokens: 16}
output: out
"""
ROWS = [{"question": f"What is {n} + 1?", "ranked": [str(n + 1), "It is so", "No"][: 2 + n % 2]} for n in range(8)]

pytestmark = pytest.mark.usefixtures("place")


def write(rows: list[dict]) -> None:
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def test_rankings_are_read_checked_and_trained():
    write(ROWS)
    shown = run("check", "run.yaml", "--json").stdout
    assert "It is so" in shown
    run("train", "run.yaml")
    losses = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert losses[1]["loss"] < losses[0]["loss"]
    assert Path("out/report.html").exists()


def test_what_is_of_another_shape_is_refused_by_check_and_train():
    write([*ROWS, {"question": "And?", "ranked": ["alone"]}])
    for verb in ("check", "train"):
        refused = run(verb, "run.yaml", code=2).stderr.splitlines()[-1]
        assert refused.startswith("holdfast: train.jsonl")
        assert "9 has no ranked answers; add a column ranked, a list with the best first" in refused
    assert not Path("out").exists()


def test_a_curator_that_writes_answers_does_not_write_rankings():
    write(ROWS)
    refused = run("check", "run.yaml", "curate=s3ft", code=2).stderr
    assert (
        "objective ranking_experiment:PRO trains on ranked answers, but curator s3ft writes single answers" in refused
    )


def test_names_and_shapes_are_one():
    assert shape_of("pair") is PAIR is shape_of(PAIR)
    assert all(shape.identity == name for name, shape in SHAPES.items())
    row = Row([{"role": "user", "content": "?"}], chosen="a", rejected="b")
    assert PAIR.count_sequences(row, "row 1") == 2
    from ranking_experiment import RankedShape

    assert RankedShape().identity.startswith("ranked ")
    assert len(RankedShape().identity) > 64  # with the hash of its source
