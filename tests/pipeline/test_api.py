# ruff: noqa: E501 (messages stand as they are)
"""The Python API with rows and models from memory, as in a notebook."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging
from typer.testing import CliRunner

import holdfast
import processes
from holdfast.cli.app import app
from holdfast.errors import UserError

ROWS = [{"question": f"What is {i} plus 1?", "label": i + 1, "id": i} for i in range(12)]
COLUMNS = {"prompt": "question", "answer": "label"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def recipe(train: Any = ROWS, **more: Any) -> dict[str, Any]:
    return {
        "model": "lab-small",
        "data": {"train": train, "columns": COLUMNS, "test": 0.25},
        "judge": "exact",
        "train": {"max_steps": 1, "batch_tokens": 256, "max_length": 128},
        "evaluate": {"keep": [], "items": 3, "live_items": 0, "max_tokens": 4},
        "output": "out",
    } | more


def frames() -> dict[str, Any]:
    import datasets
    import numpy as np
    import pandas

    return {
        "list": ROWS,
        "tuple": tuple(ROWS),
        "data set": datasets.Dataset.from_list(ROWS),
        "pandas": pandas.DataFrame(ROWS),
        "numpy numbers": [{**row, "label": np.int64(row["label"])} for row in ROWS],
    }


def test_rows_are_a_run_that_is_found_again_and_whole_by_itself(place: Path) -> None:
    run = holdfast.train(recipe())
    typed = run.typed_report
    assert typed.training
    assert typed.gain
    assert (typed.training.steps, typed.gain.delta) == (1, run.report["gain"]["delta"])
    assert holdfast.train(recipe(list(ROWS))).path == run.path, "the same rows are the same run"
    with pytest.raises(UserError, match=r"out: holds another run.*data\.train"):
        holdfast.train(recipe(ROWS[:-1]))
    for file in (place / "cache").rglob("*.jsonl"):
        file.unlink()
    again = processes.run(["-m", "holdfast", "train", "out"])
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stderr + again.stdout, "another process reads the run's own copy"
    said = CliRunner().invoke(app, ["check", "out"])
    assert said.exit_code == 0, said.output
    assert "question -> prompt, label -> answer; not used: id" in said.output
    assert CliRunner().invoke(app, ["eval", "out"]).exit_code == 0
    next(run.path.glob("rows-*.jsonl")).unlink()
    lost = processes.run(["-m", "holdfast", "check", "out"])
    assert lost.returncode == 2
    assert "these rows were given from memory, and no copy is left; give them again" in lost.stderr


def test_every_collection_of_rows_is_the_same_rows() -> None:
    found = {name: holdfast.check(recipe(rows))["rows"] for name, rows in frames().items()}
    assert all(counts == found["list"] for counts in found.values())
    names = {holdfast.Recipe(**recipe(rows)).data.train for rows in frames().values()}
    assert len(names) == 1, "and called by the same name"


def test_class_labels_dates_and_gaps() -> None:
    import datasets
    import pandas

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["Dull.", "Bright."], "label": [0, 1]}, features=features)
    frame = pandas.DataFrame(
        {"text": ["Fine."], "label": ["good"], "when": [pandas.Timestamp("2024-05-01")], "n": [float("nan")]}
    )
    parts = [{"path": rows, "columns": {"prompt": "text", "answer": "label"}}, frame]
    path = holdfast.curate(recipe(parts, data={"train": parts, "columns": {"prompt": "text", "answer": "label"}, "test": 0}, evaluate={"target": "none", "keep": []}))  # fmt: skip
    text = path.read_text()
    assert [f'"content": "{label}"' in text for label in ("bad", "good")] == [True, True]
    assert '"2024-05-01T00:00:00"' in text
    assert "NaN" not in text


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (iter(ROWS), "data.train: an iterator can be read only once, and its rows are read several times; give list(...) of it"),
        ((row for row in ROWS), "data.train: an iterator can be read only once"),
        ({1, 2}, "data.train: row 1: int is no row"),
        (object(), "data.train: object is no collection of rows; give a file, a list of rows, a data set or a frame"),
        ([{"question": "Q", "label": object()}], "data.train: row 1, label: object is no text, number, list or mapping; leave it out"),
        ([{"question": "Q"}], "memory:"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_a_line(rows: Any, error: str) -> None:
    with pytest.raises(UserError) as refused:
        holdfast.check(recipe(rows))
    assert str(refused.value).startswith(error)
    assert "\n" not in str(refused.value)


def test_a_data_set_of_splits_names_them() -> None:
    import datasets

    rows = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(UserError, match=r"^data\.train: is a DatasetDict; give one of its splits: train$"):
        holdfast.check(recipe(rows))


def test_a_model_object_is_a_run_of_its_weights(tiny: Callable[..., Any]) -> None:
    model, tokenizer = tiny("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    run = holdfast.train(recipe(model=model), tokenizer=tokenizer)
    assert all((weight == before[name]).all() for name, weight in model.state_dict().items()), "it is left as it was"
    assert holdfast.train(recipe(model=model), tokenizer=tokenizer).path == run.path
    assert "already finished" in CliRunner().invoke(app, ["train", "out"]).output
    other, _ = tiny("llama", seed=1)
    with pytest.raises(UserError, match=r"holds another run.*model"):
        holdfast.train(recipe(model=other), tokenizer=tokenizer)
    found = holdfast.evaluate(run, against=model, tokenizer=tokenizer)
    assert "test" in {task["name"] for task in found["tasks"]}
    with pytest.raises(UserError, match="is given as an object, and so needs tokenizer="):
        holdfast.check(recipe(model=model))
    with pytest.raises(UserError, match="tokenizer: is only for a model that is given as an object"):
        holdfast.check(recipe(), tokenizer=tokenizer)


def test_a_model_whose_copy_is_gone(tiny: Callable[..., Any], place: Path) -> None:
    import shutil

    model, tokenizer = tiny("llama")
    holdfast.curate(recipe(model=model), tokenizer=tokenizer)
    shutil.rmtree(place / "cache" / "memory")
    refused = CliRunner().invoke(app, ["check", "out"])
    assert refused.exit_code == 2
    assert "this model was given from memory, and its copy in" in refused.stderr
    assert "save it with its tokenizer" in refused.stderr


def test_a_notebook_sees_the_outcome_and_nothing_of_other_libraries(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = holdfast.train(recipe())
    assert capfd.readouterr() == ("", "")
    assert seen == []
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before, "the caller's settings are back"
    assert repr(run).startswith("RunResult('out': ")
    assert len(repr(run)) < 400
    assert 'href="out/report.html"' in run._repr_html_()
    holdfast.check(recipe(), progress=True)
    assert "question -> prompt, label -> answer; not used: id" in capfd.readouterr().err


def test_the_function_compares_in_every_way_that_the_command_does() -> None:
    from inspect import signature

    from holdfast.pipeline.compare import compare as run_compare

    assert set(signature(run_compare).parameters) <= set(signature(holdfast.compare).parameters)
