"""Emergence: at which loss of pre-training a skill appears, from fine-tuning models that do not have it yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, SectionFigure, Series, Table
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from holdfast.axes.analysis import AnalysedRun
    from holdfast.methods.analyses.emergence_law import LawPoints

FEWEST_ROWS = 64
"""Rows of fine-tuning below which a run is no point of the law."""
FEWEST_SIZES = 3
COLUMNS = ("Rows", "Emerges at a loss of", "5 %", "95 %", "Models above", "Models")


class Emergence(Analysis):
    """At which loss of pre-training a skill appears, before any model has it. [Snell et al. 2024, arXiv 2411.16035]

    What it does: takes runs of one recipe over several base models (checkpoints of one pre-training, say) and several
    numbers of rows. Fine-tuning moves the point at which scores leave chance to weaker models, the farther the more
    rows; the law is fitted to these elbows and read off at few rows, where a prompt with examples stands. All
    parameters are drawn from their posterior by MCMC (emcee): the table has the 5th and 95th percentile.

    When it helps: to know whether the next larger model will have a skill at all, from cheap runs of models that do
    not. When it fails: scores that rise smoothly have no elbow; a text for the loss unlike the pre-training; too few
    runs, which the sampler says; another law, which runs left out say. Where no model leaves chance at three numbers of
    rows, only that is said: the elbow lies below the smallest loss.

    Needs: runs (`holdfast analyse RUN RUN ... emergence`) with the same target, a text among the kept tasks
    (`evaluate.keep: [text:FILE]`), bases that answer the target at chance, and at least 64 rows each.

    Formula: score(L, D) = A max(0, E(D) - L) + B + noise, E(D) = k (log D)^alpha + C; L in nats a token, A, B shared.

    Paper: Snell, Wallace, Klein, Levine 2024, "Predicting Emergent Capabilities by Finetuning" (arXiv 2411.16035).
    """

    paper: ClassVar[str] = "Snell et al. 2024, arXiv 2411.16035"
    compares: ClassVar[bool] = True
    across_bases: ClassVar[bool] = True

    chance: float = Field(0.0, ge=0, lt=1, description="Share of right answers by guessing: 0.25 of four choices.")
    text: str | None = Field(None, description="The task whose loss says how far a base is; default: the first text.")
    shots: tuple[float, ...] = Field((1, 4, 16), description="Numbers of rows for which the law is read off.")
    interval: bool = Field(True, description="Draw the posterior; false: the likeliest law alone, without interval.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        from holdfast.methods.analyses.emergence_fit import describe_other_law, find_mode
        from holdfast.methods.analyses.emergence_law import count_sizes_above, sample_posterior

        points = self.read_points(context.runs)
        mode = find_mode(points)
        if count_sizes_above(points, mode) < FEWEST_SIZES:
            return describe_absence(points)
        draws = sample_posterior(points, mode) if self.interval else None
        sizes = [float(size) for size in sorted({*self.shots, *points.sizes.tolist()})]
        lines = [describe_size(points, size, mode, draws) for size in sizes]
        sentence = describe_law(lines, points) + (describe_other_law(points, mode) if self.interval else "")
        return AnalysisSection(
            "Where the skill emerges", sentence, Table(COLUMNS, tuple(lines)),
            (draw_elbows(lines), draw_points(points)),
        )  # fmt: skip

    def read_points(self, runs: Sequence[AnalysedRun]) -> LawPoints:
        """The loss of every run's base, its number of rows, and the share of right answers to its target.

        Raises:
            UserError: If a run has no text or no judged target, or there are fewer than three numbers of rows.
        """
        import numpy as np

        from holdfast.methods.analyses.emergence_law import LawPoints

        values = []
        for run in runs:
            texts = [t for t in run.tasks if t.kind == "perplexity" and self.text in (None, t.name) and t.base]
            targets = [t for t in run.tasks if t.role == "target" and t.is_judged]
            if not texts or not targets:
                lack = "a text among its kept tasks (text:FILE)" if not texts else "a target whose answers are judged"
                raise UserError(f"{run.name}: has not {lack}, which the law needs")
            loss = -sum(a.score for a in texts[0].base) / max(sum(a.tokens for a in texts[0].base), 1)
            score = sum(a.passed for a in targets[0].tuned) / len(targets[0].tuned)
            if run.n_rows >= FEWEST_ROWS:
                values.append((loss, run.n_rows, score))
        losses, sizes, scores = np.array(values, dtype=float).reshape(-1, 3).T
        if len(set(sizes)) < FEWEST_SIZES or len(set(losses)) < FEWEST_SIZES:
            raise UserError(
                f"the law needs runs of {FEWEST_SIZES} or more bases and {FEWEST_SIZES} or more numbers of rows, of "
                f"{FEWEST_ROWS} rows or more each; there are {len(set(losses))} and {len(set(sizes))}"
            )
        return LawPoints(losses, sizes, scores, self.chance, ceiling=1.0)


def describe_size(points: LawPoints, size: float, mode: np.ndarray, draws: np.ndarray | None) -> tuple[Any, ...]:
    """A line of the table: where the skill emerges with so many rows."""
    import numpy as np

    def find_elbows(theta: np.ndarray) -> np.ndarray:
        return points.find_elbow(theta, np.array([size]))[..., 0]

    at = float(find_elbows(mode[None])[0])
    low, high = (None, None) if draws is None else map(float, np.percentile(find_elbows(draws), [5, 95]))
    own = points.losses[points.sizes == size]
    return (int(size), at, low, high, int((own < at).sum()), len(own))


def describe_absence(points: LawPoints) -> AnalysisSection:
    """The section of runs none of which left chance at enough numbers of rows."""
    sizes = sorted(set(points.sizes.tolist()))
    lines = [(int(size), None, None, None, 0, int((points.sizes == size).sum())) for size in sizes]
    sentence = (
        f"At fewer than {FEWEST_SIZES} numbers of rows does a model leave chance: the skill has not emerged, and of "
        f"where it will no more can be said than that it is below a loss of {points.losses.min():.3f} nats a token."
    )
    return AnalysisSection("Where the skill emerges", sentence, Table(COLUMNS, tuple(lines)))


def describe_law(lines: Sequence[tuple[Any, ...]], points: LawPoints) -> str:
    """Where the skill emerges with the fewest and the most rows."""
    (few, *first), (most, *last) = lines[0], lines[-1]
    spans = ["" if low is None else f" [{low:.3f}, {high:.3f}]" for _, low, high, *_ in (first, last)]
    return (
        f"With {few} row{'s' * (few != 1)} the skill should appear in models whose loss is below "
        f"{first[0]:.3f}{spans[0]} nats a token, with {most:,} below {last[0]:.3f}{spans[1]}; the best base here has "
        f"{points.losses.min():.3f}."
    )


def draw_elbows(lines: Sequence[tuple[Any, ...]]) -> SectionFigure:
    """The elbow over the number of rows, with its percentiles."""
    import math

    names = (("likeliest", 1), ("5 %", 2), ("95 %", 3))
    series = tuple(
        Series(name, tuple((math.log10(line[0]), line[column]) for line in lines))
        for name, column in names
        if lines[0][column] is not None
    )
    return SectionFigure("rows of fine-tuning, log10", "emerges at a loss of, nats a token", series)


def draw_points(points: LawPoints) -> SectionFigure:
    """Scores over losses, a colour for each number of rows."""
    series = []
    for size in sorted(set(points.sizes.tolist())):
        own = points.sizes == size
        places = zip(points.losses[own].tolist(), (100 * points.scores[own]).tolist(), strict=True)
        series.append(Series(f"{int(size):,} rows", tuple(places)))
    return SectionFigure("loss of pre-training, nats a token", "right, %", tuple(series), "scatter", "The runs")
