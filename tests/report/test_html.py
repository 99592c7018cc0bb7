from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.report import phrasing
from holdfast.report.html import render_compare, render_run, write_page

EVIL = "<script>alert('x')</script> <img src=http://evil.example/x onerror=alert(1)> & \"quotes\" {{ 7 * 7 }}"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects the page's text, tags, links and ids, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.parts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "srcset", "action", "data", "xlink:href"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


RECIPE_OF_ONES_OWN = {"model": "mine", "method": "sft", "data": {"train": "data/snips.jsonl", "test": 0.1}}


def _bare() -> dict[str, Any]:
    """The least a report may hold."""
    return {"holdfast": "0.1.0", "name": "bare", "tasks": [], "gain": None, "loss": None}


def _edge_cases(report: dict[str, Any], unchanged: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kept = [t for t in report["tasks"] if t["role"] == "keep"]
    target = [t for t in report["tasks"] if t["role"] == "target"]
    return {
        "full": report,
        "bare": _bare(),
        "no kept tasks": {**report, "tasks": target, "loss": None},
        "no target": {**report, "tasks": kept, "gain": None},
        "no flips": unchanged,
        "refused": {**report, "gate": {"passed": False, "reasons": ["lost 4.1 points; max_loss is 2"]}},
        "empty parts": {**report, "curves": [], "curation": {}, "training": {}, "cost": {}, "gate": None, "recipe": {}},
        "not numbers": {**report, "loss": {"delta": float("nan"), "low": None, "high": None, "worst": "sums"}},
    }


CASES = ("full", "bare", "no kept tasks", "no target", "no flips", "refused", "empty parts", "not numbers")


@pytest.mark.parametrize("case", CASES)
def test_every_run_page_is_whole(case: str, report: dict[str, Any], unchanged: dict[str, Any]) -> None:
    html = render_run(_edge_cases(report, unchanged)[case])
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"\b(nan|None|inf|Undefined)\b", page.text)
    for section in ("glance", "plane", "tasks", "flips", "cost", "recipe"):
        assert section in page.ids
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


