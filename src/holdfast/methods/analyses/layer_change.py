"""Layer change: how far the weights of each layer moved in training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, Table, curve_figure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYER = re.compile(r"\.(\d+)\.")
"""The first number in a parameter's name is its layer's; what has none (embeddings, last norm, head) is in no layer."""
OUTSIDE = "outside the layers"


class LayerChange(Analysis):
    """How far the weights of each layer moved, relative to their size. [Zhang et al. 2019, arXiv 1902.01996]

    What it does: compares the weights before and after training, layer by layer; an adapter is folded in first.

    When it helps: to see where a method writes what it teaches: evenly, in the last layers, or in the embeddings; and
    whether a tuner that shall spare some layers does.

    When it fails: a small change may matter and a large one may not; it says how far, not what for.

    Formula, over all parameters w of layer l, of which those that did not train count too:

        change(l) = sqrt(sum (w_tuned - w_base)^2) / sqrt(sum w_base^2)
    """

    paper: ClassVar[str] = "Zhang et al. 2019, arXiv 1902.01996"
    folds: ClassVar[bool] = True

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        changes = layer_changes(context.base.causal, context.plain_tuned.causal)
        layers = [(name, change) for name, change in changes.items() if name != OUTSIDE]
        most, least = max(layers, key=lambda one: one[1]), min(layers, key=lambda one: one[1])
        sentence = (
            f"Layer {most[0]} of {len(layers)} moved farthest, by {most[1]:.3%} of its size, layer {least[0]} least, "
            f"by {least[1]:.3%}; the weights outside the layers moved by {changes.get(OUTSIDE, 0.0):.3%}."
        )
        table = Table(
            ("Layer", "Change, % of its size"), tuple((name, 100 * change) for name, change in changes.items())
        )
        figure = curve_figure("layer", "change, %", [(float(name), 100 * change) for name, change in layers])
        return AnalysisSection("How far each layer moved", sentence, table, (figure,))


def layer_changes(base: PreTrainedModel, tuned: PreTrainedModel) -> dict[str, float]:
    """The relative change of every layer, by its number from 1; then of what is outside the layers."""
    from holdfast.models.weight_change import measure_change

    sums: dict[str, tuple[float, float]] = {}
    after = dict(tuned.named_parameters())
    for name, before in base.named_parameters():
        match = LAYER.search(name)
        layer = str(int(match[1]) + 1) if match else OUTSIDE
        change, size = measure_change(before, after[name])
        so_far = sums.get(layer, (0.0, 0.0))
        sums[layer] = (so_far[0] + change, so_far[1] + size)
    order = sorted(sums, key=lambda layer: int(layer) if layer.isdigit() else len(sums))
    return {layer: (sums[layer][0] / (sums[layer][1] or 1.0)) ** 0.5 for layer in order}
