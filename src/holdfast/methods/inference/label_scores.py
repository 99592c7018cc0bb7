"""Scores of labels of which some were absent from training: what a constant added to these does to the answers.

[Mai, Chowdhury, Zhang, Tu, Chen, Pahuja, Berger-Wolf, Gao, Stewart, Su, Chao 2024, arXiv 2409.16223]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class LabelScores:
    """What a model says of every label to every question.

    Args:
        z: [n, C] scores: logits, or log-likelihoods.
        gold: [n] number of the right label.
        is_absent: [C] whether a label is absent from what was trained on.
    """

    z: np.ndarray
    gold: np.ndarray
    is_absent: np.ndarray

    def compute_accuracies(self, gamma: float = 0.0) -> tuple[float, float, float]:
        """Shares right with `gamma` added to absent labels: of all questions, those with a present, an absent label."""
        import numpy as np

        is_right = (self.z + np.where(self.is_absent, gamma, 0.0)).argmax(1) == self.gold  # [n]
        asks_absent = self.is_absent[self.gold]
        return float(is_right.mean()), _mean_share(is_right[~asks_absent]), _mean_share(is_right[asks_absent])

    def compute_accuracies_apart(self) -> tuple[float, float]:
        """Shares right where present labels compete with present ones alone, and absent with absent ones."""
        import numpy as np

        rights = []
        for group in (~self.is_absent, self.is_absent):
            asks_it = group[self.gold]
            likeliest = np.where(group, self.z[asks_it], -np.inf).argmax(1)
            rights.append(_mean_share(likeliest == self.gold[asks_it]))
        return rights[0], rights[1]

    def average_gap(self) -> float:
        """ALG: mean score of wrong present labels minus that of absent ones, over questions with a present label."""
        rows = self.z[~self.is_absent[self.gold]]  # [m, C]
        wrong = (~self.is_absent)[None].repeat(len(rows), 0)
        wrong[range(len(rows)), self.gold[~self.is_absent[self.gold]]] = False
        counts = wrong.sum(1)
        is_kept = counts > 0  # of one present label there is no wrong one
        means = (rows * wrong).sum(1)[is_kept] / counts[is_kept]
        return float(means.mean() - rows[:, self.is_absent].mean()) if is_kept.any() else 0.0

    def compute_curve(self) -> PresenceCurve:
        """Accuracies at every gamma that matters: between two neighbouring gaps of questions, and beyond the ends.

        A question is answered with a present label while gamma is below its gap (best present minus best absent score).
        """
        import numpy as np

        present, absent = (np.where(group, self.z, -np.inf) for group in (~self.is_absent, self.is_absent))
        gaps = present.max(1) - absent.max(1)  # [n]
        order = np.argsort(gaps, kind="stable")
        breaks = gaps[order]
        gammas = np.concatenate([[breaks[0] - 1], (breaks[1:] + breaks[:-1]) / 2, [breaks[-1] + 1]])  # [n + 1]
        asks_absent = self.is_absent[self.gold][order]
        right_if_present = (present.argmax(1) == self.gold)[order] & ~asks_absent
        right_if_absent = (absent.argmax(1) == self.gold)[order] & asks_absent
        n_flipped = np.searchsorted(breaks, gammas)  # [n + 1]: how many gaps lie below; equal gaps flip together
        before, after = (
            np.concatenate([[0], np.cumsum(part)])[n_flipped] for part in (right_if_present, right_if_absent)
        )
        n_absent = int(asks_absent.sum())
        present_right = int(right_if_present.sum()) - before
        return PresenceCurve(
            gammas, (present_right + after) / len(gaps), present_right / max(len(gaps) - n_absent, 1),
            after / max(n_absent, 1),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PresenceCurve:
    """Shares right by gamma, [n + 1] each: of all questions, of those with a present label, and with an absent one."""

    gammas: np.ndarray
    overall: np.ndarray
    present: np.ndarray
    absent: np.ndarray

    def compute_area(self) -> float:
        """AUSUC: the area under present against absent, by trapezoids in the order of gamma."""
        import numpy as np

        return float(abs(np.diff(self.present) @ (self.absent[1:] + self.absent[:-1]) / 2))

    def pick_gamma(self, floor: float = 0.0) -> float | None:
        """The gamma of the highest overall share among those that leave `floor` of the absent right; None: there is
        none. Of equal ones that nearest to 0.
        """
        import numpy as np

        in_question = np.flatnonzero(self.absent >= floor)
        if not len(in_question):
            return None
        best = min(in_question, key=lambda i: (-self.overall[i], abs(self.gammas[i])))
        return float(self.gammas[best])


def _mean_share(is_right: np.ndarray) -> float:
    return float(is_right.mean()) if len(is_right) else 0.0