@pytest.mark.parametrize("kind", ["run", "compare"])
def test_nothing_is_fetched_and_nothing_runs(kind: str, report: dict[str, Any], compare: dict[str, Any]) -> None:
    html = render_run(report) if kind == "run" else render_compare(compare)
    page = Page(html)
    assert not {"script", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    assert all(re.match(r"#|data:|[\w.+-]+/report\.html$", link) for link in page.links)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_what_a_model_wrote_is_text(report: dict[str, Any]) -> None:
    for where in ("prompt", "reference", "base", "tuned", "id"):
        report["tasks"][0]["flips"][0][where] = EVIL
    report["curation"]["examples"][0] |= {"prompt": EVIL, "answer": EVIL, "gold": EVIL, "reason": EVIL, "origin": "<b>"}
    report["curation"]["notes"] = {EVIL: 1}
    report["recipe"] = {"model": EVIL}
    report["name"] = EVIL
    report["tasks"][0]["name"] = EVIL
    page = Page(render_run(report))
    assert not {"script", "img", "b"} & set(page.tags)
    assert page.text.count(" ".join(EVIL.split())) >= 12


def test_a_compared_method_name_is_text(compare: dict[str, Any]) -> None:
    compare["runs"][0]["method"] = EVIL
    compare["budget"] = EVIL
    page = Page(render_compare(compare))
    assert not {"script", "img"} & set(page.tags)


def test_numbers_on_the_page_are_those_of_the_report(report: dict[str, Any]) -> None:
    text = Page(render_run(report)).text
    assert phrasing.describe_result(report) in text
    for t in report["tasks"]:
        row = f"{phrasing.format_signed(t['delta'])} {phrasing.format_bracket(t['low'], t['high'])}"
        assert row in text
        assert (
            f"{t['n']} {phrasing.format_points(t['base'])} {phrasing.format_points(t['tuned'])} {row} "
            f"{phrasing.format_pvalue(t['p'])}" in text
        )
        if t["won"] is not None:
            assert f"{t['won']} / {t['lost']}" in text
    gain, loss = report["gain"], report["loss"]
    assert (
        f"{phrasing.format_signed(gain['delta'])} 95 % interval "
        f"{phrasing.format_interval(gain['low'], gain['high'], sign=True)}" in text
    )
    assert (
        f"{phrasing.format_points(loss['delta'])} 95 % interval {phrasing.format_interval(loss['low'], loss['high'])}"
        in text
    )
    for name, number in report["curation"]["counts"].items():
        assert f"{name} {number}" in text


def test_numbers_of_a_comparison(compare: dict[str, Any]) -> None:
    text = Page(render_compare(compare)).text
    for run in compare["runs"]:
        gain, loss = run["gain"], run["loss"]
        assert f"{phrasing.format_signed(gain['delta'])} {phrasing.format_bracket(gain['low'], gain['high'])}" in text
        assert (
            f"{phrasing.format_points(loss['delta'])} {phrasing.format_bracket(loss['low'], loss['high'], sign=False)}"
            in text
        )
        for t in run["tasks"].values():
            assert f"{phrasing.format_signed(t['delta'])} {phrasing.format_bracket(t['low'], t['high'])}" in text
    assert compare["budget"] in text


def test_recipe_on_the_page_is_the_recipe(report: dict[str, Any]) -> None:
    page = Page(render_run(report))
    (recipe,) = (part for part in page.parts if part.startswith("model: lab\n"))
    assert yaml.safe_load(recipe) == report["recipe"]


def test_flips_lost_first_and_given_items_win_over_the_few_kept(report: dict[str, Any]) -> None:
    many = [{**report["tasks"][0]["flips"][0], "id": f"q{i:03d}", "won": i % 2 == 0} for i in range(130)]
    html = render_run(report, {"story": many})
    shown = re.findall(r"\bq\d{3}\b", html)
    assert len(shown) == 100
    assert shown[:65] == [f"q{i:03d}" for i in range(1, 130, 2)]
    assert "(100 shown)" in html


def test_long_answers_are_folded_and_complete(report: dict[str, Any]) -> None:
    answer = " ".join(f"word{i}" for i in range(500))
    report["tasks"][0]["flips"][0]["tuned"] = answer
    html = render_run(report)
    assert answer in html
    assert "all 3,889 characters" in html


@pytest.mark.parametrize("change", ["all", "one run", "no runs", "no kept", "bare runs"])
def test_every_comparison_page_is_whole(change: str, compare: dict[str, Any]) -> None:
    if change == "one run":
        compare["runs"] = compare["runs"][:1]
    elif change == "no runs":
        compare["runs"] = []
    elif change == "no kept":
        compare["tasks"] = compare["tasks"][:1]
        for run in compare["runs"]:
            run |= {"loss": None, "keep": None, "tasks": {"story": run["tasks"]["story"]}, "points": []}
    elif change == "bare runs":
        compare["runs"] = [{"method": "sft", "gain": None, "loss": None}]
    page = Page(render_compare(compare))
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"\b(nan|None|inf|Undefined)\b", page.text)


def test_the_gate_is_a_band_under_the_headline(report: dict[str, Any]) -> None:
    refused = {"passed": False, "reasons": ["lost 4.1 points; max_loss is 2"]}
    text = Page(render_run({**report, "gate": refused})).text
    assert "The gate refused this result. Lost 4.1 points; max_loss is 2. Change on the target" in text
    assert "Gate passed." in Page(render_run(report)).text


def test_bits_are_never_called_points(free_text: dict[str, Any]) -> None:
    page = Page(render_run(free_text))
    text = page.text.partition("Where the rows came from")[0]
    assert "Lowered the target's loss by 0.250 bits per token, 12.5 % (95 % interval 0.125 to 0.375)" in text
    assert "the kept texts take 20.0 % more bits (10.0 to 30.0)" in text
    assert "+0.250 bits per token saved, 12.5 %; 95 % interval +0.125 to +0.375 2.000 → 1.750, n = 40" in text
    assert "Bits of kept text +20.0 % 95 % interval +10.0 to +30.0" in text
    assert "prose keep, bits per byte 7 1.250 1.500 +0.250 [+0.125, +0.375] +20.0 %" in text
    assert "Lost elsewhere" not in text
    assert "points" not in text.replace("in points from 0 to 100", "")
    assert len(page.ids) == len(set(page.ids))


def test_the_held_out_loss_has_a_tile_beside_a_judged_target(report: dict[str, Any], free_text: dict[str, Any]) -> None:
    assert "Held-out loss" not in Page(render_run(report)).text.partition("Through training")[0]
    text = Page(render_run({**report, "held_out": free_text["held_out"]})).text
    assert "Held-out loss \u22120.250 bits per token, \u221212.5 % 2.000 → 1.750, n = 40; less is better" in text


