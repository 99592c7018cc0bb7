"""`holdfast demo`: four methods on the laboratory's word problems, in minutes, with nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.core.progress import Progress

METHODS = ("sft", "sdft", "ssr", "s3ft")
RECIPE: dict[str, Any] = {
    "model": "lab",
    "data": {"train": "lab:story", "limit": 400},
    "optimizer": {"learning_rate": 1e-3},
    "sampling": {"max_tokens": 80},
    "train": {"batch_tokens": 2048, "max_steps": 60},
    "evaluate": {"items": 100, "live_items": 25, "every": 0.5, "max_tokens": 80},
}
"""The target is word problems in a written style that the base rarely uses; everything else it knows is to be kept."""


def run_demo(*, out: str | Path = "runs/demo", ui: Progress | None = None) -> dict[str, Any]:
    """Compare plain SFT with three methods that train on the model's own right answers; content of `compare.json`."""
    from holdfast.pipeline.compare import compare

    if ui is not None:
        ui.write_line(
            f"{', '.join(METHODS)}, one after another, fine-tune the bundled model on word problems; each is measured "
            "on them, and on what the model could do before: some two minutes on two quiet cores"
        )
    return compare(RECIPE, METHODS, seeds=1, out=out, ui=ui)
