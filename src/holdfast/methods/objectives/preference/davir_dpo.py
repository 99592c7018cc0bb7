"""DavIR-DPO: preference pairs whose gains are counted in shares of what the reference did not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import PREFERENCE, ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs
from holdfast.methods.objectives.terms.pairs import reshape_by_row

if TYPE_CHECKING:
    from torch import Tensor


class DavIRDPO(PairObjective):
    """DPO on relative gains, so that long answers do not weigh more. [Zhou et al. 2023, 2310.13008]

    What it does: divides each answer's gain over the reference by the reference's own negative log-probability of the
    answer. A gain then says which share of its loss was removed, whether the answer is long or short, easy or hard.

    When it helps: pairs where length and quality go together, which `dpo` learns as "longer is better": the paper's
    correlation of the margin with the difference in length falls from 0.38 to 0.07.

    When it fails: answers of which the reference is nearly certain are divided by almost nothing, and a rejected one
    can then be pushed down without end (raise `floor`, or drop such rows); beta of `dpo` does not carry over.

    Columns: prompts with `chosen` and `rejected`. Rows may carry `weight`.

    Formula, with s(y) = sum_t log p(y_t | x, y_<t), s_ref likewise under the reference, D(y) = s(y) - s_ref(y),
    ls = log sigmoid; s, D [pairs, 2]; mean over pairs:

        L = -ls(beta (D(chosen) / |s_ref(chosen)| - D(rejected) / |s_ref(rejected)|))

    Where |s_ref| = c for both, this is `dpo` with beta / c. At the reference its gradient is that of `dpo` with each
    answer weighted by 1 / |s_ref|. D / |s_ref| is at most 1, reached by an answer that has become certain.

    beta is thus larger than in `dpo` by the loss of a typical answer. There is no public code and the paper's beta
    could not be checked: the default, 10, is DPO's 0.1 for answers of 100 nats. `floor` is not in the paper; the
    default only keeps the division finite.

    Logged: `rewards/margin` is beta times the difference of relative gains.
    """

    paper: ClassVar[str] = "Zhou et al. 2023, arXiv 2310.13008"
    settings: ClassVar[ObjectiveSettings] = PREFERENCE
    needs_reference: ClassVar[bool] = True

    beta: float = Field(10.0, gt=0, description="How strongly the reference is held on to, in units of relative gain.")
    floor: float = Field(1e-3, gt=0, description="Least divisor in nats, for answers the reference is certain of.")

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        from torch.nn.functional import logsigmoid

        batch = pairs.batch
        reference = reshape_by_row(batch.sum_per_sequence(pairs.policy.reference_logps(batch)), batch)  # [P, 2]
        shares = relative_gains(pairs.gains, reference, self.floor)
        each = -logsigmoid(self.beta * (shares[:, 0] - shares[:, 1]))
        return Comparison({"preference": pairs.weighted_sum(each)}, self.beta * shares)


def relative_gains(gains: Tensor, reference: Tensor, floor: float = 1e-3) -> Tensor:
    """D(y) / |s_ref(y)| from D(y) `gains` [P, 2] and s_ref(y) `reference` [P, 2]."""
    return gains / reference.abs().clamp_min(floor)
