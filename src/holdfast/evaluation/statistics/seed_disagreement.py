"""How often the seeds of one method judge the same question differently, which the spread of their scores hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.axes.analysis import OPTIONS
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.task import JUDGED, TaskInfo


def measure_disagreement(tasks: Sequence[TaskInfo], seeds: Sequence[MeasuredRun]) -> dict[str, float] | None:
    """Over the questions of all judged tasks: `judged` and `answered` differently, in per cent of them, means over
    pairs of seeds, and Fleiss' `kappa` of right and wrong; over those of multiple choice the Jensen-Shannon
    `divergence` of the options' probabilities, in nats. `None` of one seed, or where nothing was judged.
    [Du and Nguyen 2023, arXiv 2302.07778]
    """
    from holdfast.methods.analyses.similarity import compute_disagreement, compute_fleiss_kappa, compute_mean_jsd

    names = [task.name for task in tasks if task.kind in JUDGED]
    if len(seeds) < 2 or not names:
        return None
    by_seed = [{(name, item.id): item for name in names for item in run.tuned[name]} for run in seeds]
    shared_keys = [key for key in by_seed[0] if all(key in items for items in by_seed)]
    if not shared_keys:
        return None
    verdicts = np.array([[items[key].passed for key in shared_keys] for items in by_seed])  # [seeds, questions]
    texts = np.array([[" ".join(items[key].response.split()).lower() for key in shared_keys] for items in by_seed])
    choices = [[items[key].extra.get(OPTIONS) for items in by_seed] for key in shared_keys]
    options = [np.array(some) for some in choices if None not in some]  # each [seeds, options]
    return {
        "judged": 100 * compute_disagreement(verdicts),
        "answered": 100 * compute_disagreement(texts),
        "kappa": compute_fleiss_kappa(verdicts),
        **({"divergence": compute_mean_jsd(options)} if options else {}),
    }
