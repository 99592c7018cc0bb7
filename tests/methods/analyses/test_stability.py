"""Stability: zeros of equal runs, counts of answers written by hand, and groups of seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from holdfast.axes.analysis import AnalysedRun, AnalysedTask
from holdfast.methods.analyses.seed_runs import group_runs, measure_interval, read_answers, read_labels
from holdfast.methods.analyses.stability import Stability
from holdfast.models.policy import Policy
from holdfast.testing.analyses import ScriptedAnswer, build_context

GOLDEN = [[0, 1, 2, 1, 0, 2], [0, 1, 1, 1, 0, 2], [0, 2, 2, 1, 1, 2], [0, 1, 2, 0, 0, 2]]


def run_of(name: str, texts: list[int], group: str = "sft") -> AnalysedRun:
    """A run that gave these answers, of which 1 is right."""
    answers = [ScriptedAnswer(str(i), "?", f"No. {t}", "1", t == 1) for i, t in enumerate(texts)]
    return AnalysedRun(name, group, 0, [AnalysedTask("sums", "generate", "keep", answers, answers)], lambda: None)


def test_equal_runs_differ_in_nothing() -> None:
    context, _ = build_context(is_changed=False)
    rows = Stability().measure(context).table.rows
    differences = [row for row in rows if "kappa" not in row[2] and row[2] != "score, mean"]
    assert {row[2].split(",")[0] for row in differences} >= {"judged differently", "Procrustes", "1 - CKA", "SVCCA"}
    assert all(row[3] == pytest.approx(0, abs=1e-6) for row in differences)
    assert all(row[3] == pytest.approx(1) for row in rows if "kappa" in row[2])
    assert not [row for row in rows if "low" in row[2]], "three runs have no interval"


def test_answers_are_counted_as_they_are() -> None:
    runs = [run_of(str(i), texts) for i, texts in enumerate(GOLDEN)]
    values = {what: value for _, _, what, value in Stability().measure_task("sft", "sums", runs)}
    right = np.array(GOLDEN) == 1
    pairs = [(a, b) for a in range(4) for b in range(a)]
    assert values["other answer"] == pytest.approx(1 / 3)
    assert values["kappa of answers"] == pytest.approx(0.5)
    assert values["judged differently"] == pytest.approx(np.mean([np.mean(right[a] != right[b]) for a, b in pairs]))
    assert values["score, mean"] == pytest.approx(100 * right.mean())
    assert values["score, deviation"] == pytest.approx(100 * right.mean(1).std(ddof=1))
    interval = {what: value for _, _, what, value in measure_interval("sft", runs)}
    low, middle, high = (interval[f"judged differently{end}"] for end in (", low", "", ", high"))
    assert low <= middle <= high
    assert low < high
    fewer = replace(runs[0], tasks=[replace(runs[0].tasks[0], tuned=runs[0].tasks[0].tuned[2:])])
    assert read_answers("sums", [fewer, runs[1]])[0].shape == (2, 4), (
        "of questions that one was not asked nothing is said"
    )


def test_options_of_multiple_choice_are_distributions() -> None:
    """The golden number of four runs and six questions, whose logits are sin(r + .9 i + 1.7 c)."""
    run, item, kind = np.meshgrid(np.arange(4), np.arange(6), np.arange(3), indexing="ij")
    logits = np.sin(run + 0.9 * item + 1.7 * kind)
    options = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    runs = [run_of(str(i), texts) for i, texts in enumerate(GOLDEN)]
    assert "Jensen-Shannon" not in str(Stability().measure_task("sft", "sums", runs))
    for one, rows in zip(runs, options.tolist(), strict=True):
        for answer, row in zip(one.tasks[0].tuned, rows, strict=True):
            answer.extra["options"] = row
    values = {what: value for _, _, what, value in Stability().measure_task("sft", "sums", runs)}
    assert values["Jensen-Shannon divergence, nats"] == pytest.approx(0.09948933, abs=1e-8)


def test_labels_count_within_rows_and_rows_within_tasks() -> None:
    """Of two models, each row of short answers by itself: the mean over its labels, then over rows, then over tasks."""
    context, (base, tuned) = build_context()
    policies = [Policy(base), Policy(tuned)]
    context.runs = [replace(context.runs[i], open_policy=lambda i=i: policies[i]) for i in range(2)]
    rows = Stability().measure(context).table.rows
    found = {row[1]: row[3] for row in rows if row[2].startswith("Jensen-Shannon")}
    assert list(found) == ["sums", "other sums", "all"]
    assert found["all"] == pytest.approx((found["sums"] + found["other sums"]) / 2)
    per_row = []
    for row in list(context.tasks[0].rows_by_id.values())[::5][:8]:
        p, q = (np.exp(read_labels(policy, context, row).astype(np.float64)) for policy in policies)
        assert 1 < len(p) <= 8
        per_row.append(np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]))
    assert found["sums"] == pytest.approx(np.mean(per_row), rel=1e-3)


def test_methods_stand_side_by_side() -> None:
    """Three seeds of each of two recipes: the one whose answers agree is named, and each has bars of its own."""
    context, _ = build_context()
    agreeing = [replace(run, name=f"b{run.seed}", group="mixout", tasks=context.runs[0].tasks) for run in context.runs]
    context.runs = [*context.runs, *agreeing]
    section = Stability().measure(context)
    assert list(dict.fromkeys(row[0] for row in section.table.rows)) == ["sft", "mixout"]
    assert [series.name for series in section.figures[0].series] == ["sft", "mixout"]
    assert {y for _, y in section.figures[0].series[1].points} == {0.0}
    assert section.sentence.endswith("; seeds of mixout are nearest to each other, those of sft farthest apart.")


def test_seeds_of_one_recipe_belong_together() -> None:
    runs = [run_of("a", [1], "x"), run_of("b", [1], "y"), run_of("c", [1], "x")]
    assert {group: [run.name for run in some] for group, some in group_runs(runs).items()} == {"x": ["a", "c"]}
    assert list(group_runs(runs[:2])) == ["all runs"]
