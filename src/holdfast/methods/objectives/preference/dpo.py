"""DPO and its closest relatives: preference pairs against a frozen reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective_settings import PREFERENCE, ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs

if TYPE_CHECKING:
    from torch import Tensor


PairLoss = Literal["sigmoid", "sigmoid_norm", "hinge", "robust", "ipo", "ipo_sum"]


class DPO(PairObjective):
    """Direct preference optimisation: prefer the chosen over the rejected answer. [Rafailov et al. 2023, 2305.18290]

    What it does: widens the margin between chosen and rejected answers, measured as how much more likely each became
    than under the reference (the model before training), so that staying close to the reference is built in.

    When it helps: pairs whose difference is what you want taught, from the model itself or near it; after `sft`.

    When it fails: the chosen answer's own probability may fall as long as the rejected one's falls faster; long answers
    dominate sums (`sigmoid_norm`, `ipo`); noisy labels (`robust`, or `label_smoothing`); near-certain pairs (`ipo`).

    Columns: prompts with `chosen` and `rejected`.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t) over the answer's n tokens,
    h = D(chosen) - D(rejected), ls = log sigmoid, e = label_smoothing; D, n [pairs, 2], h [pairs]; mean over pairs:

        sigmoid       -(1 - e) ls(beta h) - e ls(-beta h)                e > 0: conservative DPO [Mitchell 2023]
        sigmoid_norm  the same, with D(y) / n(y)
        hinge         max(0, 1 - beta h)                                 SLiC [Zhao et al. 2023, 2305.10425]
        robust        (-(1 - e) ls(beta h) + e ls(-beta h)) / (1 - 2e)   [Chowdhury et al. 2024, 2403.00409]
        ipo           (h - 1 / (2 beta))^2, with D(y) / n(y)             as its authors and TRL run it
        ipo_sum       (h - 1 / (2 beta))^2                               as printed [Azar et al. 2023, 2310.12036]

    Logged: `rewards/accuracy` (share with h > 0), `rewards/margin` (beta h), log-probabilities and rewards of either.
    Peers differ: TRL ignores `label_smoothing` for sigmoid, so its conservative DPO is plain DPO.
    """

    paper: ClassVar[str] = "Rafailov et al. 2023, arXiv 2305.18290"
    settings: ClassVar[ObjectiveSettings] = PREFERENCE
    needs_reference: ClassVar[bool] = True

    loss: PairLoss = Field("sigmoid", description="Which relative: see the formula.")
    beta: float = Field(0.1, gt=0, description="How strongly the reference is held on to (tau of IPO).")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs thought to be labelled the wrong way."
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> Self:
        if self.label_smoothing and self.loss in ("hinge", "ipo", "ipo_sum"):
            raise ValueError(f"label_smoothing has no effect on {self.loss}; use sigmoid, sigmoid_norm or robust")
        return self

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        each = pair_losses(pairs.gains, pairs.lengths, self.loss, self.beta, self.label_smoothing)
        return Comparison({"preference": pairs.weighted_sum(each)}, self.beta * pairs.gains)


def pair_losses(gains: Tensor, lengths: Tensor, loss: PairLoss, beta: float, smoothing: float = 0.0) -> Tensor:
    """The loss [P] of each pair from D(y) `gains` [P, 2] (chosen, rejected) and answer `lengths` [P, 2] in tokens."""
    from torch.nn.functional import logsigmoid

    if loss in ("ipo", "sigmoid_norm"):
        gains = gains / lengths.clamp_min(1)
    h = gains[:, 0] - gains[:, 1]
    if loss == "hinge":
        return (1 - beta * h).relu()
    if loss in ("ipo", "ipo_sum"):
        return (h - 1 / (2 * beta)).square()
    right, wrong = -logsigmoid(beta * h), -logsigmoid(-beta * h)
    if loss == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    return (1 - smoothing) * right + smoothing * wrong
