"""TPO-L: TPO judged by mean log-probabilities, with a target margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.margin_objective import MarginObjective

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.row_shapes import Kind


class TPOL(MarginObjective):
    """Triple preference optimisation, length-controlled: `simpo` with a gold answer. [Saeidi et al. 2024, 2405.16681]

    What it does: as `tpo`, but chosen and rejected are compared by their mean log-probability per token, and chosen
    must lead by a margin, so that length is not rewarded.

    When it helps: where `tpo` does and answers grow longer than wanted.

    When it fails: three knobs that the paper tunes anew for every model (below); three sequences per row.

    Columns: prompts with an answer (gold), `chosen` and `rejected`.

    Formula, with s(y) = sum_t log p(y_t | x, y_<t), a(y) = s(y) / n(y), ls = log sigmoid, e = label_smoothing;
    a [rows, 3]:

        z = beta (a(chosen) - a(rejected)) - gamma                               [rows]
        preference, mean over rows:    sigmoid   -(1 - e) ls(z) - e ls(-z)
                                       hinge     max(0, 1 - z)
        L = preference + alpha nll     nll of the gold answer, as in `tpo`

    Defaults are those of Mistral-7B-v0.3 with 40,000 rows: beta 2, gamma 1.6, alpha 0.05. Others in the paper:
    Llama-3-8B beta 0.01, alpha 1, gamma 0.5 to 10; instruction-tuned beta 2.5 to 10, gamma 0.3 to 3, alpha 0.05.
    TRL (`TPOTrainer`, loss_type="tpo-l") has beta 0.01, gamma 0.5, alpha 1, with the same meanings.
    """

    paper: ClassVar[str] = "Saeidi et al. 2024, arXiv 2405.16681"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-7, None, 1.0, 64, "Saeidi et al. 2024")
    rows: ClassVar[Kind] = "triple"
    nll_role: ClassVar[int] = 2

    beta: float = Field(2.0, gt=0, description="How much a gap in mean log-probability counts.")
    gamma: float = Field(1.6, ge=0, description="Target margin, in units of beta times mean log-probability.")
    alpha: float = Field(0.05, ge=0, description="Weight of the negative log-likelihood of the gold answer.")

    def answer_rewards(self, s: Tensor, lengths: Tensor) -> Tensor:
        return self.beta * s / lengths

    def target_margin(self) -> float:
        return self.gamma
