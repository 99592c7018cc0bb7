"""Held-out pairs in a run's report: how many a reward model ranks as labelled, or in how many the chosen answer gained.

A policy's own order of two answers (the task `held-out pairs`) changes late, since what tells two texts apart is far
more than what training adds. What it added is seen earlier: by how much the chosen answer became likelier beside the
rejected one, which is the margin of DPO's implicit rewards (Rafailov et al. 2023, arXiv 2305.18290), here of
likelihoods per character, so that nothing is won by making long answers unlikely.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.axes.analysis import AnalysisSection, SectionFigure, Series, Table
from holdfast.evaluation.statistics.pair_margins import measure_margins
from holdfast.evaluation.task import PAIRS
from holdfast.pipeline.analyses import open_policy

if TYPE_CHECKING:
    from torch import nn

    from holdfast.evaluation.task import ItemResult
    from holdfast.models.loading import Model
    from holdfast.models.reward_model import RewardModel
    from holdfast.pipeline.phases import RunContext

BINS = 12
"""Bars of the figure; an even number, so that one edge is 0."""
Measured = Mapping[str, Sequence["ItemResult"]]
"""Items by task."""


@dataclass(frozen=True, slots=True)
class Wording:
    """How a section calls what was found of the pairs.

    Args:
        name, about: Of the section.
        title: Its heading.
        finding: What stands behind the share of pairs with a margin above 0.
        neither: What stands behind the number of pairs without one.
        column: Of the share in the table.
        axis, figure: Of the figure of the margins.
    """

    name: str
    about: str
    title: str
    finding: str
    neither: str
    column: str
    axis: str
    figure: str


REWARDS = Wording(
    name="reward_ranking",
    about="The share of held-out pairs whose chosen answer has the higher reward.",
    title="Held-out pairs, ranked by the reward model",
    finding="have the higher reward on the chosen answer",
    neither="prefer neither, which counts as not ranked",
    column="ranked as labelled, %",
    axis="reward of chosen minus rejected",
    figure="Pairs by how far the chosen answer's reward is above that of the rejected one",
)
CHANGES = Wording(
    name="pair_margins",
    about="The share of held-out pairs in which training made the chosen answer likelier beside the rejected one.",
    title="Held-out pairs: did the chosen answer gain on the rejected one?",
    finding="have a chosen answer that gained on the rejected one, in likelihood per character",
    neither="did not move",
    column="chosen gained, %",
    axis="change of the margin, nats per character",
    figure="Pairs by how far the chosen answer gained on the rejected one",
)


def rank_held_out_pairs(work: RunContext, before: Measured, after: Measured) -> list[dict[str, Any]]:
    """What a run's report says of the held-out pairs: a section.

    Args:
        before, after: What was measured of the base and of the tuned model.
    Returns:
        The section in a list; an empty one where no pairs are held out.
    """
    items, is_reward = after.get(PAIRS, ()), work.recipe.objective.makes_reward_model
    if not items:
        if is_reward:
            work.ui.write_line(
                "no pairs are held out, so that nothing says how well the reward model ranks; set data.test"
            )
        return []
    wording = REWARDS if is_reward else CHANGES
    section = describe_ranking(measure_margins(items, () if is_reward else before.get(PAIRS, ())), wording)
    work.ui.write_line(section.sentence)
    return [{"name": wording.name, "about": wording.about, **section.to_json()}]


def build_rater(work: RunContext, model: Model, head: nn.Linear | None) -> RewardModel | None:
    """The reward model of a run as it stands, which ranks its held-out pairs; `None` where the run makes none."""
    from holdfast.models.reward_model import build_reward_model

    if head is None or not work.recipe.objective.makes_reward_model:
        return None
    policy = open_policy(model)
    policy.value_head = head
    return build_reward_model(policy, work.chat, work.base.device)


def describe_ranking(margins: np.ndarray, wording: Wording) -> AnalysisSection:
    """The section: the share above 0 with its interval (Wilson 1927), and a figure of the margins [P]."""
    from scipy.stats import binomtest

    is_right = margins > 0
    interval = binomtest(int(is_right.sum()), len(margins)).proportion_ci(method="wilson")
    share, low, high = (100 * float(value) for value in (is_right.mean(), interval.low, interval.high))
    num_undecided = len(margins) - int((is_right | (margins < 0)).sum())  # equal, or no numbers
    sentence = (
        f"Of {len(margins):,} held-out pairs {share:.1f} % {wording.finding} "
        f"(95 % interval {low:.1f} to {high:.1f}; by chance 50)"
    ) + (f"; {num_undecided:,} {wording.neither}." if num_undecided else ".")
    finite = margins[np.isfinite(margins)]
    farthest = float(np.abs(finite).max(initial=0.0)) or 1.0
    counts, edges = np.histogram(finite, bins=np.linspace(-farthest, farthest, BINS + 1))  # none across 0
    bars = Series("pairs", tuple((float(place), float(count)) for place, count in enumerate(counts)))
    median = float(f"{np.median(finite):.3g}") if len(finite) else None  # NaN is no JSON
    labels = tuple(f"{(a + b) / 2:.2g}" for a, b in itertools.pairwise(edges))
    return AnalysisSection(
        title=wording.title,
        sentence=sentence,
        table=Table(
            ("pairs", wording.column, "low", "high", "median margin"),
            ((len(margins), round(share, 1), round(low, 1), round(high, 1), median),),
        ),
        figures=(SectionFigure(wording.axis, "pairs", (bars,), "bars", wording.figure, labels),),
    )
