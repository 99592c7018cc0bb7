from __future__ import annotations

import pytest

from holdfast.data.mixture import mix_replay
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.errors import UserError


def rows(count: int, name: str) -> list[Row]:
    return [
        Row([{"role": "user", "content": f"{name} {i}"}, {"role": "assistant", "content": "A"}], id=f"{name}{i}")
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "share", "replayed"), [(90, 0.1, 10), (100, 0.5, 100), (7, 0.3, 3), (10, 0.01, 0)])
def test_share(count: int, share: float, replayed: int) -> None:
    mixed = mix_replay(rows(count, "t"), rows(200, "r"), share)
    assert len(mixed) == count + replayed
    assert sum(r.origin == "replay" for r in mixed) == replayed
    assert [r.id for r in mixed if r.origin != "replay"] == [f"t{i}" for i in range(count)]
    assert len({r.id for r in mixed}) == count + replayed  # without replacement


def test_drawn_again_when_exhausted() -> None:
    mixed = mix_replay(rows(30, "t"), rows(4, "r"), 0.25)
    drawn = [r.id for r in mixed if r.origin == "replay"]
    assert len(drawn) == 10
    counts = sorted(drawn.count(f"r{i}") for i in range(4))
    assert counts == [2, 2, 3, 3]


def test_spread_and_deterministic() -> None:
    base, general = rows(300, "t"), rows(100, "r")
    one, again, other = (
        mix_replay(base, general, 0.25, 1),
        mix_replay(base, general, 0.25, 1),
        mix_replay(base, general, 0.25, 2),
    )
    assert list(one) == list(again)
    assert fingerprint_rows(one) == fingerprint_rows(again) != fingerprint_rows(other)
    places = [k for k, r in enumerate(one) if r.origin == "replay"]
    assert all(15 <= sum(a <= k < a + 100 for k in places) <= 40 for a in (0, 100, 200, 300))
    assert one[places[0]].origin == "replay"
    assert one[-1] == list(one)[-1]
    assert list(one[5:9]) == list(one)[5:9]
    assert all(r.origin == "gold" for r in general)  # the given rows are left as they are


def test_errors_and_nothing() -> None:
    assert list(mix_replay(rows(3, "t"), [], 0)) == rows(3, "t")
    with pytest.raises(UserError, match=r"^data\.replay\.path: there are no rows to replay$"):
        mix_replay(rows(30, "t"), [], 0.5)
    with pytest.raises(UserError, match=r"^data\.replay\.share: 1 is not a share from 0 to 1$"):
        mix_replay(rows(3, "t"), rows(3, "r"), 1)
