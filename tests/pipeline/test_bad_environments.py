"""Environments that misbehave, in runs as a user types them: one line each with its row, and the others are played."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app

GAME = '''
import sys
import time

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
    "exit": lambda state: sys.exit(3),
    "hang": lambda state: time.sleep(600),
    "slow": lambda state: time.sleep(0.1) or Turn(state, ASK, 1.0),
    "fair": lambda state: Turn(state, ASK, 1.0),
}

BEGINNINGS = {"set": lambda: {1}, "raise": lambda: [][1], "exit": sys.exit, "hang": lambda: time.sleep(600)}

class Moody(Environment):
    """Does what its rows say. [here 2026]"""

    turns: int = 2
    begins: str = ""
    how: str = "set"

    def start(self, row, seed):
        word = row.prompt[-1]["content"].split()[-1]
        state = {"word": word}
        if self.begins == word:
            state = BEGINNINGS[self.how]()
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
method: reinforce_pp
data: {train: rows.jsonl, test: 0}
environment: {name: "moody:Moody", step_seconds: 0.5}
online: {rounds: 1, prompts: 14, n: 1, drop_equal: false}
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
    "exit": "RuntimeError: it calls sys.exit(3)",
    "hang": "no answer within 0.5 s",
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
    assert line["rollouts/failed"] == pytest.approx(len(FAULTS) / 14, abs=1e-5)
    assert (line["rollouts/turns"], line["rollouts/truncated"], line["rollouts/return"]) == (2, 1, 2)


BEGINNINGS = {
    "set": "ValueError: its state is not of JSON types (Object of type set is not JSON serializable)",
    "raise": "IndexError: list index out of range",
    "exit": "RuntimeError: it calls sys.exit()",
    "hang": "no answer within 0.5 s",
}


@pytest.mark.parametrize("how", BEGINNINGS)
@pytest.mark.parametrize("verb", ["check", "train"])
def test_what_does_not_begin_is_refused_with_its_row(run, verb, how):
    code, text = run(verb, ["fair", "word"], "environment.begins=word", f"environment.how={how}")
    assert code == 2
    expected = (
        f"rows.jsonl:2 ('Play word'): environment moody:Moody does not begin: {BEGINNINGS[how]}; mend it, or remove"
    )
    assert expected in text, text
    assert not Path("run/checkpoints").exists()


def test_a_task_whose_episodes_do_not_begin_is_refused_with_its_row(run):
    game = '{name: "moody:Moody", begins: word, how: hang, step_seconds: 0.2}'
    code, text = run("check", ["fair", "word"], f"evaluate.keep=[{{path: rows.jsonl, environment: {game}}}]")
    assert code == 2
    said = "rows.jsonl:2: environment moody:Moody does not begin: no answer within 0.2 s; mend it, or remove the row"
    assert said in text, text


def test_the_ninth_hang_stops_the_run_and_a_longer_limit_goes_on_with_it(run):
    words = ["slow"] * 9 + ["fair"] * 5
    code, text = run("train", words, "environment.step_seconds=0.05")
    assert code == 1
    said = (
        "environment moody:Moody gave no answer within 0.05 s, as 8 times before since the command was started; mend "
        "it, or set its step_seconds"
    )
    assert re.search(rf"rows.jsonl:\d+ \('Play \w+'\): {re.escape(said)}", text), text
    code, text = run("train", words)
    assert code == 0, text
    (line,) = map(json.loads, Path("run/log.jsonl").read_text(encoding="utf-8").splitlines())
    assert line["rollouts/failed"] == 0


def test_what_breaks_in_every_episode_stops_the_run_and_what_refuses_an_answer_too(run):
    code, text = run("train", ["raise"])
    assert code != 0
    assert (
        "environment moody:Moody broke in all 14 episodes of a round (IndexError: list index out of range, 14 times, "
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
