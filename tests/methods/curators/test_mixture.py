"""FLAN: shares in closed form, what is held out, templates that leave the answer alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from holdfast.data.mixture import allocate_draws
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.curators.flan import Flan

SIZES = {"a": 60, "b": 30, "c": 10}


def task_rows(sizes=SIZES, **meta):
    return [
        Row(
            [{"role": "user", "content": f"{task} {i}?"}, {"role": "assistant", "content": f"{task}{i}"}],
            meta={"task": task, **meta}, place=f"{task}.jsonl:{i + 1}",
        )
        for task, size in sizes.items() for i in range(size)
    ]  # fmt: skip


def shares(world, **knobs):
    out = Flan(**knobs).curate(task_rows(), world.bench())
    return dict(Counter(r.meta["task"] for r in out))


@pytest.mark.parametrize(
    ("knobs", "counts"),
    [
        ({}, {"a": 60, "b": 30, "c": 10}),
        ({"cap": 20}, {"a": 20, "b": 20, "c": 10}),
        ({"cap": 1}, {"a": 1, "b": 1, "c": 1}),
        ({"cap": 1, "rows": 30}, {"a": 10, "b": 10, "c": 10}),
        ({"rows": 10}, {"a": 6, "b": 3, "c": 1}),
        ({"rows": 1000}, {"a": 600, "b": 300, "c": 100}),
        ({"temperature": 1e9, "rows": 90}, {"a": 30, "b": 30, "c": 30}),
        ({"temperature": 2, "rows": 1000}, {"a": 453, "b": 320, "c": 185}),
        ({"cot_tasks": ["c"], "cot_share": 0.03, "rows": 100}, {"a": 65, "b": 32, "c": 3}),
        ({"held_out": ["b"]}, {"a": 60, "c": 10}),
        ({"clusters": {"x": ["b", "c"]}, "held_out": ["x"]}, {"a": 60}),
    ],
)
def test_shares_are_those_of_the_formula(knobs, counts, world):
    if knobs.get("temperature") == 2:
        weights = np.sqrt([60, 30, 10])
        exact = 1000 * weights / weights.sum()
        counts = dict(zip("abc", np.round(exact).astype(int).tolist(), strict=True))
    assert shares(world, **knobs) == counts


def test_rounding_keeps_the_sum():
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights, total = rng.random(7) + 1e-3, int(rng.integers(0, 500))
        counts = allocate_draws(weights, total)
        assert sum(counts) == total
        assert np.abs(np.array(counts) - total * weights / weights.sum()).max() < 1


def test_of_many_draws_tasks_and_rows_have_their_shares_to_one(world):
    """Drawn by chance they would be near these shares; they are dealt out, and only who has one more is chance."""
    out = Flan(cap=20, cot_tasks=["c"], cot_share=0.05, rows=20_003).curate(task_rows(), world.bench())
    places = [out.rows[index].place for index, _ in out.draws]
    tasks = Counter(place.partition(".")[0] for place in places)
    assert tasks == {"a": 9502, "b": 9501, "c": 1000}  # 0.95 halved, as both are cut at 20, and 0.05 of 20,003
    for task, size in SIZES.items():
        times = Counter(place for place in places if place.startswith(task))
        assert len(times) == size
        assert max(times.values()) - min(times.values()) <= 1


def test_what_is_not_drawn_is_recorded_and_what_repeats_has_a_name_of_its_own(world):
    rows = task_rows({"a": 4, "b": 2})
    out = Flan(cap=2).curate(rows, world.bench())
    assert Counter(reason for _, reason in world.dropped) == {"beyond its task's share: a": 2}
    assert world.notes["left out (beyond its task's share)"] == 2
    assert [r.place for r in out] == sorted(r.place for r in out)
    again = Flan(rows=30).curate(rows, world.bench())
    assert len({r.id for r in again}) == 30
    assert all(r.meta["trace"][-1]["curator"] == "flan" for r in again)
    other_seed = Flan(cap=2).curate(task_rows(), world.bench(seed=5))
    assert [r.place for r in other_seed] != [r.place for r in Flan(cap=2).curate(task_rows(), world.bench())]


def test_templates_change_the_question_and_not_the_answer(world):
    plain = task_rows({"a": 20})
    choices = [replace(r, meta={**r.meta, "choices": ["x", "y"]}) for r in plain]
    templates = ("{question}\nAnswer:", "Reply. {question}", "{question}\n\nOptions:\n{options}")
    for rows, some in ((plain, 2), (choices, 3)):
        out = list(Flan(templates=templates).curate(rows, world.bench()))
        forms = {r.prompt[-1]["content"].replace(s.prompt[-1]["content"], "Q") for r, s in zip(out, rows, strict=True)}
        assert len(forms) == some
        assert [r.answer for r in out] == [s.answer for s in rows]
        assert out == list(Flan(templates=templates).curate(rows, world.bench()))
    assert "Q\n\nOptions:\n- x\n- y" in forms


def test_a_task_is_its_column_or_its_file(world):
    rows = [replace(r, meta={}) for r in task_rows({"a": 2, "b": 1})]
    assert [Flan().name_task(r) for r in rows] == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert Flan(by="kind").name_task(replace(rows[0], meta={"kind": "k"})) == "k"
    with pytest.raises(UserError, match=r"a.jsonl:1 .* has no kind"):
        Flan(by="kind").curate(rows, world.bench())


def test_what_cannot_be(world):
    for knobs, said in (
        ({"held_out": ["aa"]}, "aa is neither a task of the rows nor a cluster.*a"),
        ({"held_out": ["a", "b", "c"]}, "leaves no task to train on"),
        ({"cot_share": 0.1}, "none of the rows is of a task that cot_tasks names"),
    ):
        with pytest.raises(UserError, match=said):
            shares(world, **knobs)
    for templates, said in ((["no slot"], "lacks {question}"), (["{question} {options}"], "need one that does not")):
        with pytest.raises(ValidationError, match=said):
            Flan(templates=templates)
