# ruff: noqa: E501 (messages stand as they are)
"""`data.columns` as a user gives it: through `holdfast check` and the rows that come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.reading.formats import open_rows
from holdfast.errors import UserError


def jsonl(path: str, records: list[Any]) -> None:
    Path(path).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(data: str, file: str = "run.yaml", **more: str) -> None:
    """A recipe of the laboratory's small model with the data given in YAML."""
    lines = {"model": "lab-small", "data": data, "train": "{max_steps: 1, batch_tokens: 256, max_length: 256}"}
    lines |= {"evaluate": "{target: none, keep: []}", "output": "out"} | more
    Path(file).write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))


def check(*settings: str, code: int = 0) -> str:
    """What `holdfast check run.yaml SETTINGS` says on standard output or, where it refuses, on standard error."""
    done = CliRunner().invoke(app, ["check", "run.yaml", *settings])
    assert done.exit_code == code, done.output
    return done.output if code == 0 else done.stderr


def turns(row: Any) -> list[str]:
    return [message["content"] for message in row.messages]


# ---- what a mapping makes of a record -----------------------------------------------------------------------------

RECORD = {
    "id": 7,
    "passage": "Lyon lies on the Rhone.",
    "question": "Where is Lyon?",
    "label": "On the Rhone",
    "tests": ["assert f(1)", "assert f(2)"],
    "n": 3,
    "facts": {"river": "Rhône"},
    "instances": [{"input": "", "output": "deep"}],
    "output": "not this one",
    "input": "nor this",
}


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"prompt": "question", "answer": "label"}, ["Where is Lyon?", "On the Rhone"]),
        (
            {"prompt": "question", "answer": "label", "context": "passage"},
            ["Where is Lyon?\nLyon lies on the Rhone.", "On the Rhone"],
        ),
        (
            {"prompt": "{passage}\n\nQuestion: {question}", "answer": "label"},
            ["Lyon lies on the Rhone.\n\nQuestion: Where is Lyon?", "On the Rhone"],
        ),
        (
            {"prompt": "{question}\n{tests}", "answer": "label"},
            ["Where is Lyon?\nassert f(1)\nassert f(2)", "On the Rhone"],
        ),
        ({"prompt": "{{{question}}}", "answer": "{n}"}, ["{Where is Lyon?}", "3"]),
        ({"prompt": "question", "answer": "n"}, ["Where is Lyon?", "3"]),
        ({"prompt": "question", "answer": "facts"}, ["Where is Lyon?", '{"river": "Rhône"}']),
        ({"prompt": "question", "answer": "facts.river"}, ["Where is Lyon?", "Rhône"]),
        ({"prompt": "question", "answer": "instances.0.output"}, ["Where is Lyon?", "deep"]),
        (
            {"prompt": "question", "answer": "label", "system": "passage"},
            [RECORD["passage"], "Where is Lyon?", "On the Rhone"],
        ),
        ({"text": "{passage} {question}"}, ["Lyon lies on the Rhone. Where is Lyon?"]),
    ],
)
def test_columns_become_messages(columns: dict[str, str], texts: list[str]) -> None:
    jsonl("train.jsonl", [RECORD])
    (row,) = open_rows("train.jsonl", mapping=columns)
    assert turns(row) == texts
    assert row.meta["id"] == 7, "what has no role is kept"


def test_other_roles() -> None:
    jsonl(
        "train.jsonl",
        [{**RECORD, "good": "Yes", "bad": "No", "ok": True, "w": 0.5, "sure": 0.9, "letters": ["x", "y"]}],
    )

    def row(**columns: str) -> Any:
        return open_rows("train.jsonl", mapping={"prompt": "question", **columns})[0]

    assert row(answer="label", reference="tests").reference == ["assert f(1)", "assert f(2)"]
    assert turns(row(reference="tests")) == ["Where is Lyon?"]
    pair = row(chosen="good", rejected="bad", answer="label")
    assert (pair.chosen, pair.rejected, pair.answer) == ("Yes", "No", "On the Rhone")
    assert row(answer="good", label="ok", score="sure").label is True
    weighed = row(answer="good", score="sure", weight="w")
    assert (weighed.score, weighed.weight, weighed.label) == (0.9, 0.5, None)
    jsonl("choice.jsonl", [{"stem": "Which?", "letters": ["x", "y"], "key": "B"}])
    (choice,) = open_rows("choice.jsonl", mapping={"prompt": "stem", "choices": "letters", "answer": "key"})
    assert (turns(choice), choice.meta["right"]) == (["Which?\nA. x\nB. y", "y"], 1)


