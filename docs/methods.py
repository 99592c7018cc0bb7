"""Writes docs/methods.md from the registry: `python docs/methods.py`. The tests check that it is up to date."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.axes.registry import REGISTRY, find

HEADS = {
    "curators": "which rows are trained on, and who wrote them",
    "objectives": "what is minimised",
    "tuners": "which weights move",
    "optimizers": "how they move",
    "inference": "what is done after training",
    "presets": "several runs, one after another",
    "judges": "what says whether an answer is right",
}
NONE = "\u2013"
START = """# Methods

A method is a choice on one axis. `method: s3ft+ift+half` joins several; `holdfast show NAME` is the page of each.
A preset stands for stages.
"""


SETTINGS = """## What objectives train with

Where the recipe says nothing: learning rate of base weights and of an adapter, epochs, most rows of a step, and whose
numbers these are. Ten times the rate for an adapter, where the paper has none: it moves a weight by the product of
two small matrices of which one begins at 0, so the same step of Adam moves it less, and the best rate is about ten
times as large whatever the rank (Schulman et al. 2025, LoRA Without Regret; the alignment handbook goes from 5e-7 to
5e-6). `tuner: half` takes the rate of base weights, `optimizer: lomo` has one of its own. Laboratory models have 3e-4
(adapter 1e-3), 3 epochs and steps of 2,048 tokens for every objective.

| objective | base weights | adapter | epochs | rows | from |
|---|---|---|---|---|---|
"""


def settings() -> str:
    """A table of what `Objective.settings` says."""
    rows = []
    for name in REGISTRY["objectives"]:
        usual = find("objectives", name).settings  # type: ignore[attr-defined]
        adapter = usual.learning_rate(adapter=True)[0]
        rows.append(
            f"| `{name}` | {usual.rate:g} | {adapter:g} | {usual.epochs:g} | {usual.batch} | {usual.source} |\n"
        )
    return SETTINGS + "".join(rows) + "\n`una` with `form: pair` or `binary` takes 5e-7 and 5e-6.\n"


def table() -> str:
    """The page: a table for every axis."""
    out = [START]
    for axis, names in REGISTRY.items():
        out += [f"## {axis}: {HEADS[axis]}", "", "| name | what | paper |", "|---|---|---|"]
        for name in names:
            method = find(axis, name)
            what = re.sub(r"\s*\[[^\]]*\]\s*$", "", method.summary()).rstrip(".").replace("|", "\\|")
            out.append(f"| `{name}` | {what} | {method.paper or NONE} |")
        out.append("")
        if axis == "objectives":
            out.append(settings())
    return "\n".join(out)


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(table(), encoding="utf-8")
