"""Label noise: swapped as often as it says, the same pairs for every method, by the scores where there are any."""

from __future__ import annotations

import pytest

from holdfast.data.rows import Row
from holdfast.methods.curators.label_noise import LabelNoise


def build_pairs(count: int, apart: float = 1.0) -> list[Row]:
    prompts = ([{"role": "user", "content": f"Question {number}"}] for number in range(count))
    scores = {"score_chosen": apart, "score_rejected": 0.0}
    return [Row(prompt, chosen="good", rejected="bad", meta=dict(scores), place="x.jsonl:1") for prompt in prompts]


def swapped_ids(curator: LabelNoise, rows: list[Row], world) -> set[str]:
    out = list(curator.curate(rows, world.bench()))
    assert [row.id for row in out] == [row.id for row in rows]
    for row in out:
        assert row.meta["score_chosen" if row.chosen == "good" else "score_rejected"] == rows[0].meta["score_chosen"]
        assert row.meta["trace"][-1].get("swapped", False) == (row.chosen == "bad")
    return {row.id for row in out if row.chosen == "bad"}


def test_a_share_of_the_pairs_is_swapped_and_always_the_same_ones(world):
    rows = build_pairs(2000)
    some = swapped_ids(LabelNoise(share=0.2), rows, world)
    assert len(some) == pytest.approx(400, abs=3 * 18)  # three standard deviations
    assert some <= swapped_ids(LabelNoise(share=0.4), rows, world)
    assert not swapped_ids(LabelNoise(share=0), rows, world)
    assert len(swapped_ids(LabelNoise(share=1), rows, world)) == 2000


@pytest.mark.parametrize(("apart", "chance"), [(1.0, 0.26894), (0.0, 0.5), (20.0, 0.0)])
def test_scores_that_are_close_are_confused(world, apart, chance):
    rows = build_pairs(2000, apart)
    curator = LabelNoise(temperature=1)
    assert curator.swap_chance(rows[0]) == pytest.approx(chance, abs=1e-5)
    assert len(swapped_ids(curator, rows, world)) == pytest.approx(2000 * chance, abs=3 * 23)


def test_rows_without_a_pair_stay(world):
    row = Row([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], place="x.jsonl:1")
    (same,) = LabelNoise(share=1).curate([row], world.bench())
    assert same.answer == "A"
    assert same.chosen is None
