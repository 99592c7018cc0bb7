"""Spectrum: directions of the tuned weights that the base does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, SectionFigure, Series, Table
from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 32
"""Singular values drawn."""


class Spectrum(Analysis):
    """Which leading singular directions training brought into the weights. [Shuttleworth et al. 2024, arXiv 2410.21228]

    What it does: takes every matrix of every layer apart (U S V'), before and after training. An intruder dimension is
    one of the `top` leading left singular vectors of the tuned matrix whose |cosine| with every left singular vector of
    the base is below `epsilon`. Beside their number: which share of the change lies in their span, the effective rank
    of the change, how many a random change of the same norm would bring (the control), and what the |cosine| of a
    random vector with the nearest of the base's is, which says what `epsilon` means in this many dimensions.

    When it helps: LoRA of low rank brings many, full fine-tuning hardly any; in the paper they go with forgetting.
    `inference: mend` scales them down or takes them out, and `holdfast eval RUN --inference "{name: mend, keep: 0}"`
    measures what comes back.

    When it fails: in few dimensions, or with close singular values of the base, vectors turn by themselves; and in many
    dimensions any random vector is an intruder at 0.5. Hold the number against the control and the share.

    Cost: four decompositions of each matrix that moved, one matrix in memory at a time.
    """

    paper: ClassVar[str] = "Shuttleworth et al. 2024, arXiv 2410.21228"
    folds: ClassVar[bool] = True

    top: int = Field(10, ge=1, description="How many leading singular vectors of the tuned matrix are looked at.")
    epsilon: float = Field(0.5, gt=0, le=1, description="An intruder's |cosine| with every one of the base is below.")
    every: int = Field(1, ge=1, description="Look at every so many layers only, from the first.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        from holdfast.models.singular import list_layer_matrices

        after = list_layer_matrices(context.plain_tuned.causal)
        rows, values = [], {}
        for (name, layer, base), (_, _, tuned) in zip(list_layer_matrices(context.base.causal), after, strict=True):
            if base.shape != tuned.shape:
                raise UserError(f"{name} of layer {layer + 1} has another shape than in the base")
            if layer % self.every == 0:
                row, spectrum = self.measure_matrix(name, layer, base, tuned)
                rows.append(row)
                values[name, layer] = spectrum
        most = max([row for row in rows if row[6]] or rows, key=lambda row: (row[2], row[6]))
        table = Table(COLUMNS, tuple((row[0], row[1] + 1, *row[2:]) for row in rows))
        figures = (draw_matrices(rows), draw_values(most, values[most[0], most[1]]))
        return AnalysisSection("New directions in the weights", self.describe_rows(rows, most), table, figures)

    def measure_matrix(self, name: str, layer: int, base: Tensor, tuned: Tensor) -> tuple[tuple, tuple]:
        """A line of the table, layers from 0, and the leading singular values of both."""
        import torch

        from holdfast.models.singular import compute_effective_rank, decompose_base, find_intruders

        if torch.equal(base, tuned):
            values = torch.linalg.svdvals(base.detach().float())[:SHOWN].tolist()
            return (name, layer, 0, 0, 0.0, 1.0, 0.0, 0.0, 0.0), (values, values)
        base_vectors = decompose_base(base)
        found_here = find_intruders(base, tuned, self.top, self.epsilon, base_vectors)
        change = tuned.detach().float() - base.detach().float()
        # Drawn on the CPU, so that it is the same on any device.
        noise = torch.randn(change.shape, generator=torch.Generator().manual_seed(layer)).to(change.device)
        control = find_intruders(
            base, base.detach().float() + noise * (change.norm() / noise.norm()), self.top, self.epsilon, base_vectors
        )
        row = (
            name, layer, found_here.count, control.count, 100 * found_here.share, float(found_here.cosines.min()),
            100 * float(change.norm() / base.detach().float().norm().clamp_min(1e-30)),
            compute_effective_rank(torch.linalg.svdvals(change)), measure_random_cosine(base_vectors[0]),
        )  # fmt: skip
        return row, (found_here.base_values[:SHOWN].tolist(), found_here.tuned_values[:SHOWN].tolist())

    def describe_rows(self, rows: list[tuple], most: tuple) -> str:
        """How many intruders there are, in how many matrices, and how that compares with a random change."""
        changed_rows = [row for row in rows if row[6]]
        if not changed_rows:
            return "No matrix of a layer moved, so no direction is new."
        count, control = (sum(row[column] for row in changed_rows) for column in (2, 3))
        text = (
            f"Of {self.top * len(changed_rows):,} leading directions of the {len(changed_rows):,} matrices that moved "
        )
        text += f"{count:,} are unlike any of the "
        text += f"base's; a random change of the same size brings {control:,}"
        if not count:
            return f"{text}."
        shares = [row[4] for row in changed_rows if row[2]]
        where = f"{most[2]} in {most[0]} of layer {most[1] + 1}"
        return (
            f"{text}. Most are {where}; where there are some they hold {sum(shares) / len(shares):.0f} % of the change."
        )


COLUMNS = (
    "Matrix", "Layer", "New directions", "By a random change", "Share of the change, %", "Least cosine",
    "Change, % of its size", "Effective rank of the change", "Cosine of a random vector",
)  # fmt: skip


def measure_random_cosine(u: Tensor, draws: int = 32) -> float:
    """The mean of the largest |cosine| of a random vector with the left singular vectors of a matrix, [m, k]."""
    import torch

    vectors = torch.randn(len(u), draws, generator=torch.Generator().manual_seed(0)).to(u.device)
    return float(((vectors / vectors.norm(dim=0)).T @ u).abs().amax(1).mean())


def draw_matrices(rows: list[tuple]) -> SectionFigure:
    """A heat map, kinds of matrices by layers: the number of new directions, or how near to the base all are."""
    is_new = any(row[2] for row in rows)
    column, y = (2, "new directions") if is_new else (5, "least cosine with the base")
    title = "New directions by matrix" if is_new else "How near the leading directions stayed"
    layers = sorted({row[1] for row in rows})
    series = tuple(
        Series(name, tuple((float(layers.index(row[1])), float(row[column])) for row in rows if row[0] == name))
        for name in dict.fromkeys(row[0] for row in rows)
    )
    return SectionFigure("layer", y, series, "heat", title, tuple(str(layer + 1) for layer in layers))


def draw_values(row: tuple, values: tuple) -> SectionFigure:
    """The leading singular values before and after, of one matrix."""
    series = tuple(
        Series(name, tuple((float(i + 1), value) for i, value in enumerate(some)))
        for name, some in zip(("base", "tuned"), values, strict=True)
    )
    return SectionFigure("number", "singular value", series, title=f"{row[0]} of layer {row[1] + 1}")
