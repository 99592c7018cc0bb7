"""Curators that choose by the model, through the commands a user types: what they refuse, keep and do not do twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: lab-small
data: {train: train.jsonl, test: 0}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
evaluate: {keep: [lab:strings], target: none, items: 4, live_items: 0, every: 0, max_tokens: 16}
output: out
"""
ROWS = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}" if n % 3 else "Blue."} for n in range(12)]
TARGET = [{"question": f"What is {n} + 2?", "answer": f"It is {n + 2}"} for n in range(3)]


def write_rows(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def files(place: Path) -> None:
    write_rows("train.jsonl", ROWS)
    write_rows("target.jsonl", TARGET)


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def stamps() -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for path in Path("out/cache").rglob("*")
        if path.suffix in (".bin", ".safetensors")
    }


def test_what_cannot_be_chosen_is_refused_in_one_line_by_check(tiny_dir):
    other = tiny_dir()
    write_rows("overlap.jsonl", [*TARGET, ROWS[3]])
    for curator, text in {
        "{name: delift, n: 13}": "curator delift: n is 13, but there are 12 rows to choose from",
        "{name: lima, n: 1, min_characters: 0, encoder: no/where}": "curator lima: no/where: no such folder",
        "{name: ifd, model: nowhere}": "nowhere",
        "{name: generate, engine: 'http://127.0.0.1:9/v1'}": "http://127.0.0.1:9/v1 cannot be reached",
        "{name: less, target: overlap.jsonl}": "1 of the questions of target overlap.jsonl stand among the training",
        "{name: delift, stage: task, target: overlap.jsonl}": "curator delift: 1 of the questions of target",
        f"{{name: davir, reference: '{other}'}}": f"curator davir: {other} has another tokenizer than the base",
        "{name: less, target: none.jsonl}": "none.jsonl",
        "[dedup, {name: delift, n: 6}, {name: less, target: none.jsonl}]": "none.jsonl",
        "less": "target",
        "{name: memory_levels}": "curator memory_levels: n is 60, but there are 12 rows",
        "{name: lima, n: 9}": "curator lima: of 12 rows 0 pass its filters, fewer than n = 9 (12 shorter than 1,200",
    }.items():
        refused = run("check", "run.yaml", f"curate={curator}", code=2).stderr.strip()
        assert text in refused.splitlines()[-1], refused
        for verb in ("curate", "train"):
            again = run(verb, "run.yaml", f"curate={curator}", code=2).stderr.strip()
            assert again.splitlines()[-1] == refused.splitlines()[-1]
    assert not list(Path().glob("out/*.jsonl"))
    # Answers that a curator before it brings are not missed.
    write_rows("train.jsonl", [{"question": row["question"], "reference": row["answer"]} for row in ROWS])
    run("check", "run.yaml", "curate=[ssr, {name: delift, n: 3}]", "judge=exact")
    assert "has no answer" in run("check", "run.yaml", "curate={name: delift, n: 3}", code=2).stderr


def test_rows_are_chosen_once_killed_or_repeated():
    chain = "curate=[{name: davir, n: 9}, {name: less, target: target.jsonl, n: 6, projection: 64, warmup: 0.3}, "
    chain += (
        "{name: ifd, n: 4, experience: 0}, {name: delift, n: 3}, {name: lima, n: 2, min_characters: 0, clusters: 2}]"
    )
    run("curate", "run.yaml", chain)
    rows, made = lines("out/curated.jsonl"), stamps()
    assert len(rows) == 2
    assert [entry["curator"] for entry in rows[0]["meta"]["trace"]] == ["davir", "less", "ifd", "delift", "lima"]
    assert len(lines("out/dropped.jsonl")) == 10
    kinds = {path.relative_to("out/cache").parts[0] for path in made}
    assert kinds == {"logps", "gradients", "embeddings", "in_context", "references"}
    assert len(list(Path("out/cache/references").iterdir())) == 2
    Path("out/curated.jsonl").unlink()  # as after a kill between choosing and writing
    run("curate", "run.yaml", chain)
    assert stamps() == made
    assert lines("out/curated.jsonl") == rows
    # A reference whose training was killed is trained again, everything else is as it was.
    shutil.rmtree(sorted(Path("out/cache/references").iterdir())[0] / "model")
    Path("out/curated.jsonl").unlink()
    run("curate", "run.yaml", chain)
    assert lines("out/curated.jsonl") == rows
    # A row of the target is another: it is chosen anew.
    write_rows("target.jsonl", [*TARGET, {"question": "What is 7 + 2?", "answer": "It is 9"}])
    assert "used again" not in run("curate", "run.yaml", chain).stderr
    report = run("train", "run.yaml", chain, "output=out").stderr
    assert "its 2 rows are used again" in report
