"""Rows chosen by the model against random ones: `python examples/real/select_rows.py MODEL OUT [SEEDS]`.

OUT is the folder that `prepare.py` filled: of its `banking.jsonl` (clinc150) 640 rows are the pool, 200 more the test.
From 10 and from 30 % of the pool, chosen by `davir`, `ifd` and `delift` or at random, and from all of it, MODEL is
trained for as many steps, and asked the same questions. The table is OUT/select/compare.json, the report beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from holdfast.core.progress import Progress
from holdfast.pipeline.compare import compare

POOL, TEST = 640, 200
STEPS = 60


def main() -> None:
    """Compare all arms."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    model, out = sys.argv[1], Path(sys.argv[2])
    lines = (out / "banking.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    files = {"train": out / "banking-pool.jsonl", "test": out / "banking-test.jsonl"}
    files["train"].write_text("".join(lines[:POOL]), encoding="utf-8")
    files["test"].write_text("".join(lines[POOL : POOL + TEST]), encoding="utf-8")
    recipe = {
        "model": model,
        "data": {name: str(path) for name, path in files.items()},
        "judge": "choice",
        "train": {"max_steps": STEPS},
        "evaluate": {"keep": ["probe"], "items": TEST, "live_items": 0, "every": 0, "max_tokens": 16},
    }
    seeds = int(sys.argv[3]) if len(sys.argv) == 4 else 3
    compare(recipe, list_arms(), seeds=seeds, out=out / "select", ui=Progress.for_terminal())


def list_arms() -> dict[str, list[str]]:
    """Label of each arm to what it changes in the recipe; the pool is shuffled, so that its first rows are random."""
    arms: dict[Any, list[str]] = {"all": ["curate=gold"]}
    for percent in (10, 30):
        arms[f"random {percent} %"] = ["curate=gold", f"data.limit={POOL * percent // 100}"]
        for name in ("davir", "ifd", "delift"):
            arms[f"{name} {percent} %"] = [f"curate={{name: {name}, share: {percent / 100}}}"]
    return arms


if __name__ == "__main__":
    main()