def test_records_that_are_lists_are_mapped_by_place() -> None:
    Path("rows.json").write_text(json.dumps([["Set an alarm", "alarm"], ["Play jazz", "music"]]))
    jsonl("rows.jsonl", [["Set an alarm", "alarm"], ["Play jazz", "music"]])
    for name in ("rows.json", "rows.jsonl"):
        rows = open_rows(name, mapping={"prompt": 0, "answer": 1})
        assert [turns(row) for row in rows] == [["Set an alarm", "alarm"], ["Play jazz", "music"]]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"prompt": "qestion", "answer": "label"}, "t.jsonl:1: there is no column qestion, which data.columns has for prompt; did you mean question?; there are "),
        ({"prompt": "{passage} {quest}", "answer": "label"}, "t.jsonl:1: there is no column quest, which data.columns has for prompt"),
        ({"prompt": "question", "answer": "label.x"}, "t.jsonl:1: there is no column label.x, which data.columns has for answer"),
        ({"prompt": "question", "answer": "empty"}, "t.jsonl:1: column empty (answer) is empty; remove the row or fill it in"),
        ({"prompt": "{question} {empty}", "answer": "label"}, "t.jsonl:1: column empty is empty; remove the row or fill it in"),
        ({"prompt": "question", "answer": "tests"}, "t.jsonl:1: column tests (answer) is a list of 2 texts, not one; several answers need scores; "),
        ({"prompt": "question", "answer": "label", "score": "passage"}, "t.jsonl:1: column passage (score) is not a number ("),
        ({"prompt": "question", "answer": "n", "label": "label"}, "t.jsonl:1: column label (label) ('On the Rhone') is not true or false; "),
        ({"prompt": "question", "context": "passage"}, "t.jsonl: data.columns gives prompt, context, which makes no row; add an answer (or a reference"),
        ({"text": "passage", "system": "question"}, "t.jsonl:1: data.columns gives system, which has no use beside text; leave it out"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_the_file(columns: dict[str, str], error: str) -> None:
    jsonl("t.jsonl", [{**RECORD, "empty": None}])
    with pytest.raises(UserError) as refused:
        open_rows("t.jsonl", mapping=columns)
    assert str(refused.value).startswith(error)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ("{promt: q, answer: a}", "data.columns: promt is not something that a column can be; did you mean prompt?"),
        ("{answer: a}", "data.columns must say which column is the prompt (or messages, text, chosen); given: answer"),
        ("{prompt: '{q', answer: a}", "data.columns: '{q' is not a template: expected '}' before end of string"),
        ("{prompt: '{q:>3}', answer: a}", "data.columns: {q:>3} in '{q:>3}' is not the name of a column"),
        ("{prompt: '{}', answer: a}", "data.columns: {} in '{}' is not the name of a column"),
        ("{prompt: q, reference: '{a} {b}'}", "data.columns: reference must be one column; a text in braces may stand"),
        ("{prompt: [q], answer: a}", "data.columns.prompt must be a whole number or text, not a list"),
    ],
)
def test_a_mapping_that_is_wrong_by_itself(columns: str, error: str) -> None:
    recipe(f"{{train: t.jsonl, columns: {columns}}}")
    assert f"holdfast: run.yaml:2: {error}" in check(code=2)


# ---- as a user types it -------------------------------------------------------------------------------------------


def test_check_shows_the_mapped_rows_and_says_how_columns_were_read() -> None:
    jsonl("train.jsonl", [{"id": i, "question": f"What is {i} plus 1?", "label": str(i + 1)} for i in range(6)])
    jsonl("test.jsonl", [{"question": "What is 9 plus 1?", "label": "10", "source": "x"}])
    recipe("{train: train.jsonl, test: test.jsonl, columns: {prompt: question, answer: label}}")
    said = check()
    assert "train.jsonl: question -> prompt, label -> answer; not used: id" in said
    assert "test.jsonl: question -> prompt, label -> answer; not used: source" in said
    assert "What is 0 plus 1?" in said
    jsonl("other.jsonl", [{"asked": "Q", "label": "A"}])
    refused = check("data.test=other.jsonl", code=2)
    assert (
        "other.jsonl:1: there is no column question, which data.columns has for prompt; there are asked, label"
        in refused
    )


def test_columns_that_were_found_are_told_too_but_not_of_the_laboratory() -> None:
    jsonl("train.jsonl", [{"Instruction": f"Say {i}", "input": "", "output": str(i), "note": 1} for i in range(3)])
    recipe("{train: train.jsonl, test: 0}")
    said = check()
    assert "train.jsonl: Instruction -> prompt, output -> answer; not used: note\n" in said
    assert said.count("-> prompt") == 1
    assert "->" not in check("data.train=lab:sums", "data.limit=4").split("Plan")[0].replace("->]", "")


def test_training_keeps_the_mapping() -> None:
    jsonl("train.jsonl", [{"q": f"What is {i} plus 1?", "a": i + 1, "tests": [i]} for i in range(6)])
    recipe('{train: train.jsonl, test: 0, columns: {prompt: "{q}\\n", answer: a, reference: tests}}')
    done = CliRunner().invoke(app, ["train", "run.yaml"])
    assert done.exit_code == 0, done.output
    assert "train.jsonl: q -> prompt, a -> answer, tests -> reference\n" in done.output
    rows = [json.loads(line) for line in Path("out/curated.jsonl").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == [f"What is {i} plus 1?\n" for i in range(6)]
    assert rows[0]["reference"] == [0]
    again = CliRunner().invoke(app, ["train", "out"])
    assert "already finished" in again.output, "resolved.yaml gives the same mapping"


def test_replayed_rows_have_columns_of_their_own() -> None:
    jsonl("train.jsonl", [{"q": f"What is {i} plus 1?", "a": str(i + 1)} for i in range(6)])
    jsonl("general.jsonl", [{"frage": f"Say {i}", "antwort": str(i)} for i in range(6)])
    recipe(
        "{train: train.jsonl, test: 0, columns: {prompt: q, answer: a}, "
        "replay: {path: general.jsonl, share: 0.5, columns: {prompt: frage, answer: antwort}}}"
    )
    done = CliRunner().invoke(app, ["curate", "run.yaml"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in Path("out/curated.jsonl").read_text().splitlines()]
    asked = {row["messages"][0]["content"] for row in rows if row["origin"] == "replay"}
    assert asked == {f"Say {i}" for i in range(6)}
