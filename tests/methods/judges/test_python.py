"""python: the user's function decides, and whatever it does, only its own row fails."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from holdfast.axes.judge import JudgeRequest
from holdfast.errors import UserError
from holdfast.methods.judges.python import Python

SOURCE = """
import os, socket, time
from helper import WORDS

def judge(prompt, response, reference):
    if response == "raise":
        raise ValueError("no idea")
    if response == "exit":
        os._exit(0)
    if response == "quit":
        raise SystemExit(0)
    if response == "hang":
        while True: pass
    if response == "sleep":
        time.sleep(99)
    if response == "memory":
        return len(bytearray(10**13))
    if response == "fork":
        os.fork()
    if response == "write":
        open("/tmp/holdfast-judge-escape", "w").write("x")
    if response == "socket":
        socket.create_connection(("127.0.0.1", 80))
    if response == "print":
        print("loud" * 10)
    if response.startswith("="):
        return eval(response[1:])
    return response == reference and prompt[-1]["content"] in WORDS

def broken(prompt, response):
    return True
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper.py").write_text("WORDS = {'?'}\n")
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def ask(judge, *responses):
    return judge.judge_all([JudgeRequest([{"role": "user", "content": "?"}], r, "yes") for r in responses])


def test_verdicts_of_a_file(file):
    right, wrong, loud = ask(Python(function=f"{file}:judge"), "yes", "no", "print")
    assert right.passed
    assert right.score == 1.0
    assert not wrong.passed
    assert not wrong.failed
    assert not loud.passed
    assert not loud.failed


def test_module_and_relative_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert ask(Python(function="mine:judge"), "yes")[0].passed
    assert ask(Python(function="mine.py:judge"), "yes")[0].passed


@pytest.mark.parametrize(
    ("value", "passed", "score", "failed"),
    [
        ("True", True, 1.0, False),
        ("0.75", True, 0.75, False),
        ("0.25", False, 0.25, False),
        ("1", True, 1.0, False),
        ("{'passed': True}", True, 1.0, False),
        ("{'score': 0.75, 'reason': 'fine'}", True, 0.75, False),
        ("{'passed': False, 'score': 0.75}", False, 0.75, False),
        ("{}", False, 0.0, True),
        ("2", False, 0.0, True),
        ("float('nan')", False, 0.0, True),
        ("'yes'", False, 0.0, True),
        ("None", False, 0.0, True),
        ("{'passed': 'yes'}", False, 0.0, True),
        ("{'passed': object()}", False, 0.0, True),
    ],
)
def test_what_it_may_return(file, value, passed, score, failed):
    verdict = ask(Python(function=f"{file}:judge"), f"={value}")[0]
    assert (verdict.passed, verdict.score, verdict.failed) == (passed, score, failed)


BAD = ["raise", "exit", "quit", "hang", "sleep", "memory", "fork", "write", "socket"]


def test_every_misdeed_fails_its_own_row_only(file, tmp_path):
    responses = [r for bad in BAD for r in ("yes", bad)] + ["no", "yes"]
    verdicts = ask(Python(function=f"{file}:judge", seconds=1), *responses)
    for response, verdict in zip(responses, verdicts, strict=True):
        assert verdict.failed is (response in BAD), (response, verdict)
        assert verdict.passed is (response == "yes"), (response, verdict)
    reasons = dict(zip(responses, verdicts, strict=True))
    assert reasons["raise"].reason == "ValueError: no idea"
    assert reasons["hang"].reason == "stopped after 1 seconds"
    import pathlib

    assert not pathlib.Path("/tmp/holdfast-judge-escape").exists()


def test_threshold(file):
    assert not ask(Python(function=f"{file}:judge", threshold=0.8), "=0.75")[0].passed


def test_mistakes_in_the_name(file, tmp_path):
    with pytest.raises(ValidationError, match="module:function"):
        Python(function="mine.py")
    with pytest.raises(UserError, match="is not a file"):
        ask(Python(function="absent.py:judge"), "yes")
    with pytest.raises(UserError, match="no attribute 'nothing'"):
        ask(Python(function=f"{file}:nothing"), "yes")
    with pytest.raises(UserError, match="No module named"):
        ask(Python(function="no_such_module_here:judge"), "yes")
    assert ask(Python(function=f"{file}:broken"), "yes")[0].failed


def test_numpy_may_be_used(tmp_path):
    path = tmp_path / "with_numpy.py"
    path.write_text("import numpy as np\ndef judge(p, r, g):\n    return float(np.mean([r == g]))\n")
    assert ask(Python(function=f"{path}:judge"), "yes", "no")[0].passed
