"""Curators that choose by a number: what the number is in cases that are known, and which rows stay."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from holdfast.axes.engine import Sample
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.generation.memory_probe import find_level
from holdfast.methods.curators.clusters import choose_start, take_in_turns
from holdfast.methods.curators.davir import DavIR
from holdfast.methods.curators.dedup import Dedup
from holdfast.methods.curators.filter import Filter
from holdfast.methods.curators.ifd import IFD
from holdfast.methods.curators.less import LESS
from holdfast.methods.curators.lima import LIMA
from holdfast.methods.curators.memory_levels import MemoryLevels
from holdfast.testing.curation_world import CurationWorld, ScriptedModels, sum_rows


def talk(question, answer, **more):
    return Row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more)


class KnownLosses(ScriptedModels):
    """Log-probabilities that rows themselves say: an answer "base reference" of two numbers, two tokens each."""

    def compute_logps(self, conversations, model=None):
        values = [[float(x) for x in one[-1]["content"].split()] for one in conversations]
        return [np.full(2, -v[-1] if model else -v[0], np.float32) for v in values]


def curate(method, rows, models=None, seed=0, monkeypatch=None):
    world = CurationWorld()
    if models is not None:
        original = world.build_context
        world.build_context = lambda *args: replace(original(*args), models=models)
    return world.curate_rows(method, rows, seed=seed), world


def test_davir_is_the_share_of_the_loss_that_was_learned():
    method, base = DavIR(), np.array([2.0, 4.0, 0.5, 0.0, 1.0])
    np.testing.assert_array_equal(method.compute_scores(base, base)[[0, 1, 2, 4]], 0)  # reference = base
    np.testing.assert_array_equal(method.compute_scores(base, 0 * base)[[0, 1, 2, 4]], 1)  # nothing is left
    scores = method.compute_scores(base, np.array([1.0, 3.0, 0.6, 0.0, 0.1]))
    assert scores[[0, 1, 2, 4]] == pytest.approx([0.5, 0.25, -0.2, 0.9])
    assert np.isnan(scores[3])  # nothing to lose
    # Sums give what means give, and dividing by the reference's loss ranks alike.
    tokens, reference = np.array([3, 9, 2, 5, 1]), np.array([1.0, 3.0, 0.6, 0.2, 0.1])
    np.testing.assert_allclose(method.compute_scores(base * tokens, reference * tokens), scores)
    ok = [0, 1, 2, 4]
    assert np.argsort(((base - reference) / reference)[ok]).tolist() == np.argsort(scores[ok]).tolist()
    # Loss 4 falls by more than loss 1 does, and is learned less.
    rows = [talk("a", "2 1"), talk("b", "4 3"), talk("c", "0.5 0.6"), talk("d", "0 0"), talk("e", "1 0.1")]
    out, world = curate(DavIR(n=2), rows, KnownLosses())
    assert [row.answer for row in out] == ["2 1", "1 0.1"]
    assert [row.meta["trace"][-1]["score"] for row in out] == [0.5, 0.9]
    assert {reason.partition(":")[0] for _, reason in world.dropped} == {"not chosen by share of the loss learned"}
    everything, _ = curate(DavIR(n=5), rows, KnownLosses())
    assert len(everything) == 4
    assert DavIR(reference="x").compared_models() == ("x",)


class KnownDifficulty(ScriptedModels):
    """A row's answer says its loss behind the question and by itself."""

    def compute_logps(self, conversations, model=None):
        self.model = model
        return [np.full(3, -float(one[-1]["content"].split()[len(one) == 1]), np.float32) for one in conversations]


def test_ifd_is_the_loss_behind_the_question_over_that_without():
    rows = [talk("a", "1 2"), talk("b", "1 4"), talk("c", "3 2"), talk("d", "1.9 2"), talk("e", "2 2")]
    models = KnownDifficulty()
    out, world = curate(IFD(n=2, experience=0), rows, models)
    assert [row.answer for row in out] == ["1 2", "1.9 2"]  # 0.5 and 0.95; of 1 and more none
    assert world.notes["question of no help"] == 2
    assert models.model is None
    curate(IFD(n=2, experience=3, clusters=2), rows, models)
    assert re.fullmatch(r"trained on \w+ for 1", models.model)
    curate(IFD(model="small"), rows, models)
    assert models.model == "small"
    with pytest.raises(UserError, match=r"'just a text'\): is plain text without a question; ifd needs both"):
        curate(IFD(), [Row([{"role": "assistant", "content": "just a text"}])])


class KnownGradients(ScriptedModels):
    """The gradient is what the answer says."""

    def compute_gradients(self, rows, projection, model=None):
        self.model = model
        return np.array([[float(x) for x in row.messages[-1]["content"].split()] for row in rows], np.float32)


