"""Stability: how much runs that differ in the seed alone differ, in scores, answers, distributions and states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, SectionFigure, Series, Table
from holdfast.errors import UserError
from holdfast.methods.analyses.seed_runs import (
    DISAGREE,
    DIVERGENCE,
    describe_groups,
    draw_layers,
    find_value,
    group_runs,
    measure_interval,
    read_answers,
    read_model,
    read_options,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.axes.analysis import AnalysedRun

COLUMNS = ("Runs", "Task", "Measure", "Value")
ENOUGH = 10
"""Questions for each direction of SVCCA, below which it is near 0 by construction."""


class Stability(Analysis):
    """How much runs of one recipe differ from seed to seed. [Du and Nguyen 2023, arXiv 2302.07778]

    What it does: takes runs that differ in the seed alone (of several recipes, each by itself; where each has one run,
    all together). Per task: the score's standard deviation; how often two runs disagree on whether an answer is right,
    and on the answer; Fleiss' kappa, for any number of kinds of answers; the Jensen-Shannon divergence, of multiple
    choice that of the options' measured probabilities, else that of the next token at labels of the right answer, in
    the mean over labels, then rows (and "all", over tasks). Per layer: how unlike the states at the questions' ends
    are, by linear CKA (unbiased), by the best rotation (orthogonal Procrustes) and by SVCCA. All but kappa are 0 of
    equal runs. Which source of randomness it is, `train.seeds` tells apart.

    When it helps: runs of equal scores may answer differently. What differs between seeds is chance, and so a part of
    any gain or loss between two methods; a method that halves it needs fewer seeds.

    When it fails: with two or three runs no interval can be given, and none is. SVCCA with few questions for its
    directions is near 0 by construction; such values are marked.

    Formulas: Fleiss' kappa with chance agreement sum_c p_c^2 (the paper's published notebook divides by the number of
    questions instead, so that its numbers are near the plain disagreement). Divergence in nats. The paper looks at
    classifiers with 20 seeds.
    """

    paper: ClassVar[str] = "Du and Nguyen 2023, arXiv 2302.07778"
    compares: ClassVar[bool] = True

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        rows: list[tuple[Any, ...]] = []
        series: list[Series] = []
        for group, runs in group_runs(context.runs).items():
            by_task = {task.name: self.measure_task(group, task.name, runs) for task in runs[0].tasks if task.is_judged}
            rows += [row for some in by_task.values() for row in some]
            rows += measure_interval(group, runs)
            rows += self.measure_models(group, runs, context)
            divergences = [row[3] for row in rows if row[0] == group and row[2] == DIVERGENCE]
            rows += [(group, "all", DIVERGENCE, sum(divergences) / len(divergences))] if divergences else []
            points = [(float(i), 100 * find_value(some, DISAGREE)) for i, some in enumerate(by_task.values())]
            if points:
                series.append(Series(group, tuple(points)))
        if not series:
            raise UserError("no task was judged in all of these runs, so that there are no answers to compare")
        labels = tuple(task.name for task in context.judged_tasks)
        bars = SectionFigure(
            "task", "answers judged differently, %", tuple(series), "bars", "Two seeds disagree", labels
        )
        figures = (bars, *draw_layers(rows))
        return AnalysisSection("From seed to seed", describe_groups(rows), Table(COLUMNS, tuple(rows)), figures)

    def measure_task(self, group: str, name: str, runs: Sequence[AnalysedRun]) -> list[tuple[Any, ...]]:
        """Scores and answers of one task over the runs."""
        import numpy as np

        from holdfast.methods.analyses.similarity import compute_disagreement, compute_fleiss_kappa, compute_mean_jsd

        passed_answers, texts = read_answers(name, runs)
        scores = passed_answers.mean(1) * 100
        values = {
            "score, mean": scores.mean(), "score, deviation": scores.std(ddof=1),
            DISAGREE: compute_disagreement(passed_answers), "other answer": compute_disagreement(texts),
            "kappa of right and wrong": compute_fleiss_kappa(passed_answers),
            "kappa of answers": compute_fleiss_kappa(texts),
        }  # fmt: skip
        if options := read_options(name, runs):
            values[DIVERGENCE] = compute_mean_jsd(options)
        return [(group, name, what, float(np.float64(value))) for what, value in values.items()]

    def measure_models(
        self, group: str, runs: Sequence[AnalysedRun], context: AnalysisContext
    ) -> list[tuple[Any, ...]]:
        """Distributions and states, of one model at a time."""
        import numpy as np

        from holdfast.methods.analyses.similarity import (
            compute_cka,
            compute_mean_jsd,
            compute_procrustes,
            compute_svcca,
        )

        states, logps = [], []
        for run in runs:
            policy = run.open_policy()
            layers, scores = read_model(policy, context)
            states.append(layers)
            logps.append(scores)
            del policy  # before the next is loaded
        rows: list[tuple[Any, ...]] = [
            (group, name, DIVERGENCE, compute_mean_jsd([np.stack(same) for same in zip(*by_run, strict=True)]))
            for name in logps[0]
            if (by_run := [scores[name] for scores in logps])
        ]
        pairs = [(a, b) for a in range(len(runs)) for b in range(a)]
        for layer in range(len(states[0])):
            both = [(states[a][layer], states[b][layer]) for a, b in pairs]
            where = f"layer {layer}"
            rows.append((group, where, "1 - CKA", float(np.mean([1 - compute_cka(x, y) for x, y in both]))))
            rows.append((group, where, "Procrustes", float(np.mean([compute_procrustes(x, y) for x, y in both]))))
            several = [compute_svcca(x, y) for x, y in both]
            few = len(both[0][0]) < ENOUGH * max(directions for _, directions in several)
            name = "SVCCA, of too few questions" if few else "SVCCA"
            rows.append((group, where, name, float(np.mean([value for value, _ in several]))))
        return rows
