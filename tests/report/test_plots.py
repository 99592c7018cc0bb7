from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from itertools import combinations
from typing import Any

import pytest

from holdfast.report import curve_plots, plots, ranking, svg


def _pictures(markup: str) -> list[ET.Element]:
    """The SVGs as parsed XML: they must be well formed."""
    return list(ET.fromstring(f"<all>{markup}</all>").iter("svg"))


def test_every_picture_is_well_formed_named_and_described(report: dict[str, Any], compare: dict[str, Any]) -> None:
    drawn = [plots.run_plane(report), plots.delta_bars(report["tasks"]), *curve_plots.run_curves(report)]
    drawn += [
        plots.compare_plane(compare),
        *curve_plots.compare_curves(compare),
        plots.share_bars([("", {"gold": 3})], ["gold"]),
    ]
    for markup in drawn:
        for picture in _pictures(markup):
            names = (picture.get("aria-labelledby") or "").split()
            told = [picture.find(tag) for tag in ("title", "desc")]
            assert picture.get("role") == "img"
            assert [t.get("id") for t in told if t is not None] == names
            assert all(t.text for t in told if t is not None)


def test_plane_has_one_mark_and_both_whiskers_per_method(compare: dict[str, Any]) -> None:
    wide, narrow = _pictures(plots.compare_plane(compare))
    for picture in (wide, narrow):
        classes = [e.get("class") for e in picture.iter()]
        assert classes.count("mark") == 5
        assert classes.count("whisker") == 10
        assert classes.count("seed") == 15
        assert classes.count("front") == 1
        names = {e.text for e in picture.iter("text") if (e.get("class") or "").startswith("name")}
        assert names == {"sft", "s3ft", "lora", "half", "ssr", "base"}


def test_more_gain_is_higher_and_more_loss_further_right() -> None:
    points = [plots.Point("a", 1.0, 5.0), plots.Point("b", 3.0, 9.0, colour=1)]
    picture = _pictures(plots.gain_loss_plane(points))[0]
    tips = [g for g in picture.iter("g") if g.find("title") is not None]
    (a,) = (e for e in tips[0].iter("circle") if e.get("class") == "mark")
    (b,) = (e for e in tips[1].iter("polygon") if e.get("class") == "mark")
    corners = [tuple(map(float, corner.split(","))) for corner in (b.get("points") or "").split()]
    assert float(a.get("cx") or 0) < min(x for x, _ in corners)
    assert float(a.get("cy") or 0) > max(y for _, y in corners)


@pytest.mark.parametrize("seed", range(5))
def test_labels_lie_on_no_other_label_and_inside(seed: int) -> None:
    rng = random.Random(seed)
    anchors = [(rng.uniform(200, 420), rng.uniform(120, 280), f"method{i}") for i in range(15)]
    bounds = (40.0, 30.0, 750.0, 400.0)
    boxes = svg.place_labels(anchors, [], bounds)
    assert all(svg.overlap_area(a, b) == 0 for a, b in combinations(boxes, 2))
    assert all(svg.overlap_area(box, bounds) == pytest.approx((box[2] - box[0]) * (box[3] - box[1])) for box in boxes)


def test_spread_keeps_order_gap_and_bounds() -> None:
    moved = svg.spread_apart([50.0, 51.0, 52.0, 10.0], 15, 5, 100)
    assert moved == [50.0, 65.0, 80.0, 10.0]
    tight = svg.spread_apart([99.0, 99.0, 99.0], 15, 0, 100)
    assert sorted(tight) == [70.0, 85.0, 100.0]
    many = sorted(svg.spread_apart([5.0] * 30, 15, 0, 100))
    assert many[0] >= -1e-9
    assert many[-1] <= 100 + 1e-9


def test_ticks_are_round_and_inside() -> None:
    assert svg.compute_ticks(-4.2, 21) == [0, 5, 10, 15, 20]
    assert svg.compute_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert svg.tick_text(-2.5) == "\u22122.5"


def test_bars_are_filled_only_where_the_interval_leaves_out_zero(report: dict[str, Any]) -> None:
    picture = _pictures(plots.delta_bars(report["tasks"]))[0]
    bars = [e.get("class") for e in picture.iter("rect")]
    assert bars == ["bar up", "bar down", "bar down", "bar flat", "bar flat", "bar flat", "bar down"] + ["bar flat"] * 3


def test_long_curves_are_thinned_to_their_means() -> None:
    curves = [{"step": i, "loss": float(i % 2)} for i in range(10_000)]
    picture = _pictures(curve_plots.run_curves({"curves": curves})[0])[0]
    (curve,) = (e for e in picture.iter("path") if e.get("class") == "curve")
    assert (curve.get("d") or "").count("L") < 160


def test_nothing_to_draw_draws_nothing() -> None:
    assert plots.gain_loss_plane([]) == ""
    assert plots.delta_bars([]) == ""
    assert plots.share_bars([("", {})], []) == ""
    assert curve_plots.run_curves({"curves": []}) == []
    assert plots.run_plane({"gain": None, "loss": None}) == ""


def test_names_are_escaped() -> None:
    drawn = plots.gain_loss_plane([plots.Point("<script>alert(1)</script>", 1.0, 2.0)])
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn


