"""`holdfast build`, and the catalogue it takes base models from: from a sentence to files, recipes and a model."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.axes.engine import Sample
from holdfast.cli.app import app
from holdfast.data.catalogue.models import ModelEntry, rank_models, read_models
from holdfast.data.catalogue.ranking import rank_descriptions
from holdfast.errors import UserError
from holdfast.pipeline.from_description.retrieval import (
    list_folder_entries,
    list_lab_entries,
    rank_data,
    read_catalogue,
)
from holdfast.pipeline.from_description.task import DescribedTask, ask_for_task, parse_task
from hostile_server import answering, completion, serving

runner = CliRunner()
QUICK = ("train.max_steps=2", "evaluate.items=4", "evaluate.live_items=0", "evaluate.max_tokens=16", "method=sft")


def run(*arguments: str, code: int = 0):
    done = runner.invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where this process connects to while a test runs."""
    reached: list[tuple[str, int]] = []
    connect = socket.socket.connect

    def record(self: socket.socket, address: Any) -> None:
        reached.extend([address[:2]] if self.family in (socket.AF_INET, socket.AF_INET6) else [])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", record)
    return reached


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("holdfast.pipeline.from_description.steps.SEED_ROWS", 40)
    return tmp_path


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Add two numbers.", DescribedTask("Add two numbers.")),
        (
            "Answer in one word. Text: Ann is tall. Answer: Ann\nText: Bob runs. Answer: Bob",
            DescribedTask("Answer in one word.", (("Ann is tall.", "Ann"), ("Bob runs.", "Bob"))),
        ),
        (
            "Sort the letters.\n\nExample 1:\nInput: b a\nOutput: a b\nExample 2:\nInput: d c\nOutput: c d\n",
            DescribedTask("Sort the letters.", (("b a", "a b"), ("d c", "c d"))),
        ),
        ("Say the plural.\nInput: ox", DescribedTask("Say the plural.")),
    ],
)
def test_a_task_is_taken_apart_by_its_marks(text: str, task: DescribedTask) -> None:
    assert parse_task(text) == task
    assert DescribedTask.from_json(task.to_json()) == task


def test_a_model_takes_it_apart_or_the_marks_do() -> None:
    said: list[str] = []

    def replying(*texts: str):
        return lambda requests, params: {
            r.key: [Sample(r.key, i, text, "stop", 1) for i, text in enumerate(texts)] for r in requests
        }

    good = json.dumps({"instruction": "Add.", "examples": [{"input": "1 1", "output": "2"}]})
    assert ask_for_task("x", replying("no", '{"examples": []}', good), said.append) == DescribedTask(
        "Add.", (("1 1", "2"),)
    )
    assert not said
    assert ask_for_task("Add. Input: 1 1 Output: 2", replying("no"), said.append).examples == (("1 1", "2"),)
    assert "none of 5 replies" in said[0]


def test_descriptions_are_ranked_by_bm25() -> None:
    scores = rank_descriptions(
        "word problems", ["solve a word problem", "sort words", "cooking", "problem problem problem"]
    )
    assert scores[0] > scores[3] > scores[1] > scores[2] == 0
    found = rank_data("solve word problems about things that are bought and sold", list(list_lab_entries()))
    assert found[0]["path"] == "lab:story"
    assert rank_data("zebra xylophone", list(list_lab_entries())) == []


def test_models_are_ranked_within_a_size() -> None:
    def entry(name: str, size: float, about: str, downloads: int = 0, kind: str = "base") -> ModelEntry:
        return ModelEntry(name, size, kind, "MIT", 1024, "none", about, downloads)

    models = [
        entry("a", 1e8, "code"), entry("b", 1e8, "chat", 98), entry("c", 1e8, "chat", 998), entry("d", 5e9, "chat"),
        entry("e", 1e9, "text", kind="instruct"), entry("f", 2e8, "text", kind="instruct"),
    ]  # fmt: skip
    ranked = rank_models("a chat", models, largest=3e9, most=6)
    assert [model.name for model, _ in ranked] == ["c", "b", "f", "e", "a"]
    assert ranked[0][1] / ranked[1][1] == pytest.approx(3 / 2), "log10(1000) against log10(100)"
    assert [model.name for model, _ in rank_models("a chat", models, largest=1e12, most=6)][2] == "d"


def test_folders_and_catalogues_of_data(own_place: Path) -> None:
    (own_place / "files").mkdir()
    (own_place / "files/rows_1.jsonl").write_text('{"prompt": "translate bread", "answer": "pain"}\n')
    (own_place / "files/other.csv").write_text("prompt,answer\nsum of 1 and 2,3\n")
    (own_place / "files/other.md").write_text("Arithmetic for children.")
    entries = list(list_folder_entries(own_place / "files"))
    assert rank_data("translate words", entries)[0]["path"].endswith("rows_1.jsonl")
    assert rank_data("arithmetic", entries)[0]["path"].endswith("other.csv")
    (own_place / "list.jsonl").write_text('{"path": "a.csv", "description": "birds"}\n{"path": "b"}\n')
    with pytest.raises(UserError, match=r"list.jsonl:2: must be JSON with path and description"):
        list(read_catalogue(own_place / "list.jsonl"))
    (own_place / "empty").mkdir()
    for folder, said in (("absent", "is not there"), ("empty", "holds no data file")):
        with pytest.raises(UserError, match=said):
            list(list_folder_entries(own_place / folder))


