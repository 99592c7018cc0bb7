"""HyKGE: fragments, paths and scores against their definitions, and every error of the reference's code not made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.errors import UserError
from holdfast.generation.attempts import AttemptRunner, judge_alone
from holdfast.methods.inference.hykge import HyKGE
from holdfast.methods.inference.retrieval.fragments import cut_fragments, split_units
from holdfast.methods.inference.retrieval.graph import EntityLinker, Fact, FactPath, find_paths, read_graph
from holdfast.methods.inference.retrieval.rerank import choose_paths, score_paths
from holdfast.skills.facts import OBJECTS, fact_object
from holdfast.skills.lexicon import SUBJECTS


def test_fragments_lose_nothing_and_short_texts_are_one() -> None:
    """The reference raises below 15 characters, gives none at 15, and loses the first 15 of 16 to 34."""
    rng = random.Random(0)
    for length in range(201):
        text = "".join(rng.choice("ab c.") for _ in range(length))
        for unit, size, overlap in (("characters", 35, 15), ("words", 6, 2), ("sentences", 2, 0)):
            pieces = split_units(text, unit)
            assert "".join(pieces) == text
            fragments = cut_fragments(text, unit, size, overlap)
            assert len(fragments) == (
                bool(text) if len(pieces) <= size else (len(pieces) - size) // (size - overlap) + 1
            )
            starts = [k * (size - overlap) for k in range(len(fragments))]
            assert "".join(pieces[a:b] and "".join(pieces[a:b]) for a, b in pairwise([*starts, len(pieces)])) == text
            assert all(f.startswith("".join(pieces[a : a + size])) for a, f in zip(starts, fragments, strict=True))
            assert not fragments or text.endswith(fragments[-1])
    assert [len(f) for f in cut_fragments("x" * 74)] == [35, 54]  # the rest belongs to the last


def draw_graph(rng: random.Random) -> networkx.MultiDiGraph:
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from("abcdefgh")
    for _ in range(rng.randrange(18)):
        graph.add_edge(rng.choice("abcdefgh"), rng.choice("abcdefgh"), key=rng.choice(("r", "s", "t")))
    return graph


def paths_by_networkx(graph: networkx.MultiDiGraph, linked: Sequence[str], hops: int) -> set[Any]:
    """All simple paths between two linked entities without a third inside, and all facts of each."""
    plain = networkx.Graph(graph.to_undirected())
    ways: set[tuple[str, ...]] = set()
    for one, other in product(linked, linked):
        if one < other:
            ways |= {tuple(p) for p in networkx.all_simple_paths(plain, one, other, cutoff=hops)}
    ways = {way for way in ways if not set(way[1:-1]) & set(linked)}
    ways |= {(one, other) for one in linked for other in plain[one] if other != one and (other, one) not in ways}
    keys = set()
    for way in ways:
        edges = [[(s, k, o) for s, o, k in graph.edges(keys=True) if {s, o} == {a, b}] for a, b in pairwise(way)]
        for facts in product(*edges):
            keys.add(FactPath(way, tuple(Fact(*f) for f in facts)).key)
    return keys


def test_paths_are_those_of_networkx_on_random_graphs() -> None:
    """Parallel relations are all kept, a path and its way back are one, and an entity without edges is no error."""
    rng = random.Random(1)
    for number in range(200):
        graph, linked = draw_graph(rng), rng.sample("abcdefgh", 3)
        hops = 1 + number % 3
        found = find_paths(graph, [*linked, "unknown"], hops, 10_000)
        assert len({path.key for path in found}) == len(found)
        assert {path.key for path in found} == paths_by_networkx(graph, linked, hops)
        lengths = [len(path.facts) for path in found]
        assert lengths == sorted(lengths)
        assert find_paths(graph, linked, hops, 3) == found[:3]


def test_scores_are_of_the_right_pairs() -> None:
    """[paths, texts], by loops; the reference reads the pairs text by text as if they went path by path."""
    paths = ["fox -> eats -> nuts", "owl -> eats -> figs", "fox <- pet <- Babor"]
    texts = ["what does the pet of Babor eat", "the fox", "figs or nuts"]
    scores = score_paths(paths, texts, "words")
    assert scores.shape == (3, 3)
    by_pairs = np.array([[score_paths(paths, [text], "words")[i, 0] for text in texts] for i in range(3)])
    assert np.allclose(scores, by_pairs, atol=1e-6)
    assert [(n, t) for n, _, t in choose_paths(scores, 3)] == sorted(
        ((i, int(scores[i].argmax())) for i in range(3)), key=lambda entry: -scores[entry[0]].max()
    )
    wrong = scores.T.reshape(3, 3).max(1)  # as the reference has it
    assert not np.allclose(scores.max(1), wrong)
    assert len(choose_paths(scores, 99)) == 3


def test_entities_are_the_longest_names() -> None:
    linker = EntityLinker(["vitamin", "vitamin A", "A", "New York", "東京"])
    assert linker.find_entities("Is Vitamin a good? In new-york, vitamins are not; vitamin C is. A!") == [
        "vitamin A", "New York", "vitamin", "A",
    ]  # fmt: skip
    assert linker.find_entities("東京は") == ["東京"]
    assert linker.find_entities("") == EntityLinker([]).find_entities("A") == []


def test_paths_are_shown_with_their_directions_or_as_sentences() -> None:
    path = FactPath(("fox", "nuts", "owl"), (Fact("fox", "eats", "nuts"), Fact("owl", "eats", "nuts")))
    assert path.render_text({}) == "fox -> eats -> nuts <- eats <- owl"
    assert path.render_text({"eats": "A {s} eats {o}."}) == "A fox eats nuts. A owl eats nuts."


def test_graphs_of_every_kind_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'subject,relation,object\nfox,eats,nuts\n"owl, old",eats,mice\n\n', encoding="utf-8"
    )
    (tmp_path / "b.jsonl").write_text(
        '{"s": "fox", "p": "eats", "o": "nuts"}\n{"s": "fox", "p": "likes", "o": "nuts"}\n'
    )
    (tmp_path / "c.tsv").write_text("bee\tmakes\thoney\n")
    networkx.write_graphml(
        networkx.MultiDiGraph([("n1", "n2", {"relation": "has"})]), tmp_path / "d.graphml", infer_numeric_types=True
    )
    graph = read_graph(str(tmp_path), "g")
    assert sorted(graph.edges(keys=True)) == [
        ("bee", "honey", "makes"), ("fox", "nuts", "eats"), ("fox", "nuts", "likes"), ("n1", "n2", "has"),
        ("owl, old", "mice", "eats"),
    ]  # fmt: skip
    cases = {
        "bad.csv": ("fox,eats,nuts\nowl,eats\n", r"bad.csv:2: has 2 fields, where a fact has three"),
        "gap.csv": ("fox,eats,nuts\n\nowl,,mice\n", "gap.csv:3: one of subject, relation and object is empty"),
        "bad.jsonl": ('{"s": "a", "p": "b", "o": "c"}\n{"s": "a"}\n', "bad.jsonl:2: is no fact"),
        "none.tsv": ("\n", "there is no fact in it"),
        "bad.graphml": ("<graphml><node", "bad.graphml: is no GraphML"),
        "x.pdf": ("%PDF", "is no kind of file that is read"),
    }
    for name, (content, says) in cases.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=says) as error:
            HyKGE(graph=[str(tmp_path / name)]).check_ready()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nowhere does not exist"):
        HyKGE(graph="nowhere").check_ready()
    with pytest.raises(UserError, match="says nothing"):
        HyKGE().check_ready()


def test_the_laboratory_has_a_graph_with_half_of_the_first_steps_left_out() -> None:
    method = HyKGE(graph="lab:graph", rerank="words", top=60)
    method.check_ready()
    edges = set(method.open_graph().graph.edges(keys=True))
    people = [(s, r) for s in SUBJECTS for r in OBJECTS]
    kept = [(s, r) for s, r in people if (s, fact_object(s, r), r) in edges]
    assert len(people) == 420
    assert 0.4 < len(kept) / 420 < 0.6
    assert len(edges) == len(kept) + 12 + 12 + 10 + 12 + 200
    assert method.with_portable_paths() == method
    assert len(method.content_fingerprint()) == 64
    subject = next(s for s, r in people if r == "pet" and (s, r) not in kept)
    pet = fact_object(subject, "pet")
    (food,) = (o for s, o, r in edges if (s, r) == (pet, "eats"))
    question = f"What does the pet of {subject} eat?"
    for guess, leads_there in (("no idea", False), (f"The pet of {subject} is the {pet}.", True)):
        _, asked = ask(method, question, guess, food)
        assert (f"{pet} -> eats -> {food}" in asked[1]) == leads_there
    with pytest.raises(UserError, match=r"lab:map: the laboratory has one graph, lab:graph"):
        HyKGE(graph="lab:map").check_ready()


def ask(method: HyKGE, question: str, *texts: str) -> tuple[Sample, list[str]]:
    asked: list[str] = []
    answers = list(texts)

    def draw(requests: Sequence[Request], params: SamplingParams, on_sample: Any = None) -> Any:
        asked.extend(request.messages[-1]["content"] for request in requests)
        return {request.key: [Sample(request.key, 0, answers.pop(0), "stop", 1)] for request in requests}

    runner = AttemptRunner("hykge", method.attempts, draw, judge_alone, lambda weighings: [])
    (sample,) = runner.sample_answers([(Request("q", [{"role": "user", "content": question}]), [0])], SamplingParams())
    return sample, asked


def test_the_hypothesis_leads_to_the_path_that_the_question_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("Babor,home,Boro\nfox,eats,nuts\nowl,eats,figs\nfox,lives near,Boro\n")
    method = HyKGE(graph=[str(tmp_path / "g.csv")], rerank="words", template="{paths}|{question}", top=2)
    question = "What does the pet of Babor eat?"
    sample, asked = ask(method, question, "The pet of Babor is the fox, which eats grass.", "nuts")
    assert asked[0].endswith(question)
    assert asked[1].endswith(f"|{question}")
    assert "fox -> eats -> nuts" in asked[1]
    assert "owl" not in asked[1]
    trace = dict(sample.trace or {})
    assert trace["entities"] == {"Babor": "question", "fox": "hypothesis"}
    assert len(trace["paths"]) == 2
    assert trace["beside"] == {"hypothesis": "The pet of Babor is the fox, which eats grass."}
    assert trace["calls"] == 2
    assert ask(method, question, "The pet of Babor is the fox, which eats grass.", "nuts")[1] == asked
    _, alone = ask(method.model_copy(update={"hypothesis_tokens": 0}), question, "so")
    assert ask(method, question, "", "so")[1][1:] == alone  # an empty hypothesis leaves the question
    assert alone == [f"Babor -> home -> Boro|{question}"]  # by the question only
    for other in ("Who is Nobody?", "What is a babor's?"):
        sample, asked = ask(method, other, "no idea", "none")
        if other.startswith("Who"):
            assert asked[1] == other  # no entity, no path: asked as it is
            assert (sample.trace or {})["paths"] == []
    sample, asked = ask(HyKGE(graph=[]), question, "fox")
    assert (asked, sample.trace) == ([question], {"calls": 1, "tokens": 1})


def test_paths_by_embedding_are_cosines(tmp_path: Path) -> None:
    class Letters:
        fingerprint = "letters"

        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([[text.lower().count(c) for c in "abcdefgh"] for text in texts], np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
        paths, texts = ["fox eats", "bee dances", "a cab"], ["bad cab", "fee", "a"]
        states, embedded = Letters().embed(paths), Letters().embed(texts)
        by_hand = np.array([
            [float((p - states.mean(0)) @ (t - states.mean(0)) / np.linalg.norm(p - states.mean(0)) /
                   np.linalg.norm(t - states.mean(0))) for t in embedded] for p in states
        ])  # fmt: skip
        assert np.allclose(score_paths(paths, texts, "embedding", Letters()), by_hand, atol=1e-5)
