"""Print how far probabilities of choices can be trusted: `python print_calibration.py runs/COMPARISON CHOICES ARM`.

CHOICES is the file of questions that was the comparison's target. Of each arm: right choices; the Brier score (1950;
halved, so that it lies between 0 and 1), whose difference from ARM is paired, question by question and seed by seed;
the expected calibration error in ten bins of confidence (Guo et al. 2017, arXiv 1706.04599), with Student's interval
over seeds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdfast.evaluation.statistics.summary_statistics import Interval, PairedScores, compute_interval
from holdfast.evaluation.summary import read_run
from holdfast.lab.reproduce.rule import student_interval

BINS = 10


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the choices of every question, and which is right.

    Args:
        ids: The questions; [n].
        probabilities: [n, choices].
        right: 1 for the right choice, else 0; [n, choices].
    """

    ids: tuple[str, ...]
    probabilities: np.ndarray
    right: np.ndarray

    def are_right(self) -> np.ndarray:
        """Whether the likeliest choice is the right one; [n]."""
        return self.right[np.arange(len(self.ids)), self.probabilities.argmax(1)]

    def compute_brier_scores(self) -> np.ndarray:
        """Half of the squared distance from what is right; [n]."""
        return ((self.probabilities - self.right) ** 2).sum(1) / 2

    def compute_calibration_error(self) -> float:
        """Mean distance of confidence and share of right ones, over bins of confidence."""
        confidence, is_right = self.probabilities.max(1), self.are_right()
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        gaps = [abs((confidence[bins == k] - is_right[bins == k]).sum()) for k in range(BINS)]
        return float(sum(gaps) / len(self.ids))


def main() -> None:
    """Write the table to standard output."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    root, questions, against = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    choices = json.loads(questions.read_text(encoding="utf-8").splitlines()[0])["choices"]
    compare = json.loads((root / "compare.json").read_text(encoding="utf-8"))
    arms = {
        run["method"]: [read_predictions(root / Path(one).name, questions.stem, choices) for one in run["dirs"]]
        for run in compare["runs"]
    }
    print(f"| arm | right, % | Brier score | minus {against} | calibration error | minus {against} |")
    print("|---|---|---|---|---|---|")
    others = [one.compute_calibration_error() for one in arms[against]]
    for name, seeds in arms.items():
        right = 100 * np.mean([one.are_right().mean() for one in seeds])
        brier = np.mean([one.compute_brier_scores().mean() for one in seeds])
        errors = [one.compute_calibration_error() for one in seeds]
        paired = compute_interval([[pair_brier_scores(a, b)] for a, b in zip(arms[against], seeds, strict=True)])
        by_seed = Interval(*student_interval([b - a for a, b in zip(others, errors, strict=True)]))
        print(
            f"| {name} | {right:.1f} | {brier:.3f} | {format_interval(paired)} | {np.mean(errors):.3f} | "
            f"{format_interval(by_seed)} |"
        )


def read_predictions(directory: Path, task: str, choices: list[str]) -> Predictions:
    """Read what a run's tuned model held of the choices."""
    items = read_run(directory).tuned[task]
    return Predictions(
        tuple(item.id for item in items),
        np.exp([item.extra["options"] for item in items]),
        np.array([[float(choice == item.reference) for choice in choices] for item in items]),
    )


def pair_brier_scores(first: Predictions, second: Predictions) -> PairedScores:
    """The scores of two models on the same questions."""
    return PairedScores(first.ids, first.compute_brier_scores(), second.compute_brier_scores())


def format_interval(interval: Interval) -> str:
    """A difference with its ends."""
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


if __name__ == "__main__":
    main()
