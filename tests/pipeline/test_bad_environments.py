"""Environments that misbehave, in runs as a user types them: one line each with its row, and the others are played."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app

GAME = '''
from holdfast.axes.environment import Environment, Turn
from holdfast.errors import UserError

ASK = [{"role": "user", "content": "and?"}]
TURNS = {
    "nan": lambda state: Turn(state, ASK, float("nan")),
    "infinity": lambda state: Turn(state, ASK, float("inf")),
    "word": lambda state: Turn(state, ASK, "high"),
    "nothing": lambda state: None,
    "silence": lambda state: Turn(state, [], 1.0),
    "set": lambda state: Turn({1, 2}, ASK, 1.0),
    "text": lambda state: Turn(state, "and?", 1.0),
    "roleless": lambda state: Turn(state, [{"content": "and?"}], 1.0),
    "empty": lambda state: Turn(state, [{"role": "user", "content": None}], 1.0),
    "model": lambda state: Turn(state, [{"role": "assistant", "content": "I"}], 1.0),
    "raise": lambda state: [][1],
    "fair": lambda state: Turn(state, ASK, 1.0),
}

class Moody(Environment):
    """Does what its rows say. [here 2026]"""

    turns: int = 2
    begins: str = ""

    def start(self, row, seed):
        word = row.prompt[-1]["content"].split()[-1]
        state = {"word": word}
        if self.begins == word:
            state = {1}
        return state, row.prompt

    def step(self, state, action):
        if state["word"] == "refuse":
            raise UserError("it wants no such word")
        return TURNS[state["word"]](state)

class Short(Moody):
    """Loses an answer of several. [here 2026]"""

    def step_all(self, actions):
        return super().step_all(actions)[1:]
'''
RECIPE = """
model: lab-small
method: rloo
data: {train: rows.jsonl, test: 0}
environment: {name: "moody:Moody"}
online: {rounds: 1, prompts: 12, n: 1, drop_equal: false}
sampling: {max_tokens: 2}
evaluate: {target: none, keep: none}
output: run
"""
FAULTS = {
    "nan": "ValueError: its reward is nan, no finite number",
    "infinity": "ValueError: its reward is inf, no finite number",
    "word": "ValueError: its reward is high, no finite number",
    "nothing": "ValueError: step gives nothing, not a Turn",
    "silence": "ValueError: it goes on, but says nothing for the model to answer",
    "set": "ValueError: its state is not of JSON types (Object of type set is not JSON serializable)",
    "text": "ValueError: its messages are a str, not a list of them",
    "roleless": "ValueError: a message is a dict, not a mapping with role and content",
    "empty": "ValueError: the content of a message is nothing, not text",
    "model": "ValueError: it answers with role assistant, which is the model's: use user, tool",
    "raise": "IndexError: list index out of range",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`run("train", ["nan", "fair"])` -> exit code and all that was written, on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("moody.py").write_text(GAME, encoding="utf-8")
    Path("run.yaml").write_text(RECIPE, encoding="utf-8")

    def invoke(verb: str, words: list[str], *more: str):
        lines = [json.dumps({"prompt": f"Play {word}"}) + "\n" for word in words]
        Path("rows.jsonl").write_text("".join(lines), encoding="utf-8")
        result = CliRunner().invoke(app, [verb, "run.yaml", *more])
        assert "Traceback" not in result.output
        return result.exit_code, " ".join(result.output.split())

    return invoke


def test_each_fault_is_a_line_with_its_row_and_the_others_are_played(run):
    code, text = run("train", [*FAULTS, "fair"])
    assert code == 0, text
    for number, (word, said) in enumerate(FAULTS.items(), 1):
        expected = f"environment moody:Moody broke: {said} (first at rows.jsonl:{number} ('Play {word}'))"
        assert expected in text, text
    (line,) = map(json.loads, Path("run/log.jsonl").read_text(encoding="utf-8").splitlines())
    assert line["rollouts/failed"] == pytest.approx(len(FAULTS) / 12, abs=1e-5)
    assert (line["rollouts/turns"], line["rollouts/truncated"], line["rollouts/return"]) == (2, 1, 2)


def test_a_state_that_is_not_json_leaves_out_its_row_in_check_and_train(run):
    code, text = run("check", ["fair", "nan"], "environment.begins=nan")
    assert code == 0, text
    assert "environment moody:Moody broke: ValueError: its state is not of JSON types" in text
    code, text = run("train", ["nan"], "environment.begins=nan")
    assert code == 2
    assert "no row can be played: rows.jsonl:1: ValueError: its state is not of JSON types" in text


def test_what_breaks_in_every_episode_stops_the_run_and_what_refuses_an_answer_too(run):
    code, text = run("train", ["raise"])
    assert code != 0
    assert (
        "environment moody:Moody broke in all 12 episodes of a round (IndexError: list index out of range, 12 times, "
        "first at rows.jsonl:1 ('Play raise')); mend it, or the rows it begins with"
    ) in text
    code, text = run("train", ["fair", "refuse"], "output=other")
    assert code == 2
    assert "rows.jsonl:2 ('Play refuse'): environment moody:Moody: it wants no such word" in text
    code, text = run("check", ["raise"])
    assert code == 0, text
    assert "the environment broke: IndexError: list index out of range" in text
    code, text = run("train", ["fair"], "output=short", "environment={name: 'moody:Short'}")
    assert code != 0
    assert "ValueError: step_all answers 1 actions with a list of 0" in text
