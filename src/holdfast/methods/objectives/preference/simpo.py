"""SimPO: preference pairs without a reference, judged by their mean log-probability per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.margin_objective import MarginObjective

if TYPE_CHECKING:
    from torch import Tensor


class SimPO(MarginObjective):
    """Simple preference optimisation: length-normalised, with a target margin. [Meng et al. 2024, 2405.14734]

    What it does: makes the mean log-probability per token of the chosen answer exceed that of the rejected one by a
    margin. That mean is what greedy and beam decoding go by, and being a mean it does not reward length. There is no
    reference model.

    When it helps: chat preferences where DPO made answers longer; memory or time for a reference is short.

    When it fails: sensitive to the learning rate (the authors: 3e-7 to 1e-6 for 7B; 1e-5 ruins the model); maths and
    other exact skills can be lost, since nothing holds the model to what it was (`alpha` adds the likelihood of
    chosen).

    Columns: prompts with `chosen` and `rejected`.

    Formula, with a(y) = 1/n sum_t log p(y_t | x, y_<t) over the answer's n tokens, ls = log sigmoid,
    e = label_smoothing; a [pairs, 2]:

        z = beta (a(chosen) - a(rejected)) - gamma                               [pairs]
        preference, mean over pairs:   sigmoid   -(1 - e) ls(z) - e ls(-z)
                                       hinge     max(0, 1 - z)
        L = preference + alpha nll     as in `cpo`; the paper's alpha is 0

    Defaults are those of Llama-3-Base: beta 2, gamma 1 (the paper tunes gamma / beta from 0.1 to 0.8; its code's own
    default is 0.25, its advice 0.5 to begin with). TRL (`CPOTrainer`, loss_type="simpo") has beta 0.1, gamma 0.5 and
    adds the likelihood with weight 1 unless told otherwise; gamma means the same there.
    """

    paper: ClassVar[str] = "Meng et al. 2024, arXiv 2405.14734"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(6e-7, None, 1.0, 128, "Meng et al. 2024 (Llama-3-8B)")

    beta: float = Field(2.0, gt=0, description="How much a gap in mean log-probability counts.")
    gamma: float = Field(1.0, ge=0, description="Target margin, in units of beta times mean log-probability.")
    alpha: float = Field(0.0, ge=0, description="Weight of the negative log-likelihood; the paper has none.")

    def answer_rewards(self, s: Tensor, lengths: Tensor) -> Tensor:
        return self.beta * s / lengths

    def target_margin(self) -> float:
        return self.gamma
