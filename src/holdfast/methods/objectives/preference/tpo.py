"""TPO: preference pairs without a reference, beside the likelihood of a third, gold answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.margin_objective import MarginObjective

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.row_shapes import Kind


class TPO(MarginObjective):
    """Triple preference optimisation: prefer chosen, imitate a gold answer. [Saeidi et al. 2024, 2405.16681]

    What it does: widens the gap between the log-probabilities of chosen and rejected, as `cpo` does, but raises the
    likelihood of a third answer, the gold one. What is imitated and what is preferred need not be the same text, so
    one step from the pre-trained model does what SFT and DPO do in two.

    When it helps: three ranked answers per prompt (the paper: best = gold, second = chosen, worst = rejected), or
    demonstrations beside pairs; reasoning, where the paper gains most over DPO.

    When it fails: gold and chosen contradict each other in style; three sequences per row cost accordingly.

    Columns: prompts with an answer (gold), `chosen` and `rejected`.

    Formula, with s(y) = sum_t log p(y_t | x, y_<t), ls = log sigmoid, e = label_smoothing; s [rows, 3]:

        z = beta (s(chosen) - s(rejected))                                       [rows]
        preference, mean over rows:    sigmoid   -(1 - e) ls(z) - e ls(-z)
                                       hinge     max(0, 1 - z)
        L = preference + alpha nll,    nll = - sum s(gold) / (tokens of gold)         nll="token"
                                       nll = - mean over rows of s(gold)              nll="sum"

    The paper prints the second nll; its authors' code and TRL run the first, which is the default. With gold = chosen
    it is `cpo`. beta is small because sums of hundreds of tokens are compared.

    Paper's settings: beta 0.01; alpha 1 from a base model, 0.05 from an instruction-tuned one; learning rate 5e-7 or
    1e-6, 1 epoch.
    """

    paper: ClassVar[str] = "Saeidi et al. 2024, arXiv 2405.16681"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-7, None, 1.0, 64, "Saeidi et al. 2024")
    rows: ClassVar[Kind] = "triple"
    nll_role: ClassVar[int] = 2

    beta: float = Field(0.01, gt=0, description="How much a gap in log-probability counts.")

    def answer_rewards(self, s: Tensor, lengths: Tensor) -> Tensor:
        return self.beta * s
