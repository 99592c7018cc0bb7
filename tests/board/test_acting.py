"""Writing, checking, starting, stopping and resuming: form and text are one recipe, processes are lists of words."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from board_runs import form_key, open_client, send, stop_all, wait_for
from holdfast.board import jobs as jobs_module
from holdfast.board.draft import START, RecipeDraft, change_data, parse_text, read_values, write_text
from holdfast.board.folder import RunsFolder
from holdfast.board.jobs import TRAIN, Jobs
from holdfast.board.own_code import find_outside_places, find_own_code
from holdfast.recipe.loader import read_recipe, read_recipe_text
from holdfast.recipe.yaml_writer import find_leaf_values

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))


@pytest.mark.parametrize(
    "text", [START, *(path.read_text() for path in EXAMPLES)], ids=["start", *(p.stem for p in EXAMPLES)]
)
def test_a_form_that_nobody_changed_changes_nothing(text: str) -> None:
    data = parse_text(text)
    values = read_values(data)
    assert change_data(data, values, dict(values)) == (data, [])
    # And written again field by field it is the same recipe.
    empty, problems = change_data({}, {}, values)
    assert not problems
    rest = {key: value for key, value in data.items() if key in ("stages", "search")}
    assert read_values({**empty, **rest}) == values


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("train.epochs", "4", "epochs: 4"),
        ("optimizer.name", "sgd", "optimizer: sgd"),
        ("data.replay.path", "lab", "path: lab"),
        ("data.system", "Be short.", 'system: "Be short."'),
        ("curate", "[{name: s3ft, paraphrase: true}]", "paraphrase: true"),
        ("data.limit", "", "train: lab:story"),
    ],
)
def test_a_field_changes_the_text_and_nothing_else(key: str, value: str, line: str) -> None:
    data = parse_text(START)
    before = read_values(data)
    changed, problems = change_data(data, before, {**before, key: value})
    assert not problems
    assert line in write_text(changed)
    different = {path for path, _ in find_leaf_values(changed)} ^ {path for path, _ in find_leaf_values(data)}
    assert all(".".join(map(str, path)).startswith(key.removesuffix(".name")) for path in different)


def test_a_mistake_is_said_at_its_field_as_the_command_line_says_it(client: TestClient, tmp_path: Path) -> None:
    text = START.replace("epochs: 5", "epochs: -2\n  sede: 1")
    page = send(client, "/draft", text=text, base=text, do="show")
    assert page.status_code == 422
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(Exception, match=r"train\.epochs") as caught:
        read_recipe(tmp_path / "recipe.yaml")
    said = html.unescape(page.text)
    for line in str(caught.value).split("\n"):
        assert line.replace(f"{tmp_path}/", "") in said
    field = re.search(r'<div class="setting wrong">\s*<label for="set-train.epochs">.*?</div>', page.text, re.S)
    assert field is not None
    assert "must be" in field[0]


@pytest.mark.parametrize(
    ("line", "english", "japanese"),
    [
        ("train: {epochs: -2}", "train.epochs must be greater than 0, not -2", "は 0 より大きい値です"),
        ("train: {epochs: lots}", "must be a number, not 'lots'", "には数値を指定してください"),
        ("train: {epoch: 2}", "did you mean train.epochs?", "train.epochs ではありませんか"),
        ("train: {layout: odd}", "must be", "のいずれかです"),
        ("data: {train: /etc/passwd}", "lies outside", "はボードのディレクトリの外にあります"),
        ("output: .x/y", "hidden", "隠しディレクトリ"),
        ("x: [", "not valid YAML", '<span lang="en">recipe.yaml'),
    ],
)
def test_a_mistake_is_said_in_the_readers_language(client: TestClient, line: str, english: str, japanese: str) -> None:
    text = f"model: lab-small\n{line}\n" + ("" if line.startswith("data") else "data: {train: 'lab:story'}\n")
    said = html.unescape(
        re.sub(r"</?(?:span|code)[^>]*>", "", send(client, "/draft", text=text, base="", do="start").text)
    )
    assert english in said
    page = html.unescape(send(client, "/draft?lang=ja", text=text, base="", do="start").text)
    assert japanese in page


def test_the_form_goes_into_the_text_and_the_text_into_the_form(client: TestClient) -> None:
    changed = send(client, "/draft", text=START, base=START, **{"set.train.epochs": "7"})
    assert "epochs: 7" in changed.text
    both = START.replace("lab:story", "lab:sums")
    page = send(
        client, "/draft", text=both, base=START, **{"set.data.train": "lab:story", "set.train.epochs": "7"}
    ).text
    assert "train: lab:sums" in page, "the text was changed, the field was not"
    assert "epochs: 7" in page
    part = send(client, "/draft", headers={"HX-Request": "true"}, text="a: [", base=START)
    assert part.status_code == 200
    assert "not valid YAML" in part.text
    assert "<html" not in part.text


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        ({"objective": "mine.loss:Loss"}, ["mine.loss:Loss"]),
        ({"method": "s3ft+mine:Tuner"}, ["mine:Tuner"]),
        ({"optimizer": {"name": "torch.optim.RAdam"}}, ["torch.optim.RAdam"]),
        ({"evaluate": {"keep": [{"path": "a.jsonl", "judge": {"name": "python", "function": "f.py:judge"}}]}},
         ["python", "f.py:judge"]),
        ({"data": {"train": "lab:story", "test": "rows.jsonl:test"}, "evaluate": {"keep": ["lab:sums"]}}, []),
    ],
)  # fmt: skip
def test_code_of_the_users_own_is_seen_without_importing_it(recipe: dict[str, Any], code: list[str]) -> None:
    assert find_own_code(recipe) == code


@pytest.mark.parametrize(
    "place",
    ["/etc/passwd", "../x.jsonl", "~/x", "a/../../x", "text:/etc/hostname", "link/x.jsonl", "file:///etc/x", "link/*"],
)
def test_no_recipe_leads_outside(place: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x.jsonl").write_text("{}")
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    root = (tmp_path / "in").resolve()
    assert find_outside_places({"data": {"train": place}}, root) == [place]
    fine = {"data": {"train": "rows/*.jsonl", "system": "/no_think"}, "model": "Qwen/Qwen3-0.6B", "output": "runs/x"}
    assert find_outside_places(fine, root) == []


def test_own_code_is_neither_imported_nor_started_before_one_says_so(
    client: TestClient, place: Path, sleeper: Path
) -> None:
    (place / "evil.py").write_text("open('ran', 'w')")
    text = START + "objective: evil:Loss\n"
    page = send(client, "/draft", text=text, base=text, do="start")
    assert page.status_code == 200
    assert "Say so first." in page.text
    assert "evil" not in sys.modules
    assert not (place / "ran").exists()
    started = send(client, "/draft", text=text, base=text, do="start", trust="yes")
    assert started.status_code == 303
    stop_all(place)


def test_a_run_is_started_watched_stopped_and_resumed(client: TestClient, place: Path, sleeper: Path) -> None:
    text = START.replace("runs/first", "runs/new; touch x $(touch y)")
    address = send(client, "/draft", text=text, base=text, do="start").headers["location"]
    jobs = Jobs(RunsFolder(place))
    job = jobs.list_jobs()[0]
    assert job.run == "runs/new; touch x $(touch y)"
    assert (jobs.root / job.name / "recipe.yaml").read_text() == text
    wait_for(lambda: "words: train" in client.get(address).text)
    assert "/recipe.yaml --json" in client.get(address).text
    again = send(client, "/draft", text=text, base=text, do="start")
    assert (again.status_code, "is at work already" in again.text) == (409, True)
    # A board that begins later finds it, and can stop it.
    later = open_client(place)
    assert ">running<" in later.get(address).text
    assert send(later, f"{address}/stop").status_code == 303
    wait_for(lambda: "hx-trigger" not in later.get(address).text)
    assert "interrupted" in later.get(address).text
    assert not list(place.rglob("x")), "no shell has read the name"
    resumed = send(later, "/resume/runs/going").headers["location"]
    wait_for(lambda: "words: train" in later.get(resumed).text)
    assert str(place / "runs" / "going") in later.get(resumed).text
    assert send(later, "/resume/runs/going").status_code == 409
    assert send(later, "/stop/runs/going").status_code == 303
    assert send(later, "/stop/runs/one").status_code == 409, "nobody works on it"
    stop_all(place)


def test_runs_go_on_when_the_board_ends(place: Path, sleeper: Path) -> None:
    jobs = Jobs(RunsFolder(place))
    job = jobs.start_job(TRAIN, ["train", "{job}/recipe.yaml"], run="runs/x", files={"recipe.yaml": START})
    assert os.getsid(job.pid) == job.pid, "Ctrl-C on the board's terminal does not reach it"
    other = Jobs(RunsFolder(place))
    assert other.is_alive(other.find_job(job.name))
    assert other.find_at_work([place / "runs" / "x"])
    os.kill(job.pid, signal.SIGKILL)
    wait_for(lambda: not other.is_alive(job))
    assert not other.find_at_work([place / "runs" / "x"])


def test_an_output_is_inside_and_of_one_name(client: TestClient, place: Path, sleeper: Path) -> None:
    for output in (".hidden/x", ".", "runs/.x"):
        text = START.replace("runs/first", output)
        page = send(client, "/draft", text=text, base=text, do="start")
        assert "output" in page.text
        assert page.status_code == 422
    text = START.replace("runs/first", "runs/{method}-{time}")
    draft = RecipeDraft.from_text(text, place)
    assert re.fullmatch(r"runs/s3ft-\d{4}-\d{6}", draft.choose_output(place).relative_to(place).as_posix())
    assert read_recipe_text(text, "recipe.yaml").recipe == draft.resolved_recipe.recipe  # type: ignore[union-attr]


def test_an_export_writes_into_a_new_directory_inside(client: TestClient, place: Path, sleeper: Path) -> None:
    for out, status in (("../x", 404), ("/etc/x", 404), ("runs/two", 409), ("runs/x/.y", 404)):
        assert send(client, "/export/runs/one", out=out, form="folder", dtype="").status_code == status, out
    assert send(client, "/export/runs/one", out="x", form="rm -rf", dtype="").status_code == 400
    address = send(client, "/export/runs/one", out="mine", form="gguf", dtype="q8_0", merge="yes").headers["location"]
    job = Jobs(RunsFolder(place)).find_job(address.rpartition("/")[2])
    words = ["export", place / "runs" / "one", place / "mine", "--form", "gguf", "--merge", "--dtype", "q8_0", "--json"]
    assert list(job.words) == [str(word) for word in words]
    stop_all(place)


def test_a_run_of_any_name_is_started_and_its_mask_checked(client: TestClient, place: Path, sleeper: Path) -> None:
    name = "runs/実行 50% #1?"
    (place / "runs" / "one").rename(place / name)
    page = client.get("/").text
    address = next(link for link in re.findall(r'href="(/run/[^"]+)"', page) if "50%25" in link)
    assert client.get(address).status_code == 200
    (place / name / "model").mkdir()
    path = address.removeprefix("/run")
    job = send(client, f"/check{path}").headers["location"].rpartition("/")[2]
    jobs = Jobs(RunsFolder(place))
    assert list(jobs.find_job(job).words) == ["check", str(place / name), "--json"]
    chat = send(client, f"/open-chat{path}").headers["location"]
    assert client.get(chat).status_code == 200
    stop_all(place)


def test_what_check_found_is_shown_with_the_mask(
    client: TestClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(RunsFolder(place))
    folder = jobs.root / "20260101-000000-aa"
    folder.mkdir(parents=True)
    found = (
        '{"event": "result", "rows": {"train": 3, "dropped": {"too long": 1}}, "examples": [[{"text": "<b>ask", '
        '"trained": false}, {"text": "<i>say", "trained": true}]], "plan": {"steps": 8}, "estimate": {"seconds": 90.0, '
        '"memory": "about 1 GiB"}, "measured": [], "warnings": ["few <rows>"]}\n'
    )
    (folder / "said.jsonl").write_text(found)
    (folder / "recipe.yaml").write_text(START)
    content = {"name": folder.name, "kind": jobs_module.CHECK, "run": "", "pid": 1, "words": ["check"], "began": 0.0}
    (folder / "job.json").write_text(json.dumps(content))
    page = client.get(f"/job/{folder.name}").text
    assert "&lt;b&gt;ask<mark>&lt;i&gt;say</mark>" in page
    assert "few &lt;rows&gt;" in page
    assert "about 1 GiB" in page
    assert "left out: too long" in page
    assert form_key(client)
