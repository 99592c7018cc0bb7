"""Thinking models as a user runs them: checked, trained, measured, exported and served as they are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.chat.encoder import Chat

TEMPLATES = Path(__file__).parent.parent / "data" / "templates"
RECIPE = """\
model: model
data: {train: rows.jsonl, test: 0}
train: {max_steps: 2, batch_tokens: 256, max_length: 256}
evaluate: {target: test.jsonl, keep: [], every: 0, max_tokens: 3, max_thinking_tokens: 6}
judge: exact
output: out
"""
runner = CliRunner()


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    done = runner.invoke(app, list(arguments), input=stdin)
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


def row(number: int, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Add {number} and 2."}, {"role": "assistant", "content": answer}]}


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def make_model(tiny: Any, place: Path) -> Any:
    """`make_model(template)` writes ./model, with rows that think and rows to test on beside it."""
    write("rows.jsonl", [row(n, f"<think>\nI add {n} and 2.\n</think>\n\n{n + 2}") for n in range(4)])
    write("bare.jsonl", [row(n, str(n + 2)) for n in range(4)])
    write("test.jsonl", [row(n, str(n + 2)) for n in range(4, 7)])

    def make(template: str | None) -> None:
        model, tokenizer = tiny("llama")
        source = None if template is None else (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
        own, tokenizer.chat_template = tokenizer.chat_template, source
        model.save_pretrained("model")
        tokenizer.save_pretrained("model")
        tokenizer.chat_template = own

    return make


def trained_text(*overrides: str) -> list[str]:
    """What `check` shows as trained of each row."""
    found = json.loads(run("check", "run.yaml", "--json", *overrides).stdout.splitlines()[-1])
    return ["".join(p["text"] for p in pieces if p["trained"]) for pieces in found["examples"]]


@pytest.mark.parametrize("template", ["qwen3_thinking_2507", "qwq"])  # one that always thinks, one that cuts thoughts
def test_thoughts_are_trained_behind_the_prompt_that_opens_them(make_model: Any, template: str) -> None:
    make_model(template)
    assert trained_text()[0] == "I add 0 and 2.\n</think>\n\n2<|im_end|>"
    assert trained_text("data.thoughts=mask")[0] == "2<|im_end|>"
    assert trained_text("data.thoughts=strip")[0] == "\n</think>\n\n2<|im_end|>"
    said = run("check", "run.yaml")
    assert "thoughts: 4 of 4 rows hold one; they are trained with the answers" in said.output
    assert ("would cut them" in said.output) == (template == "qwq")


def test_a_model_that_always_thinks_is_measured_exported_and_asked_like_that(make_model: Any, place: Path) -> None:
    make_model("qwen3_5_think")
    done = run("train", "run.yaml", "data.system=Be brief.")
    assert "test: thought did not end: 3 of 3, 3 of 3 before" in done.output
    report = json.loads(Path("out/report.json").read_text())
    assert report["chat"] == {
        "system": "Be brief.", "chat_template_kwargs": {}, "thoughts": "train", "own_template": False,
    }  # fmt: skip
    (task,) = report["tasks"]
    assert task["thoughts"] == {when: {"thought": 3, "unended": 3} for when in ("base", "tuned")}
    assert 0 < task["length_tuned"] <= 3  # of the answer; the thought has its own budget
    items = [json.loads(line) for line in next(Path("out/eval/final").glob("*.jsonl")).read_text().splitlines()]
    items = [item for item in items if "response" in item]
    assert all(item["response"].startswith("<think>\n") for item in items)
    assert all(item["reason"].startswith("the thought did not end; ") for item in items)
    assert "thought did not end: 3 of 3, 3 of 3 before" in Path("out/README.md").read_text()
    assert "thought did not end: 3 of 3" in Path("out/report.html").read_text()
    # Measured again by its name, and exported, it is asked as it was trained.
    again = run("eval", "out", "--against", "model", "--json", "--max-tokens", "3").stdout.splitlines()[-1]
    assert json.loads(again)["report"]["tasks"][0]["tuned"] == task["tuned"]
    run("export", "out", "copy")
    kept = json.loads(Path("copy/chat_settings.json").read_text())
    assert kept == {"system": "Be brief.", "chat_template_kwargs": {}, "thoughts": "train"}
    said = run(
        "chat", "out", "--max-tokens", "4", "--max-thinking-tokens", "5", "--once", stdin="Add 1 and 2.\n"
    ).stdout
    assert said.startswith("<think>\n")
    assert said.count("<think>") == 1


def test_a_switch_is_derived_told_overridden_and_served(make_model: Any, place: Path) -> None:
    make_model("qwen3")
    bare = "data.train=bare.jsonl"
    assert trained_text(bare)[0] == "2<|im_end|>"
    on = "data.chat_template_kwargs.enable_thinking=true"
    assert trained_text(bare, on)[0] == "<think>\n\n</think>\n\n2<|im_end|>"
    wrong = run("check", "run.yaml", "data.chat_template_kwargs.enable_thinkng=true", code=2).stderr
    assert "never reads enable_thinkng; it reads enable_thinking" in wrong
    refused = run("check", "run.yaml", "data.chat_template_kwargs.enable_thinking=false", code=2).stderr
    assert "holds a thought, but the prompt says not to think; set data.thoughts to strip" in refused
    done = run("train", "run.yaml", bare)
    assert 'given {"enable_thinking": false}, because no row holds a thought' in done.output
    (line,) = [ln for ln in Path("out/resolved.yaml").read_text().splitlines() if "chat_template_kwargs" in ln]
    assert line.split() == [
        "chat_template_kwargs:", "null", "#", "derived:", '{"enable_thinking":', "false},",
        "because", "no", "row", "holds", "a", "thought", "to", "be", "read",
    ], line  # fmt: skip
    assert "already finished" in run("train", "out").output, "it is a recipe too, and that of this very run"
    card = Path("out/model/README.md").read_text()
    assert "--default-chat-template-kwargs '{\"enable_thinking\": false}'" in card
    assert "The chat template was given" in card
    assert "enable\\_thinking" in card or "enable_thinking" in Path("out/report.html").read_text()
    assert json.loads(Path("out/model/chat_settings.json").read_text())["chat_template_kwargs"] == {
        "enable_thinking": False
    }


def test_a_base_without_a_template_is_saved_with_the_one_it_was_trained_with(make_model: Any, place: Path) -> None:
    make_model(None)
    run("train", "run.yaml", "data.train=bare.jsonl", "evaluate.target=none")
    tokenizer = AutoTokenizer.from_pretrained("out/model")
    user = [{"role": "user", "content": "Add 1 and 2."}]
    asked = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    assert asked == Chat(AutoTokenizer.from_pretrained("model")).prompt_text(user)
    assert json.loads(Path("out/report.json").read_text())["chat"]["own_template"]
    assert "it stands beside these weights" in Path("out/model/README.md").read_text()
