"""What works around the answer, as a user types it: eval, chat, compare, check, and what each of them refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.app import app

QUESTIONS = [{"question": f"What is {a} + 2?", "answer": str(a + 2)} for a in range(3)]
CHOICES = [{"question": f"What is {a} + 2?", "choices": [str(a + 2), str(a + 3)], "answer": 0} for a in range(3)]
PROGRAMS = [{"question": f"Write f that adds {n} to x.", "answer": [f"assert f(1) == {1 + n}"]} for n in (2, 3, 4)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    for name, rows in (("sums", QUESTIONS), ("choices", CHOICES), ("programs", PROGRAMS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.md").write_text("What is 1 + 2? It is 3.\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("The sum of three and four is seven.\n\n" * 4, encoding="utf-8")
    (tmp_path / "graph.csv").write_text("2,and 1 make,3\n", encoding="utf-8")
    return tmp_path


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    return result


def measure(*tasks: str, **method: Any) -> tuple[dict[str, Any], str]:
    shown = run("eval", "lab-small", *tasks, "--max-tokens", "12", "--out", "out", "--inference", json.dumps(method))
    return json.loads(Path("out/report.json").read_text(encoding="utf-8")), shown.stdout


def items_of(task: str) -> list[dict[str, Any]]:
    (file,) = Path("out/eval/tuned").glob(f"{task}*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_sources_stand_with_each_answer_and_without_documents_nothing_changes(place: Path) -> None:
    report, _ = measure("sums.jsonl", "choices.jsonl", name="rag", documents=["docs"], by="embedding", top=1)
    for task in ("sums", "choices"):
        sources = [item["extra"]["trace"]["sources"] for item in items_of(task)]
        assert {one["name"] for found in sources for one in found} == {"notes.md"}
    assert {task["name"] for task in report["tasks"]} == {"sums", "choices"}
    (place / "out").rename(place / "with")
    none, _ = measure("sums.jsonl", "choices.jsonl", name="rag", documents=[])
    assert [task["delta"] for task in none["tasks"]] == [0, 0]
    assert all(not item["extra"] for item in items_of("sums"))
    talk = run("chat", "lab-small", "--once", "--inference", "{name: rag, documents: docs, by: embedding}",
               stdin="What is 3 + 4?\n")  # fmt: skip
    assert "source notes.md: What is 1 + 2? It is 3." in talk.stderr
    asked = [run("chat", "lab-small", "--once", *more, stdin="What is 3 + 4?\n").stdout for more in
             ([], ["--inference", "{name: rag, documents: []}"])]  # fmt: skip
    assert asked[0] == asked[1]


def test_attempts_are_counted_and_answers_beside_them_judged(place: Path) -> None:
    report, shown = measure("sums.jsonl", name="self_consistency", n=3)
    (task,) = report["tasks"]
    assert task["answering"]["calls"] == 3
    assert "asked 3.0 times an answer" in shown
    assert [sum(item["extra"]["trace"]["votes"].values()) <= 3 for item in items_of("sums")] == [True] * 3
    (place / "out").rename(place / "votes")
    report, shown = measure("programs.jsonl", name="reflexion", trials=2, memory="last_attempt")
    (task,) = report["tasks"]
    assert set(task["answering"]["beside"]) == {"retries"}
    assert "retries instead" in shown
    assert "Try 1" in Path("out/report.html").read_text(encoding="utf-8") or task["flips"] == []
    for item in items_of("programs"):
        trace = item["extra"]["trace"]
        assert trace["trials"][0]["text"] == trace["retries"][0]["text"]
        assert item["extra"]["beside"]["retries"]["text"] == trace["retries"][-1]["text"]
    (place / "out").rename(place / "tries")
    report, _ = measure("programs.jsonl", name="reflexion", trials=1)
    assert report["tasks"][0]["delta"] == 0
    line = run("chat", "lab-small", "--once", "--inference", "{name: hykge, graph: graph.csv, rerank: words}",
               stdin="What is 2 + 1?\n")  # fmt: skip
    assert "answers are made by hykge" in line.stderr


def test_what_makes_no_sense_is_refused_in_one_line(place: Path) -> None:
    cases: list[tuple[str, list[str], dict[str, Any]]] = [
        ("reflexion changes attempts, of which text can see nothing", ["text.txt"], {"name": "reflexion"}),
        ("self_consistency changes attempts, of which choices can see nothing", ["choices.jsonl"],
         {"name": "self_consistency"}),
        ("reflexion: sums: judge number needs the right answer", ["sums.jsonl"], {"name": "reflexion"}),
        ("best_of_n: sums: judge number needs the right answer", ["sums.jsonl"], {"name": "best_of_n", "by": "judge"}),
        ("inference.rag.documents: nowhere does not exist", ["sums.jsonl"], {"name": "rag", "documents": "nowhere"}),
        ("inference.rag.documents: says nothing", ["sums.jsonl"], {"name": "rag"}),
        ("graph.tsv:2: has 2 fields", ["sums.jsonl"], {"name": "hykge", "graph": "graph.tsv"}),
        ("judges", ["sums.jsonl"], {"name": "reflexion", "judge": "nothing"}),
    ]  # fmt: skip
    (place / "graph.tsv").write_text("a\tb\tc\na\tb\n", encoding="utf-8")
    for says, tasks, method in cases:
        output = run("eval", "lab-small", *tasks, "--inference", json.dumps(method), code=2).output
        assert says in " ".join(output.split()), output
    recipe = {
        "model": "lab-small", "data": {"train": "lab:sums", "limit": 20}, "train": {"max_steps": 0}, "output": "no",
        "evaluate": {"keep": ["none"], "items": 2},
    }  # fmt: skip
    for says, method in (("needs the right answer", "reflexion"), ("says nothing", "rag")):
        (place / "r.yaml").write_text(yaml.safe_dump({**recipe, "inference": method}), encoding="utf-8")
        for verb in ("check", "train"):
            assert says in " ".join(run(verb, "r.yaml", code=2).output.split())
        assert not (place / "no").exists()
    says = "reflexion: nothing judges answers here"
    assert says in run("chat", "lab-small", "--once", "--inference", "reflexion", stdin="Hello\n", code=2).output


def test_a_run_keeps_its_documents_and_draws_nothing_twice(place: Path) -> None:
    """Made elsewhere, the answer is the same: paths are absolute. A second start finds every attempt in the journal."""
    recipe = {
        "model": "lab-small", "data": {"train": "lab:sums", "limit": 20}, "output": "vote",
        "method": "self_consistency", "inference": {"n": 2},
        "evaluate": {"keep": ["none"], "items": 2, "max_tokens": 8},
    }  # fmt: skip
    (place / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run("train", "r.yaml")
    lines = [json.loads(line) for line in (place / "vote" / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    drawn = [line["id"] for line in lines if line["kind"] == "sample"]
    assert len(drawn) == len(set(drawn)) == 2 + 2 * (2 + 1)  # the base's, the attempts and the answers made of them
    assert sum("trace" in line for line in lines) == 2
    more = ["method=rag", "inference={name: rag, documents: [docs], by: embedding}", "train.max_steps=0", "output=told"]
    run("train", "r.yaml", *more)
    setup = json.loads((place / "told" / "model" / "inference.json").read_text(encoding="utf-8"))
    assert setup["inference"]["documents"] == [str((place / "docs").resolve())]