def test_the_catalogue_of_models_is_listed() -> None:
    date, note, models = read_models()
    assert len({model.name for model in models}) == len(models) > 20
    text = run("list", "models").output
    assert f"as of {date}: {note} (checked: lab, lab-small)" in " ".join(text.split())
    assert all(model.name in text for model in models)
    facts = json.loads(run("list", "models", "--json").output.splitlines()[-1])
    lab = next(entry for entry in facts["models"] if entry["name"] == "lab")
    assert lab["memory_gib"]["full"] == pytest.approx(16 * lab["parameters"] / 2**30)


def test_the_laboratory_models_are_as_large_as_the_catalogue_says() -> None:
    from holdfast.models.loading import load_skeleton

    for model in read_models().models:
        assert model.checked == model.name.startswith("lab"), "what is said to be checked is checked here"
        if model.checked:
            skeleton = load_skeleton(model.name)
            count = sum(p.numel() for p in skeleton.parameters())
            assert model.parameters == pytest.approx(count, rel=0.02)
            assert model.context == skeleton.config.max_position_embeddings


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_from_a_sentence_to_a_chat(own_place: Path, addresses: list[tuple[str, int]]) -> None:
    sentence = "Copy, reverse or sort a few letters."
    (own_place / "task.txt").write_text(f"{sentence}\nInput: Reverse: m a p\nOutput: p a m\n")
    task = "task.txt"
    arguments = ("build", task, "--rows", "12", "--model", "lab-small", "--out", "mine")
    steps = run(*arguments, "--until", "rows").output
    assert "data: mine/data.json" in steps
    assert json.loads((own_place / "mine/data.json").read_text())["chosen"] == "lab:strings"
    assert json.loads((own_place / "mine/task.json").read_text())["instruction"] == sentence
    rows = (own_place / "mine/rows.jsonl").read_text()
    assert len(rows.splitlines()) >= 12
    assert json.loads((own_place / "mine/generate/data.json").read_text())["notes"]["rows written"] > 6
    run("check", "mine/run.yaml")  # an ordinary recipe
    run("check", "mine/generate.yaml")

    (own_place / "mine/rows.jsonl").write_text("".join(line + "\n" for line in rows.splitlines()[:10]))  # edited
    before = (own_place / "mine/generate/samples.jsonl").stat().st_mtime_ns
    done = run(*arguments, *QUICK)
    assert "talk to it: holdfast chat mine/run" in done.output
    assert "your examples, none of them trained on: holdfast eval mine/run mine/examples.jsonl" in done.output
    assert json.loads((own_place / "mine/examples.jsonl").read_text()) == {
        "prompt": "Reverse: m a p",
        "answer": "p a m",
    }
    assert (own_place / "mine/generate/samples.jsonl").stat().st_mtime_ns == before, "nothing is asked again"
    assert len((own_place / "mine/rows.jsonl").read_text().splitlines()) == 10
    reply = runner.invoke(app, ["chat", "mine/run", "--once", "--max-tokens", "8"], input="Reverse: a b c\n")
    assert reply.exit_code == 0
    assert reply.stdout.strip()
    assert not addresses, "nobody was named, so nothing is sent anywhere"


def test_against_a_server_that_is_named(own_place: Path, addresses: list[tuple[str, int]]) -> None:
    numbers = iter(range(10_000))

    def reply(handler) -> None:
        number = next(numbers)
        asked = f"Reverse: a {number}" if number % 8 else "A b."  # that one is the example in the task
        answering(completion(json.dumps({"input": asked, "output": f"{number} a"})))(handler)

    with serving() as server:
        server.chat = reply
        task = "Reverse the words. Input: a b Output: b a"
        run("build", task, "--engine", server.url, "--rows", "10", "--model", "lab-small", "--out", "mine",
            "--until", "rows")  # fmt: skip
        asked = len(server.seen)
        rows = [json.loads(line) for line in (own_place / "mine/rows.jsonl").read_text().splitlines()]
        new = [row for row in rows if row["origin"] == "model"]
        assert len(new) == 9
        dropped = [json.loads(line) for line in (own_place / "mine/generate/dropped.jsonl").read_text().splitlines()]
        assert {(one["curator"], one["reason"]) for one in dropped} == {
            ("decontaminate", "asks a question of examples: that of item mine/examples.jsonl:1")
        }, "an example in the task is not trained on, however the server writes it"
        assert all(row["messages"][0]["content"].startswith("Reverse: a ") for row in new)
        run("build", task, "--engine", server.url, "--rows", "10", "--model", "lab-small", "--out", "mine",
            "--until", "rows")  # fmt: skip
        assert len(server.seen) == asked
        assert {port for _, port in addresses} == {server.server_address[1]}