def test_known_origins_keep_their_colours() -> None:
    kinds = plots.origin_names([{"replay": 1, "gold": 2}, {"model": 3, "teacher": 4}])
    assert kinds == ["model", "gold", "replay", "teacher"]
    assert [plots.origin_class(kind, kinds) for kind in kinds] == ["o0", "o2", "o3", "o4"]


def test_way_needs_an_evaluation_at_step_zero() -> None:
    curves = [
        {"step": 0, "target": 30.0, "keep": 70.0},
        {"step": 5, "target": None},
        {"step": 9, "target": 40.0, "keep": 68.0},
    ]
    assert plots.way_of(curves) == [(0.0, 0.0), (2.0, 10.0)]
    assert plots.way_of(curves[1:]) == []


def test_the_plane_counts_in_the_units_of_the_run(report: dict[str, Any], free_text: dict[str, Any]) -> None:
    titles = [e.text for e in _pictures(plots.run_plane(free_text))[0].iter("text") if e.get("class") == "title"]
    assert titles[:2] == ["% more bits for the kept text →", "bits per token saved on the target ↑"]
    assert plots.run_way(free_text) == [(0.0, 0.0), pytest.approx((10.0, 0.125)), pytest.approx((20.0, 0.25))]
    report["loss"]["of"] = "probe"
    assert plots.axes_of(report) == ("points of agreement with the base lost", "points gained on the target")


def test_curves_in_bits_have_panels_of_their_own(free_text: dict[str, Any]) -> None:
    names = [e.text for panel in curve_plots.run_curves(free_text) for e in _pictures(panel)[0].iter("title")]
    assert names == ["Training loss", "Held-out loss", "Bits of the kept text"]


def test_curves_go_to_the_last_step_of_training() -> None:
    curves = [{"step": i, "loss": 1.0, "target": 50.0 if i < 3 else None} for i in range(11)]
    picture = _pictures(curve_plots.run_curves({"curves": curves})[1])[0]
    ticks = {e.text: float(e.get("x") or 0) for e in picture.iter("text") if e.get("class") == "tick"}
    dots = [float(e.get("cx") or 0) for e in picture.iter("circle")]
    assert max(dots) == pytest.approx(ticks["0"] + (ticks["10"] - ticks["0"]) * 0.2, abs=0.2)


def test_a_value_ends_inside_the_picture(report: dict[str, Any]) -> None:
    report["tasks"][0] |= {"delta": -36.7, "low": -56.7, "high": -16.7}
    wide, _ = _pictures(plots.delta_bars(report["tasks"]))
    for text in wide.iter("text"):
        if text.get("class") == "value":
            assert float(text.get("x") or 0) + svg.text_width(text.text or "") <= float(wide.get("width") or 0) + 0.1


def test_the_kept_step_is_marked_where_it_is_not_the_last(free_text: dict[str, Any]) -> None:
    for kept, marks in ((10, 0), (5, 1), (None, 0)):
        free_text["training"]["kept_step"] = kept
        picture = _pictures(curve_plots.run_curves(free_text)[1])[0]
        lines = [e for e in picture.iter("line") if e.get("class") == "kept"]
        assert len(lines) == marks
        dots = [e.get("cx") for e in picture.iter("circle")]
        assert [line.get("x1") for line in lines] == dots[1:2][:marks]


def test_agreement_on_the_probe_is_not_called_a_score(report: dict[str, Any]) -> None:
    report["loss"]["of"] = "probe"
    names = [e.text for panel in curve_plots.run_curves(report) for e in _pictures(panel)[0].iter("title")]
    assert names == ["Training loss", "Scores during training", "Agreement on the probe"]


def test_halos_lie_below_every_mark(compare: dict[str, Any]) -> None:
    order = [e.get("class") for e in _pictures(plots.compare_plane(compare))[0].iter()]
    assert max(i for i, name in enumerate(order) if name == "halo") < order.index("mark")


def test_long_names_are_cut_in_the_middle_but_told_whole(report: dict[str, Any]) -> None:
    name = "a-very-long-task-name-" * 6 + ".jsonl"
    report["tasks"][0]["name"] = name
    for picture in _pictures(plots.delta_bars(report["tasks"])):
        shown = next(e.text or "" for e in picture.iter("text") if e.get("class") == "name")
        assert len(shown) < 40
        assert shown.startswith("a-very")
        assert shown.endswith(".jsonl")
        assert name in (picture.findtext("desc") or "")


def test_a_hundred_methods_are_drawn_and_few_are_named(compare: dict[str, Any]) -> None:
    runs = compare["runs"]
    compare["runs"] = [{**runs[n % len(runs)], "method": f"m{n}", "versus": {}} for n in range(100)]
    plane = str(plots.compare_plane(compare))
    assert plane.count('class="mark"') == 2 * 100, "two sizes"
    assert plane.count('class="name ') == 2 * (plots.MOST_NAMES + 1)
    front = {run["method"] for run in ranking.front_of(compare)}
    assert any(f">{name}</text>" in plane for name in front)
    said = ranking.describe_ranking(compare)
    assert "more" in said
    assert len(said) < 1500
