"""What every registered curator must do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from holdfast.axes.curator import Curator
from holdfast.axes.registry import REGISTRY, find
from holdfast.data.rows import Row, rows_fingerprint

KNOBS = {"replay": {"path": "general.jsonl", "share": 0.3}, "rft": {"k": 6}}
NAMES = sorted(REGISTRY["curators"])
ADDS = {"rft", "replay"}
"""Curators that add rows; all others give one row for each, in its place, but those of pairs leave some out."""
PAIRS = {name for name in NAMES if find("curators", name).writes == "pairs"}


def make(name):
    return find("curators", name)(**KNOBS.get(name, {}))


@pytest.mark.parametrize("name", NAMES)
def test_documented(name):
    kind = find("curators", name)
    assert issubclass(kind, Curator)
    assert kind.summary().rstrip(".").endswith("]")
    assert "Columns:" in kind.page()
    assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_conserved(name, world):
    out = make(name).curate(world.rows, world.bench())
    if name not in ADDS:
        same = {(r.id, str(r.prompt), r.gold) for r in world.rows}
        assert {(r.id, str(r.prompt), r.gold) for r in out} <= same
        ids = [r.id for r in world.rows]
        assert [r.id for r in out] == (ids if name not in PAIRS else [i for i in ids if i in {r.id for r in out}])
    own = [r for r in out if r.origin != "replay"]
    sources = [r.meta["trace"][-1]["source"] for r in own] if name != "replay" else [r.id for r in own]
    assert {r.id for r in world.rows} >= set(sources)
    assert name in PAIRS or {r.id for r in world.rows} == set(sources)
    assert all(r.answer for r in out)
    assert all((r.chosen is not None) == (name in PAIRS) for r in own)


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone(name, world):
    before = [json.dumps(r.to_json()) for r in world.rows]
    make(name).curate(world.rows, world.bench())
    assert [json.dumps(r.to_json()) for r in world.rows] == before


@pytest.mark.parametrize("name", NAMES)
def test_trace_tells_the_decision(name, world):
    for row in make(name).curate(world.rows, world.bench()):
        if name == "replay" and row.origin != "replay":
            assert row in world.rows
            continue
        entry = row.meta["trace"][-1]
        assert entry["curator"] == name
        assert entry["origin"] == row.origin
        assert entry["reason"]
        if row.origin in ("model", "paraphrase"):
            trained = row.chosen if name in PAIRS else row.answer
            taken = next(a for a in entry["attempts"] if a["passed"] and a["response"] == trained)
            assert taken["finish"] == "stop"
            assert taken["kind"] == row.origin
            assert entry["gold"] == next(r.answer for r in world.rows if r.id == entry["source"])
        assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
        assert row.origin == "replay" or row.meta["skill"] == "sums"


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_rows(name, world):
    runs = [make(name).curate(world.rows, world.bench(seed=3, journal=world.Journal())) for _ in range(2)]
    assert rows_fingerprint(runs[0]) == rows_fingerprint(runs[1])


@pytest.mark.parametrize("name", ["rft", "replay", "pairs"])
def test_other_seed_other_rows(name, world):
    runs = [make(name).curate(world.rows, world.bench(seed=s, journal=world.Journal())) for s in (3, 4)]
    assert rows_fingerprint(runs[0]) != rows_fingerprint(runs[1])


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_needs(name, world):
    def refuse(*args, **kwargs):
        raise AssertionError("not declared")

    curator, bench = make(name), world.bench()
    bench = replace(
        bench, **({} if curator.samples else {"draw": refuse}), **({} if curator.judges else {"judge": refuse})
    )
    curator.curate(world.rows, bench)
    assert bool(world.journal.drawn) is curator.samples
    assert len(world.journal.drawn) <= curator.draws() * len(world.rows)
    assert bool(curator.draws()) is curator.samples


@pytest.mark.parametrize("name", [n for n in NAMES if find("curators", n).samples])
@pytest.mark.parametrize("die_after", [0, 1, 7])
def test_killed_and_resumed_draws_nothing_twice(name, die_after, world):
    whole = world.Journal()
    expected = make(name).curate(world.rows, world.bench(journal=whole))
    journal = world.Journal()
    journal.die_after = die_after
    with pytest.raises(world.Killed):
        make(name).curate(world.rows, world.bench(journal=journal))
    journal.die_after = None
    assert rows_fingerprint(make(name).curate(world.rows, world.bench(journal=journal))) == rows_fingerprint(expected)
    assert journal.drawn == whole.drawn
    assert len(set(journal.drawn)) == len(journal.drawn)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name, world):
    if name != "replay":
        assert list(make(name).curate([], world.bench())) == []


@pytest.mark.parametrize("name", [n for n in NAMES if n != "replay"])
def test_replayed_rows_pass_untouched(name, world):
    replayed = [replace(row, origin="replay") for row in world.rows]
    out = make(name).curate(replayed, world.bench())
    assert [r.messages for r in out] == [r.messages for r in replayed]
    assert {r.origin for r in out} == {"replay"}


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_composable(first, second, world):
    middle = make(first).curate(world.rows, world.bench())
    out = make(second).curate(middle, world.bench())
    assert len(out) >= len(middle) or second in PAIRS
    assert all(r.answer for r in out)
    if first == "s3ft" and second == "gold":
        assert [r.messages for r in out] == [r.messages for r in middle]
        assert [e["curator"] for e in out[0].meta["trace"]] == ["s3ft", "gold"]
