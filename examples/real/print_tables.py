"""Print a comparison as Markdown, with differences from one method: `python print_tables.py runs/real-banking sft`.

The differences are paired: the same questions, seed by seed, with the 95 % interval over questions and seeds that
`holdfast compare` uses against the base.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from holdfast.evaluation.statistics.paired import MeasuredRun, pair_scores
from holdfast.evaluation.statistics.summary_statistics import compute_interval
from holdfast.evaluation.summary import read_run


def main() -> None:
    """Write both tables to standard output."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    root, against = Path(sys.argv[1]), sys.argv[2]
    compare = json.loads((root / "compare.json").read_text(encoding="utf-8"))
    # The directories are named as they were given; here only their last part counts.
    runs = {r["method"]: [read_run(root / Path(d).name) for d in r["dirs"]] for r in compare["runs"]}
    print_changes(compare)
    print()
    print_differences(runs, against)


def print_changes(compare: dict[str, Any]) -> None:
    """Each method against the base: means over seeds, intervals where the comparison has them."""
    names = [task["name"] for task in compare["tasks"]]
    units = {task["name"]: task["unit"] for task in compare["tasks"]}
    first_probe = compare["runs"][0]["probe"]  # none where the probe is not among what is kept
    columns = [*names, *(["probe: KL, bits", "probe: length"] if first_probe else []), "rows"]
    print(f"| method | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    base = [f"{task['base']:.2f}" for task in compare["tasks"]]
    base += ["0", f"{first_probe['length_base']:.0f}"] if first_probe else []
    print(f"| base | {' | '.join(base)} | |")
    for run in compare["runs"]:
        cells = [span(run["tasks"][name], units[name]) for name in names]
        probe, origins = run["probe"], sum(run["origins"].values())
        rows = ", ".join(f"{count / origins:.0%} {origin}" for origin, count in run["origins"].items())
        cells += [f"{probe['kl']:.3f}", f"{probe['length_tuned']:.0f}"] if probe else []
        cells.append(rows)
        print(f"| {run['method']} | " + " | ".join(cells) + " |")


def span(part: dict[str, Any], unit: str) -> str:
    """A change with its interval, where it has one; bits per byte are small numbers."""
    digits = 3 if unit == "bits per byte" else 1
    ends = "" if part["low"] is None else f" [{part['low']:+.{digits}f}, {part['high']:+.{digits}f}]"
    return f"{part['delta']:+.{digits}f}{ends}"


def print_differences(runs: dict[str, list[MeasuredRun]], against: str) -> None:
    """Every method minus `against`, seed by seed on the same questions, in each task's unit."""
    tasks = runs[against][0].tasks
    print(f"| minus {against} | " + " | ".join(f"{task.name} ({task.info.unit.name})" for task in tasks) + " |")
    print("|---" * (len(tasks) + 1) + "|")
    for method, seeds in runs.items():
        if method == against:
            continue
        cells = []
        for task in tasks:
            both = zip(runs[against], seeds, strict=True)
            change = compute_interval([[pair_scores(task, a.tuned[task.name], b.tuned[task.name])] for a, b in both])
            scale = task.info.unit.scale
            ends = sorted((scale * change.low, scale * change.high))
            cells.append(span({"delta": scale * change.value, "low": ends[0], "high": ends[1]}, task.info.unit.name))
        print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
