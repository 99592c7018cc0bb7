"""Curators one after another; what each must do by itself is asked by `holdfast.testing.curators`."""

from __future__ import annotations

import importlib.util

import pytest

from curator_experiments import SPIN, Length
from holdfast.axes.registry import REGISTRY, find_method

KNOBS = {
    "replay": {"path": "general.jsonl", "share": 0.3},
    "rft": {"k": 6},
    "less": {"target": "general.jsonl", "projection": 64},
    "lima": {"n": 1, "min_characters": 0},
    "memory_levels": {"n": 1, "draws": 2, "levels": [0, 1, 2, 3, 4]},
    "self_instruct": {"n": 6},
    "prompt2model": {"n": 6},
    "dedup": {} if importlib.util.find_spec("datasketch") else {"near": None},
}
CURATORS = {name: find_method("curators", name) for name in REGISTRY["curators"]} | {"length": Length, "spin": SPIN}
NAMES = sorted(CURATORS)


def curate(name, world, rows=None, **bench):
    """The rows a curator makes of the world's, or of others."""
    method = CURATORS[name](**KNOBS.get(name, {}))
    return method.curate(world.rows if rows is None else rows, world.bench(curator=name, **bench))


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_the_model_gave_was_judged_right_and_finished(name, world):
    effect = CURATORS[name].effect
    if effect == "generate":
        return  # nobody judges what a teacher writes; a filter may
    for row in curate(name, world):
        if row.origin not in ("model", "paraphrase"):
            continue
        entry = row.meta["trace"][-1]
        trained = row.chosen if effect == "pair" else row.answer
        taken = next(a for a in entry["attempts"] if a["passed"] and a["response"] == trained)
        assert (taken["finish"], taken["kind"]) == ("stop", row.origin)
        assert entry["gold"] == next(r.answer for r in world.rows if r.id == entry["source"])
        assert row.meta["skill"] == "sums"


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_composable(first, second, world):
    middle = curate(first, world)
    out = curate(second, world, middle)
    assert len(out) >= len(middle) or CURATORS[second].effect in ("select", "pair", "draw")
    assert all(r.answer for r in out)
    if first == "s3ft" and second == "gold":
        assert [r.messages for r in out] == [r.messages for r in middle]
        assert [e["curator"] for e in out[0].meta["trace"]] == ["s3ft", "gold"]
