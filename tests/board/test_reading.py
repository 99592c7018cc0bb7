"""The pages that read: what stands on them is what lies on the disk, in either language, without a script."""

from __future__ import annotations

import fcntl
import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import holdfast.board
from holdfast.board import run_index
from holdfast.board.folder import RunsFolder
from holdfast.board.texts import LANGUAGES, Texts, read_catalogue
from holdfast.board.wording import describe_result
from holdfast.core.events import Event
from holdfast.pipeline.damage import read_outline, read_report
from holdfast.recipe.messages import BOUNDS, TYPE_WORDS
from holdfast.report import phrasing

ROOM = Path(holdfast.board.__file__).parent
TEMPLATES = sorted((ROOM / "templates").glob("*.j2"))


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_list_shows_every_run_with_its_state_and_figures(client: TestClient) -> None:
    page = client.get("/").text
    text = text_of(page)
    for name in ("runs/one", "runs/two", "runs/going", "runs/broken"):
        assert name in text
    assert "step 3 of 9" in text
    assert "stopped, can go on" in text
    assert "failed" in text
    assert "4 of 4 runs." in text
    assert text.index("runs/going") < text.index("runs/two") < text.index("runs/one")
    assert page.count('name="run"') == 2, "only what has figures can be ticked"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("q=two", ["runs/two"]),
        ("state=failed", ["runs/broken"]),
        ("sort=name&state=finished", ["runs/one", "runs/two"]),
        ("q=nothing+like+it", []),
        ("sort=__class__&state=nowhere", []),
    ],
)
def test_the_list_is_sorted_and_filtered(client: TestClient, query: str, shown: list[str]) -> None:
    found = re.findall(r'<th scope="row"><a href="/run/([^"]+)', client.get(f"/?{query}").text)
    assert found == shown


def test_a_long_list_has_pages(client: TestClient, place: Path) -> None:
    for number in range(110):
        run = place / "many" / f"{number:03d}"
        run.mkdir(parents=True)
        (run / "run.json").write_text((place / "runs" / "going" / "run.json").read_text())
    first, second = client.get("/?q=many&sort=name").text, client.get("/?q=many&sort=name&start=100").text
    assert [page.count('<th scope="row">') for page in (first, second)] == [100, 10]
    assert "110 of 114 runs." in first
    assert 'start=100" rel="next"' in first
    assert 'start=0" rel="prev"' in second


def test_the_page_of_a_run_shows_curves_events_results_and_the_recipe(client: TestClient) -> None:
    page = client.get("/run/runs/one").text
    assert page.count("<svg") >= 3
    assert "model: lab-small" in page
    going = client.get("/run/runs/going").text
    assert "training loss" in going
    assert "step 3 of 9" in text_of(going)
    assert "hx-trigger" not in going, "nothing happens there any more"
    assert "loss is nan" in client.get("/run/runs/broken").text


def test_a_run_at_work_is_seen_by_the_lock_of_its_journal(client: TestClient, place: Path) -> None:
    journal = place / "runs" / "going" / "samples.jsonl"
    with journal.open("a+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        page = client.get("/run/runs/going").text
        assert ">running<" in page
        assert 'hx-get="/parts/run/runs/going"' in page
        part = client.get("/parts/run/runs/going")
        assert "HX-Refresh" not in part.headers
        assert "<html" not in part.text
    assert client.get("/parts/run/runs/going").headers["HX-Refresh"] == "true"
    assert "stopped, can go on" in client.get("/run/runs/going").text


def test_runs_of_one_base_and_the_same_questions_are_paired(client: TestClient, place: Path) -> None:
    page = text_of(client.get("/compare?run=runs/one&run=runs/two").text)
    assert "paired, question by question" in page
    assert "Against runs/one, paired" in page
    assert "+60.0" in page, "9 right of 10 beside 3"
    other = json.loads((place / "runs" / "two" / "report.json").read_text())
    other["model"]["fingerprint"] = "another"
    (place / "runs" / "two" / "report.json").write_text(json.dumps(other))
    assert "no base or no questions in common" in text_of(client.get("/compare?run=runs/one&run=runs/two").text)
    assert "left out" in client.get("/compare?run=runs/one&run=runs/going").text
    assert client.get("/compare?" + "&".join(f"run=runs/{n}" for n in range(9))).status_code == 400


def test_methods_are_found_by_what_their_pages_say(client: TestClient) -> None:
    page = text_of(client.get("/methods?q=low-rank+LoRA").text)
    assert "lora" in page
    assert "adafactor" not in page
    assert "No method is like that" in client.get("/methods?q=zzqq").text


def test_report_and_recipe_are_the_files(client: TestClient) -> None:
    report = client.get("/report/runs/one")
    assert "the report" in report.text
    assert "sandbox" in report.headers["Content-Security-Policy"]
    recipe = client.get("/recipe/runs/one")
    assert recipe.text == "model: lab-small\nmethod: sft\n"
    assert "attachment" in recipe.headers["Content-Disposition"]
    assert client.get("/report/runs/going").status_code == 404


def test_the_language_is_chosen_kept_and_else_the_browsers(client: TestClient) -> None:
    assert 'lang="ja"' in client.get("/", headers={"Accept-Language": "ja-JP,en;q=0.5"}).text
    assert 'lang="en"' in client.get("/", headers={"Accept-Language": "xx"}).text
    assert "実行一覧" in client.get("/?lang=ja").text
    assert "実行一覧" in client.get("/").text, "it is kept"
    assert 'lang="en"' in client.get("/?lang=en").text


def test_pages_need_no_script_to_be_read(client: TestClient) -> None:
    page = client.get("/").text
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.S) == [""]
    assert " on" not in re.sub(r"[^<]*(<[^>]*>)", r"\1", page).replace(" once", ""), "no handler in an attribute"
    for address in re.findall(r'(?:src|href|action)="([^"]+)"', page):
        assert address.startswith(("/", "#", "?")), f"{address}: nothing comes from elsewhere"


