"""Every inference method wherever a model answers: it works there, or is refused in a line with its name."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.axes.registry import REGISTRY, find_method
from holdfast.cli.app import app
from holdfast.recipe.method_text import parse_method
from holdfast.serving.app import ServerLimits
from holdfast.serving.server import ModelServer, ServerSettings

RECIPE = """\
model: lab-small
data: {train: train.jsonl, test: test.jsonl}
evaluate: {keep: [none]}
train: {max_steps: 1}
"""

METHODS = {
    "dial": "{name: dial, point: 0.5}",
    "mend": "mend",
    "calibration": "{name: calibration, gamma: 2.0, absent: [owl], present: [fox], form: %(form)s}",
    "combine": "{name: combine, runs: [run]}",
    "pretty": "{name: pretty, dictionary: words.tsv, tokens: 1}",
    "proxy": "{name: proxy, antiexpert: lab-small}",
    "self_consistency": "{name: self_consistency, n: 2}",
    "best_of_n": "{name: best_of_n, n: 2}",
    "rag": "{name: rag, documents: [notes]}",
    "hykge": "{name: hykge, graph: [facts.csv], rerank: words, hypothesis_tokens: 4}",
    "reflexion": "{name: reflexion, trials: 2, judge: {name: python, function: check.py:judge}}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run, and whatever the methods read."""
    path = tmp_path_factory.mktemp("everywhere")
    rows = [{"question": f"Which pet does {name} have?", "answer": "fox"} for name in "ABCDEF"]
    texts = {
        "run.yaml": RECIPE, "train.jsonl": rows, "test.jsonl": [{**rows[0], "answer": "owl"}],
        "choice.jsonl": [{**rows[0], "choices": ["fox", "owl"], "answer": 1}],
        "free.jsonl": [{"question": "Tell me of Tabor.", "answer": "Tabor is an old man who lives in a house. " * 4}],
        "text.txt": "Tabor has a fox. The fox eats nuts.\n", "notes/tabor.md": "The pet of Tabor is a fox. Pets eat.",
        "facts.csv": "fox,eats,nuts\nA,pet,fox\n", "words.tsv": "pet\tfox\n",
        "check.py": "def judge(prompt, response, row):\n    return response.strip() == 'fox'\n",
    }  # fmt: skip
    for name, text in texts.items():
        (path / name).parent.mkdir(exist_ok=True)
        lines = text if isinstance(text, str) else "".join(json.dumps(row) + "\n" for row in text)
        (path / name).write_text(lines, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HOLDFAST_CACHE", str(path / "cache"))
        run("train", "run.yaml", "output=run")
        yield path


def run(*command: str, stdin: str = "", code: int = 0) -> str:
    done = CliRunner().invoke(app, command, input=stdin)
    assert done.exit_code == code, (command, done.output, done.exception)
    return done.output


TASKS = ("test.jsonl", "choice.jsonl", "free.jsonl", "text:text.txt")
"""Sampled answers, multiple choice, the likelihood of answers, and that of plain text."""
ONLY_SAMPLED = {"pretty", "self_consistency", "best_of_n", "hykge", "reflexion"}
ONLY_ASKED = {"rag"}
"""Methods of which likelihoods see nothing, and of which plain text does not."""


def short_name(task: str) -> str:
    """What reports call a task."""
    return Path(task.removeprefix("text:")).stem


def blind_tasks(name: str) -> tuple[str, ...]:
    """The tasks that see nothing of a method."""
    return TASKS[1:] if name in ONLY_SAMPLED else TASKS[3:] if name in ONLY_ASKED else ()


def test_the_table_has_every_method() -> None:
    assert set(REGISTRY["inference"]) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_and_chat(place: Path, name: str) -> None:
    for form in ("choice", "first_token") if name == "calibration" else ("first_token",):
        method = METHODS[name].replace("%(form)s", form)
        said = run("eval", "run", *TASKS, "--against", "run", "--inference", method, "--max-tokens", "4", "--out", form)
        report = json.loads((place / form / "report.json").read_text(encoding="utf-8"))
        assert len(report["tasks"]) == len(TASKS)
        shutil.rmtree(place / form)
        blind = re.search(rf"inference: {name} changes [^;]*; ([^;]*): measured without it", " ".join(said.split()))
        assert blind is None or blind[1].split(", ") == [short_name(task) for task in blind_tasks(name)]
        assert (blind is None) == (not blind_tasks(name))
    for task in blind_tasks(name):
        refused = run("eval", "run", task, "--inference", method, code=2)
        assert f"inference: {name} changes" in refused.strip().splitlines()[-1]
    answer = run("chat", "run", "--once", "--max-tokens", "4", "--inference", method, stdin="Which pet does A have?\n")
    assert answer.strip()


def test_comparison(place: Path) -> None:
    """Every method as an arm, those that need no training without it; forward passes stand beside each."""
    arms, is_trained = {}, {name: find_method("inference", name).needs_training() for name in METHODS}
    for name, method in METHODS.items():
        settings = [f"inference={method % {'form': 'first_token'}}", "evaluate.live_items=0"]
        arms[name] = settings if is_trained[name] else [f"method={name}", *settings]
    (place / "arms.yaml").write_text(json.dumps(arms), encoding="utf-8")
    (place / "common.yaml").write_text(RECIPE.replace("train: {max_steps: 1}", ""), encoding="utf-8")
    run("compare", "common.yaml", "--arms", "arms.yaml", "--steps", "1", "--out", "arms")
    report = json.loads((place / "arms" / "compare.json").read_text(encoding="utf-8"))
    assert {one["method"]: one["inference"] for one in report["runs"]} == {name: name for name in METHODS}
    assert {one["method"]: one["steps"] == [1] for one in report["runs"]} == is_trained
    assert all(one["cost"]["forward_passes"] >= one["cost"]["questions"] > 0 for one in report["runs"])


@pytest.mark.parametrize("name", METHODS)
def test_the_server(place: Path, name: str) -> None:
    lines: list[str] = []
    server = ModelServer(ServerSettings(device="cpu", limits=ServerLimits(tokens=8)), lines.append, lines.append)
    method = METHODS[name].replace("%(form)s", "first_token")
    server.add_model("m", "run", parse_method("inference", method, "--inference"))
    app = server.routes.build_app()
    talk = {"messages": [{"role": "user", "content": "Which pet does A have?"}]}

    def post(path: str, **body: Any) -> tuple[int, str]:
        own = {"model": "m", "max_tokens": 4, "temperature": 0, "seed": 1, **body}
        return server.loop.run_until_complete(post_json(app, f"/v1/{path}", own))

    try:
        status, text = post("chat/completions", **talk)
        assert status == 200, text
        answer = json.loads(text)["choices"][0]
        if name in ("rag", "hykge"):
            assert answer["trace"]
        status, text = post("chat/completions", **talk, stream=True)
        assert status == 200
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        pieces = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
        assert "".join(pieces) == answer["message"]["content"] != ""
        status, text = post("completions", prompt="The pet")
        if name in ONLY_SAMPLED | ONLY_ASKED:
            assert (status, f"answers are made by {name}, which asks with a conversation" in text) == (400, True), text
        else:
            assert status == 200, text
    finally:
        server.models["m"].live.close()
        server.loop.close()


async def post_json(app: Any, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Ask an ASGI application; its status and body."""
    inbox = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not inbox:
            await asyncio.Event().wait()  # the client stays
        return inbox.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1", "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()
