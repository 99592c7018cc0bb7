"""Weights & Biases: the project of WANDB_PROJECT, else `holdfast`; WANDB_MODE=offline keeps everything here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from holdfast.pipeline.trackers.base import Tracker

if TYPE_CHECKING:
    from wandb import Run


class WeightsAndBiases(Tracker):
    """Sends the recipe and the figures, no code, no console output and nothing of git."""

    run: Run

    def open_run(self, recipe: dict[str, Any]) -> None:
        """Begin the run, or go on with it by its id."""
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "holdfast"),
            name=self.path.name,
            id=self.run_id,
            resume="allow",
            dir=self.path,
            config=recipe,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )

    def log_figures(self, step: int, figures: dict[str, float]) -> None:
        """Add figures to a step."""
        self.run.log(figures, step=step)

    def end_run(self, has_failed: bool) -> None:
        """Send what is left."""
        self.run.finish(exit_code=int(has_failed))
