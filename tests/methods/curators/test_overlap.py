"""Dedup, decontaminate and filter: which rows go, why, and that what is form counts for nothing."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError

from holdfast.data.overlap.finder import OverlapFinder
from holdfast.data.overlap.words import hash_runs, hash_words, split_words
from holdfast.data.rows import LazyRows, Row
from holdfast.errors import UserError
from holdfast.methods.curators.decontaminate import Decontaminate
from holdfast.methods.curators.dedup import Dedup
from holdfast.methods.curators.filter import CHUNK, Filter

near_duplicates = pytest.mark.skipif(
    importlib.util.find_spec("datasketch") is None, reason="datasketch is not installed"
)


def row(question: str, answer: str = "yes", number: int = 0, **fields) -> Row:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Row(messages, place=f"rows.jsonl:{number}" if number else "", **fields)


def words(begin: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(begin, begin + count))


def reasons(world) -> dict[str, str]:
    return {dropped_row.messages[0]["content"]: reason for dropped_row, reason in world.dropped}


# ---- words ---------------------------------------------------------------------------------------------------------


def test_words_and_runs():
    assert split_words("It's 3.5 kg, NOT Kilo-grams!") == ["it", "s", "3", "5", "kg", "not", "kilo", "grams"]
    assert split_words("東京は大きい city") == ["東", "京", "は", "大", "き", "い", "city"]
    text = "a b c a b c d"
    runs = hash_runs(hash_words(text), 3)
    assert len(runs) == 5
    same = [(i, j) for i, j in combinations(range(5), 2) if runs[i] == runs[j]]
    assert same == [(0, 3)]
    assert len(hash_runs(hash_words("a b"), 3)) == 0
    assert hash_runs(hash_words("a b c"), 3)[0] != hash_runs(hash_words("c b a"), 3)[0]


# ---- dedup ---------------------------------------------------------------------------------------------------------


def test_equal_rows_stand_once_and_the_first_stays(world):
    rows = [row("Q", number=1), row("Q  ", number=2), row("Q", "no", number=3), row("q", number=4)]
    out = Dedup(near=None).curate(rows, world.bench())
    assert [r.place for r in out] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:4"]
    assert world.dropped == [(rows[1], "duplicate: of rows.jsonl:1")]
    assert world.notes == {"duplicates": 1}
    assert len(Dedup(near=None, of="question").curate(rows, world.bench())) == 2


def test_what_else_tells_rows_apart(world):
    labels = [row("Q", label=True), row("Q", label=False)]
    system = [replace(row("Q"), messages=[{"role": "system", "content": s}, *row("Q").messages]) for s in "AB"]
    pairs = [replace(row("Q"), chosen=c, rejected="c") for c in "ab"]
    replayed = [replace(row("Q"), origin="replay")] * 2
    for rows in (labels, system, pairs, replayed):
        assert len(Dedup(near=None).curate(rows, world.bench())) == 2


@near_duplicates
def test_near_duplicates_are_those_of_a_jaccard_of_runs(world):
    base = words(0, 100)
    # Another word in the middle changes 5 of 97 runs ("yes" is the 101st word): J = 92 / 102.
    rows = [row(base), row(base.replace("w50", "x")), row(words(200, 100))]
    out = Dedup().curate(rows, world.bench())
    assert [r.messages[0]["content"][:2] for r in out] == ["w0", "w2"]
    assert reasons(world)[rows[1].messages[0]["content"]] == "near duplicate: 0.90 of row 1"
    assert len(Dedup(near=0.91).curate(rows, world.bench())) == 3


@near_duplicates
def test_near_duplicates_are_found_as_brute_force_finds_them(world):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        tokens = [f"{i}w{j}" for j in range(60)]
        rows.append(row(" ".join(tokens)))
        for copy in range(3):
            changed = [f"c{copy}" if rng.random() < 0.03 * copy else token for token in tokens]
            rows.append(row(" ".join(changed), "yes" if copy else "no"))

    def runs(r):
        return set(hash_runs(hash_words("\n".join(m["content"] for m in r.messages)), 5).tolist())

    sets = [runs(r) for r in rows]
    stay = []
    for i, one in enumerate(sets):
        if not any(len(one & sets[j]) / len(one | sets[j]) >= 0.8 for j in stay):
            stay.append(i)
    out = Dedup().curate(rows, world.bench())
    assert [r.messages for r in out] == [rows[i].messages for i in stay]
    assert 40 < len(stay) < len(rows) - 40


@near_duplicates
def test_a_long_template_makes_no_duplicates(world):
    template = words(0, 200)
    rows = [row(f"{template} question {i} about thing {i * i}") for i in range(60)]
    assert len(Dedup().curate(rows, world.bench())) == 60
    short = [row(f"is {i} odd") for i in range(30)]
    assert len(Dedup().curate(short, world.bench())) == 30


# ---- decontaminate ---------------------------------------------------------------------------------------------------


def overlaps(rows, evaluated, **knobs):
    found = OverlapFinder({"test": evaluated}, **knobs).find_overlaps(rows)
    return {index: (round(one.share, 2), one.same_question) for index, one in found.items()}


def test_the_same_question_is_found_however_it_is_written():
    evaluated = [row("What is 2 + 2?", "4"), row(words(0, 5)), row("a . b\n. . H")]
    rows = [row("what  is 2 + 2", "5"), row("What is 2 - 2?"), row(words(0, 6)), row("a b\n. H ."), row("a . b . . h")]
    assert overlaps(rows, evaluated) == {0: (1.0, True), 4: (1.0, True)}


def test_runs_of_thirteen_words():
    item = row(words(0, 39), "end")  # 40 words, 28 runs
    rows = [
        row(f"start {words(0, 39)} more", "other"),  # 27 of the item's 28
        row(f"{words(100, 30)} {words(0, 13)} {words(200, 30)}"),  # a single run
        row(f"{words(0, 12)} {words(300, 30)}"),  # none
        row(words(3, 14), "no"),  # 3 runs, of which 2 are the item's
    ]
    assert overlaps(rows, [item]) == {0: (0.96, False)}
    assert overlaps(rows, [item], share=0.6) == {0: (0.96, False), 3: (0.67, False)}
    assert set(overlaps(rows, [item], share=0)) == {0, 1, 3}
    assert set(overlaps(rows, [item], share=0.9)) == {0}


def test_form_is_not_content():
    template = words(0, 60)
    evaluated = [row(f"{template} {words(100 * i + 100, 20)}") for i in range(4)]
    rows = [row(f"{template} {words(100 * i + 5000, 20)}") for i in range(6)]
    assert overlaps(rows, evaluated) == {}
    leak = row(f"see {words(100, 20)}", "no")
    assert list(overlaps([*rows, leak], evaluated)) == [6]
    one = [row("Write a poem.", str(i)) for i in range(4)]
    assert overlaps(one, one[:1]) == {}, "a question that all rows ask says nothing"


def test_references_and_texts_are_measured_too():
    item = Row([{"role": "user", "content": "Say it"}], reference=words(0, 30))
    assert list(overlaps([row("Other", words(0, 30))], [item])) == [0]
    text = Row([{"role": "assistant", "content": words(0, 300)}])
    assert list(overlaps([Row([{"role": "assistant", "content": words(100, 40)}])], [text])) == [0]


def test_decontaminate_leaves_out_and_counts(world):
    rows = [
        row("What is 2 plus 2?", number=1),
        row("Else?", number=2),
        row("More?"),
        replace(row("What is 2 plus 2?"), origin="replay"),
    ]
    bench = replace(world.bench(), evaluated={"test": [row("What is 2 plus 2?", "4", number=9)]})
    out = Decontaminate().curate(rows, bench)
    assert [r.messages[0]["content"] for r in out] == ["Else?", "More?", "What is 2 plus 2?"]
    assert world.dropped == [(rows[0], "asks a question of test: that of item rows.jsonl:9")]
    assert world.notes["overlaps with what is measured"] == 1
    untouched = Decontaminate().curate(rows[1:2], bench)
    assert untouched == rows[1:2]
    assert "trace" not in untouched[0].meta


class MadeRows(LazyRows):
    """Rows that are made as they are read, and how many of them there were at once."""

    class Life:
        """Lives as long as a row."""

        def __init__(self, rows):
            self.rows = rows
            rows.alive += 1
            rows.most = max(rows.most, rows.alive)

        def __del__(self):
            self.rows.alive -= 1

    def __init__(self, count):
        self.numbers, self.alive, self.most = range(count), 0, 0

    def __len__(self):
        return len(self.numbers)

    def _read_row(self, index):
        number = self.numbers[index] % 2100  # the last hundred stand twice
        return row(f"Which of {number} and {number * number}?", words(number, 12), meta={"life": self.Life(self)})


def test_rows_stream_through_all_three(world):
    """What is in memory is a chunk of rows, however many there are (`benchmarks/rows.py`: 100,000)."""
    rows = MadeRows(2200)
    bench = replace(world.bench(), evaluated={"test": [row("Which of 7 and 49?", "x")]})
    out = rows
    for curator in (Decontaminate(), Dedup(near=None), Filter(min_words=2, lacks="nothing")):
        out = curator.curate(out, bench)
    assert len(out) == 2099
    assert len(world.dropped) == 101
    world.dropped.clear()  # which a run writes to a file
    assert sum(1 for _ in out) == 2099
    assert rows.most <= CHUNK + 101 + 10
    assert rows.alive <= 2


# ---- filter ----------------------------------------------------------------------------------------------------------


def keep(rows, bench, **knobs):
    return [r.messages[0]["content"] for r in Filter(**knobs).curate(rows, bench)]


def test_each_condition(world):
    rows = [
        row("a", "one"),
        row("b", "one two three"),
        row("c c c", "Answer: 7", score=0.2),
        row("d", "x" * 9, score=0.9),
    ]
    for knobs, stay in (
        ({}, ["a", "b", "c c c", "d"]),
        ({"min_words": 2}, ["b", "c c c"]),
        ({"max_words": 2}, ["a", "c c c", "d"]),
        ({"max_question_words": 2}, ["a", "b", "d"]),
        ({"matches": r"\d+"}, ["c c c"]),
        ({"lacks": "one"}, ["c c c", "d"]),
        ({"matches": "^c", "where": "question"}, ["c c c"]),
        ({"min_score": 0.5}, ["a", "b", "d"]),
        ({"min_words": 2, "lacks": r"\d"}, ["b"]),
    ):
        assert keep(rows, world.bench(), **knobs) == stay, knobs
    assert reasons(world) == {
        "a": "answer shorter than 2 words: 1",
        "c c c": "answer has what lacks forbids",
        "d": "answer shorter than 2 words: 1",
    }


def test_a_regular_expression_that_never_ends_is_named(world):
    rows = [row("a", "a" * 40 + "!", number=1)]
    with pytest.raises(UserError, match=r"filter.matches: \(a\+\)\+\$ takes more than 2 s .* rows.jsonl:1"):
        keep(rows, world.bench(), matches="(a+)+$")
    with pytest.raises(ValidationError, match="is not a regular expression"):
        Filter(matches="(")


def test_the_judge_holds_answers_against_references(world):
    rows = [replace(r, reference=r.answer.split()[-1]) for r in world.rows[:6]]
    wrong = [replace(r, reference="999") for r in rows[:2]]
    assert Filter().uses_judge() is False
    out = Filter(judge=True).curate([*wrong, *rows[2:]], world.bench())
    assert [r.id for r in out] == [r.id for r in rows[2:]]
    assert all(reason.startswith("judged wrong: ") for _, reason in world.dropped)
    with pytest.raises(UserError, match="no reference beside its answer"):
        Filter(judge=True).curate(world.rows, world.bench())


def test_a_function_of_your_own(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good_rows.py").write_text(
        "def short(row):\n    return len(row['messages'][-1]['content']) < 5\n\n"
        "def broken(row):\n    return row['nothing']\n"
    )
    rows = [row("a", "one", number=1), row("b", "one two three", number=2)]
    assert keep(rows, world.bench(), function="good_rows.py:short") == ["a"]
    assert keep(rows, world.bench(), function="good_rows:short") == ["a"]
    for name, said in (
        ("good_rows.py:broken", r"rows.jsonl:1 .* raises KeyError"), ("good_rows.py:shrt", "has no shrt.*short"),
        ("absent.py:f", "is not a file"), ("absent_module_x:f", "there is no module"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            keep(rows, world.bench(), function=name)
    assert str(Filter(function="good_rows.py:short").own_file()) == "good_rows.py"


def test_languages(world):
    pytest.importorskip("py3langid")
    rows = [
        row("a", "The weather is nice today and we go to the park."),
        row("b", "Das Wetter ist heute schön und wir gehen in den Park."),
        row("Welche Farbe hat der Himmel über Berlin?", "Blau."),
    ]
    assert keep(rows, world.bench(), languages="de") == ["b", "Welche Farbe hat der Himmel über Berlin?"]
    assert reasons(world)["a"] == "not in de: en"
