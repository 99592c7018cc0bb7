"""MLflow: the server or folder of MLFLOW_TRACKING_URI, the experiment of MLFLOW_EXPERIMENT_NAME, else `holdfast`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from holdfast.pipeline.trackers.base import Tracker, flatten_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 500
"""Characters of a setting that every MLflow store takes."""
MOST = 100
"""Settings in one call."""
TAG = "holdfast.run"
"""Says which run of ours a run there is."""


class MLflow(Tracker):
    """Sends settings and figures through the client alone, so that no run of the user's own is touched."""

    client: MlflowClient
    id: str

    def open_run(self, recipe: dict[str, Any]) -> None:
        """Begin the run, or go on with the one that has its tag."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when the library is imported
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "holdfast")
        old_experiment = self.client.get_experiment_by_name(name)
        experiment = old_experiment.experiment_id if old_experiment else self.client.create_experiment(name)
        runs = self.client.search_runs([experiment], f"tags.`{TAG}` = '{self.run_id}'", max_results=1)
        if runs:
            self.id = runs[0].info.run_id
            self.client.update_run(self.id, "RUNNING")
            return
        self.id = self.client.create_run(experiment, tags={TAG: self.run_id}, run_name=self.path.name).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in flatten_settings(recipe).items()]
        for first in range(0, len(params), MOST):
            self.client.log_batch(self.id, params=params[first : first + MOST])

    def log_figures(self, step: int, figures: dict[str, float]) -> None:
        """Add figures to a step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def end_run(self, has_failed: bool) -> None:
        """Say how it ended."""
        self.client.set_terminated(self.id, "FAILED" if has_failed else "FINISHED")
