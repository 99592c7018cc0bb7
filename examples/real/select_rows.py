"""Rows chosen by the model against random ones: `python examples/real/select_rows.py MODEL OUT [SEEDS]`.

OUT is the folder that `prepare.py` filled: of its `banking.jsonl` (clinc150) 160 rows are the pool, 60 more the test.
Of the pool 10 and 30 % are chosen once, by `davir`, `ifd` and `delift`, and anew for every seed at random. On each
choice, and on the whole pool, MODEL is trained for as many steps and asked the same questions. The choices are
OUT/select/NAME-PERCENT.jsonl; the table, which is written anew after every seed, is OUT/select/compare.json, the report
beside it. Killed and repeated it goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from holdfast import compare, curate
from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.core.progress import Progress
from holdfast.data.rows import Rows

POOL, TEST = 160, 60
PERCENTS = (10, 30)
CURATORS: dict[str, dict[str, Any]] = {
    "davir": {"epochs": 1},
    "ifd": {"experience": 0},  # by the base's own losses: rows to gain experience on would be most of the pool
    "delift": {"block": 10},  # n * block pairs are read: of 160 rows 1,600
}


class RandomChoice(Curator):
    """A share of the rows, another for every seed. Columns: any."""

    paper = "none: what every choice is held against"
    effect: ClassVar[Effect] = "select"

    share: float = Field(gt=0, le=1, description="Share of the rows that is chosen.")

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        chosen = np.random.default_rng(context.seed).permutation(len(rows))[: int(self.share * len(rows))]
        return context.keep(rows, np.isin(np.arange(len(rows)), chosen).tolist(), "not drawn")


def main() -> None:
    """Choose, then compare what each choice teaches, seed by seed."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    model, out = sys.argv[1], Path(sys.argv[2])
    seeds = int(sys.argv[3]) if len(sys.argv) == 4 else 3
    ui, recipe = Progress.for_terminal(), build_recipe(model, out)
    arms: dict[str, list[str]] = {"all": ["curate=gold"]}
    for percent in PERCENTS:
        arms[f"random {percent} %"] = [f"curate={{name: 'select_rows:RandomChoice', share: {percent / 100}}}"]
        for name in CURATORS:
            path = choose_rows(recipe, name, percent, out / "select", ui)
            arms[f"{name} {percent} %"] = ["curate=gold", f"data.train={path}"]
    for count in range(1, seeds + 1):  # every seed of every arm before the next, so that a table is there early
        compare(recipe, arms, seeds=count, out=out / "select", ui=ui)


def build_recipe(model: str, out: Path) -> dict[str, Any]:
    """What all arms have in common; the pool is the file's first rows, which stand in random order."""
    lines = (out / "banking.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    files = {"train": out / "banking-pool.jsonl", "test": out / "banking-test.jsonl"}
    files["train"].write_text("".join(lines[:POOL]), encoding="utf-8")
    files["test"].write_text("".join(lines[POOL : POOL + TEST]), encoding="utf-8")
    return {
        "model": model,
        "data": {name: str(path) for name, path in files.items()},
        "judge": "choice",
        "optimizer": {"learning_rate": 1e-4},  # few steps
        "train": {"max_steps": 12, "batch_tokens": 384},
        "evaluate": {"keep": [f"text:{out / 'stories.txt'}"], "items": TEST, "live_items": 0, "every": 0,
                     "max_tokens": 8},
    }  # fmt: skip


def choose_rows(recipe: dict[str, Any], name: str, percent: int, place: Path, ui: Progress) -> Path:
    """The file of the rows that a curator chooses; what the model says of the pool is computed once for all shares."""
    path = place / f"{name}-{percent}.jsonl"
    if path.exists():
        return path
    choice = {"name": name, "share": percent / 100, **CURATORS[name]}
    chosen = curate({**recipe, "curate": choice, "output": str(place / f"choice-{name}")}, ui=ui)
    shutil.copyfile(chosen, path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ui.write_line(f"{path}: {dict(Counter(row['messages'][-1]['content'] for row in rows).most_common())}")
    return path


if __name__ == "__main__":
    main()
