"""The tables that benchmarks print, and that of the claims' verdicts; nothing is measured here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import processes

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


def test_the_page_of_evidence_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    evidence = load("evidence")
    text = evidence.PAGE.read_text(encoding="utf-8")
    assert text == evidence.page(text), "python benchmarks/evidence.py"


def test_a_rate_fitted_to_two_sizes_predicts_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    paper = load("paper")
    sizes = ("a", "b", "c")
    found = {
        "a": {"seconds": 3, "flops": 90}, "b": {"seconds": 5, "flops": 200}, "c": {"seconds": 7, "flops": 300},
    }  # fmt: skip
    fit = paper.predict(found, sizes, "flops")
    assert fit["rates"] == [30, 40]
    assert fit["rate"] == pytest.approx(1200**0.5)
    assert (fit["predicted"], fit["measured"]) == (pytest.approx(300 / 1200**0.5), 7)
    line = paper.line_of("a step", fit, sizes, "GFLOP/s")
    assert (line.ratio, line.met) == (pytest.approx(300 / 1200**0.5 / 7 - 1), True)


def test_a_verdict_is_given_only_where_the_rule_decided() -> None:
    assert verdicts.line("half", None).endswith("| not run | |")
    assert "| not run by the present rule |" in verdicts.line("half", {"held": True, "rows": []})
    stuck = {"rows": [{"what": "target, dpo", "ours": "+0.0", "low": 0.0, "high": 0.0}]}
    assert "**cannot tell** | dpo: the target did not clearly move (+0.0 [0.0, 0.0]);" in verdicts.line("cpo", stuck)
    assert verdicts.line("grpo", stuck).endswith(
        "| not run by the present settings | a result of older ones is recorded |"
    )
    check = {
        "what": "half loses less elsewhere than sft", "delta": 10.2, "low": 2.04, "high": 18.2, "margin": 2.0,
        "by": "more", "outcome": "held", "reasons": [],
    }  # fmt: skip
    said = verdicts.line("half", {"outcome": "held", "points": True, "checks": [check]})
    assert "| **held** | half loses less elsewhere than sft: held, 10.2 [2.0, 18.2], must be above 2 |" in said
    doubted = {**check, "outcome": "cannot tell", "reasons": ["sft: the target fell"], "by": "as much"}
    said = verdicts.line("half", {"outcome": "cannot tell", "points": True, "checks": [doubted]})
    assert "cannot tell (sft: the target fell), 10.2 [2.0, 18.2], must be above -2" in said


@pytest.mark.slow
@pytest.mark.parity
def test_every_line_of_the_gpu_benchmark_runs_at_toy_size(tmp_path: Path) -> None:
    """On the CPU: what a GPU would be given, but smaller. The parts left out are these with other numbers."""
    parts = ["mixed", "lora-8b", "qlora-8b", "dpo", "sampling"]
    command = [BENCHMARKS / "gpu.py", "--dry", "--out", tmp_path / "gpu.json", "--parts", ",".join(parts)]
    done = processes.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert done.returncode == 0, done.stderr[-3000:]
    ((card, entry),) = json.loads((tmp_path / "gpu.json").read_text()).items()
    assert card.startswith("no GPU, torch ")
    assert list(entry["parts"]) == parts
    lines = {line["what"]: line for part in entry["parts"].values() for line in part["lines"]}
    absent = {what for what, line in lines.items() if "is not installed" in line["note"]}
    assert all("QLoRA" in what or "vllm" in what for what in absent)
    for what, line in lines.items():
        assert what in absent or (line["ours"] > 0 and line["theirs"] > 0), (what, line["note"])
    page = (tmp_path / "gpu.md").read_text()
    assert all(what in page for what in lines)
    tried = entry["parts"]["mixed"]["raw"]["theirs"]
    assert len({json.dumps(side["setting"]) for side in tried}) == 4


def test_results_of_other_cards_and_parts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu, path = load("gpu"), tmp_path / "gpu.json"
    about = {"date": "2026-01-02T03:04:05", "versions": {"torch": "2", "transformers": "5"}}
    for device, part, rate in (("one", "dpo", 1.0), ("two", "dpo", 2.0), ("one", "full", 3.0), ("one", "dpo", 4.0)):
        lines = [common.line(f"{part} on {device}", rate, None, "tokens/s")]
        gpu.write_results(path, {part: {"lines": lines, "raw": {}}}, about | {"device": device})
    page = path.with_suffix(".md").read_text()
    assert page.count("## ") == 2
    assert page.index("full on one | 3 tokens/s") < page.index("dpo on one | 4 tokens/s") < page.index("dpo on two")
    assert "1 tokens/s" not in page
