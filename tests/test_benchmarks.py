"""The tables that benchmarks print, and that of the claims' verdicts; nothing is measured here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """A module of the benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


common, curves, verdicts = load("common"), load("curves"), load("verdicts")


def test_ratio_of_rates_and_of_times() -> None:
    fast = common.line("a", 300.0, 100.0, "tokens/s", common.at_least(2))
    assert (fast.ratio, fast.met, fast.target) == (3.0, True, "≥ 2")
    quick = common.line("b", 2.0, 3.0, "s", common.at_least(2), less_is_better=True)
    assert (quick.ratio, quick.met) == (1.5, False)
    small = common.line("c", 60.0, 100.0, "MiB", common.at_most(0.7))
    assert (small.ratio, small.met) == (0.6, True)


def test_missing_side_leaves_ratio_and_verdict_open() -> None:
    gone = common.line("a", 300.0, None, "tokens/s", common.at_least(2), note="it failed")
    assert gone.ratio is None
    assert gone.met is None
    assert "| a | 300 tokens/s | - |  | ≥ 2 |  | it failed |" in common.table([gone])


def test_table_takes_lines_and_their_json() -> None:
    entry = common.alone("a | b", 0.35, "s", common.at_most(0.4))
    rows = common.table([entry, common.plain(entry)]).splitlines()
    assert rows[2] == rows[3] == "| a \\| b | 0.35 s | - |  | ≤ 0.4 | yes |  |"


def test_clock_counts_what_follows_the_warm_steps() -> None:
    clock = common.Clock(warm=1)
    for tokens in (10, 30, 60):
        clock.tick(tokens)
    found = clock.result()
    assert (found["steps"], found["tokens_per_step"]) == (2, 25)
    assert "error" in common.Clock(warm=1).result()


def test_best_prefers_results_over_errors() -> None:
    assert common.best([{"error": "no"}, {"rate": 1}, {"rate": 3}]) == {"rate": 3}
    assert common.best([{"error": "no"}]) == {"error": "no"}


@pytest.mark.parametrize("points", [[[128, 10.0], [256, None], [512, 20.0]], [[1, None]]])
def test_curves_are_one_svg(points: list[list[float | None]]) -> None:
    drawn = curves.draw([{"title": "A < B", "x": "x", "y": "y", "series": {"ours": points}}])
    assert drawn.startswith("<svg")
    assert drawn.rstrip().endswith("</svg>")
    assert "A &lt; B" in drawn


def test_the_table_of_verdicts_is_up_to_date() -> None:
    text = verdicts.PAGE.read_text(encoding="utf-8")
    assert text == verdicts.page(text), "python benchmarks/verdicts.py"


def test_a_verdict_is_given_only_where_the_rule_decided() -> None:
    assert verdicts.line("half", None).endswith("| not run | |")
    assert "| not run by the present rule |" in verdicts.line("half", {"held": True, "rows": []})
    stuck = {"rows": [{"what": "target, dpo", "ours": "+0.0", "low": 0.0, "high": 0.0}]}
    assert "**cannot tell** | dpo: the target did not clearly move (+0.0 [0.0, 0.0]);" in verdicts.line("asft", stuck)
    check = {
        "what": "half loses less elsewhere than sft", "delta": 10.2, "low": 2.04, "high": 18.2, "margin": 2.0,
        "by": "more", "outcome": "held", "reasons": [],
    }  # fmt: skip
    said = verdicts.line("half", {"outcome": "held", "points": True, "checks": [check]})
    assert "| **held** | half loses less elsewhere than sft: held, 10.2 [2.0, 18.2], must be above 2 |" in said
    doubted = {**check, "outcome": "cannot tell", "reasons": ["sft: the target fell"], "by": "as much"}
    said = verdicts.line("half", {"outcome": "cannot tell", "points": True, "checks": [doubted]})
    assert "cannot tell (sft: the target fell), 10.2 [2.0, 18.2], must be above -2" in said
