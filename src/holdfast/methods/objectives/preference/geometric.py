"""Geometric-averaged preference optimisation: pairs with a soft label, how likely the chosen answer is the better."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective_settings import PREFERENCE, ObjectiveSettings
from holdfast.data.row_shapes import Column
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs

if TYPE_CHECKING:
    from torch import Tensor


Form = Literal["gdpo", "gipo", "gropo", "cdpo", "cipo"]


class Geometric(PairObjective):
    """Pairs with soft labels: the nearer to a toss-up, the less is learned. [Furuta et al. 2024, 2409.06691]

    What it does: every pair says with which probability its chosen answer is the better one. Both answers are replaced
    by geometric averages of the two, weighted by that probability, which multiplies the margin by 2p - 1: a pair with
    p = 1 counts as in `dpo`, one with p = 0.5 not at all.

    When it helps: labels from several raters or from a judge's scores, where most pairs are nearly tied.

    When it fails: the label scales the gradient but sets no target: gdpo and gropo widen every margin without end, only
    more slowly for weak labels, so how far they go depends on the number of steps; gipo asks weak pairs for a *wider*
    margin, 1 / (2 beta (2p - 1)). cdpo and cipo have targets that follow the label: logit(p) / beta and
    (2p - 1) / (2 beta). Rows with p = 0.5 cost time and, but for cdpo and cipo, teach nothing: drop them.

    Columns: prompts with `chosen` and `rejected`, and `preference`, the probability p in [0, 1] that chosen is better.
    With p < 0.5 the pair is the wrong way round: 2p - 1 is negative, rejected is raised above chosen, exactly as if the
    two answers were swapped and labelled 1 - p. Rows may carry `weight`.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t), h = D(chosen) - D(rejected),
    g = (2p - 1) h, ls = log sigmoid; D [pairs, 2], all others [pairs]; mean over pairs:

        gdpo   -ls(beta g)                                        its gradient: -beta (2p - 1) sigmoid(-beta g)
        gipo   (g - 1 / (2 beta))^2
        gropo  -gamma ls(beta g) + alpha sigmoid(-beta g)
        cdpo   -p ls(beta h) - (1 - p) ls(-beta h)                baseline: conservative DPO with each pair's own label
        cipo   (h - (2p - 1) / (2 beta))^2                        baseline: IPO with each pair's own label

    D is a sum, as printed. The authors published no code, and their alpha and gamma could not be checked: the defaults
    are those of a public implementation of ROPO [Liang et al. 2024, 2404.04102]. Another "GDPO" (2601.05242, rewards
    decoupled by group) has only the name in common.

    Logged: rewards and log-probabilities of the answer with p > 0.5 as chosen, whichever column it stands in.
    """

    paper: ClassVar[str] = "Furuta et al. 2024, arXiv 2409.06691"
    settings: ClassVar[ObjectiveSettings] = PREFERENCE
    needs_reference: ClassVar[bool] = True

    form: Form = Field("gdpo", description="Which loss: see the formula; cdpo and cipo are the paper's baselines.")
    beta: float = Field(0.1, gt=0, description="How strongly the reference is held on to.")
    alpha: float = Field(0.2, ge=0, description="Weight of gropo's bounded part, which wrong labels cannot exploit.")
    gamma: float = Field(0.1, ge=0, description="Weight of gropo's gdpo part.")

    @model_validator(mode="after")
    def _knobs_are_used(self) -> Self:
        if self.form != "gropo" and (self.alpha, self.gamma) != (0.2, 0.1):
            raise ValueError(f"alpha and gamma have no effect on {self.form}; use gropo")
        return self

    def value_columns(self) -> tuple[Column, ...]:
        return (Column("preference", 0.0, 1.0),)

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        preference = pairs.batch.values["preference"][pairs.batch.roles == 0]  # [P]
        h = pairs.gains[:, 0] - pairs.gains[:, 1]
        each = geometric_losses(h, preference, self.form, self.beta, self.alpha, self.gamma)
        return Comparison({"preference": pairs.weighted_sum(each)}, self.beta * pairs.gains, swap_mask=preference < 0.5)


def geometric_losses(
    h: Tensor, preference: Tensor, form: Form, beta: float, alpha: float = 0.2, gamma: float = 0.1
) -> Tensor:
    """The loss [P] of each pair from its margin `h` [P] and soft label `preference` [P]."""
    from torch.nn.functional import logsigmoid

    sure = 2 * preference - 1
    if form == "cdpo":
        return -preference * logsigmoid(beta * h) - (1 - preference) * logsigmoid(-beta * h)
    if form == "cipo":
        return (h - sure / (2 * beta)).square()
    if form == "gipo":
        return (sure * h - 1 / (2 * beta)).square()
    plain = -logsigmoid(beta * sure * h)
    return plain if form == "gdpo" else gamma * plain + alpha * (-beta * sure * h).sigmoid()