def test_every_text_is_in_the_catalogue_in_every_language() -> None:
    catalogue = read_catalogue()
    names = {}
    for key, texts in catalogue.items():
        assert texts.keys() == LANGUAGES.keys(), key
        assert all(texts.values()), key
        names[key] = {
            code: {part[1] for part in string.Formatter().parse(text)} - {None} for code, text in texts.items()
        }
        assert len(set(map(frozenset, names[key].values()))) == 1, f"{key}: not the same values in every language"
    source = "".join(path.read_text(encoding="utf-8") for path in [*TEMPLATES, *ROOM.glob("*.py")])
    keys = re.findall(r'\bt\("([a-z_]+)"[,)]|Refusal\(\d+, "(\w+)"|_refuse_plainly\(headers, "(\w+)"', source)
    for key in {key for found in keys for key in found if key}:
        assert key in catalogue, key
    unused = {key for key in catalogue if f'"{key}"' not in source}
    beginnings = tuple(re.findall(r't\(f?"(\w+_)(?:" ~|\{)', source))
    beginnings += tuple(f"{kind}_" for kind in re.findall(r'named\("(\w+)"', source))
    assert not {key for key in unused if not key.startswith(beginnings)}, "no page says it"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_words_of_their_own(template: Path) -> None:
    bare = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", template.read_text(encoding="utf-8"), flags=re.S)
    words = re.sub(r"<[^>]*>|&\w+;|<!doctype html>", " ", bare).replace("Holdfast", "")
    assert not re.findall(r"[^\W\d_]{2,}", words)
    assert not re.findall(r'(?:aria-label|title|placeholder|alt)="[^"]*[a-z]{2}', bare)


def test_a_run_is_read_again_only_where_it_changed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits: list[str] = []
    build = run_index.build_entry

    def build_and_count(name: str, path: Path, *, at_work: bool) -> run_index.RunEntry:
        visits.append(name)
        return build(name, path, at_work=at_work)

    monkeypatch.setattr(run_index, "build_entry", build_and_count)
    index = run_index.RunIndex(RunsFolder(place), lambda paths: set())
    assert len(index.list_entries()) == len(visits) == 4
    index.list_entries()
    assert len(visits) == 4
    with (place / "runs" / "going" / "events.jsonl").open("a") as handle:
        handle.write(json.dumps({"time": 9.0, "event": "step_finished", "step": 4, "steps": 9}) + "\n")
    assert {entry.step for entry in index.list_entries()} == {None, 3, 4}
    assert visits[4:] == ["runs/going"]


@pytest.mark.parametrize(
    ("change", "listed", "told"),
    [
        ({"tasks": [{"name": 7}]}, "finished", "tasks.0.name is not as this version"),
        ({"gain": {"delta": "much"}}, "damaged", "gain.delta."),
        (None, "damaged", "damaged; the holdfast train command"),
    ],
)
def test_the_list_reads_an_outline_and_the_page_of_a_run_its_whole_report(
    client: TestClient, place: Path, change: dict[str, Any] | None, listed: str, told: str
) -> None:
    file = place / "runs" / "two" / "report.json"
    report = read_report(file)
    outline = read_outline(file)
    assert outline["name"] == report["name"]
    assert [outline[key]["delta"] for key in ("gain", "loss")] == [report[key]["delta"] for key in ("gain", "loss")]
    file.write_text(json.dumps({**report, **change}) if change else file.read_text()[:-9])
    assert f">{listed}<" in client.get("/?q=two").text
    assert told in client.get("/run/runs/two").text


def test_what_the_toolkit_says_in_parts_has_words_in_the_catalogue() -> None:
    catalogue = read_catalogue()
    lasting = [event for event in Event.__subclasses__() if event.lasting and event.__module__ == Event.__module__]
    assert len(lasting) > 9
    needed = [f"event_{event.kind_name()}" for event in lasting]
    needed += [f"type_{name}" for name in TYPE_WORDS] + [f"mistake_{name}" for name in BOUNDS]
    assert not [key for key in needed if key not in catalogue]


def test_a_reader_of_japanese_is_told_the_result_and_where_english_begins(client: TestClient, place: Path) -> None:
    page = client.get("/run/runs/one?lang=ja").text
    verdict = re.search(r'<p class="verdict">(.*?)</p>', page)
    assert verdict is not None
    report = read_report(place / "runs" / "one" / "report.json")
    assert phrasing.format_points(report["gain"]["delta"]) in verdict[1]
    assert "目標" in verdict[1]
    assert "points" not in verdict[1]
    assert describe_result(report, Texts("en")) == phrasing.describe_result(report)
    broken = client.get("/run/runs/broken?lang=ja").text
    assert "以下は Holdfast 本体が出力する英語の文です" in broken
    assert re.search(r'role="alert" lang="en">loss is nan', broken)
    assert "実行開始" in broken
    other = client.get("/", headers={"Host": "evil.example", "Accept-Language": "ja"})
    assert (other.status_code, "localhost" in other.text, other.text.isascii()) == (403, True, False)
