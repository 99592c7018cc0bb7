"""What a reward model is for: which of two answers it prefers, on the held-out pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.axes.analysis import AnalysisSection, SectionFigure, Series, Table
from holdfast.evaluation.tasks.by_name import sample_rows
from holdfast.pipeline.analyses import open_policy

if TYPE_CHECKING:
    from holdfast.data.rows import Row
    from holdfast.models.reward_model import RewardModel
    from holdfast.pipeline.phases import RunContext
    from holdfast.training.callbacks import TrainResult

BINS = 12
"""Bars of the figure; an even number, so that one edge is 0."""
FIGURE_TITLE = "Pairs by how far the chosen answer's reward is above that of the rejected one"


def rank_held_out_pairs(work: RunContext, result: TrainResult) -> list[dict[str, Any]]:
    """Rank the held-out pairs by the reward model that was trained: a section of the run's report.

    Returns:
        The section in a list; an empty one where the run makes no reward model, or holds out no pairs.
    """
    if result.value_head is None or not work.recipe.objective.makes_reward_model:
        return []
    from holdfast.models.reward_model import build_reward_model

    held_out = sample_rows(work.sources.test or [], work.recipe.evaluate.items)
    pairs = [row for row in held_out if row.chosen is not None and row.rejected is not None]
    if not pairs:
        work.ui.write_line("no pairs are held out, so that nothing says how well the reward model ranks; set data.test")
        return []
    policy = open_policy(result.model)
    policy.value_head = result.value_head
    section = describe_ranking(measure_margins(build_reward_model(policy, work.chat, work.base.device), pairs))
    work.ui.write_line(section.sentence)
    about = "The share of held-out pairs whose chosen answer has the higher reward."
    return [{"name": "reward_ranking", "about": about, **section.to_json()}]


def measure_margins(model: RewardModel, pairs: Sequence[Row]) -> np.ndarray:
    """By how much the reward of the chosen answer is above that of the rejected one; [P]."""
    answers = [(row, answer) for row in pairs for answer in (row.chosen, row.rejected)]
    rewards = model.score_conversations(
        [[*row.prompt, {"role": "assistant", "content": answer}] for row, answer in answers]
    )
    return -np.diff(np.array(rewards).reshape(-1, 2))[:, 0]


def describe_ranking(margins: np.ndarray) -> AnalysisSection:
    """The section: the share with its interval (Wilson 1927), and a figure of the margins [P]."""
    from scipy.stats import binomtest

    is_right = margins > 0
    interval = binomtest(int(is_right.sum()), len(margins)).proportion_ci(method="wilson")
    share, low, high = (100 * float(value) for value in (is_right.mean(), interval.low, interval.high))
    num_undecided = len(margins) - int((is_right | (margins < 0)).sum())  # equal, or no numbers
    sentence = (
        f"Of {len(margins):,} held-out pairs {share:.1f} % have the higher reward on the chosen answer "
        f"(95 % interval {low:.1f} to {high:.1f}; by chance 50)"
    ) + (f"; {num_undecided:,} prefer neither, which counts as not ranked." if num_undecided else ".")
    finite = margins[np.isfinite(margins)]
    farthest = float(np.abs(finite).max(initial=0.0)) or 1.0
    counts, edges = np.histogram(finite, bins=np.linspace(-farthest, farthest, BINS + 1))  # none across 0
    bars = Series("pairs", tuple((float(place), float(count)) for place, count in enumerate(counts)))
    median = round(float(np.median(finite)), 3) if len(finite) else None  # NaN is no JSON
    labels = tuple(f"{(a + b) / 2:.2g}" for a, b in itertools.pairwise(edges))
    return AnalysisSection(
        title="Held-out pairs, ranked by the reward model",
        sentence=sentence,
        table=Table(
            ("pairs", "ranked as labelled, %", "low", "high", "median margin"),
            ((len(margins), round(share, 1), round(low, 1), round(high, 1), median),),
        ),
        figures=(SectionFigure("reward of chosen minus rejected", "pairs", (bars,), "bars", FIGURE_TITLE, labels),),
    )
