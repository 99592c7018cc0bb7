# ruff: noqa: E501 (templates and messages stand as they are)
"""Every format and every kind of bad input, the latter with its exact one line."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from holdfast.data.reading.formats import RowFile, RowView, count_shared_prompts, open_rows, split_rows
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.errors import UserError

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def jsonl(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that files are named as users name them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one(here: Path, record: dict[str, Any], format: str = "auto") -> Row:
    jsonl(here / "train.jsonl", [record])
    (row,) = open_rows("train.jsonl", format)
    return row


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    out = [{"role": "system", "content": system}] if system else []
    return out + [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


# ---- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, turns("Add.\n1 1", "2")),
        ({"instruction": "Add.", "input": "", "output": "2"}, turns("Add.", "2")),
        ({"instruction": "Add.", "input": " \n", "output": "2"}, turns("Add.", "2")),
        (
            {"instruction": "Add.", "output": "2", "system": "Be brief.", "history": [["Hi", "Hello"]]},
            turns("Hi", "Hello", "Add.", "2", system="Be brief."),
        ),
        ({"instruction": "Add.", "context": "1 1", "response": "2", "category": "qa"}, turns("Add.\n1 1", "2")),
        (
            {
                "conversations": [
                    {"from": "system", "value": "S"},
                    {"from": "human", "value": "Q"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            turns("Q", "A", system="S"),
        ),
        ({"conversations": [USER, ANSWER], "system": "S"}, turns("Q", "A", system="S")),
        ({"messages": turns("Q", "A", "Q2", "A2")}, turns("Q", "A", "Q2", "A2")),
        ({"messages": [{"role": "system", "content": ""}, USER, ANSWER]}, turns("Q", "A")),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}, {"text": "2"}]}, ANSWER]},
            turns("Q2", "A"),
        ),
        ({"prompt": "Q", "completion": "A"}, turns("Q", "A")),
        ({"prompt": [USER], "completion": [ANSWER]}, turns("Q", "A")),
        ({"prompt": "Q", "response": "A"}, turns("Q", "A")),
        ({"question": "Q", "answer": "A"}, turns("Q", "A")),
        ({"Question": "Q", "Answer ": "A"}, turns("Q", "A")),
        ({"problem": "Q", "solution": "A"}, turns("Q", "A")),
        ({"input": "Q", "output": "A"}, turns("Q", "A")),
        ({"text": "Once upon\u2028a time."}, turns("x", "Once upon\u2028a time.")[1:]),
    ],
)
def test_answer_formats(here: Path, record: dict[str, Any], messages: list[dict[str, str]]) -> None:
    row = one(here, record)
    assert row.messages == messages
    assert row.origin == "gold"
    assert (row.chosen, row.rejected, row.label, row.reference, row.score, row.weight) == (None,) * 5 + (1.0,)


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, turns("Q")),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": {"role": "assistant", "content": "B"}}, turns("Q")),
        ({"chosen": turns("Q", "A"), "rejected": turns("Q", "B")}, turns("Q")),
        (
            {"prompt": "Q", "chosen": turns("Q", "A"), "rejected": turns("Q", "B"), "messages": turns("Q", "A")},
            turns("Q"),
        ),
        ({"instruction": "Q", "input": "I", "chosen": "A", "rejected": "B"}, turns("Q\nI")),
        (
            {
                "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "A"},
                "rejected": {"from": "gpt", "value": "B"},
            },
            turns("Q", system="S"),
        ),
        ({"chosen_messages": turns("Q", "A"), "rejected_messages": turns("Q", "B")}, turns("Q")),
        (
            {
                "chosen": "\n\nHuman: Q\n\nAssistant: X\n\nHuman: Q2\n\nAssistant: A",
                "rejected": "\n\nHuman: Q\n\nAssistant: X\n\nHuman: Q2\n\nAssistant: B",
            },
            turns("Q", "X", "Q2"),
        ),
        ({"chosen": "What is it? A", "rejected": "What is it? B"}, turns("What is it?")),
        ({"messages": turns("Q"), "chosen": "A", "rejected": "B", "origin": "gold", "id": "x"}, turns("Q")),
    ],
)
def test_preference_formats(here: Path, record: dict[str, Any], messages: list[dict[str, str]]) -> None:
    row = one(here, record)
    assert (row.messages, row.chosen, row.rejected) == (messages, "A", "B")
    assert row.answer is None


def test_implicit_prompt_does_not_cut_words(here: Path) -> None:
    row = one(here, {"chosen": "Name a city: Parma", "rejected": "Name a city: Paris"})
    assert (row.messages, row.chosen, row.rejected) == (turns("Name a city:"), "Parma", "Paris")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Q", "completion": "A", "label": True},
        {"messages": turns("Q", "A"), "label": True},
        {"instruction": "Q", "output": "A", "kto_tag": True},
        {"prompt": "Q", "completion": "A", "label": "True"},
        {"prompt": "Q", "completion": "A", "label": 1},
    ],
)
def test_kto(here: Path, record: dict[str, Any]) -> None:
    row = one(here, record)
    assert row.messages == turns("Q", "A")
    assert row.label is True
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_class_labels_are_not_kto(here: Path) -> None:
    jsonl(here / "t.jsonl", [{"prompt": "Q", "completion": "A", "label": i} for i in (0, 1, 2)])
    rows = open_rows("t.jsonl")
    assert [r.label for r in rows] == [None] * 3
    assert [r.meta["label"] for r in rows] == [0, 1, 2]


def test_columns_that_are_carried(here: Path) -> None:
    record = {
        "prompt": "Q",
        "completion": "A",
        "reference": "42",
        "score": "0.5",
        "weight": 2,
        "source": "web",
        "id": 7,
        "none": None,
    }
    row = one(here, record)
    assert (row.reference, row.score, row.weight, row.meta) == ("42", 0.5, 2.0, {"source": "web", "id": 7})
    assert one(here, {"prompt": "Q", "tests": ["assert f(1) == 2"]}).reference == ["assert f(1) == 2"]
    assert one(here, {"messages": turns("Q"), "reference": 3}).answer is None


@pytest.mark.parametrize("answer", [1, "B", "green"])
def test_choices(here: Path, answer: Any) -> None:
    row = one(here, {"question": "Q", "choices": ["red", "green"], "answer": answer})
    assert row.messages == turns("Q\nA. red\nB. green", "green")
    assert (row.reference, row.meta) == (None, {"choices": ["red", "green"], "right": 1})


def test_message_weights(here: Path) -> None:
    for key in ("weight", "loss_weight"):
        row = one(here, {"messages": [{**USER, key: 0}, {**ANSWER, key: 0}, USER, {**ANSWER, key: 1}]})
        assert row.messages == [USER, {**ANSWER, "weight": 0}, USER, ANSWER]


def test_our_own_rows_come_back_as_they_were(here: Path) -> None:
    rows = [
        Row(
            turns("Q", "A"),
            reference=["x"],
            score=1.0,
            label=True,
            weight=0.5,
            origin="model",
            meta={"skill": "sums"},
            id="a1",
        ),
        Row(turns("Q", "B", system="S"), origin="paraphrase"),
    ]
    jsonl(here / "curated.jsonl", [r.to_json() for r in rows])
    assert open_rows("curated.jsonl", "messages") == rows
    pairs = [Row(turns("Q"), chosen="A", rejected="B", origin="model", meta={"k": 1})]
    jsonl(here / "pairs.jsonl", [r.to_json() for r in pairs])
    assert open_rows("pairs.jsonl") == pairs


# ---- kinds of file ------------------------------------------------------------------------------------------------

RECORDS = [
    {"instruction": f'Line {i}\n, "quoted" ü 東京\u2028', "input": "", "output": f"answer {i}"} for i in range(5)
]


def test_all_kinds_of_file_give_the_same_rows(here: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    jsonl(here / "a.jsonl", RECORDS)
    (here / "a.json").write_text(json.dumps(RECORDS, indent=2), encoding="utf-8-sig")
    (here / "one-line.json").write_text(json.dumps(RECORDS, ensure_ascii=False), encoding="utf-8")
    (here / "array.jsonl").write_text(json.dumps(RECORDS))
    (here / "lines.json").write_bytes((here / "a.jsonl").read_bytes().replace(b"\n", b"\r\n\r\n"))
    (here / "a.jsonl.gz").write_bytes(gzip.compress((here / "a.jsonl").read_bytes()))
    for name, tab in (("a.csv", ","), ("a.tsv", "\t")):
        with (here / name).open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, RECORDS[0].keys(), delimiter=tab)
            writer.writeheader()
            writer.writerows(RECORDS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), here / "a.parquet")
    wanted = open_rows("a.jsonl")
    assert [r.answer for r in wanted] == [f"answer {i}" for i in range(5)]
    for name in ("a.json", "one-line.json", "array.jsonl", "lines.json", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet"):
        assert open_rows(name) == wanted, name
        assert open_rows(name, limit=2) == wanted[:2], name


def test_a_json_array_is_read_in_windows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.data.reading.json_stream import TextWindow

    (here / "a.json").write_text(json.dumps(RECORDS, indent=1, ensure_ascii=False), encoding="utf-8")
    wanted = open_rows("a.json")
    grow = TextWindow.grow
    monkeypatch.setattr(TextWindow, "grow", lambda self, size=1: grow(self, max(1, size >> 19)))
    assert open_rows("a.json") == wanted


def test_columns_that_json_cannot_hold_become_text(here: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    record = {"prompt": "Q", "completion": "A", "when": datetime.date(2024, 5, 1)}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), here / "a.parquet")
    assert open_rows("a.parquet")[0].meta == {"when": "2024-05-01"}


def test_text_files(here: Path) -> None:
    (here / "lines.txt").write_text("One.\nTwo.\n")
    (here / "blocks.txt").write_text("One\ngoes on.\n\n\nTwo.\n")
    assert [r.answer for r in open_rows("lines.txt")] == ["One.", "Two."]
    (here / "lines.txt").write_text("\nOne.\nTwo.\n \n\n")
    assert [r.answer for r in open_rows("lines.txt")] == ["One.", "Two."], "blank lines at its ends part nothing"
    assert [r.answer for r in open_rows("blocks.txt")] == ["One\ngoes on.", "Two."]
    documents = {"line": ["One", "goes on.", "Two."], "paragraph": ["One\ngoes on.", "Two."]}
    for document, texts in {**documents, "file": ["One\ngoes on.\n\n\nTwo."]}.items():
        assert [r.answer for r in open_rows("blocks.txt", document=document)] == texts


def test_messages_in_a_csv_cell(here: Path) -> None:
    (here / "a.csv").write_text('messages\n"' + json.dumps(turns("Q", "A")).replace('"', '""') + '"\n')
    assert open_rows("a.csv")[0].messages == turns("Q", "A")


# ---- bad input ----------------------------------------------------------------------------------------------------

GOOD = {"instruction": "Q", "output": "A"}
KNOWN = (
    "alpaca (instruction, output), messages or conversations, prompt and completion (or question and answer), "
    "chosen and rejected (or completions with scores), or text"
)

MAP = "say which is which, as in data.columns: {prompt: question, answer: label}, or"


def fails(line: str, source: str = "train.jsonl", format: str = "auto") -> None:
    with pytest.raises(UserError) as error:
        open_rows(source, format)
    assert str(error.value) == line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([GOOD, {**GOOD, "output": ""}], ":2: field output is empty; remove the row or fill it in"),
        (
            [GOOD, {**GOOD, "output": " "}, GOOD, {**GOOD, "output": ""}, {**GOOD, "output": "\n"}],
            ":2: field output is empty (3 rows like this); remove or fill them in",
        ),
        ([GOOD, {**GOOD, "output": None}], ":2: field output is empty; remove the row or fill it in"),
        ([GOOD, {"instruction": "Q"}], ":2: field output is missing; remove the row or fill it in"),
        (
            [{**GOOD, "output": ""}, {**GOOD, "instruction": ""}],
            ":1: field output is empty; remove the row or fill it in (1 more row has another fault, the first at train.jsonl:2)",
        ),
        ([GOOD, {**GOOD, "output": 2}], ":2: field output is a number, not text; remove the row or write it as text"),
        (
            [GOOD, {**GOOD, "output": {"a": 1}}],
            ":2: field output is an object, not text; remove the row or write it as text",
        ),
        (
            [GOOD, {"messages": turns("Q", "A")}],
            ":2: the row is in the messages format, but train.jsonl:1 is in the alpaca format; put each format into a file of its own",
        ),
        ([{"a": "Q", "b": "A"}], f":1: no known format has the columns a, b; {MAP} rename them to those of {KNOWN}"),
        (
            [{"text": "Q", "code": "A"}],
            f":1: no known format has the columns code, text; {MAP} rename them to those of {KNOWN}",
        ),
        ([{"messages": []}], ":1: field messages is empty; remove the row or fill it in"),
        ([{"messages": turns("Q")}], ":1: field messages has no assistant turn; remove the row or add it"),
        ([{"messages": turns("Q", "A", "Q")}], ":1: field messages ends with a user turn; remove the row or answer it"),
        (
            [{"messages": [USER, USER, ANSWER]}],
            ":1: messages[1] is a second user turn in a row; turns must alternate; remove the row or mend it",
        ),
        (
            [{"messages": [ANSWER, USER, ANSWER]}],
            ":1: messages[0] is an assistant turn that answers nothing; a user turn must come before it; remove the row or mend it",
        ),
        (
            [{"messages": [USER, ANSWER, {"role": "system", "content": "S"}]}],
            ":1: messages[2] is a system message inside the conversation; it may only come first; remove the row or mend it",
        ),
        (
            [{"messages": [USER, {"role": "tool", "content": "x"}]}],
            ":1: messages[1] is a tool turn that answers no call; a turn with tool_calls must come before it; remove the row or mend it",
        ),
        (
            [{"messages": [USER, {"role": "assistant", "content": None}]}],
            ":1: messages[1] (assistant) is empty; remove the row or fill it in",
        ),
        (
            [{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]}],
            ":1: x: no such picture; a relative path begins at the folder of the data file; remove the row or mend it",
        ),
        (
            [{"messages": [USER, {**ANSWER, "weight": 0}]}],
            ":1: field messages has weight 0 on every assistant turn; remove the row or give one of it weight 1",
        ),
        (
            [{"messages": turns("Q", "A"), "images": ["a.jpg"]}],
            ":1: a.jpg: no such picture; a relative path begins at the folder of the data file; remove the row or mend it",
        ),
        (
            [{"prompt": "Q", "chosen": "A", "rejected": "A"}],
            ":1: chosen and rejected are the same; remove the row or mend it",
        ),
        ([{"prompt": "Q", "chosen": "A", "rejected": ""}], ":1: field rejected is empty; remove the row or fill it in"),
        (
            [{"chosen": turns("Q", "A"), "rejected": turns("R", "B")}],
            ":1: chosen and rejected do not answer the same prompt; remove the row or mend it",
        ),
        (
            [{"chosen": "A", "rejected": "B"}],
            ":1: chosen and rejected share no prompt and there is no field prompt; remove the row or add a prompt to it",
        ),
        (
            [{"prompt": "Q", "completion": "A", "label": True}, {"prompt": "Q", "completion": "A"}],
            ":2: field label is missing; remove the row or mend it",
        ),
        ([{**GOOD, "weight": "much"}], ":1: field weight is not a number ('much'); remove the row or mend it"),
        ([{**GOOD, "weight": -1}], ":1: field weight is negative (-1); remove the row or mend it"),
        (
            [{"question": "Q", "choices": ["a", "b"], "answer": 2}],
            ":1: field answer (2) is none of the 2 choices, nor the index or letter of one; remove the row or mend it",
        ),
        (
            [GOOD, ["Q", "A"]],
            ":2: a row must be an object with named columns, not a list; say what stands where, as in data.columns: {prompt: 0, answer: 1}",
        ),
        ([GOOD, "Q"], ":2: a row must be an object with named columns, not text"),
    ],
)
def test_bad_rows(here: Path, records: list[Any], line: str) -> None:
    jsonl(here / "train.jsonl", records)
    fails("train.jsonl" + line)


def test_bad_files(here: Path) -> None:
    jsonl(here / "train.jsonl", [GOOD])
    fails("trian.jsonl: no such file; did you mean train.jsonl?", "trian.jsonl")
    fails("data/x.jsonl: no such file (there is no directory data)", "data/x.jsonl")
    (here / "data").mkdir()
    fails("data: is a directory without data files", "data")
    fails("data.format: alpacca is not a format; did you mean alpaca?", format="alpacca")
    (here / "empty.jsonl").write_text("")
    fails("empty.jsonl: the file is empty; write one example per line", "empty.jsonl")
    (here / "blank.jsonl").write_text("\n \n")
    fails("blank.jsonl: the file is empty; write one example per line", "blank.jsonl")
    (here / "none.json").write_text("[]")
    fails("none.json: there are no rows in it; write one example per line", "none.json")
    (here / "head.csv").write_text("prompt,completion\n")
    fails("head.csv: there are no rows in it; write one example per line", "head.csv")
    (here / "rows.xlsx").write_text("x")
    fails("rows.xlsx: unknown kind of file; known: .jsonl, .json, .csv, .tsv, .parquet, .txt (also .gz)", "rows.xlsx")
    (here / "o.json").write_text('{\n "version": 1,\n "data": [{"a": 1}]\n}')
    fails(
        "o.json: the file is one object, not a list of rows or one row per line; it holds data (1 row): write o.json:data",
        "o.json",
    )
    (here / "p.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match=r"^p\.parquet: not a readable Parquet file"):
        open_rows("p.parquet")


def test_broken_files_are_named_to_the_line(here: Path) -> None:
    good = json.dumps(GOOD)
    (here / "train.jsonl").write_text(f"{good}\n{good}\n{good[:-1]}\n")
    fails("train.jsonl:3: broken JSON (Expecting ',' delimiter at column 35); mend or remove the line")
    (here / "a.json").write_text(f"[\n{good},\n{good}\n{good}\n]")
    fails("a.json:4: broken JSON (expected a comma or ] after row 2); mend it", "a.json")
    (here / "b.json").write_text(f"[\n{good},\n{{'instruction'}}\n]")
    fails("b.json:3: broken JSON (Expecting property name enclosed in double quotes at column 2); mend it", "b.json")
    (here / "c.json").write_text(f"[\n{good},\n{good}\n")
    fails("c.json:4: broken JSON (the file ends inside the list); mend its end", "c.json")
    (here / "latin.jsonl").write_bytes(f"{good}\n".encode() + '{"prompt": "ü"}\n'.encode("latin-1"))
    fails("latin.jsonl:2: not UTF-8 text (byte 13); save the file as UTF-8", "latin.jsonl")
    (here / "half.jsonl").write_text('{"prompt": "Q", "completion": "\\ud83d"}\n')
    fails("half.jsonl:1: a text holds half a character (a lone surrogate); remove the row or mend it", "half.jsonl")
    (here / "half.jsonl").write_text('{"prompt": "Q", "completion": "A", "note": "\\ud83d"}\n')
    fails("half.jsonl:1: a text holds half a character (a lone surrogate); remove the row or mend it", "half.jsonl")
    (here / "a.csv").write_text('prompt,completion\n"Q\nQ",A\nQ,A,B\n')
    fails("a.csv:4: 3 fields, but the header has 2; quote the commas", "a.csv")
    (here / "b.csv").write_text('prompt,completion\nQ,A\n"Q,A\n')
    fails("b.csv:3: broken CSV (unexpected end of data); mend the quotes of the line", "b.csv")


def test_files_that_are_no_longer_whole_are_named(here: Path) -> None:
    row = json.dumps(GOOD).encode() + b"\n"
    (here / "plain.jsonl.gz").write_bytes(row)
    fails(
        "plain.jsonl.gz: broken or cut-off gzip file (Not a gzipped file (b'{\"')); pack or fetch it once more",
        "plain.jsonl.gz",
    )
    packed = gzip.compress(row * 1000)
    for name in ("cut.jsonl.gz", "cut.json.gz"):
        (here / name).write_bytes(
            packed[:-20] if "jsonl" in name else gzip.compress(b"[" + row.rstrip() + b",\n" * 99)[:-9]
        )
        with pytest.raises(UserError, match=rf"^{name}: broken or cut-off gzip file"):
            open_rows(name)
    for name, text in (("huge.jsonl", '{"prompt": "Q", "answer": "A", "n": %s}'), ("huge.json", '[\n{"n": %s}]')):
        (here / name).write_text(text % ("9" * 5000))
        with pytest.raises(
            UserError, match=rf"^{name}:[12]: broken JSON \(Exceeds the limit \(4300 digits\) .*\); mend"
        ):
            open_rows(name)


def test_a_name_that_is_no_file_may_be_a_data_set(here: Path) -> None:
    with pytest.raises(
        UserError, match=r"^nobody/nothing: no such file .*; and the Hugging Face data set cannot be loaded: "
    ):
        open_rows("nobody/nothing")


# ---- rows on disk -------------------------------------------------------------------------------------------------


def many(count: int) -> list[Row]:
    return [Row(turns(f"Question {i} ü", f"Answer {i}"), label=True if i % 3 == 0 else None) for i in range(count)]


def test_row_file_is_a_list_of_rows(here: Path) -> None:
    rows = many(50)
    found = RowFile.write(iter(rows), here / "rows")
    assert len(found) == 50
    assert list(found) == rows
    assert [found[i] for i in (0, 49, -1, -50)] == [rows[i] for i in (0, 49, -1, -50)]
    assert list(found[10:3:-2]) == rows[10:3:-2]
    with pytest.raises(IndexError):
        found[50]
    assert fingerprint_rows(found) == found.fingerprint != RowFile.write(rows[:49], here / "fewer").fingerprint


def test_big_files_go_to_disk_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import holdfast.data.reading.readers as readers

    monkeypatch.setattr(readers, "IN_MEMORY", 100)
    jsonl(here / "train.jsonl", [GOOD] * 20)
    first = open_rows("train.jsonl", cache=here / "cache")
    assert isinstance(first, RowFile)
    assert list(first) == [Row(turns("Q", "A"))] * 20
    stamp = first.path.stat().st_mtime_ns
    assert open_rows("train.jsonl", cache=here / "cache").path.stat().st_mtime_ns == stamp
    jsonl(here / "train.jsonl", [GOOD] * 21)
    assert len(open_rows("train.jsonl", cache=here / "cache")) == 21
    jsonl(here / "train.jsonl", [GOOD] * 21 + [{"instruction": "Q", "output": ""}])
    before = sorted((here / "cache").iterdir())
    fails("train.jsonl:22: field output is empty; remove the row or fill it in")
    with pytest.raises(UserError):
        open_rows("train.jsonl", cache=here / "cache")
    assert sorted((here / "cache").iterdir()) == before


def test_row_file_holds_little_memory(here: Path) -> None:
    import tracemalloc

    RowFile.write(iter(many(20_000)), here / "rows")
    tracemalloc.start()
    found = RowFile.open(here / "rows")
    assert sum(len(found[i].messages) for i in range(0, 20_000, 20)) == 2_000
    assert sum(len(r.messages) for r in islice(found, 1_000)) == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


# ---- splitting ----------------------------------------------------------------------------------------------------


def test_split_is_a_partition_that_does_not_depend_on_order(here: Path) -> None:
    rows = many(200)
    train, test = split_rows(rows, 0.1, seed=3)
    assert len(test) == 20
    assert sorted([r.id for r in train] + [r.id for r in test]) == sorted(r.id for r in rows)
    assert [r.id for r in train] == [r.id for r in rows if r in train]
    backwards = split_rows(rows[::-1], 0.1, seed=3)[1]
    assert {r.id for r in backwards} == {r.id for r in test}
    assert {r.id for r in split_rows(rows, 0.1, seed=4)[1]} != {r.id for r in test}
    on_disk = split_rows(RowFile.write(rows, here / "rows"), 0.1, seed=3)
    assert isinstance(on_disk[0], RowView)
    assert (list(on_disk[0]), list(on_disk[1])) == (train, test)
    assert fingerprint_rows(on_disk[0]) != fingerprint_rows(on_disk[1])


def test_split_keeps_a_prompt_on_one_side() -> None:
    rows = [Row(turns(f"Question  {i // 4}", f"Answer {i}")) for i in range(100)]
    train, test = split_rows(rows, 0.2)
    assert 18 <= len(test) <= 24
    assert count_shared_prompts(train, test) == 0
    same = [Row(turns("Write a story.", f"Story {i}")) for i in range(50)]
    train, test = split_rows(same, 0.1)
    assert (len(train), len(test), count_shared_prompts(train, test)) == (45, 5, 1)


def test_split_limits() -> None:
    rows = many(3)
    assert split_rows(rows, 0) == (rows, [])
    assert [len(s) for s in split_rows(rows, 0.01)] == [2, 1]
    assert [len(s) for s in split_rows(rows, 0.99)] == [1, 2]
    with pytest.raises(UserError, match=r"^data\.test: 1 is not a share from 0 to 1$"):
        split_rows(rows, 1)
    with pytest.raises(UserError, match=r"^data\.test: a single row cannot be split"):
        split_rows(rows[:1], 0.5)


def test_duplicates_ignore_white_space() -> None:
    train = [Row(turns("a  b", "x")), Row(turns("c", "x")), Row(turns("a b", "y"))]
    test = [Row(turns("a\nb ", "z")), Row(turns("d", "x"))]
    assert count_shared_prompts(train, test) == 1
    assert count_shared_prompts(train, test[1:]) == 0
