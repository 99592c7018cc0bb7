"""Tasks that are played: entries that name a judge or an environment, in `eval`, `train`, `compare` and `check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.axes.engine import Sample
from holdfast.axes.environment import Environment, Turn
from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.evaluation.summary import score_interval, summarise_run
from holdfast.evaluation.task import ItemResult, TaskInfo
from holdfast.evaluation.tasks.by_name import TaskSettings, build_named_tasks
from holdfast.evaluation.tasks.episode_summary import summarise_episodes
from holdfast.evaluation.tasks.episodes import measure_episodes
from holdfast.evaluation.thought_counts import BROKEN, UNFIT
from holdfast.methods.judges.number import Number
from holdfast.recipe.loader import resolve_any
from holdfast.recipe.schema import Recipe
from holdfast.recipe.task_entry import TaskEntry
from holdfast.skills.lake_walk import LakeWalk, shortest_move

SETTINGS = TaskSettings(items=6, max_tokens=8)


class Scripted:
    """A subject whose answers a function gives: from a request to a text."""

    def __init__(self, answer):
        def draw(requests, params, on_sample=None):
            assert not any(message["role"] == "system" for request in requests for message in request.messages)
            return {r.key: [Sample(r.key, 0, answer(r), "stop", 1)] for r in requests}

        self.draw = draw


def test_an_episode_counts_by_its_success_with_turns_and_returns_beside_it():
    import random

    (task,) = build_named_tasks("{path: lab:lake, environment: lake}", SETTINGS)
    assert (task.name, task.kind, task.info.judge, task.meta["source"]) == (
        "lake played",
        "episodes",
        "lake",
        "lab:lake",
    )
    walk = LakeWalk()

    def walk_best(request):
        row = next(row for row in task.rows if request.key.startswith(f"eval/lake played/{row.id}/"))
        state, _ = walk.start(row, 0)
        state = walk.start(type(row)(request.messages[-1:]), 0)[0]
        return shortest_move(state, random.Random(0))

    items = measure_episodes(task, Scripted(walk_best), lambda n: None)
    assert [item.passed for item in items] == [True] * 6
    figures = summarise_episodes(items)
    assert figures["return"] == 1
    assert figures["turns"] == sum(item.tokens for item in items) / 6
    assert figures["first"] == sum(item.extra["turns"] == 1 for item in items) / 6 < 1
    assert items[0].response.startswith("1: ") if items[0].extra["turns"] > 1 else True
    lost = measure_episodes(task, Scripted(lambda request: "hm"), lambda n: None)
    assert not any(item.passed for item in lost)
    assert {item.extra["turns"] for item in lost} == {12}
    assert lost[0].reason == "no end after 12 turns; no single move"
    assert lost[0].extra["return"] == pytest.approx(-1.2)
    entry = summarise_run([task], {task.name: lost}, {task.name: items})["tasks"][0]
    assert (entry["base"], entry["tuned"], entry["won"], entry["kind"]) == (0, 100, 6, "episodes")
    assert entry["low"] > 0
    assert entry["episodes"]["base"]["turns"] == 12


def test_the_interval_of_a_share_lies_around_it():
    info = TaskInfo("a", "episodes")
    items = [ItemResult(str(i), "", "", "", float(i < 30), i < 30, True, 1) for i in range(40)]
    ends = score_interval(info, items)
    assert 55 < ends["low"] < 75 < ends["high"] < 95
    assert score_interval(TaskInfo("a", "held_out"), items) == {}


class Endless(Environment):
    """Never ends. [here 2026]"""

    def start(self, row, seed):
        return {}, row.prompt

    def step(self, state, action):
        return Turn(state, [{"role": "user", "content": "more"}], 1.0)


class Fragile(Environment):
    """Breaks on rows that say so. [here 2026]"""

    def start(self, row, seed):
        return {"word": row.prompt[-1]["content"]}, row.prompt

    def step(self, state, action):
        if "break" in state["word"]:
            raise KeyError("x")
        return Turn(state, [], 1.0, done=True, passed=True)


def test_an_episode_on_which_the_environment_broke_is_in_no_figure(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("well", "break 1", "break 2")))
    entry = TaskEntry(path=str(file), environment=Fragile(), name="fragile")
    (task,) = build_named_tasks(entry, SETTINGS)
    items = measure_episodes(task, Scripted(lambda request: "a"), lambda n: None)
    broken = [item for item in items if BROKEN in item.extra]
    assert len(broken) == 2
    assert "the environment broke: KeyError: 'x' (" in broken[0].reason
    assert "rows.jsonl:" in broken[0].reason
    part = summarise_run([task], {"fragile": items}, {"fragile": items})["tasks"][0]
    assert (part["n"], part["left_out"], part["tuned"]) == (1, 2, 100)
    assert part["unanswered"]["tuned"]["broken"] == 2
    with pytest.raises(UserError, match="fragile: none of its 2 episodes could be played: the environment broke"):
        summarise_run([task], {"fragile": broken}, {"fragile": broken})


def test_a_conversation_that_outgrows_the_context_is_cut_there_and_has_not_succeeded(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("short", "long")))
    (task,) = build_named_tasks(TaskEntry(path=str(file), environment=Endless(), name="endless"), SETTINGS)
    subject, asked = Scripted(lambda request: "a"), []

    def draw(requests, params, on_sample=None):
        asked.append(len(requests))
        sizes = {r.key: 8 * len(r.messages) if r.messages[0]["content"] == "short" else 99 for r in requests}
        return {key: [Sample(key, 0, "a", "stop", 1) if n < 20 else Sample(key, 0, "", "length", 0)]
                for key, n in sizes.items()}  # fmt: skip

    subject.draw = draw
    short, long = sorted(measure_episodes(task, subject, lambda n: None), key=lambda item: item.prompt != "short")
    assert asked == [2, 1], "what has no room is asked nothing more"
    assert (short.extra["turns"], short.passed, short.stopped, short.extra["return"]) == (1, False, False, 1)
    assert short.reason == "the conversation outgrew the model's context at turn 2"
    assert (long.extra[UNFIT], long.reason) == (True, "the prompt does not fit into the model's context")


def test_an_entry_of_keep_brings_its_judge(tmp_path):
    file = tmp_path / "kept.jsonl"
    file.write_text(json.dumps({"prompt": "2+2?", "answer": "four is 4"}) + "\n")
    (task,) = build_named_tasks(TaskEntry(path=str(file), judge="number", name="arithmetic"), SETTINGS)
    assert (task.name, task.kind, task.judge, task.role) == ("arithmetic", "generate", Number(), "keep")
    evaluate = {"target": {"path": "test", "judge": "number"}, "keep": {"path": str(file), "environment": "lake"}}
    recipe = resolve_any({"model": "lab", "data": {"train": "lab:sums"}, "evaluate": evaluate}).recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{path: lab:lake, environment: lke}", "environment: .*lke.*lake"),
        ("{path: lab:sums, environment: lake}", "evaluate: lab:sums: .*environment lake: .*no map of 3 lines"),
        ("{path: nowhere.jsonl, environment: lake}", "nowhere.jsonl does not exist"),
        ("{path: nowhere, environment: lake}", "nowhere is neither a file nor a task|nowhere is no file"),
        ("{path: lab:lake, environment: lake, judge: number}", "names a judge and an environment; keep one"),
        ("{path: lab:lake, judge: number}", "lab:lake is no file, and brings its own judge"),
        ("{path: probe, judge: number}", "path probe has no questions"),
        ("{path: lab, name: all}", "lab is 14 tasks, which cannot all be called all"),
        ("{path: lab:lake, name: ../x}", "must be one that a file can have"),
        ("{environment: lake}", "path: Field required"),
        ("{path: [", "path"),
    ],
)
def test_an_entry_that_cannot_be_measured_is_refused_in_a_line(entry, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        build_named_tasks(entry, SETTINGS)
    assert "\n" not in str(error.value)


RECIPE = """
model: lab-small
data: {train: lab:lake, limit: 16, test: 0}
train: {max_steps: 2}
evaluate:
  target: {path: lab:lake, environment: {name: lake, turns: 4}}
  keep: [{path: lab:route, environment: route, name: walks}]
  items: 6
  live_items: 2
  every: 0.5
  max_tokens: 6
output: run
"""


def test_eval_train_and_check_measure_what_is_played(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RECIPE, encoding="utf-8")

    def invoke(*words):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    assert "target lake played 6 points" in invoke("check", "run.yaml").replace(" | ", " ")
    text = invoke("train", "run.yaml")
    assert "turns an episode, return" in text
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in report["tasks"]}
    assert {entry["kind"] for entry in entries.values()} == {"episodes"}
    assert set(entries) == {"lake played", "walks"}
    assert entries["walks"]["role"] == "keep"
    assert set(entries["lake played"]["episodes"]["tuned"]) == {"turns", "return", "first"}
    assert "turns an episode" in Path("run/report.html").read_text(encoding="utf-8")
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(line.get("keep") is not None for line in log), log
    text = invoke("eval", "lab-small", "{path: lab:lake, environment: {name: lake, turns: 4}}", "--items", "6")
    assert "lake played" in text
    assert "95 % interval" in text