def test_the_probe_has_a_section_and_is_the_loss_where_nothing_else_is(probed: dict[str, Any]) -> None:
    page = Page(render_run(probed))
    assert "departs from the base at 12.5 % of the probe's tokens (10.0 to 15.0)" in page.text
    assert "Agreement lost 12.5 95 % interval 10.0 to 15.0 100.0 → 87.5 % of the base's tokens, 60 prompts" in page.text
    assert (
        "The tuned model agrees with the base at 87.5 % of the tokens (85.0 to 90.0); 50 % of 60 answers" in page.text
    )
    assert "code by kind 30 87.5 % 0.125 50 % 100 % → 80 % 20.0 → 31.5" in page.text
    assert "Japanese by language" in page.text
    assert "code-3: 20.0 % agreement, 1.25 bits per token" in page.text
    assert "1e-09" not in page.text
    assert "#probe" in page.links
    assert len(page.ids) == len(set(page.ids))


def test_a_comparison_against_the_probe(probed: dict[str, Any], compare: dict[str, Any]) -> None:
    compare["tasks"] = [
        {key: task[key] for key in ("name", "role", "kind", "unit", "better", "base", "n")} for task in probed["tasks"]
    ]
    for run in compare["runs"]:
        run |= {key: probed[key] for key in ("gain", "loss", "text")} | {"held_out": 1.75, "keep": 87.5}
        run |= {"target": 1.75, "tasks": {t["name"]: t for t in probed["tasks"]}, "points": []}
        run["probe"] = {"kl": 0.125, "agreement": 87.5}
    text = Page(render_compare(compare)).text.partition("Who wrote the rows")[0]
    assert "12.5 points of agreement with the base lost" in text
    assert "Agreement with the base, %" in text
    assert "base 2.000 100.0" in text
    assert "87.5 12.5 [10.0, 15.0] 0.125" in text


def test_a_comparison_against_text_alone(free_text: dict[str, Any], compare: dict[str, Any]) -> None:
    compare["tasks"] = [{k: t[k] for k in ("name", "role", "unit", "better", "base", "n")} for t in free_text["tasks"]]
    for run in compare["runs"]:
        run |= {key: free_text[key] for key in ("gain", "loss", "text")} | {"held_out": 1.75, "keep": None}
        run |= {"target": 1.75, "pareto": False, "tasks": {t["name"]: t for t in free_text["tasks"]}, "points": []}
    text = Page(render_compare(compare)).text.partition("Who wrote the rows")[0]
    assert "By gain: sft (+0.250 bits per token better on the target, 20.0 % more bits for the kept text)" in text
    assert "No front is drawn against text." in text
    assert "+20.0 % [+10.0, +30.0]" in text


def test_a_comparison_says_whom_the_gate_refused(compare: dict[str, Any]) -> None:
    assert "gate" not in Page(render_compare(compare)).text.partition("Recipe and versions")[0].lower()
    for run in compare["runs"]:
        passed = run["method"] == "s3ft"
        run["gate"] = {"passed": passed, "reasons": [] if passed else ["seed 0: lost -4.1 points"]}
    text = Page(render_compare(compare)).text
    assert "The gate refused sft, ssr, half, lora. Passed: s3ft. Why sft Seed 0: lost \u22124.1 points." in text
    for run in compare["runs"]:
        run["gate"]["passed"] = False
    assert "The gate refused every method." in Page(render_compare(compare)).text


def test_rows_are_known_by_their_question_and_show_what_the_model_had_answered(report: dict[str, Any]) -> None:
    report["curation"]["examples"][0]["prompt"] = "Which is it? " * 40
    html = render_run(report)
    text = Page(html).text
    assert '<span class="chip o0">model</span> Which is it? Which is' in html
    assert "Trained on: the model&#39;s own answer" in html
    assert text.count("judged wrong wrong number") == 2
    assert "The model rephrased the gold answer" not in text  # it is what is trained on, and not shown twice
    assert text.count("The answer in the data") == 2


def test_plain_gold_is_shown_three_times_and_once_each(report: dict[str, Any]) -> None:
    row = {"prompt": "Say hello", "answer": "hello there", "gold": "", "origin": "gold", "reason": ""}
    report["curation"] = {"counts": {"gold": 24}, "notes": {}, "examples": [dict(row) for _ in range(24)]}
    text = Page(render_run(report)).text
    assert text.count("gold Say hello") == 3
    assert text.count("hello there") == 3
    assert "(empty)" not in text


