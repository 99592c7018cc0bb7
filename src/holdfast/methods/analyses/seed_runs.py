"""Runs of several seeds: how they are grouped, what is read of each, and what is said of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.axes.analysis import OPTIONS, AnalysisContext, SectionFigure, Series
from holdfast.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from holdfast.axes.analysis import AnalysedRun
    from holdfast.data.rows import Row

LABELS, LABELS_OF_ROW = 128, 8
"""Most tokens whose whole distributions are kept of each run, and of one answer."""
STATES = 200
"""Most questions whose states are compared."""
BOOTSTRAPS, FEWEST_RUNS = 1000, 4
"""Of fewer runs no interval is given: it would say nothing."""
DISAGREE, DIVERGENCE = "judged differently", "Jensen-Shannon divergence, nats"


def group_runs(runs: Sequence[AnalysedRun]) -> Mapping[str, list[AnalysedRun]]:
    """Runs of one recipe together, those of which there is one left out; where that leaves none, all together."""
    groups: dict[str, list[AnalysedRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    several = {group: some for group, some in groups.items() if len(some) > 1}
    return several or {"all runs": list(runs)}


def read_answers(name: str, runs: Sequence[AnalysedRun]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each run's answer is right, and which answer it is, as numbers, [R, N] both, of the shared questions."""
    import numpy as np

    answers = [{a.id: a for task in run.tasks if task.name == name for a in task.tuned} for run in runs]
    shared_ids = [i for i in answers[0] if all(i in some for some in answers)]
    if not shared_ids:
        raise UserError(f"{name}: these runs share no question of it")
    passed_answers = np.array([[int(some[i].passed) for i in shared_ids] for some in answers])
    texts = np.array([[" ".join(some[i].response.split()).lower() for i in shared_ids] for some in answers])
    return passed_answers, np.unique(texts, return_inverse=True)[1].reshape(texts.shape)


def measure_interval(group: str, runs: Sequence[AnalysedRun]) -> list[tuple[Any, ...]]:
    """The disagreement over all tasks, with a 95 % interval by resampling runs; a pair of a run with itself is none."""
    import numpy as np

    names = [task.name for task in runs[0].tasks if task.is_judged]
    if not names:
        return []
    every = np.concatenate([read_answers(name, runs)[0] for name in names], 1)  # [R, N]
    apart = (every[:, None] != every[None]).mean(-1)  # [R, R]
    upper = np.triu_indices(len(runs), 1)
    rows: list[tuple[Any, ...]] = [(group, "all", DISAGREE, float(apart[upper].mean()))]
    if len(runs) < FEWEST_RUNS:
        return rows
    generator = np.random.default_rng(0)
    means: list[float] = []
    while len(means) < BOOTSTRAPS:
        drawn_runs = generator.integers(0, len(runs), len(runs))
        pairs = [(a, b) for a, b in zip(drawn_runs[upper[0]], drawn_runs[upper[1]], strict=True) if a != b]
        if pairs:
            means.append(float(np.mean([apart[a, b] for a, b in pairs])))
    low, high = np.quantile(means, [0.025, 0.975])
    return [*rows, (group, "all", f"{DISAGREE}, low", float(low)), (group, "all", f"{DISAGREE}, high", float(high))]


def read_options(name: str, runs: Sequence[AnalysedRun]) -> list[np.ndarray]:
    """Log-probabilities of the options under each run, [R, options], of every question that all runs were asked.

    Empty of a task that is no multiple choice, or was measured before these were kept.
    """
    import numpy as np

    options = [
        {a.id: a.extra[OPTIONS] for task in run.tasks if task.name == name for a in task.tuned if OPTIONS in a.extra}
        for run in runs
    ]
    return [np.array([some[i] for some in options]) for i in options[0] if all(i in some for some in options)]


def read_model(policy: Any, context: AnalysisContext) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """States [layers + 1, N, D] at the ends of questions; of each task with right answers, for some of its rows, the
    log-probabilities [n, V] fp32 of the next token at labels of the right answer.
    """
    from holdfast.methods.analyses.landscape import read_states

    by_task = {task.name: list(task.rows_by_id.values()) for task in context.judged_tasks}
    rows = [row for some in by_task.values() for row in some]
    if not rows:
        raise UserError("the questions of these runs are not there any more")
    names = [task.name for task in context.judged_tasks if task.kind != "choice"]
    gold = {name: [row for row in by_task[name] if row.answer is not None] for name in names}
    gold = {name: some for name, some in gold.items() if some}
    count = max(1, LABELS // (LABELS_OF_ROW * max(1, len(gold))))
    logps = {
        name: [read_labels(policy, context, row) for row in _spread_rows(some, count)] for name, some in gold.items()
    }
    return read_states(policy, context, _spread_rows(rows, STATES), ()), logps


def read_labels(policy: Any, context: AnalysisContext, row: Row) -> np.ndarray:
    """Log-probabilities [n, V] of the next token where the row's answer is read, at labels spread evenly over it."""
    import numpy as np

    from holdfast.data.batching.batches import EncodedSequence, collate_on_device

    ids, mask = context.chat.encode(row.messages)
    sequence = EncodedSequence(np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=bool), 0)
    batch = collate_on_device([sequence], "padded", context.chat.pad_id, policy.causal.device)
    count = len(batch.label_positions)
    places = np.linspace(0, count - 1, min(count, LABELS_OF_ROW)).round().astype(int).tolist()
    logits = policy.logits_at(batch, batch.label_positions[places]).detach()
    return logits.log_softmax(-1).float().cpu().numpy()


def _spread_rows(rows: list[Row], count: int) -> list[Row]:
    """At most `count` of the rows, evenly spread over them."""
    return rows[:: max(1, len(rows) // count)][:count]


def find_value(rows: Sequence[tuple[Any, ...]], what: str) -> float:
    return next(row[3] for row in rows if row[2] == what)


def describe_groups(rows: Sequence[tuple[Any, ...]]) -> str:
    """Of each group, how often two seeds disagree and how far the score scatters; of several, which is steadiest."""
    parts, by_group = [], {}
    for group in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == group]
        overall = next((row[3] for row in own if row[1:3] == ("all", DISAGREE)), None)
        deviations = [row[3] for row in own if row[2] == "score, deviation"]
        if overall is not None and deviations:
            mean, by_group[group] = sum(deviations) / len(deviations), overall
            parts.append(
                f"{group}: two runs judge {100 * overall:.1f} % of the questions differently, while scores scatter by "
                f"{mean:.1f} points"
            )
    if len(by_group) > 1:
        least, most = min(by_group, key=lambda group: by_group[group]), max(by_group, key=lambda group: by_group[group])
        parts.append(f"seeds of {least} are nearest to each other, those of {most} farthest apart")
    return f"{'; '.join(parts)}."


def draw_layers(rows: Sequence[tuple[Any, ...]]) -> list[SectionFigure]:
    """How unlike states are, layer by layer, a line for each group."""
    series = []
    for group in dict.fromkeys(row[0] for row in rows):
        values = [row for row in rows if row[0] == group and row[2] == "1 - CKA"]
        if values:
            series.append(Series(group, tuple((float(i), row[3]) for i, row in enumerate(values))))
    return [SectionFigure("layer (0: embeddings)", "1 - CKA", tuple(series), title="States by layer")] if series else []
