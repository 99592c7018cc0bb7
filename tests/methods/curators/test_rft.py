"""RFT: equations, distances, and which paths are kept."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from holdfast.axes.engine import Sample
from holdfast.data.rows import Row
from holdfast.methods.curators.equations import evaluate_arithmetic, parse_equations
from holdfast.methods.curators.rft import RFT, is_farther


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("48/2 = <<48/2=24>>24, then <<48 + 24 = 72>>72", ["48/2=24", "48+24=72"]),
        ("<<48/2=25>>", None),
        ("<<a+b=c>>", None),
        ("<<2*3=6.0001>>", ["2*3=6.0001"]),
        ("<<2*3=6.1>>", None),
        ("<<__import__('os').system('x')=1>>", None),
        ("<<9**9=1>>", None),
        ("<<1/0=1>>", None),
        ("<<(2+3)*-4=-20>>", ["(2+3)*-4=-20"]),
        ("3 + 4 = 7", ["3+4=7"]),
        ("3 + 4 = 8", None),
        ("5 \xd7 $3 = $15.", ["5*3=15"]),
        ("1,000 / 4 = 250", ["1000/4=250"]),
        ("20% * 50 = 10", ["20%*50=10"]),
        ("3x4=12", ["3*4=12"]),
        ("x = 5 and 7 = 7", []),
        ("2y + 3 * 1 = 7", []),
        ("3 * 2 = 6x", []),
        ("In 2020\n4 + 5 = 9 apples", ["4+5=9"]),
        ("2 + 3 = 5 + 4 = 9", ["2+3=5+4", "5+4=9"]),
        ("10 / 3 = 3.33", None),
        ("3 + 4 = 7 so 2 + 3 = 5, 5 + 4 = 9", ["3+4=7", "2+3=5", "5+4=9"]),
        ("no numbers", []),
    ],
)
def test_equations(text, found):
    assert parse_equations(text) == found


@pytest.mark.parametrize("text", ["", "1+", "(1", "1)", "abs(1)", "1//2", "2**3", "1;1", "+" * 151, "(" * 150, "1e5"])
def test_arithmetic_reads_only_arithmetic(text):
    assert evaluate_arithmetic(text) is None


def test_arithmetic_agrees_with_python():
    rng = random.Random(0)
    for _ in range(300):
        text = str(rng.randint(1, 9))
        for _ in range(rng.randint(1, 5)):
            other = str(rng.randint(1, 9))
            text = rng.choice([f"{text}{rng.choice('+-*/')}{other}", f"({text}){rng.choice('+-*/')}-{other}"])
        try:
            expected = eval(text)
        except ZeroDivisionError:
            expected = None
        assert evaluate_arithmetic(text) == (None if expected is None else pytest.approx(expected))


def test_long_nonsense_is_read_in_time():
    for text in ("1 " * 5000, "1+" * 5000, "(1" * 5000, "1 + 1 = " * 3000, "9" * 10000, "<<" * 5000):
        parse_equations(text)


def test_the_farther_answer_is_the_one_of_the_larger_sum_of_edit_distances():
    def plain(one, two):
        row = list(range(len(two) + 1))
        for i, a in enumerate(one, 1):
            diagonal, row[0] = row[0], i
            for j, b in enumerate(two, 1):
                diagonal, row[j] = row[j], min(diagonal + (a != b), row[j] + 1, row[j - 1] + 1)
        return row[-1]

    rng = random.Random(1)
    for _ in range(500):
        texts = ["".join(rng.choices("abcé", k=rng.randrange(15))) for _ in range(4)]
        new, old, *others = ({"response": text} for text in texts)
        sums = [sum(plain(text, other) for other in texts[2:]) for text in texts[:2]]
        assert is_farther(new, old, others) == (sums[0] > sums[1])


QUESTION = [{"role": "user", "content": "2 + 3 + 4?"}]
GOLD = Row([*QUESTION, {"role": "assistant", "content": "2 + 3 = 5\n5 + 4 = 9\n#### 9"}])


def curate(world, *texts, rows=(GOLD,), **knobs):
    def draw(requests, params, on_sample=None):
        assert (params.n, params.temperature) == (len(texts), 0.7)
        return {r.key: [Sample(r.key, i, t, "stop", len(t)) for i, t in enumerate(texts)] for r in requests}

    return RFT(k=len(texts), **knobs).curate(list(rows), replace(world.bench(), sample=draw))


A = "We see 2 + 3 = 5 and 5 + 4 = 9. #### 9"
A_OTHER_PROSE = "First off, 2 + 3 = 5; finally we have 5 + 4 = 9. #### 9"
REORDERED = "3 + 4 = 7 so 2 + 7 = 9. #### 9"
WRONG_ARITHMETIC = "2 + 3 = 6 and 6 + 4 = 9. #### 9"
BARE = "#### 9"
WRONG = "2 + 3 = 5 and 5 + 4 = 9. #### 10"


def test_the_papers_fixture(world):
    out = curate(world, A, A_OTHER_PROSE, REORDERED, WRONG_ARITHMETIC, BARE, WRONG)
    assert out[0].messages == GOLD.messages
    assert out[0].origin == "gold"
    kept = [r.answer for r in out[1:]]
    assert len(kept) == 3
    assert REORDERED in kept
    assert BARE in kept
    assert (A in kept) != (A_OTHER_PROSE in kept)
    assert all(r.origin == "model" and r.prompt == QUESTION and r.reference == GOLD.answer for r in out[1:])
    assert [r.id for r in out] == [
        GOLD.id,
        *(f"{GOLD.id}.{r.meta['trace'][-1]['attempts'][0]['index']}" for r in out[1:]),
    ]
    paths = [a.get("path") for a in out[0].meta["trace"][-1]["attempts"]]
    assert paths.count("kept") == 3
    assert paths[3] == "wrong arithmetic"
    assert paths[5] is None
    assert (world.notes["accepted"], world.notes["paths kept"], world.notes["gold kept"]) == (5, 3, 1)


def test_the_farther_newcomer_replaces_the_incumbent(world):
    far = "Zzzz qqqq wwww! 2 + 3 = 5 jjjj kkkk. 5 + 4 = 9 vvvv xxxx. #### 9"
    assert [r.answer for r in curate(world, A, REORDERED, far)[1:]] == [far, REORDERED]
    assert [r.answer for r in curate(world, far, REORDERED, A)[1:]] == [far, REORDERED]
    assert [r.answer for r in curate(world, A, far)[1:]] == [A]  # no others to be far from


def test_k_0_is_the_gold_set(world):
    out = RFT(k=0).curate(world.rows, world.bench())
    assert [(r.id, r.messages) for r in out] == [(r.id, r.messages) for r in world.rows]
    assert not world.engine.drawn


def test_gold_is_not_deduplicated_against_samples(world):
    out = curate(world, GOLD.answer)
    assert [r.answer for r in out] == [GOLD.answer] * 2
    assert [r.origin for r in out] == ["gold", "model"]


def test_distinct_false_keeps_every_right_path(world):
    assert len(curate(world, A, A_OTHER_PROSE, A, WRONG_ARITHMETIC, distinct=False)) == 1 + 3


def test_rows_without_an_answer_get_samples_only(world):
    out = curate(world, A, WRONG, rows=[Row(QUESTION, reference=9)])
    assert [r.answer for r in out] == [A]
    assert out[0].reference == 9


def test_without_gold_the_models_answers_stand_alone(world):
    assert [r.answer for r in curate(world, A, WRONG, gold=False)] == [A]
    assert curate(world, WRONG, gold=False) == []