def test_less_takes_rows_that_point_where_a_target_does():
    rows = [talk("a", "9 0"), talk("b", "0.1 0.1"), talk("c", "-1 0"), talk("d", "0 5"), talk("e", "1 -1")]
    targets = {"x.jsonl": [talk("q", "2 0"), talk("r", "1 0")], "y.jsonl": [talk("s", "0 1"), talk("t", "0 -1")]}
    world, models = CurationWorld(), KnownGradients()
    original = world.build_context
    world.build_context = lambda *args: replace(
        original(*args), models=models, load=lambda path, columns, ignore: targets[path]
    )
    out = world.curate_rows(LESS(target="x.jsonl", n=2), rows)
    assert [row.messages[0]["content"] for row in out] == ["a", "b"]  # cosine 1 and 0.7, whatever the length
    assert [row.meta["trace"][-1]["score"] for row in out] == pytest.approx([1, 0.5**0.5], abs=1e-5)
    assert re.fullmatch(r"trained on \w+ for 4", models.model)
    both = world.curate_rows(LESS(target=["x.jsonl", "y.jsonl"], n=5, warmup=0), rows)
    # The mean cosine with the target's rows: y's cancel, so that 0 is the least anyone has.
    scores = {row.messages[0]["content"]: row.meta["trace"][-1]["score"] for row in both}
    assert scores == pytest.approx({"a": 1, "b": 0.707107, "c": 0, "d": 0, "e": 0.707107}, abs=1e-5)
    assert models.model is None
    targets["x.jsonl"] = rows[:1]
    with pytest.raises(UserError, match=r"curator less: 1 of the questions of target x.jsonl stand among"):
        world.curate_rows(LESS(target="x.jsonl"), rows)


def test_lima_filters_and_takes_of_every_cluster():
    method = LIMA(n=2, min_characters=10, max_characters=60)
    answers = {
        "Boil the water, then add the rice.": "", "Short.": "shorter than 10 characters", 
        "x" * 61: "longer than 60 char",
        "In my kitchen the rice boils.": "in the first person", "I boil it for ten minutes.": "in the first person",
        "As mentioned, boil the water.": "mentions other answers",
        "See https://a.b for the rice": "mentions other answers",
        "An Iron pot; mystery remains.": "",
    }  # fmt: skip
    for answer, fault in answers.items():
        assert method.find_fault(talk("?", answer)).startswith(fault), answer
        assert bool(method.find_fault(talk("?", answer))) == bool(fault)
    assert method.find_fault(talk("?", "x" * 20, score=9.0)) == "score below 10"
    assert not LIMA(first_person=True, references=True, min_characters=0).find_fault(talk("?", "I, as mentioned"))
    rows = [talk(f"q{i}", f"an answer, number {i}", score=10.0 + i) for i in range(12)]

    class Corners(ScriptedModels):
        def embed(self, texts, encoder=None):
            return np.array([[np.cos(i := int(t[1:]) % 3), np.sin(i)] for t in texts], np.float32)

    out, world = curate(LIMA(n=3, min_characters=0, clusters=3), rows, Corners())
    assert [row.messages[0]["content"] for row in out] == ["q9", "q10", "q11"]  # the best of every corner
    assert world.notes["clusters"] == 3
    with pytest.raises(UserError, match=r"of 13 rows 0 pass its filters, fewer than n = 5 \(13 shorter than 1,200"):
        CurationWorld().curate_rows(LIMA(n=5))
    with pytest.raises(ValidationError, match="min_characters 9 is above max_characters 8"):
        LIMA(min_characters=9, max_characters=8)


def test_clusters_take_turns_and_start_apart():
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert take_in_turns(labels, np.arange(6), 4) == [0, 3, 5, 1]
    assert take_in_turns(labels, np.arange(6)[::-1], 6) == [5, 4, 2, 3, 1, 0]
    points = np.repeat(np.eye(3), 4, axis=0)
    assert {tuple(p) for p in choose_start(points, 3, seed=1)} == {tuple(p) for p in np.eye(3)}
    assert len(choose_start(points, 9, seed=1)) == 3  # no more than there are different ones


@pytest.mark.parametrize(
    ("package", "curator", "said"),
    [
        (
            "sentence_transformers",
            LIMA(encoder="a/b"),
            r"curator lima needs a package; run pip install 'holdfast\[embed\]'",
        ),
        (
            "sentence_transformers",
            IFD(encoder="a/b"),
            r"curator ifd needs a package; run pip install 'holdfast\[embed\]'",
        ),
        ("py3langid", Filter(languages="en"), r"filter.languages needs py3langid: pip install 'holdfast\[language\]'"),
        ("datasketch", Dedup(), "dedup.near needs datasketch, .*: pip install datasketch, or set near: null"),
    ],
)
def test_a_package_that_is_absent_is_named_before_anything_is_done(package, curator, said, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=said):
        curator.check_ready()