def test_step_by_step_the_files_are_those_of_one_call(own_place: Path) -> None:
    """As after a kill between any two steps; options of steps that are done, and another task, are not passed over."""
    task, knobs = "Copy, reverse or sort a few letters.", ("--rows", "8", "--model", "lab-small")
    run("build", task, *knobs, "--out", "whole", "--until", "rows")
    for until in ("task", "data", "model", "rows"):
        run("build", task, *knobs, "--out", "steps", "--until", until)
    files = sorted(path.name for path in (own_place / "whole").iterdir() if path.is_file())
    assert files == ["data.json", "generate.yaml", "model.json", "request.json", "rows.jsonl", "run.yaml", "task.json"]
    for name in files:
        other = (own_place / "steps" / name).read_text().replace("steps/", "whole/")
        assert other == (own_place / "whole" / name).read_text(), name
    for arguments, said in (
        ((task, "--rows", "9"), "steps/generate.yaml was made with --rows 8; edit or remove it, or give another --out"),
        ((task, "--model", "lab"), "steps/model.json was made with --model lab-small"),
        ((task, "--hub"), "steps/data.json was made without --hub"),
        (("Add numbers.",), "steps was begun for another task ('Copy, reverse or sort a few letters.'); give another"),
    ):
        assert said in run("build", *arguments, "--out", "steps", code=2).stderr.strip().splitlines()[-1]
    (own_place / "steps/rows.jsonl").unlink()
    (own_place / "steps/generate.yaml").unlink()
    run("build", task, "--rows", "6", "--out", "steps", "--until", "rows")  # made anew, and so with other options
    assert json.loads((own_place / "steps/request.json").read_text())["options"] == {"model": "lab-small", "rows": 6}


def test_a_server_that_fails_midway_is_asked_for_the_rest(own_place: Path) -> None:
    asked: list[str] = []
    limit = 4

    def reply(handler) -> None:
        asked.append("")
        text = json.dumps({"input": f"Reverse: a {len(asked)}", "output": f"{len(asked)} a"})
        refusal = answering({"error": {"message": "quota used up"}}, 400)
        (answering(completion(text)) if len(asked) <= limit else refusal)(handler)

    with serving() as server:
        server.chat = reply
        arguments = ("build", "Reverse the words. Input: a b Output: b a", "--engine", server.url, "--rows", "10",
                     "--model", "lab-small", "--out", "mine", "--until", "rows")  # fmt: skip
        last = run(*arguments, code=2).stderr.strip().splitlines()[-1]
        assert "quota used up" in last
        assert not (own_place / "mine/rows.jsonl").exists()
        limit = 1000
        run(*arguments)
        drawn = [json.loads(line) for line in (own_place / "mine/generate/samples.jsonl").read_text().splitlines()]
        names = [entry["id"] for entry in drawn if entry["kind"] == "sample"]
        assert len({*names}) == len(names) >= 4


def test_a_model_that_says_none_to_everything_leaves_a_recipe_that_can_be_used(own_place: Path) -> None:
    with serving() as server:
        server.chat = answering(completion("none"))
        done = run("build", "Reverse a few letters. Input: a b Output: b a", "--engine", server.url, "--rows", "4",
                   "--model", "lab-small", "--out", "mine", "--until", "rows")  # fmt: skip
        assert "none of 5 replies took the task apart" in done.stderr
        assert len((own_place / "mine/rows.jsonl").read_text().splitlines()) > 1
        run("check", "mine/run.yaml")


def test_what_cannot_be_is_one_line(own_place: Path) -> None:
    def refused(*arguments: str) -> str:
        lines = run("build", *arguments, "--out", "mine", code=2).stderr.strip().splitlines()
        return lines[-1]

    assert "Connection refused" in refused("Add. Input: 1 Output: 2", "--engine", "http://127.0.0.1:9/v1")
    assert not (own_place / "mine/task.json").exists()
    assert "--until must be task, data" in refused("x", "--until", "lunch")
    assert "--engine must be native, transformers, vllm or a server's address" in refused("x", "--engine", "gpt-4")
    assert not (own_place / "mine/generate.yaml").exists()
    assert "the task is empty" in refused(" ")
    assert "absent is not there" in refused("Add.", "--data", "absent")
    assert "no data set fits the task" in refused("Zebra xylophone.", "--model", "lab-small")
    (own_place / "few.jsonl").write_text('{"prompt": "translate bread", "answer": "pain"}\n')
    run("build", "Zebra xylophone.", "--out", "mine", "--data", "few.jsonl", "--until", "data")  # as that line proposed
    (own_place / "mine/data.json").write_text("{broken")
    assert "mine/data.json: is no JSON" in refused("Zebra xylophone.", "--model", "lab-small")