def test_what_was_sampled_only_to_measure_is_not_told(report: dict[str, Any]) -> None:
    assert "sampled to train on 41,870 tokens" in Page(render_run(report)).text
    report["cost"]["sampled_for_training"] = 20_000
    assert "sampled to train on 20,000 tokens" in Page(render_run(report)).text
    plain = {**report, "curation": {"counts": {"gold": 540}, "notes": {}, "examples": []}}
    for known in (None, 0):
        plain["cost"] = {**report["cost"], "sampled_for_training": known}
        assert "sampled to train on" not in Page(render_run(plain)).text


def test_figures_are_rounded_and_fingerprints_short(report: dict[str, Any]) -> None:
    report["training"]["epochs"] = 2.85714
    report["model"]["fingerprint"] = "f" * 64
    html = render_run(report)
    assert "240 (2.86 epochs)" in html
    assert f'<abbr title="{"f" * 64}">{"f" * 12}</abbr>' in html


def test_an_empty_plane_says_what_to_add(report: dict[str, Any], compare: dict[str, Any]) -> None:
    bare = {**report, "loss": None, "tasks": report["tasks"][:1]}
    assert "keep: [questions.jsonl]" in Page(render_run(bare)).text
    assert "target: test" not in Page(render_run(bare)).text.partition("Recipe and versions")[0]
    compare["tasks"] = compare["tasks"][:1]
    for run in compare["runs"]:
        run["loss"] = None
    assert "keep: [questions.jsonl]" in Page(render_compare(compare)).text


def test_skills_of_the_laboratory_are_explained(report: dict[str, Any]) -> None:
    assert "Frozen Lake: from a map and a position" in Page(render_run(report)).text
    report["recipe"] = {**RECIPE_OF_ONES_OWN}
    report["model"]["name"] = "mine"
    assert "Frozen Lake" not in Page(render_run(report)).text


def test_held_out_rows_are_called_by_their_data(report: dict[str, Any]) -> None:
    report["tasks"][0]["name"] = "test"
    report["recipe"] = RECIPE_OF_ONES_OWN
    assert Page(render_run(report)).text.count("held-out rows of snips.jsonl") >= 3


def test_a_comparison_links_to_its_runs_and_shows_their_answers(compare: dict[str, Any]) -> None:
    compare["runs"][0]["dirs"] = ["elsewhere/sft-seed0", *compare["runs"][0]["dirs"][1:]]
    page = Page(render_compare(compare))
    links = {link for link in page.links if not link.startswith(("#", "data:"))}
    assert links == {f"{run['method']}-seed{s}/report.html" for run in compare["runs"] for s in range(3)} - {
        "sft-seed0/report.html"
    }
    assert "Answers side by side" in page.text
    assert "base wrong" in page.text
    assert "s3ft right" in page.text
    del compare["answers"]
    assert "Answers side by side" not in Page(render_compare(compare)).text


def test_the_front_is_named_only_where_one_is_drawn(compare: dict[str, Any]) -> None:
    assert "The stepped line is the front" in Page(render_compare(compare)).text
    for run in compare["runs"]:
        run["pareto"] = False
    text = Page(render_compare(compare)).text
    assert "stepped line" not in text
    assert "there is no front to draw" in text


def test_methods_have_one_order_and_keep_their_colours(compare: dict[str, Any]) -> None:
    html = render_compare(compare)
    named = re.findall(r'<th scope="(?:row|col)"><span class="key (s\d)"></span>(\w+)', html)
    order = [("s0", "sft"), ("s1", "s3ft"), ("s4", "ssr"), ("s3", "half"), ("s2", "lora")]
    assert named == order * 3


def test_same_input_same_page(report: dict[str, Any], compare: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report)), json.loads(json.dumps(compare))
    assert render_run(report) == render_run(again[0])
    assert render_compare(compare) == render_compare(again[1])
    assert report == again[0]


def test_write_page_leaves_only_the_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old", encoding="utf-8")
    assert write_page(page, "<p>\u2212é</p>") == page
    assert page.read_text(encoding="utf-8") == "<p>\u2212é</p>"
    assert list(tmp_path.iterdir()) == [page]
