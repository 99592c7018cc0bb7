"""`holdfast train` and `check` without a recipe file: what the options become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.recipe.loader import read_recipe

ROWS = "".join(f'{{"asked": "{n} + 1 =", "reply": "{n + 1}"}}\n' for n in range(40))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sums.jsonl").write_text(ROWS, encoding="utf-8")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, (done.output, done.exception)
    return done


def test_options_are_the_recipe_of_the_run() -> None:
    words = ["--model", "lab-small", "--data", "sums.jsonl", "--method", "sft", "--map", "prompt=asked", "answer=reply"]
    small = [
        "train.max_steps=2",
        "train.seed=3",
        "evaluate.keep=[none]",
        "evaluate.items=4",
        "evaluate.max_tokens=4",
        "output=out",
    ]
    done = run("train", *words, *small)
    for line in ("  model: lab-small\n", "  method: sft\n", "    train: sums.jsonl\n", "      prompt: asked\n"):
        assert line in done.stderr
    recipe = read_recipe("out").recipe
    assert (recipe.model, recipe.method, recipe.evaluate.target) == ("lab-small", "sft", "test")
    assert recipe.data.columns == {"prompt": "asked", "answer": "reply"}
    assert (recipe.train.max_steps, recipe.train.seed) == (2, 3)


def test_what_cannot_be_is_one_line() -> None:
    both = ["--model", "lab-small", "--data", "sums.jsonl"]
    with_columns = [*both, "--map", "prompt=asked", "answer=reply"]
    Path("run.yaml").write_text("model: lab-small\ndata: {train: lab:story}\n", encoding="utf-8")
    for words, said in (
        ([], "no recipe; give a recipe file, or --model and --data"),
        (["train.seed=1"], "--model and --data missing; give"),
        (["--data", "sums.jsonl"], "--model missing; give"),
        (both, "sums.jsonl:1: no known format has the columns asked, reply"),
        ([*both, "--map", "asked"], "--map: asked is not ROLE=COLUMN, as in prompt=question"),
        ([*both, "--map", "asked", "reply"], "--map: asked is not ROLE=COLUMN, as in prompt=question"),
        ([*both, "--map", "promt=asked"], "--map: promt is not something that a column can be; did you mean prompt?"),
        ([*with_columns, "--method", "s3fd"], "s3fd"),
        ([*with_columns, "train.sed=1"], "command line: train.sed is not a setting"),
        (["run.yaml", "--model", "lab"], "--model: beside a recipe, settings stand without dashes, in dotted names:"),
    ):
        for verb in ("train", "check"):
            lines = [line for line in run(verb, *words, code=2).stderr.splitlines() if line.startswith("holdfast:")]
            assert len(lines) == 1, (words, lines)
            assert said in lines[0], (words, lines)
    assert not Path("runs").exists()


def test_a_pattern_of_texts_is_continued_pre_training() -> None:
    Path("notes").mkdir()
    for n in range(4):
        Path(f"notes/{n}.txt").write_text(f"Note {n} begins.\n\nIt ends here.\n", encoding="utf-8")
    words = ["check", "--model", "lab-small", "--data", "notes/*.txt", "data.test=0.25"]
    done = run(*words, "evaluate.keep=[none]")
    for line in (
        "plain text, all of which is trained on: method sft\n",
        "notes/*.txt: 4 files, each text one document",
    ):
        assert line in done.stderr
    assert "It ends here.<|end|>" in done.stdout
    assert "begins.<|end|>" not in done.stdout
    Path("notes/2.txt").write_bytes(b"")
    assert "notes/2.txt: the file is empty; leave it out, or write a text into it" in run(*words, code=2).stderr
    wrong = run("check", "--model", "lab-small", "--data", "lab:sums", "data.document=line", code=2).stderr
    assert "data.document: line is for text files (.txt), and lab:sums is none; leave it out" in wrong
