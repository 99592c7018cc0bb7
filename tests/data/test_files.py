# ruff: noqa: E501 (messages stand as they are)
"""Several files, folders, patterns and splits as a user gives them: through `holdfast check` and `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.reading.formats import open_rows
from holdfast.data.reading.join import JoinedRows, Part, allocate_rows, join_parts
from holdfast.data.row_store import RowFile, prompt_key
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.errors import UserError
from holdfast.pipeline.sources import read_sources
from holdfast.recipe.loader import read_recipe
from holdfast.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, count: int, prompt: str = "prompt", answer: str = "completion", word: str = "") -> None:
    rows = [{prompt: f"{word or Path(path).stem} {i}", answer: str(i)} for i in range(count)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(data: str) -> None:
    Path("run.yaml").write_text(
        f"model: lab-small\ndata: {data}\ntrain: {{max_steps: 1, batch_tokens: 256, max_length: 256}}\n"
        "evaluate: {target: none, keep: []}\n"
    )


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def asked(data: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """The questions of training and held-out rows, and what was said."""
    said: list[str] = []
    made = Recipe(model="lab-small", data=data, evaluate={"target": "none", "keep": []})
    sources = read_sources(made, said.append, said.append)
    first, second = ([row.messages[0]["content"] for row in rows] for rows in (sources.train, sources.test))
    return first, second, [line for line in said if "judge" not in line]


# ---- shares -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "shares", "limit", "counts"),
    [
        ([30, 10], [None, None], None, [30, 10]),
        ([30, 10], [None, None], 20, [15, 5]),
        ([90, 100], [None, 0.1], None, [90, 10]),
        ([60, 30, 100], [None, None, 0.1], None, [60, 30, 10]),
        ([60, 30, 100], [None, None, 0.1], 50, [30, 15, 5]),
        ([90, 5], [None, 0.5], None, [90, 90]),
        ([1000, 30], [0.7, 0.3], None, [70, 30]),
        ([1000, 30], [0.7, 0.3], 10, [7, 3]),
        ([7, 1000], [0.7, 0.3], None, [7, 3]),
        ([20, 3, 1000], [None, None, None], 30, [1, 1, 28]),
    ],
)
def test_allocation(sizes: list[int], shares: list[float | None], limit: int | None, counts: list[int]) -> None:
    assert allocate_rows(sizes, shares, limit) == counts


@pytest.mark.parametrize(
    ("shares", "error"),
    [
        ([0.7, 0.7], "data.train: the shares add up to 1.4; lower them"),
        ([None, 1.0], "data.train: the shares add up to 1, which leaves nothing for the others; lower them"),
        ([0.5, 0.4], "data.train: every file has a share and they add up to 0.9, not 1; mend one, or leave one out"),
    ],
)
def test_shares_that_do_not_add_up(shares: list[float | None], error: str) -> None:
    with pytest.raises(UserError) as refused:
        allocate_rows([10, 10], shares)
    assert str(refused.value) == error


def test_rows_are_never_taken_twice_and_keep_their_order() -> None:
    first, second = (
        [Row([{"role": "assistant", "content": f"{w}{i}"}]) for i in range(n)] for w, n in (("a", 90), ("b", 100))
    )
    rows, lines = join_parts([Part("a", first), Part("b", second, 0.1)])
    texts = [row.answer for row in rows]
    assert texts[:90] == [f"a{i}" for i in range(90)]
    drawn = [int(str(text)[1:]) for text in texts[90:]]
    assert len(drawn) == 10
    assert drawn == sorted(set(drawn))
    assert drawn != list(range(10))
    assert lines == ["b: 10 of its 100 rows are used, 0.1 of all"]
    assert [row.answer for row in join_parts([Part("a", first), Part("b", second, 0.1)])[0]] == texts
    _, lines = join_parts([Part("a", first), Part("b", second[:10], 0.5)])
    assert lines == ["b: all its 10 rows are 0.1 of the rows, not 0.5: none is repeated"]


def test_joined_rows_on_disk_are_a_list_of_rows() -> None:
    rows = [Row([{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "A"}]) for i in range(7)]
    joined = JoinedRows([RowFile.write(rows[:4], Path("one")), rows[4:]])
    assert list(joined) == rows == [joined[i] for i in range(7)]
    assert [joined[-1], joined[-7]] == [rows[-1], rows[0]]
    assert list(joined[5:1:-2]) == rows[5:1:-2]
    with pytest.raises(IndexError):
        joined[7]
    assert joined.keys.tolist() == [prompt_key(row) for row in rows]
    assert fingerprint_rows(joined) != fingerprint_rows(JoinedRows([RowFile.write(rows[:3], Path("two")), rows[4:]]))


# ---- lists, patterns, folders -------------------------------------------------------------------------------------


def test_a_list_of_files_of_different_formats() -> None:
    write("a.jsonl", 8, "question", "label")
    write("b.jsonl", 20)
    train, test, said = asked(
        {
            "train": [{"path": "a.jsonl", "columns": {"prompt": "question", "answer": "label"}}, {"path": "b.jsonl", "share": 0.2}],
            "test": 0,
        }
    )  # fmt: skip
    assert train[:8] == [f"a {i}" for i in range(8)]
    assert (len(train), test) == (10, [])
    assert said == [
        "a.jsonl: question -> prompt, label -> answer",
        "b.jsonl: prompt -> prompt, completion -> answer",
        "b.jsonl: 2 of its 20 rows are used, 0.2 of all",
    ]
    train, test, _ = asked(
        {"train": ["b.jsonl", {"path": "b.jsonl", "limit": 3}, "lab:sums"], "limit": 30, "test": 0.1}
    )
    assert len(train) + len(test) == 30


def test_patterns_and_folders() -> None:
    for name in ("part-1", "part-2", "other"):
        write(f"parts/{name}.jsonl", 2)
    Path("parts/README.md").write_text("not a data file")
    train, _, said = asked({"train": "parts/part-*.jsonl", "test": 0})
    assert train == ["part-1 0", "part-1 1", "part-2 0", "part-2 1"]
    assert said == ["parts/part-*.jsonl (2 files): prompt -> prompt, completion -> answer"]
    assert len(asked({"train": "parts", "test": 0})[0]) == 6
    assert asked({"train": "parts/part-*.jsonl", "limit": 3, "test": 0})[0] == ["part-1 0", "part-1 1", "part-2 0"]
    write("parts/part-2.jsonl", 2, "prompt", "")
    with pytest.raises(UserError, match=r"^parts/part-2\.jsonl:1: no known format has the columns \(no name\), prompt"):
        asked({"train": "parts", "test": 0})
    with pytest.raises(UserError, match=r"^parts/x\*: no data file fits the pattern$"):
        asked({"train": "parts/x*"})


def test_a_folder_with_splits() -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(f"set/{name}.jsonl", 2)
    with pytest.raises(UserError, match=r"^set: its files are of several splits \(test, train\); write set:train$"):
        asked({"train": "set"})
    train, test, _ = asked({"train": "set:train", "test": {"path": "set", "split": "test"}})
    assert train == [f"train-0000{n}-of-00002 {i}" for n in (0, 1) for i in (0, 1)]
    assert test == ["test-00000-of-00001 0", "test-00000-of-00001 1"]
    with pytest.raises(UserError, match=r"^set:dev: no file there has a name that begins with dev; there are test-"):
        asked({"train": "set:dev"})


def test_lists_are_different_runs_and_have_a_name_of_their_own() -> None:
    for name in ("a", "b"):
        write(f"{name}.jsonl", 6)
    recipe("{train: [a.jsonl, {path: b.jsonl, share: 0.4}], test: 0}")
    said = run("train", "run.yaml", "output=runs/{data}")
    assert "b.jsonl: 4 of its 6 rows are used, 0.4 of all" in said
    assert Path("runs/a-b/report.html").exists()
    about = json.loads(Path("runs/a-b/data.json").read_text())
    assert about["train"] == "a.jsonl + b.jsonl"
    assert about["rows"] == 10
    assert "already finished" in run("train", "run.yaml", "output=runs/{data}")
    assert "already finished" in run("train", "runs/a-b"), "resolved.yaml is the same recipe"
    assert "holds another run" in run(
        "train", "run.yaml", "output=runs/{data}", "data.train=[a.jsonl, b.jsonl]", code=2
    )
    assert run("check", "run.yaml", "data.train=[b.jsonl, {path: a.jsonl, limit: 2}]").count("8\n") >= 1


@pytest.mark.parametrize(
    ("train", "error"),
    [
        ("[]", "run.yaml:2: data.train must not be an empty list"),
        ("3", "run.yaml:2: data.train must be text, not 3"),
        ("{path: a.jsonl, share: 0.5}", "run.yaml:2: data.train must not have a share where no other file stands beside it; give a list"),
        ("{pth: a.jsonl}", "run.yaml:2: data.train.pth is not a setting; did you mean data.train.path?"),
        ("[a.jsonl, {path: b.jsonl, share: 2}]", "run.yaml:2: data.train.1.share must be less than or equal to 1, not 2"),
        ("[a.jsonl, {path: b.jsonl, columns: {promt: q}}]", "run.yaml:2: data.train.1.columns: promt is not something that a column can be"),
        ("[{limit: 3}]", "run.yaml:2: data.train.0.path is missing: File, pattern"),
        ("[a.jsonl, gone.jsonl]", "run.yaml:2: gone.jsonl: no such file"),
        ("{path: a.jsom}", "run.yaml:2: a.jsom: no such file; did you mean a.jsonl?"),
        ("a.jsom", "run.yaml:2: a.jsom: no such file; did you mean a.jsonl?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(train: str, error: str) -> None:
    write("a.jsonl", 3)
    recipe(f"{{train: {train}}}")
    assert f"holdfast: {error}" in run("check", "run.yaml", code=2)


def test_paths_beside_the_recipe_in_lists_patterns_and_splits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("there/a.jsonl", 3)
    write("there/b.jsonl", 3)
    Path("there/c.json").write_text(json.dumps({"train": [{"prompt": "c", "completion": "1"}]}))
    Path("there/run.yaml").write_text(
        "model: lab-small\ndata: {train: [a.jsonl, {path: 'b*.jsonl', limit: 1}, 'c.json:train'], test: 0}\n"
        "evaluate: {target: none, keep: []}\n"
    )
    resolved = read_recipe(here / "there" / "run.yaml")
    sources = read_sources(resolved.recipe, lambda text: None, lambda text: None)
    assert [row.messages[0]["content"] for row in sources.train] == ["a 0", "a 1", "a 2", "b 0", "c"]


# ---- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_file_of_splits(indent: int | None) -> None:
    content = {"version": [1], "train": [["Set an alarm", "alarm"]] * 3, "val": [["Play jazz", "music"]] * 2}
    Path("intents.json").write_text(json.dumps(content, indent=indent))
    recipe("{train: intents.json, test: 0}")
    said = run("check", "run.yaml", code=2)
    assert "intents.json: the file is one object, not a list of rows" in said
    assert "; it holds train (3 rows), val (2 rows): write intents.json:train\n" in said
    recipe("{train: 'intents.json:train', test: 0}")
    assert (
        "intents.json:train row 1: a row must be an object with named columns, not a list; say what stands where, as in "
        "data.columns: {prompt: 0, answer: 1}" in run("check", "run.yaml", code=2)
    )
    recipe("{train: {path: intents.json, split: train}, test: 'intents.json:val', columns: {prompt: 0, answer: 1}}")
    assert "intents.json:train: 0 -> prompt, 1 -> answer\n" in run("check", "run.yaml")
    train, test, _ = asked(
        {"train": "intents.json:train", "test": "intents.json:val", "columns": {"prompt": 0, "answer": 1}}
    )
    assert (train, test) == (["Set an alarm"] * 3, ["Play jazz"] * 2)
    with pytest.raises(
        UserError, match=r"^intents\.json:dev: intents\.json has no list dev; it holds train \(3 rows\), val"
    ):
        open_rows("intents.json:dev")
    Path("a.csv").write_text("prompt,completion\nQ,A\n")
    with pytest.raises(UserError, match=r"^a\.csv:train: only JSON files and data sets have splits"):
        open_rows("a.csv:train")


def test_data_sets_that_were_saved() -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["Dull.", "Bright."], "label": [0, 1]}, features=features)
    rows.save_to_disk("one")
    datasets.DatasetDict({"train": rows, "extra": rows.select([1])}).save_to_disk("several")
    columns = {"prompt": "text", "answer": "label"}
    assert [row.answer for row in open_rows("one", mapping=columns)] == ["bad", "good"], "labels by their names"
    assert len(open_rows("several", mapping=columns)) == 2, "train is the default"
    assert [row.answer for row in open_rows("several:extra", mapping=columns)] == ["good"]
    with pytest.raises(
        UserError, match=r"^several:dev: the data set has no split dev; it has train, extra: write several:train$"
    ):
        open_rows("several:dev")
    with pytest.raises(UserError, match=r"^one:train: the saved data set has no splits; write one$"):
        open_rows("one:train")
