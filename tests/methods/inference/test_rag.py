"""Retrieval: BM25 and embeddings by their formulas, passages and sources as in the files, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.data.overlap.words import split_words
from holdfast.errors import UserError
from holdfast.methods.inference.rag import RAG
from holdfast.methods.inference.retrieval.documents import Document, cut_passages
from holdfast.methods.inference.retrieval.index import EmbeddingIndex, TextIndex, WordIndex

TEXTS = ["The cat sat.", "A dog, a cat, a cat!", "Fish", "bee bee ant", "The dog eats fish and the cat looks on"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class LetterCounts:
    """Texts by how many of each letter they have."""

    fingerprint = "letters"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Any) -> np.ndarray:
        self.texts += texts
        return np.array([[text.lower().count(c) for c in "abcdefgh"] for text in texts], np.float32)


def score_by_hand(query: str, k1: float = 1.5, b: float = 0.75) -> list[float]:
    """BM25 with Lucene's idf."""
    documents = [split_words(text) for text in TEXTS]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in split_words(query):
            n = sum(word in other for other in documents)
            tf = document.count(word)
            idf = log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


def test_bm25_is_the_formula_and_is_kept_by_content(cache: Path) -> None:
    for _ in range(2):  # built, then read back
        index = WordIndex(TEXTS)
        for query in ("cat", "Does the dog eat fish?", "cat cat", "unknown words", ""):
            assert np.allclose(index.score_texts(query), score_by_hand(query), atol=1e-6), query
    (folder,) = (cache / "retrieval").iterdir()
    WordIndex(TEXTS[:3])
    assert len(list((cache / "retrieval").iterdir())) == 2
    assert not list(folder.glob("*.pkl"))


def test_rankings_are_those_of_the_scores_and_both_are_joined_by_ranks() -> None:
    by_words = TextIndex(TEXTS).find_texts("cat and dog", 9)
    assert [number for number, _ in by_words] == sorted(range(5), key=lambda i: -score_by_hand("cat and dog")[i])[:3]
    assert TextIndex(TEXTS).find_texts("nothing of it", 3) == []
    embedder = LetterCounts()
    states = embedder.embed(TEXTS)
    apart = states - states.mean(0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    query = embedder.embed(["a bad cat"]) - states.mean(0)
    expected = apart @ (query[0] / np.linalg.norm(query))
    index = EmbeddingIndex(TEXTS, embedder)
    assert np.allclose(index.score_texts("a bad cat"), expected, atol=1e-6)
    count = len(embedder.texts)
    EmbeddingIndex(TEXTS, embedder)
    assert len(embedder.texts) == count  # read back
    joined = TextIndex(TEXTS, "both", embedder).find_texts("cat dog", 5)
    rank_words = [number for number, _ in TextIndex(TEXTS).find_texts("cat dog", 5)]
    rank_meaning = [number for number, _ in TextIndex(TEXTS, "embedding", embedder).find_texts("cat dog", 5)]
    for number, score in joined:
        parts = [1 / (61 + ranks.index(number)) for ranks in (rank_words, rank_meaning) if number in ranks]
        assert score == pytest.approx(sum(parts))
    assert [score for _, score in joined] == sorted((score for _, score in joined), reverse=True)


def test_passages_are_the_text_with_the_overlap_and_nothing_is_lost() -> None:
    for count in range(1, 40):
        text = "\n".join(f"w{i}" for i in range(count))
        for words, overlap in ((7, 3), (5, 0), (50, 10)):
            passages = [p.text.split("\n") for p in cut_passages([Document("d", text)], words, overlap)]
            assert all(len(p) <= words for p in passages)
            assert all(one[len(one) - overlap :] == two[:overlap] for one, two in pairwise(passages))
            joined = passages[0] + [word for p in passages[1:] for word in p[overlap:]]
            assert joined == text.split("\n")
            assert len(passages) == 1 or len(passages[-1]) > overlap
    assert cut_passages([Document("d", " .. ")], 5, 1) == []


def test_files_of_every_kind_give_their_texts_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("# Foxes\nA fox eats nuts.\n", encoding="utf-8")
    (folder / "sub" / "b.txt").write_text("Owls sleep by day.", encoding="utf-8")
    rows = [{"title": "Bees", "text": "A bee makes honey."}, {"content": "Ants work."}, {"text": ""}]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    rag = RAG(documents=[str(folder)], passage="{name}: {text}", template="{documents}\n{question}", between=" / ")
    rag.check_ready()
    assert [p.name for p in rag.open_passages()] == ["a.md", "Bees", "c.jsonl:2", "sub/b.txt"]
    assert rag.list_notes() == [f"inference.rag.documents: not read, being no text: {folder / 'picture.png'}"]
    system = {"role": "system", "content": "Be short."}
    asked = rag.prompt([system, {"role": "user", "content": "What does a bee make?"}])
    assert asked == [system, {"role": "user", "content": "Bees: A bee makes honey. / a.md: # Foxes\nA fox eats nuts.\n"
                              "What does a bee make?"}]  # fmt: skip
    sources = rag.describe_sources([{"role": "user", "content": "What does a bee make?"}])["sources"]
    assert {**sources[0], "score": 0} == {"name": "Bees", "number": 1, "text": "A bee makes honey.", "score": 0}
    assert sources[0]["score"] > sources[1]["score"] > 0
    unknown = [{"role": "user", "content": "Quantum?"}]
    assert rag.prompt(unknown) is unknown
    assert rag.describe_sources(unknown) == {}
    none = RAG(documents=[])
    assert none.prompt(unknown) is unknown
    picture = [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What does a bee make?"}]
    parts = rag.prompt([{"role": "user", "content": picture}])[0]["content"]
    assert parts[0] == picture[0]
    assert parts[1]["text"].endswith("What does a bee make?")
    before = rag.content_fingerprint()
    (folder / "a.md").write_text("# Foxes\nA fox eats figs.\n", encoding="utf-8")
    assert RAG(documents=[str(folder)]).content_fingerprint() != before


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    (tmp_path / "bad.jsonl").write_text('{"text": "a b"}\n{"txt": "c"}\n', encoding="utf-8")
    (tmp_path / "torn.jsonl").write_text('{"text": "a b"}\n{"text": \n', encoding="utf-8")
    cases = {
        "says nothing; name files or folders": None,
        "nowhere does not exist": ["nowhere"],
        "empty holds no file that is read": ["empty"],
        "there is no text in it": ["blank.txt"],
        "is no kind of file that is read": ["x.pdf"],
        "bad.jsonl:2: has no text": ["bad.jsonl"],
        "torn.jsonl:2: broken JSON": ["torn.jsonl"],
    }
    for says, names in cases.items():
        documents = None if names is None else [str(tmp_path / name) for name in names]
        with pytest.raises(UserError, match=says) as error:
            RAG(documents=documents).check_ready()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="overlap 5 must be less than chunk 5"):
        RAG(documents=[], chunk=5, overlap=5)
    with pytest.raises(ValueError, match="the prompt lacks"):
        RAG(documents=[], template="{question}")
