"""`holdfast init`: flags, what it finds in a file, and what it asks on a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import holdfast as package
from holdfast.axes.registry import name_of
from holdfast.cli.app import app
from holdfast.recipe.loader import read_recipe

FILES = {
    "number": '{"question": "2+2", "answer": "4"}\n{"question": "2+3", "answer": "5"}\n',
    "label": '{"text_a": "I am glad", "kind": "joy"}\n{"text_a": "I am sad", "kind": "grief"}\n',
    "free": '{"instruction": "Greet", "output": "' + "Hello there, my friend, " * 9 + 'sit down."}\n'
    '{"instruction": "Part", "output": "' + "Good bye then, my friend, " * 9 + 'take care."}\n',
    "pairs": '{"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}\n' * 2,
    "marked": '{"prompt": "Hi", "completion": "Hello!", "label": true}\n{"prompt": "Hi", "completion": "No.", "label": '
    "false}\n",
    "text": '{"text": "Once upon a time."}\n{"text": "There was a fox."}\n',
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["init", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.mark.parametrize(
    ("name", "method", "judge", "line"),
    [
        ("number", "s3ft", "number", "judge number: the references are numbers (2 of 2 looked at)"),
        (
            "free",
            "sft",
            None,
            "the references are free text and no judge is named: measured is the loss of the held-out",
        ),
        ("pairs", "dpo", None, "pairs of a better and a worse answer: method dpo"),
        ("marked", "kto", None, "answers marked as good or bad: method kto"),
        ("text", "sft", None, "plain text, all of which is trained on: method sft"),
    ],
)
def test_the_recipe_fits_the_file(name: str, method: str, judge: str | None, line: str) -> None:
    done = run("r.yaml", "--data", f"{name}.jsonl", "--model", "lab-small")
    assert line in done.stderr
    assert done.stdout.startswith("r.yaml written; ")
    assert done.stdout.endswith("; next: holdfast check r.yaml\n")
    recipe = read_recipe("r.yaml").recipe
    assert (recipe.model, recipe.method) == ("lab-small", method)
    assert (recipe.judge and name_of(recipe.judge)) == judge
    assert {"target", "keep"} <= recipe.evaluate.model_fields_set


def test_columns_are_given_and_said() -> None:
    said = run("--data", "label.jsonl", code=2).stderr
    assert "label.jsonl:1: no known format has the columns kind, text_a" in said
    assert said.endswith("; on the command line: --map prompt=text_a answer=kind\n")
    assert not Path("run.yaml").exists()
    done = run("--data", "label.jsonl", "--map", "prompt=text_a", "answer=kind", "--judge", "overlap")
    assert "label.jsonl: text_a -> prompt, kind -> answer" in done.stderr
    recipe = read_recipe("run.yaml").recipe
    assert recipe.data.columns == {"prompt": "text_a", "answer": "kind"}
    assert recipe.judge is not None
    assert name_of(recipe.judge) == "overlap"


def test_what_cannot_be() -> None:
    for arguments, said in (
        (["a.yaml", "b.yaml"], "one recipe at a time, not a.yaml and b.yaml"),
        (["--columns", "promt=x"], "--map: promt is not something that a column can be; did you mean prompt?"),
        (["--judge", "exakt"], "exakt is not one of the judges; did you mean exact?"),
    ):
        assert said in run(*arguments, code=2).stderr
    assert "not_here.csv: not here, so not looked at; `holdfast check` will" in run("--data", "not_here.csv").stderr
    near = run("near.yaml", "--data", "lable.jsonl").stderr
    assert "lable.jsonl: not here, so not looked at; did you mean label.jsonl?" in near


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_it_asks(place: Path) -> None:
    import pty

    where = str(Path(package.__file__).parents[1])
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"PYTHONPATH": where, "TERM": "dumb"}
        os.execv(sys.executable, [sys.executable, "-m", "holdfast", "init", "asked.yaml"])
    said = ""
    for question, answer in (
        ("Model: ", "lab-small"), ("Training rows: ", "label.jsonl"), ("Which one is the prompt ", ""),
        ("Which one the answer ", ""), ("Judge of the answers [exact]", ""),
    ):  # fmt: skip
        while question not in said:
            said += os.read(terminal, 4096).decode()
        os.write(terminal, f"{answer}\n".encode())
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    recipe = read_recipe("asked.yaml").recipe
    assert (recipe.model, recipe.data.train) == ("lab-small", "label.jsonl")
    assert recipe.data.columns == {"prompt": "text_a", "answer": "kind"}


def test_a_long_path_does_not_run_into_its_comment(place: Path) -> None:
    for length in range(30, 50):
        model = "m" * length
        run("long.yaml", "--model", model, "--data", "label.jsonl", "--columns", "prompt=text_a", "--columns",
            "answer=kind", "--force")  # fmt: skip
        assert read_recipe(place / "long.yaml").recipe.model == model
