"""Rows that a model behind an address writes, through the commands a user types: what is asked, paid and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app
from hostile_server import answering, completion, serving

RECIPE = """\
model: lab-small
data: {train: train.jsonl, test: 0}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
evaluate: {keep: [none], target: none}
output: out
"""
ROWS = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}"} for n in range(4)]


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def server(place: Path) -> Iterator[Any]:
    """Evolves tasks, finds questions and answers them; `asked` lists what it was asked, seven tokens each."""
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with serving() as server:
        server.asked = []

        def reply(handler: Any) -> None:
            text = handler.body["messages"][-1]["content"]
            server.asked.append(text)
            number, seed = len(server.asked), handler.body["seed"]
            said = f"New {text.partition(': ')[2]} ({seed})" if text.startswith("Harder") else f"well, {number}"
            said = f"Which gives {text[9:]} {seed}?" if text.startswith("Ask for: ") else said
            answering(completion(said, usage={"completion_tokens": 7}))(handler)

        server.chat = reply
        yield server


def curator(server: Any, **knobs: Any) -> str:
    return "curate=" + json.dumps({"name": "generate", "engine": server.url, "model": "m", **knobs})


def test_questions_evolve_and_answers_are_asked_back_by_templates_of_ones_own(server: Any) -> None:
    """n for each row, every text paid once, its tokens and its price counted in what the run writes down."""
    evolve = curator(server, write="questions", template="Harder, {how}: {question}", n=2, price=1000, max_tokens=50)
    run("curate", "run.yaml", evolve)
    new = [row for row in lines("out/curated.jsonl") if row["origin"] == "model"]
    assert len(new) == 2 * len(ROWS)
    assert {row["messages"][0]["content"].partition("? (")[0] for row in new} == {
        f"New What is {n} + 1" for n in range(4)
    }
    assert all(row["messages"][-1]["content"].startswith("well, ") for row in new)
    asked = [text for text in server.asked if text.startswith("Harder, ")]
    assert (len(asked), len(server.asked)) == (8, 16)
    assert all("{" not in text for text in asked)
    notes = json.loads(Path("out/data.json").read_text())["notes"]
    assert (notes["tokens written"], notes["cost in hundredths"], notes["rows written"]) == (16 * 7, 11, 8)
    Path("out/curated.jsonl").unlink()  # as after a kill
    run("curate", "run.yaml", evolve)
    assert len(server.asked) == 16, "nothing is paid for twice"

    run(
        "curate",
        "run.yaml",
        curator(server, write="prompts", template="Ask for: {answer}", keep_given=False),
        "output=b",
    )
    back = lines("b/curated.jsonl")
    assert [row["messages"][-1]["content"] for row in back] == [row["answer"] for row in ROWS]
    assert all(row["messages"][0]["content"].startswith("Which gives It is ") for row in back)
    assert all(row["origin"] == "gold" for row in back)


def test_a_cap_ends_the_asking_and_a_server_that_refuses_is_one_line(server: Any) -> None:
    capped = curator(server, n=1, price=1000, max_cost=0.02, max_tokens=10, temperature=0)
    run("curate", "run.yaml", capped)  # 20 tokens: two requests of at most 10, of which 7 are used, and no third
    notes = json.loads(Path("out/data.json").read_text())["notes"]
    assert (len(server.asked), notes["tokens written"], notes["requests beyond the budget"]) == (2, 14, 2)
    assert notes["cost in hundredths"] == 1
    server.chat = answering({"error": {"message": "this key may not"}}, 401)
    last = run("curate", "run.yaml", curator(server), "output=b", code=2).stderr.strip().splitlines()[-1]
    assert last.startswith(f"holdfast: {server.url}/v1 refuses the key (401)")
    assert not Path("b/curated.jsonl").exists()
