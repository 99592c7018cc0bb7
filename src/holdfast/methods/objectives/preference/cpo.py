"""CPO: preference pairs without a reference, beside the likelihood of the chosen answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.margin_objective import MarginObjective

if TYPE_CHECKING:
    from torch import Tensor


class CPO(MarginObjective):
    """Contrastive preference optimisation: DPO without a reference, beside SFT on chosen. [Xu et al. 2024, 2401.08417]

    What it does: widens the gap between the log-probabilities of the chosen and the rejected answer, and keeps the
    chosen one likely by its cross-entropy. The reference is uniform, so none is kept or run; that loss bounds the loss
    of DPO with an ideal reference from above.

    When it helps: both answers are good and one is better (the paper: translations), and memory or time for a
    reference is short; DPO made the chosen answers less likely.

    When it fails: sums favour short rejected answers and long chosen ones (see `simpo`); nothing holds the model to
    what it was, so what pairs do not show may be lost.

    Columns: prompts with `chosen` and `rejected`.

    Formula, with s(y) = sum_t log p(y_t | x, y_<t), ls = log sigmoid, e = label_smoothing; s [pairs, 2]:

        z = beta (s(chosen) - s(rejected))                                       [pairs]
        preference, mean over pairs:   sigmoid   -(1 - e) ls(z) - e ls(-z)
                                       hinge     max(0, 1 - z)
        L = preference + alpha nll,    nll = - sum s(chosen) / (tokens of chosen)     nll="token"
                                       nll = - mean over pairs of s(chosen)           nll="sum"

    The paper prints the second nll; its authors' code, and TRL after it, run the first, which is the default because
    the paper's alpha = 1 and its results belong to it. With alpha = 0 only the preference is left.

    Paper's settings: beta 0.1, alpha 1, low-rank updates of a 13B model, 1 epoch over 22,000 parallel sentences.
    """

    paper: ClassVar[str] = "Xu et al. 2024, arXiv 2401.08417"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        1e-6, 1e-4, 1.0, 64, "Xu et al. 2024 (adapters); base weights as TRL"
    )

    def answer_rewards(self, s: Tensor, lengths: Tensor) -> Tensor:
        return self.beta * s
