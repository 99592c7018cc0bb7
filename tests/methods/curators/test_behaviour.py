"""Curators one after another; what each must do by itself is asked by `holdfast.testing.curators`."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace

import pytest

from curator_experiments import SPIN, Length
from holdfast.axes.registry import REGISTRY, find_method, name_of
from holdfast.recipe.rules import check_curator_order, check_pairs_and_answers, writes_answers

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


def find_refusal(recipe):
    """Why a recipe with these curators is refused; "": it is not."""
    try:
        check_pairs_and_answers(recipe)
        check_curator_order(recipe)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_composable(first, second, world):
    """Two after one another give rows of one shape, or are refused by name before anything is sampled."""
    pair = [CURATORS[name](**KNOBS.get(name, {})) for name in (first, second)]
    effects = [one.effect for one in pair if writes_answers(one)]
    objective = find_method("objectives", "dpo" if effects[-1:] == ["pair"] else "sft")()
    recipe = SimpleNamespace(curate=pair, objective=objective)
    if reason := find_refusal(recipe):
        assert all(name_of(one) in reason for one in pair), reason
        assert {first, second} & {"pairs", "spin"}, "only pairs and answers get into each other's way"
        return
    middle = curate(first, world)
    out = curate(second, world, middle)
    assert len({row.chosen is None for row in out if not row.is_replayed}) < 2
    assert len(out) >= len(middle) or CURATORS[second].effect in ("select", "pair", "draw")
    assert all(r.answer for r in out)
    if first == "s3ft" and second == "gold":
        assert [r.messages for r in out] == [r.messages for r in middle]
        assert [e["curator"] for e in out[0].meta["trace"]] == ["s3ft", "gold"]


@pytest.mark.parametrize(
    ("curators", "objective", "said"),
    [
        (["s3ft", "pairs"], "dpo", "pairs draws both answers of a pair anew, and those of s3ft would be thrown away"),
        (["rft", "pairs"], "dpo", r"or let them compete \(gold: true\)"),
        (["generate", "pairs"], "dpo", "those of generate would be thrown away"),
        (["s3ft", {"name": "pairs", "gold": True}], "dpo", None),
        ([{"name": "generate", "write": "questions"}, "pairs"], "dpo", None),
        (["s3ft", "spin"], "dpo", None),  # whose chosen answer is the row's
        (["s3ft", "pairs"], "tpo", None),  # which trains on the row's answer beside the pair
        (["pairs", "s3ft"], "tpo", None),
        (["pairs", "pairs"], "dpo", "pairs writes pairs anew, and those of pairs would be thrown away"),
        (["pairs", "ssr"], "sft", "ssr writes single answers behind the pairs of pairs, which nobody would train on"),
        (["pairs", "generate"], "sft", "generate writes single answers behind the pairs of pairs"),
        (["pairs", "memory_levels", "dedup", "filter", "label_noise"], "dpo", None),
        (["dedup", "delift", "s3ft"], "sft", None),
        (["memory_levels"], "dpo", None),  # which samples to choose and leaves pairs as they are
        (["ssr", "memory_levels"], "dpo", "dpo trains on pairs .* but curator ssr writes single answers"),
    ],
)
def test_what_one_wrote_is_not_thrown_away_by_another(curators, objective, said):
    entries = [one if isinstance(one, dict) else {"name": one} for one in curators]
    made = [CURATORS[entry["name"]](**{k: v for k, v in entry.items() if k != "name"}) for entry in entries]
    recipe = SimpleNamespace(curate=made, objective=find_method("objectives", objective)())

    reason = find_refusal(recipe)
    assert reason == "" if said is None else re.search(said, reason), reason