def test_memory_levels_of_shares():
    assert [find_level(hits, 8) for hits in range(9)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [find_level(hits, 210) for hits in (0, 1, 52, 53, 105, 106, 210)] == [0, 1, 1, 2, 2, 3, 4]


def test_memory_levels_of_a_model_that_is_a_table():
    """The scripted model is asked through the real journal; what it said is counted by hand."""
    rows = [replace(row, reference=str(i + i % 5 + 1)) for i, row in enumerate(sum_rows()[:12])]
    templates = ("{question}", "{question} Say it.")
    method = MemoryLevels(n=None, levels=(0, 1, 2, 3, 4), templates=templates, draws=4)
    out, world = curate(method, rows)
    assert len(world.engine.drawn) == 12 * 2 * 4
    shares = []
    for row, source in zip(out, rows, strict=True):
        entry = row.meta["trace"][-1]
        hits, tries = map(int, re.findall(r"in (\d+) of (\d+)", entry["criterion"])[0])
        assert tries == 8
        assert entry["level"] == find_level(hits, tries)
        shares.append(hits)
        assert source.messages == row.messages
    assert len(set(shares)) > 2
    counts = Counter(find_level(hits, 8) for hits in shares)
    assert {level: world.notes[f"level {level}"] for level in counts} == counts
    level = max(counts, key=lambda one: counts[one])
    some, world = curate(MemoryLevels(n=1, levels=(level,), templates=templates, draws=4), rows)
    assert [row.meta["trace"][-1]["level"] for row in some] == [level]
    assert len(world.dropped) == 11
    absent = next(one for one in range(5) if not counts[one])
    with pytest.raises(UserError, match=rf"0 rows are of levels {absent}, fewer than n = 1 \(levels 0 to 4: "):
        curate(MemoryLevels(n=1, levels=(absent,), templates=templates, draws=4), rows)


@pytest.mark.parametrize("seed", [0, 3])
def test_fewer_rows_of_memory_levels_are_among_more_of_them(seed):
    rows = [replace(row, reference=str(i + i % 5 + 1)) for i, row in enumerate(sum_rows()[:12])]
    options = {"levels": range(5), "templates": ("{question}",), "draws": 2}
    chosen = [{row.id for row in curate(MemoryLevels(n=n, **options), rows, seed=seed)[0]} for n in (1, 2, 5, 11, None)]
    assert [len(some) for some in chosen] == [1, 2, 5, 11, 12]
    assert all(fewer < more for fewer, more in pairwise(chosen))


@pytest.mark.parametrize(("hits", "level"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4), (8, 4)])
def test_memory_levels_of_a_lookup_table_are_exact(hits, level):
    """Two templates, four draws each: a table says how many of the eight texts hold the answer, or a name of it."""
    said = ["It is in the united States.", "the USA!", "USA", "well, USA"]

    def draw(requests, params, on_sample=None):
        right = iter([True] * hits + [False] * 8)
        return {
            r.key: [Sample(r.key, i, said[i] if next(right) else f"Not U S A, {i}", "stop", 3) for i in range(params.n)]
            for r in requests
        }

    world = CurationWorld()
    method = MemoryLevels(
        n=None,
        levels=range(5),
        templates=("{question}", "Say: {question}"),
        draws=4,
        aliases={"USA": ["United States"]},
    )
    original = world.build_context
    world.build_context = lambda *args: replace(original(*args), sample=draw)
    (row,) = world.curate_rows(method, [talk("Where is Ohio?", "It is in the USA", reference="USA")])
    entry = row.meta["trace"][-1]
    assert (entry["level"], entry["criterion"]) == (level, f"level {level}: the answer in {hits} of 8 texts")
    assert world.notes[f"level {level}"] == 1


def test_memory_levels_look_for_all_names_of_an_answer():
    method = MemoryLevels(aliases={"USA": ("United States",)}, templates=("{question}", "Of {subject}: {question}"))
    assert method.probe.list_names(talk("Where?", "It is in the USA", reference="USA")) == ["usa", "united states"]
    assert method.probe.list_names(talk("Where?", "x", reference=["Bonn", "Berlin"])) == ["bonn", "berlin"]
    assert method.probe.list_names(talk("Where?", "Rome")) == ["rome"]
    assert len(method.probe.build_requests(talk("Where?", "Rome"), 1)) == 1
    both = method.probe.build_requests(talk("Where?", "Rome", meta={"subject": "it"}), 1)
    assert [request.messages[-1]["content"] for request in both] == ["Where?", "Of it: Where?"]
    with pytest.raises(UserError, match=r"row 3 .*has a column for none of the templates"):
        MemoryLevels(templates=("{object}",)).probe.build_requests(talk("Where?", "Rome"), 3)
    with pytest.raises(UserError, match=r"has no answer to look for"):
        method.probe.build_requests(Row([{"role": "user", "content": "Where?"}]), 1)
    with pytest.raises(ValidationError, match="has no slot"):
        MemoryLevels(templates=("Where is it?",))


def test_pairs_are_chosen_by_their_chosen_answer():
    rows = [Row([{"role": "user", "content": str(i)}], chosen=f"{i + 2} {1.0}", rejected="0 0") for i in range(4)]
    out, _ = curate(DavIR(n=1), rows, KnownLosses())
    assert [(row.chosen, row.rejected) for row in out] == [("5 1.0", "0 0")]
    assert json.loads(out[0].to_line())["chosen"] == "5 1.0"
