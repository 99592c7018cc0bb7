"""What a report says of labels that were absent from training: forgotten, or only made too unlikely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.axes.analysis import AnalysisSection, Table, curve_figure

if TYPE_CHECKING:
    from holdfast.methods.inference.label_scores import LabelScores

COLUMNS = (
    "Model", "All, %", "Trained labels, %", "Absent labels, %", "Trained among themselves, %",
    "Absent among themselves, %", "AUSUC",
)  # fmt: skip


def describe_calibration(base: LabelScores, tuned: LabelScores, gamma: float) -> AnalysisSection:
    """The section of a run: accuracies before training, after it and with gamma, and the present/absent curve."""
    curve = tuned.compute_curve()
    lines: list[tuple[Any, ...]] = []
    for name, scores, gamma_here in (("base", base, 0.0), ("tuned", tuned, 0.0), (f"gamma {gamma:.3g}", tuned, gamma)):
        shares = (*scores.compute_accuracies(gamma_here), *scores.compute_accuracies_apart())
        lines.append((name, *(100 * share for share in shares), scores.compute_curve().compute_area()))
    (_, _, _, before, *_), (_, _, _, after, _, apart, area), (_, _, _, with_gamma, *_) = lines
    sentence = (
        f"Of the questions whose label training left out {before:.1f} % were right before it and {after:.1f} % after "
        f"it; {with_gamma:.1f} % with {gamma:.3g} added to the scores of these labels. Among themselves they are told "
        f"apart in {apart:.1f} %: what is missing to that is only out-scaled, not forgotten. AUSUC {area:.3f}."
    )
    points = tuple((100 * float(x), 100 * float(y)) for x, y in zip(curve.present, curve.absent, strict=True))
    figure = curve_figure("trained labels right, %", "absent labels right, %", sorted(set(points)))
    return AnalysisSection("Labels that training left out", sentence, Table(COLUMNS, tuple(lines)), (figure,))
