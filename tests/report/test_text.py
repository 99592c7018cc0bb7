from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from holdfast.report.text import as_text, compare_table, run_table


def test_run_table(report: dict[str, Any]) -> None:
    text = as_text(run_table(report))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "strings 200 84.0 76.5 -7.5 [-12.3, -2.7] 0.010 5/20" in lines
    assert "target 31.5 -> 49.0 +17.5 [+10.2, +24.8]" in lines
    assert "rows 540: 63 % model, 22 % paraphrase, 15 % gold" in lines
    assert "time 8 min 03 s" in lines


def test_compare_table(compare: dict[str, Any]) -> None:
    lines = [" ".join(line.split()) for line in as_text(compare_table(compare)).splitlines()]
    assert "base 31.5 72.8" in lines
    (s3ft,) = (line for line in lines if line.startswith("s3ft*"))
    assert "m63 p22 g15 49.1 +17.6 [+15.0, +20.0] 70.8 -1.9 [-3.1, -0.8]" in s3ft
    order = [line.split()[0].rstrip("*") for line in lines if line.split()[:1] and "[+" in line]
    assert order[1:] == ["sft", "s3ft", "ssr", "half", "lora"] or order == ["sft", "s3ft", "ssr", "half", "lora"]


def test_lines_fit_and_numbers_are_whole_with_long_names(compare: dict[str, Any]) -> None:
    for run in compare["runs"]:
        run["method"] = "s3ft+ift+half+lora+" + run["method"]
        run["cost"]["seconds"]["train"] = 54_000.0
    text = as_text(compare_table(compare))
    assert max(map(len, text.splitlines())) <= 100
    for run in compare["runs"]:
        assert f"[+{run['gain']['low']:.1f}, +{run['gain']['high']:.1f}]" in text
    assert "\u2026" not in text


def test_no_colour_codes_when_not_a_terminal(report: dict[str, Any]) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(run_table(report))
    assert "\x1b" not in out.getvalue()


def test_ascii_streams_can_take_it(report: dict[str, Any], compare: dict[str, Any]) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    console = Console(file=out, width=100, force_terminal=False)
    console.print(run_table(report), compare_table(compare))
    out.flush()


def test_edge_cases(report: dict[str, Any], unchanged: dict[str, Any]) -> None:
    assert "Changed nothing on the target" in as_text(run_table(unchanged))
    assert "No target was measured" in as_text(run_table({"name": "bare", "tasks": []}))
    refused = {**report, "gate": {"passed": False, "reasons": ["lost too much"]}}
    assert "refused: lost too much" in as_text(run_table(refused))
    assert "none can be placed" in as_text(compare_table({"runs": []}))
    assert "sft" in as_text(compare_table({"runs": [{"method": "sft", "gain": None, "loss": None}]}))
