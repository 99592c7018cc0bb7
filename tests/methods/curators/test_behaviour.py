"""What every curator must do, by what it says of itself: every registered one, and those of `curator_experiments`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from curator_experiments import SPIN, Length
from holdfast.axes.curator import Curator
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.data.rows import Row, fingerprint_rows

KNOBS = {"replay": {"path": "general.jsonl", "share": 0.3}, "rft": {"k": 6}}
CURATORS = {name: find_method("curators", name) for name in REGISTRY["curators"]} | {"length": Length, "spin": SPIN}
NAMES = sorted(CURATORS)


def make(name):
    return CURATORS[name](**KNOBS.get(name, {}))


def curate(name, world, rows=None, **bench):
    """The rows a curator makes of the world's, or of others."""
    return make(name).curate(world.rows if rows is None else rows, world.bench(curator=name, **bench))


def content(row):
    """A row but for its trace."""
    return {**row.to_json(), "meta": {k: v for k, v in row.meta.items() if k != "trace"}}


@pytest.mark.parametrize("name", NAMES)
def test_documented(name):
    kind = CURATORS[name]
    assert issubclass(kind, Curator)
    assert kind.summary_line().rstrip(".").endswith("]")
    assert "Columns:" in kind.reference_page()
    assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
def test_does_what_its_effect_says(name, world):
    out, effect = curate(name, world), CURATORS[name].effect
    own = [r for r in out if not r.is_replayed]
    ids = [r.id for r in world.rows]
    left_out = [row.id for row, _ in world.dropped]
    assert all(r.answer for r in out)
    assert all((r.chosen is not None) == (effect == "pair") for r in own)
    if effect == "add":
        assert {r.meta["trace"][-1]["source"] for r in own} == set(ids)
        assert len(out) > len(ids)
        return
    same = {(r.id, str(r.prompt), r.gold) for r in world.rows}
    assert {(r.id, str(r.prompt), r.gold) for r in own} <= same
    if effect in ("select", "pair"):
        assert left_out or effect == "pair"
        assert sorted([r.id for r in own] + left_out) == sorted(ids)
        ids = [i for i in ids if i not in left_out]
    assert [r.id for r in own] == ids
    assert (len(own) < len(out)) == (effect == "mix")
    if effect in ("select", "mix"):
        known = {r.id: content(r) for r in world.rows}
        assert all(content(r) == known[r.id] for r in own)


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone(name, world):
    before = [json.dumps(r.to_json()) for r in world.rows]
    curate(name, world)
    assert [json.dumps(r.to_json()) for r in world.rows] == before


@pytest.mark.parametrize("name", NAMES)
def test_trace_tells_the_decision(name, world):
    effect = CURATORS[name].effect
    for row in curate(name, world):
        if effect == "mix" and not row.is_replayed:
            assert row in world.rows
            continue
        entry = row.meta["trace"][-1]
        assert entry["curator"] == name
        assert entry["origin"] == row.origin
        assert entry["reason"]
        if row.origin in ("model", "paraphrase"):
            trained = row.chosen if effect == "pair" else row.answer
            taken = next(a for a in entry["attempts"] if a["passed"] and a["response"] == trained)
            assert taken["finish"] == "stop"
            assert taken["kind"] == row.origin
            assert entry["gold"] == next(r.answer for r in world.rows if r.id == entry["source"])
        assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
        assert row.origin == "replay" or row.meta["skill"] == "sums"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_has_a_reason(name, world):
    curate(name, world)
    assert all(row in world.rows and reason.strip() for row, reason in world.dropped)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_where_chance_plays_a_part(name, world):
    journals = [world.Journal() for _ in range(3)]
    runs = [curate(name, world, seed=seed, journal=j) for seed, j in zip((3, 3, 4), journals, strict=True)]
    same, again, other = map(fingerprint_rows, runs)
    assert same == again
    assert (same != other) == (journals[0].by_chance or CURATORS[name].effect == "mix")


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_needs(name, world):
    def refuse(*args, **kwargs):
        raise AssertionError("not declared")

    curator, bench = make(name), world.bench(curator=name)
    bench = replace(
        bench, **({} if curator.samples else {"sample": refuse}), **({} if curator.judges else {"judge": refuse})
    )
    curator.curate(world.rows, bench)
    assert bool(world.journal.drawn) is curator.samples
    assert len(world.journal.drawn) <= curator.samples_per_row() * len(world.rows)
    assert bool(curator.samples_per_row()) is curator.samples


@pytest.mark.parametrize("name", [n for n in NAMES if CURATORS[n].samples])
@pytest.mark.parametrize("die_after", [0, 1, 7])
def test_killed_and_resumed_draws_nothing_twice(name, die_after, world):
    whole = world.Journal()
    expected = curate(name, world, journal=whole)
    journal = world.Journal()
    journal.die_after = die_after
    with pytest.raises(world.Killed):
        curate(name, world, journal=journal)
    journal.die_after = None
    assert fingerprint_rows(curate(name, world, journal=journal)) == fingerprint_rows(expected)
    assert journal.drawn == whole.drawn
    assert len(set(journal.drawn)) == len(journal.drawn)


@pytest.mark.parametrize("name", [n for n in NAMES if CURATORS[n].effect != "mix"])
def test_no_rows(name, world):
    assert list(curate(name, world, [])) == []


@pytest.mark.parametrize("name", [n for n in NAMES if CURATORS[n].effect != "mix"])
def test_replayed_rows_pass_untouched(name, world):
    replayed = [replace(row, origin="replay") for row in world.rows]
    out = curate(name, world, replayed)
    assert [r.messages for r in out] == [r.messages for r in replayed]
    assert {r.origin for r in out} == {"replay"}
    assert not world.dropped


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_composable(first, second, world):
    middle = curate(first, world)
    out = curate(second, world, middle)
    assert len(out) >= len(middle) or CURATORS[second].effect in ("select", "pair")
    assert all(r.answer for r in out)
    if first == "s3ft" and second == "gold":
        assert [r.messages for r in out] == [r.messages for r in middle]
        assert [e["curator"] for e in out[0].meta["trace"]] == ["s3ft", "gold"]
