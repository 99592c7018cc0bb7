"""TensorBoard: event files in OUTPUT/tensorboard; `tensorboard --logdir RUNS` shows all runs below a directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.pipeline.trackers.base import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Writes files; nothing leaves the machine."""

    writer: SummaryWriter

    def open_run(self, recipe: dict[str, Any]) -> None:
        """Begin a file of events; a run that goes on has one more, which TensorBoard joins."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.path / "tensorboard"))
        if not self.resume_step:
            self.writer.add_text("recipe", f"```\n{json.dumps(recipe, indent=1, ensure_ascii=False)}\n```")

    def log_figures(self, step: int, figures: dict[str, float]) -> None:
        """Add scalars."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def end_run(self, has_failed: bool) -> None:
        """Flush and close the file."""
        self.writer.close()
