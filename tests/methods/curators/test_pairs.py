"""Pairs: which two answers are taken, what is left out and counted, and what the rows carry."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from holdfast.axes.engine import Sample
from holdfast.axes.judge import Verdict
from holdfast.data.reading.formats import open_rows
from holdfast.data.row_shapes import Column, build_conversations, rows_for
from holdfast.data.rows import Row
from holdfast.methods.curators.pairs import Pairs
from holdfast.methods.curators.s3ft import S3FT
from holdfast.recipe.schema import Recipe


def scripted(world, texts, finish="stop", **bench):
    """A bench whose model always says `texts`, in order."""

    def draw(requests, params, on_sample=None):
        said = [(texts[i], finish if isinstance(finish, str) else finish[i]) for i in range(params.n)]
        return {r.key: [Sample(r.key, i, t, f, len(t)) for i, (t, f) in enumerate(said)] for r in requests}

    return replace(world.bench(**bench), sample=draw)


def by_number(answers):
    """The score is the number an answer ends with, in tenths."""
    return [Verdict(True, int(a.response[-1]) / 10, "as it says") for a in answers]


@pytest.fixture
def row():
    return Row([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "gold 7"}], meta={"skill": "x"})


def test_best_against_worst(world, row):
    (out,) = Pairs().curate([row], scripted(world, ["a 3", "b 9", "c 1", "d 5"], judge=by_number))
    assert (out.chosen, out.rejected, out.origin) == ("b 9", "c 1", "model")
    assert (out.id, out.prompt, out.answer, out.gold) == (row.id, row.prompt, "gold 7", "gold 7")
    assert out.meta["skill"] == "x"
    assert (out.meta["score_chosen"], out.meta["score_rejected"]) == (0.9, 0.1)
    assert (out.meta["answers"], out.meta["scores"]) == (["a 3", "b 9", "c 1", "d 5"], [0.3, 0.9, 0.1, 0.5])
    entry = out.meta["trace"][-1]
    assert (entry["curator"], entry["source"], entry["reason"]) == ("pairs", row.id, "score 0.9 against 0.1")
    assert [a["response"] for a in entry["attempts"]] == ["a 3", "b 9", "c 1", "d 5"]
    assert world.notes["pairs"] == 1


def test_best_against_a_random_other(world, row):
    rows = [replace(row, id=str(i)) for i in range(60)]
    bench = scripted(world, ["a 3", "b 9", "c 1", "d 9"], judge=by_number)
    out = Pairs(rejected="random").curate(rows, bench)
    assert {r.chosen for r in out} == {"b 9"}
    assert {r.rejected for r in out} == {"a 3", "c 1"}, "one as good as the best is not rejected"
    again = Pairs(rejected="random").curate(rows[::-1], bench)
    assert {r.id: r.rejected for r in out} == {r.id: r.rejected for r in again}, "the order of rows changes nothing"


def test_ties_are_left_out_and_counted(world, row):
    rows = [row, replace(row, id="other")]
    assert Pairs(n=2).curate(rows, scripted(world, ["a 3", "b 3"], judge=by_number)) == []
    assert (world.notes["ties left out"], world.notes["pairs"], world.notes["too few answers"]) == (2, 0, 0)
    assert Pairs(n=2).curate(rows, scripted(world, ["a 3", "b 5"], judge=by_number))
    gap = Pairs(n=2, min_gap=0.5)
    assert gap.curate(rows, scripted(world, ["a 3", "b 5"], judge=by_number)) == []
    assert world.notes["ties left out"] == 2
    assert len(gap.curate(rows, scripted(world, ["a 3", "b 8"], judge=by_number))) == 2


def test_the_notes_add_up(world):
    out = Pairs().curate(world.rows, world.bench())
    notes = world.notes
    assert notes["pairs"] == len(out) > 0
    assert notes["pairs"] + notes["ties left out"] + notes["too few answers"] == len(world.rows)
    assert notes["ties left out"] > 0
    assert notes["sampled"] == len(world.engine.drawn) == 4 * (len(world.rows) - 1)  # two rows are the same
    for r in out:  # the judge knows right and wrong
        assert (r.meta["score_chosen"], r.meta["score_rejected"]) == (1.0, 0.0)


def test_only_answers_the_judge_could_score(world, row):
    def judge(answers):
        return [Verdict(True, 0.5, "", failed="broke" in a.response) for a in answers]

    texts = ["whole 5", "cut 9", " ", "broke 1"]
    assert Pairs().curate([row], scripted(world, texts, ["stop", "length", "stop", "stop"], judge=judge)) == []
    assert (world.notes["too few answers"], world.notes["ties left out"]) == (1, 0)


def test_gold_competes_if_asked(world, row):
    texts = ["a 3", "b 3"]
    (out,) = Pairs(n=2, gold=True).curate([row], scripted(world, texts, judge=by_number))
    assert (out.chosen, out.rejected) == ("gold 7", "a 3")
    assert [a["kind"] for a in out.meta["trace"][0]["attempts"]] == ["model", "model", "gold"]
    (out,) = Pairs(n=2, gold=True).curate([row], scripted(world, ["a 7", "b 3"], judge=by_number))
    assert (out.chosen, out.rejected) == ("a 7", "b 3"), "of equals the model's own is taken"
    asked = Row(row.prompt, reference="7")
    assert Pairs(n=2, gold=True).curate([asked], scripted(world, texts, judge=by_number)) == [], "there is none"
    pair = Row(row.prompt, chosen="good 8", rejected="bad 0")
    (out,) = Pairs(n=2, gold=True).curate([pair], scripted(world, texts, judge=by_number))
    assert (out.chosen, out.rejected, out.gold) == ("good 8", "a 3", "good 8")


def test_it_samples_as_told(world):
    seen = []

    def draw(requests, params, on_sample=None):
        seen.append(params)
        return world.sample(requests, params)

    Pairs(n=3, temperature=1.1).curate(world.rows, replace(world.bench(seed=5, top_p=0.9, max_tokens=7), sample=draw))
    (params,) = seen
    assert (params.n, params.temperature, params.top_p, params.max_tokens, params.seed) == (3, 1.1, 0.9, 7, 5)
    for wrong in ({"n": 1}, {"temperature": 0}, {"min_gap": 2}, {"rejected": "best"}):
        with pytest.raises(ValidationError):
            Pairs(**wrong)


def test_objectives_of_pairs_triples_and_judged_answers_can_take_them(world):
    out = Pairs().curate(world.rows, world.bench())
    pairs = list(build_conversations(out, 0, "pair"))
    assert [[s[-1]["content"] for s in two] for two in pairs] == [[r.chosen, r.rejected] for r in out]
    assert [s[2][-1]["content"] for s in build_conversations(out, 0, "triple")] == [r.answer for r in out]
    groups = list(build_conversations(rows_for("group", (), out), 0, "group"))
    assert [[s[-1]["content"] for s in several] for several in groups] == [r.meta["answers"] for r in out]
    apart = rows_for("shifted", (Column("label", truth=True),), out)
    assert [(r.answer, r.label, r.score) for r in apart] == [
        *((r.chosen, True, 1.0) for r in out),
        *((r.rejected, False, 0.0) for r in out),
    ]


def test_written_rows_are_read_as_they_were(world, tmp_path):
    out = Pairs().curate(world.rows, world.bench())
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r.to_json()) + "\n" for r in out))
    assert open_rows(path) == out


def test_after_another_curator(world):
    middle = S3FT().curate(world.rows, world.bench())
    out = Pairs().curate(middle, world.bench())
    assert [e["curator"] for e in out[0].meta["trace"]] == ["s3ft", "pairs"]


# ---- in a recipe --------------------------------------------------------------------------------------------------


def recipe(**given):
    return Recipe.model_validate({"model": "lab", "data": {"train": "rows.jsonl"}, **given})


def test_the_method_is_the_curator_with_dpo():
    made = recipe(method="pairs")
    assert type(made.objective).__name__ == "DPO"
    assert made.curate == (Pairs(),)
    assert recipe(objective="dpo", curate={"name": "pairs", "rejected": "random"}).curate[0].rejected == "random"
    assert recipe(objective="dpo", curate=["dedup", "pairs"]).curate[1] == Pairs()
    assert recipe(objective="kto", curate="pairs").curate == (Pairs(),), "which takes them apart"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": "sft", "curate": "pairs"}, "objective sft trains on answers, but curator pairs writes pairs"),
        ({"objective": "dpo", "curate": ["pairs", "s3ft"]}, "trains on pairs .* but curator s3ft writes single"),
        ({"objective": "geometric", "curate": "pairs"}, "needs a preference of every pair, but curator pairs writes"),
    ],
)
def test_what_does_not_fit(given, said):
    with pytest.raises(ValidationError, match=said):
        recipe(**given)


def test_laboratory_rows_for_it_are_answers():
    from holdfast.pipeline.sources import lab_form

    assert lab_form(recipe(method="pairs")) == "answer"
    assert lab_form(recipe(objective="dpo")) == "pair"
