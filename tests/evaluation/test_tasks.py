"""Tasks by the names recipes use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.evaluation.task import Task
from holdfast.evaluation.tasks.by_name import (
    TaskSettings,
    build_named_tasks,
    build_tasks,
    sample_rows,
)
from holdfast.evaluation.tasks.held_out import select_answer_rows
from holdfast.methods.judges.exact import Exact
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.overlap import Overlap
from holdfast.pipeline.live_evaluation import LEAST_ANSWERS, comparison_loss, live_tasks


def write(path: Path, records: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rows(n: int, **meta: Any) -> list[Row]:
    return [
        Row([{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": str(i)}], meta=meta)
        for i in range(n)
    ]


def recipe(target: str = "test", keep: Sequence[str] = (), items: int = 200, max_tokens: int = 64) -> Any:
    return SimpleNamespace(
        evaluate=SimpleNamespace(
            target=target, keep=tuple(keep), items=items, max_tokens=max_tokens, max_thinking_tokens=9
        ),
        objective=SimpleNamespace(makes_reward_model=False),
    )


def names(tasks: Sequence[Task]) -> dict[str, str]:
    return {task.name: task.role for task in tasks}


def test_held_out_rows_are_the_target():
    task, beside = build_tasks(recipe(items=7), rows(20), Number())
    assert (beside.name, beside.kind, beside.role, beside.rows) == ("held-out loss", "held_out", "watch", task.rows)
    assert (task.name, task.kind, task.role, task.judge, task.max_tokens) == (
        "test",
        "generate",
        "target",
        Number(),
        64,
    )
    assert len(task.rows) == 7
    assert build_tasks(recipe(), [], Number()) == []
    assert [t.role for t in build_tasks(recipe("none"), rows(2))] == ["watch"]


def test_files_of_every_kind(tmp_path: Path):
    gsm = write(
        tmp_path / "gsm.jsonl", [{"question": f"{i}+1?", "answer": f"So it is\n#### {i + 1}"} for i in range(5)]
    )
    arc = write(tmp_path / "arc.jsonl", [{"question": f"{i}?", "A": "x", "B": "y", "answerKey": "B"} for i in range(5)])
    prose = write(tmp_path / "prose.jsonl", [{"text": f"Text number {i}. " * 5} for i in range(5)])
    (tmp_path / "story.txt").write_text(" ".join(f"Once upon a time {i}." for i in range(500)))
    story = str(tmp_path / "story.txt")
    found = {t.name: t for t in build_tasks(recipe(gsm, [arc, f"text:{prose}", f"text:{story}"]))}
    assert {name: task.kind for name, task in found.items()} == {
        "gsm": "generate", "arc": "choice", "prose": "perplexity", "story": "perplexity",
    }  # fmt: skip
    assert isinstance(found["gsm"].judge, Number)
    assert found["gsm"].rows[0].gold.startswith("So it is")
    assert found["arc"].rows[0].reference == 1
    assert len(found["prose"].rows) == 5
    assert len(found["story"].rows) > 3
    assert names(found.values()) == {"gsm": "target", "arc": "keep", "prose": "keep", "story": "keep"}
    (plain,) = build_named_tasks(prose)  # a text file without the prefix
    assert plain.kind == "perplexity"
    assert {r.answer for r in plain.rows} == {r.answer for r in found["prose"].rows}


def test_given_judge_is_for_the_target_only(tmp_path: Path):
    other = write(tmp_path / "other.jsonl", [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(5)])
    target, _, kept = build_tasks(recipe(keep=[other]), rows(4), Exact())
    assert isinstance(target.judge, Exact)
    assert isinstance(kept.judge, Number)


def test_the_loss_of_sentences_is_measured(tmp_path: Path):
    free = [{"instruction": f"Tell me {i}.", "output": f"Well, I would say that it is rather {i}."} for i in range(5)]
    short = [{"instruction": f"Tell me {w}.", "output": w} for w in ("north", "south", "east")]
    files = [write(tmp_path / f"{name}.jsonl", r) for name, r in (("free", free), ("short", short))]
    tasks = [build_named_tasks(file)[0] for file in files]
    assert [(task.kind, task.judge) for task in tasks] == [("held_out", None), ("generate", Exact())]
    assert tasks[0].meta["why"].startswith(f"{files[0]}: the references are free text")
    (judged,) = build_named_tasks(files[0], judge=Overlap())
    assert (judged.kind, judged.judge) == ("generate", Overlap())
    said: list[str] = []
    held_out = [
        Row([{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["output"]}])
        for r in free
    ]
    (target,) = build_tasks(recipe(), held_out, say=said.append)
    assert (target.name, target.kind, target.role) == ("held-out loss", "held_out", "target")
    assert said == [
        "the references are free text and no judge is named: the target is the loss of the held-out answers, in bits "
        "per token; name a judge to score answers"
    ]


def test_answers_are_measured_as_they_would_be_trained_on():
    asked = [{"role": "user", "content": "q"}]
    earlier = [*asked, {"role": "assistant", "content": "a"}, *asked]
    whole = Row([*earlier, {"role": "assistant", "content": "b"}])
    found = select_answer_rows([
        whole, Row(earlier, chosen="good", rejected="bad"), Row(asked, reference="gold"), Row(asked, reference=7),
        replace(whole, label=False), Row([{"role": "assistant", "content": "plain text"}]),
    ])  # fmt: skip
    assert [row.answer for row in found] == ["b", "good", "gold"]
    assert [[m.get("weight", 1) for m in row.messages if m["role"] == "assistant"] for row in found] == [
        [1, 1], [0, 1], [1],
    ]  # fmt: skip


def test_pairs_are_measured_by_which_answer_is_likelier():
    texts = [f"Long answer {'x' * i} that nobody could guess, in so many words as {i} and more" for i in range(8)]
    asked = [{"role": "user", "content": "q"}]
    pairs = [Row(asked, chosen=text, rejected=f"no {text}", id=str(i)) for i, text in enumerate(texts)]
    said: list[str] = []
    target, beside = build_tasks(recipe(), [*pairs, Row(asked, chosen="same", rejected="same")], say=said.append)
    assert (target.name, target.kind, target.role) == ("held-out pairs", "choice", "target")
    assert target.meta["normalise"] == "length"
    assert len(target.rows) == len(pairs), "equal answers have no order"
    assert {(row.gold, *row.meta["choices"]) for row in target.rows} == {(0, t, f"no {t}") for t in texts}
    assert (beside.name, beside.role, len(beside.rows)) == ("held-out loss", "watch", len(pairs) + 1)
    assert said == [
        "the references are free text and no judge is named: the target is in how many held-out pairs the chosen "
        "answer is the likelier one; name a judge to score answers"
    ]
    judged = build_tasks(recipe(), pairs, Overlap())
    assert names(judged) == {"test": "target", "held-out loss": "watch", "held-out pairs": "watch"}
    few = [*pairs[:3], *(Row([*asked, {"role": "assistant", "content": text}]) for text in texts)]
    assert names(build_tasks(recipe(), few)) == {"held-out loss": "target", "held-out pairs": "watch"}
    assert names(build_tasks(recipe("none"), pairs)) == {"held-out loss": "watch", "held-out pairs": "watch"}


def test_steps_are_compared_by_the_pairs_where_these_are_the_target():
    asked = [{"role": "user", "content": "q"}]
    pairs = [Row(asked, chosen=f"a {i}", rejected=f"b {i}", id=str(i)) for i in range(200)]
    settings = recipe()
    settings.evaluate.live_items = 5
    tasks = build_tasks(settings, pairs, Overlap())
    ordered = [replace(task, role="target") if task.name == "held-out pairs" else task for task in tasks[1:]]
    now: dict[str, float | None] = {"held_out": 2.0, "target": 60.0}
    assert comparison_loss(ordered, now) == -60.0
    assert comparison_loss(tasks, now) == 2.0
    assert [len(task.rows) for task in live_tasks(settings, ordered)] == [LEAST_ANSWERS, LEAST_ANSWERS]
    assert [len(task.rows) for task in live_tasks(settings, tasks)] == [5, LEAST_ANSWERS, 5]


def test_laboratory():
    from holdfast.skills.rows import skill_names

    kept = build_tasks(recipe("lab:sums", ["auto"], items=5), lab=True)
    assert names(kept) == {"sums": "target", **{name: "keep" for name in skill_names() if name != "sums"}}
    assert {task.max_tokens for task in kept} == {64}
    assert all(len(task.rows) <= 5 for task in kept)
    held_out = build_tasks(recipe(keep=["auto"], items=5), rows(9, skill="story"), Number(), lab=True)
    assert [t.name for t in held_out if t.role == "target"] == ["story"]
    assert names(held_out)["sums"] == "keep"
    other = names(build_tasks(recipe(keep=["auto"]), rows(9), Number()))
    beside = {"held-out loss": "watch", "probe": "keep", "probe-text": "keep"}
    assert other == {"test": "target", **beside}, "any other model"
    with pytest.raises(UserError, match="did you mean story"):
        build_named_tasks("lab:stori")


def test_equal_names_are_told_apart(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = [write(tmp_path / d / "t.jsonl", [{"question": f"{d}{i}", "answer": "1"} for i in range(3)]) for d in "ab"]
    assert [task.name for task in build_tasks(recipe(*files[:1], files[1:]))] == files


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing.jsonl", "missing.jsonl does not exist"),
        ("text:missing.txt", "missing.txt does not exist"),
        (".", "is a directory"),
    ],
)
def test_missing_files_are_named(source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        build_named_tasks(source)


def test_rows_without_reference_are_named():
    with pytest.raises(UserError, match="row odd has no reference"):
        build_tasks(recipe(), [Row([{"role": "user", "content": "q"}], id="odd")], Exact())


def test_draw_is_seeded_and_nested():
    many = rows(50)
    few = sample_rows(many, 10)
    assert few == sample_rows(many, 10) == sample_rows(many, 30)[:10] != many[:10]
    assert sample_rows(many, 10, seed=1) != few
    assert len(sample_rows(many, 500)) == 50
    task = Task("t", "generate", sample_rows(many, 30))
    assert task.limit_rows(10).rows == few
    assert len(task.rows) == 30


def test_equal_rows_are_asked_once_and_ids_differ():
    same = rows(1) * 3
    assert len(sample_rows(same, 10)) == 1
    other = [replace(row, id="7") for row in rows(3)]
    assert sorted(row.id for row in sample_rows(other, 10)) == ["7", "7-2", "7-3"]


def test_settings_have_the_recipes_defaults():
    from holdfast.recipe.schema import Evaluate

    assert (TaskSettings().items, TaskSettings().max_tokens) == (Evaluate().items, Evaluate().max_tokens)


def test_lm_eval_names(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lm_eval")
    import holdfast.evaluation.tasks.lm_eval_bridge as bridge

    seen = []
    monkeypatch.setattr(bridge, "build_harness_task", lambda spec, **options: seen.append((spec, options)) or spec)
    assert build_named_tasks("hellaswag:acc_norm", TaskSettings(items=9)) == ["hellaswag:acc_norm"]
    assert seen == [("hellaswag:acc_norm", {"items": 9, "role": "keep", "seed": 0})]
