"""What a run keeps and prints: no key of a server, and nothing that a terminal obeys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app
from hostile_server import KEY, answering, completion, serving

RECIPE = """\
model: lab-small
method: rft
judge: exact
data: {train: rows.jsonl, test: rows.jsonl}
train: {max_steps: 1, batch_tokens: 64, precision: fp32}
sampling: {max_tokens: 8}
evaluate: {keep: [], items: 2, live_items: 1, max_tokens: 8}
output: out
"""
ROWS = [{"prompt": f"{i} + {i} =", "answer": str(2 * i)} for i in range(3)]
CONTROL = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f"

pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    assert not set(done.output) & set("\x1b\x07\x7f\x9b"), "the terminal is shown text, and told nothing"
    return done


def write_rows(place: Path, rows: list[dict[str, str]]) -> None:
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_key_stands_in_no_file_and_no_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_rows(place, ROWS)
    with serving() as server:
        server.chat = answering(completion(f"{KEY} is the key"))
        where = f"{server.url.replace('//', f'//me:{KEY}@')}/{KEY}/v1?api-key={KEY}"
        command = ("train", "run.yaml", f"sampling.engine={where}", "-v")
        monkeypatch.setattr("sys.argv", ["holdfast", *command])
        first = run(*command)
        assert server.seen[-1][0] == f"/{KEY}/v1/chat/completions?api-key={KEY}"
        asked = len(server.seen)
        again, other = run(*command), run("train", "out")
        run("report", "out")
        assert len(server.seen) == asked
    for done in (first, again, other):
        assert KEY not in done.output
    assert "already finished" in again.output
    files = [path for path in [*place.rglob("*")] if path.is_file()]
    assert {"README.md", "report.html", "report.json", "resolved.yaml", "samples.jsonl"} <= {p.name for p in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    shown = f"{server.url.replace('//', '//***@')}/***/v1?api-key=***"
    assert json.loads((place / "out" / "report.json").read_text())["recipe"]["sampling"]["engine"] == shown
    refused = run("train", "out", "output=out2", code=2)
    assert "sampling.engine: the key was left out of" in refused.stderr


def test_rows_names_and_errors_steer_no_terminal(place: Path) -> None:
    write_rows(place, [{"prompt": f"{CONTROL}{i}", "answer": f"a{CONTROL}"} for i in range(3)])
    checked = run("check", "run.yaml", "method=sft").output
    assert "\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}" in checked
    assert "\x9b" not in run("check", "run.yaml", "method=sft", "--json").output
    for line in run("check", "run.yaml", "method=sft", "--json").stdout.splitlines():
        json.loads(line)
    for arguments in (
        ("show", CONTROL), ("list", CONTROL), ("train", f"{CONTROL}.yaml"), ("eval", f"no{CONTROL}"),
        ("train", "run.yaml", f"method={CONTROL}"), ("train", "run.yaml", f"{CONTROL}=1"),
        ("train", "run.yaml", f"data.train={CONTROL}"), ("export", "out", CONTROL),
        ("train", "run.yaml", f"--{CONTROL}=1"),
    ):  # fmt: skip
        run(*arguments, code=2)
    name = place / f"q{CONTROL}.jsonl".replace("\x7f", "")
    (place / "rows.jsonl").rename(name)
    run("eval", "lab-small", str(name), "--judge", "exact", "--items", "1", "--max-tokens", "2")


def test_no_text_poses_as_a_line_of_its_own(place: Path) -> None:
    for key in ('"a\\nholdfast: all is well": 1', '? "a\\e[31m\\nholdfast: all is well"\n: 2'):
        (place / "bad.yaml").write_text(f"model: lab-small\n{key}\n", encoding="utf-8")
        lines = run("check", "bad.yaml", code=2).stderr.splitlines()
        assert not any(line.startswith("holdfast: all is well") for line in lines)
    assert len(run("check", "a\nholdfast: all is well", code=2).stderr.splitlines()) == 1
