"""Trackio: on this machine (`trackio show`) or in TRACKIO_SPACE_ID, in the project TRACKIO_PROJECT or `holdfast`."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from holdfast.pipeline.trackers.base import Tracker

if TYPE_CHECKING:
    from trackio import Run


class Trackio(Tracker):
    """Shows the recipe and the figures."""

    run: Run

    def open_run(self, recipe: dict[str, Any]) -> None:
        """Begin the run, or go on with it by its name."""
        with contextlib.redirect_stdout(sys.stderr):  # it greets, and standard output is for results
            import trackio

            self.run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "holdfast"),
                name=f"{self.path.name}-{self.run_id[:8]}",
                space_id=os.environ.get("TRACKIO_SPACE_ID"),
                config=recipe,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log_figures(self, step: int, figures: dict[str, float]) -> None:
        """Add figures to a step."""
        self.run.log(figures, step=step)

    def end_run(self, has_failed: bool) -> None:
        """Write out what is held back."""
        import trackio

        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()  # not `run.finish`, after which it would be finished once more at exit, with a line
