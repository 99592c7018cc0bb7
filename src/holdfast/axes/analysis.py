"""The contract of an analysis: what is looked at in the base and the tuned model, as one section of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.axes.method import Method
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.rows import Rows
    from holdfast.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Table:
    """Names of the columns, and rows of texts and numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure of one curve.

    Args:
        x, y: What stands at the axes, with its unit.
        points: (x, y), from left to right.
    """

    x: str
    y: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class AnalysisSection:
    """What an analysis has to say.

    Args:
        title: A few words.
        sentence: What was seen, in one sentence with its number.
        table: The numbers behind it.
        figure: None where there is nothing to draw.
    """

    title: str
    sentence: str
    table: Table
    figure: Curve | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return asdict(self)


class Analysis(Method):
    """What is looked at after training. It trains nothing and changes neither model."""

    folds: ClassVar[bool] = False
    """Whether it compares weight by weight: it is then given the tuned model with its adapter folded in."""

    def measure(self, base: Policy, tuned: Policy, rows: Rows) -> AnalysisSection:
        """Look at both models, in eval mode and on one device, gradients off.

        Args:
            base: The model before training.
            tuned: The model after it, as it is measured and saved; plain, or with an adapter unless it `folds`.
            rows: What was trained on.
        """
        raise UserError(f"analysis {type(self).__name__} has no method `measure`: write one")
