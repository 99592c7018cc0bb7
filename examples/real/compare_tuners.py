"""Compare seven tuners on SNIPS under one budget: `python compare_tuners.py MODEL [OUT]`, where `prepare.py` wrote.

Ends with a table of what each gained on the held-out requests, what it lost on stories, what trained, and what it cost.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from holdfast import compare
from holdfast.recipe.loader import read_recipe

TUNERS = {
    "full": [],
    "lora": [],
    "ia3": [],
    "bitfit": ["tuner.add=true", "optimizer.learning_rate=4e-4"],  # Llama's maps have no biases: they get zeros
    "half": [],
    "adapter": [],
    "prompt": ["tuner.tokens=20"],
}
"""Settings beside the tuner's own defaults; others have the learning rate that `holdfast check` derives for them."""
HEAD = ("tuner", "trains", "of all", "test, %", "held-out loss, bits", "stories, bits per byte", "memory", "training")


def main() -> None:
    """Run what is not finished yet, write `compare.json`, and print the table."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    recipe = read_recipe(Path(__file__).with_name("smollm2-snips-tuners.yaml"), [f"model={sys.argv[1]}"])
    arms = {name: [f"tuner={name}", *settings] for name, settings in TUNERS.items()}
    report = compare(recipe, arms, out=sys.argv[2] if len(sys.argv) == 3 else None, progress=True)
    print("\n".join(write_table(report)))


def write_table(report: dict[str, Any]) -> list[str]:
    """The lines of a comparison as Markdown: values after training, with the change from the base and its interval."""
    base = {task["name"]: task["base"] for task in report["tasks"]}
    weights = report["model"]["parameters"]
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    lines.append(f"| base | | | {base['test']:.1f} | {base['held-out loss']:.2f} | {base['stories']:.4f} | | |")
    for run in sorted(report["runs"], key=lambda run: -run["trainable"]):
        cost, tasks = run["cost"], run["tasks"]
        cells = [
            f"{run['trainable']:,}",
            f"{run['trainable'] / weights:.2%}",
            *(span(tasks[name], base[name], digits) for name, digits in (("test", 1), ("held-out loss", 2))),
            span(tasks["stories"], base["stories"], 4),
            f"{cost['peak_memory_gib']:.2f} GiB",
            f"{cost['seconds']['train'] / 60:.1f} min",
        ]
        lines.append(f"| {run['method']} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return [*lines, "", f"{report['budget']}; {platform.machine()}, {report['created']}; {versions}"]


def span(part: dict[str, float], base: float, digits: int) -> str:
    """A value and its change from the base, with the interval."""
    low, high = (f"{part[end]:+.{digits}f}" for end in ("low", "high"))
    return f"{base + part['delta']:.{digits}f} ({part['delta']:+.{digits}f} [{low}, {high}])"


if __name__ == "__main__":
    main()
