"""IPO: preference pairs with a target for the margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective_settings import PREFERENCE, ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs

if TYPE_CHECKING:
    pass


class IPO(PairObjective):
    """Identity preference optimisation: a margin as wide as asked, not wider. [Azar et al. 2023, 2310.12036]

    What it does: pulls the margin between chosen and rejected answers, measured against the reference, to 1 / (2 tau),
    from below and from above. There is no reward model in between, so certain labels do not ask for certainty.

    When it helps: pairs that are all labelled the same way, where `dpo` widens the margin without end and forgets the
    reference; labels that are wrong now and then average out to a smaller margin, (2p - 1) / (2 tau) for a share p.

    When it fails: pairs that differ much and pairs that differ little get the same margin; margins that are already
    wide are narrowed; tau has to fit the form: per token, 1 / (2 tau) = 5 is a lot, over a whole answer it is little.

    Columns: prompts with `chosen` and `rejected`. Rows may carry `weight`.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t) over the answer's n(y) tokens;
    D, n [pairs, 2], h [pairs]; mean over pairs:

        L = (h - 1 / (2 tau))^2
        form="average":  h = D(chosen) / n(chosen) - D(rejected) / n(rejected)    as its authors and TRL run it
        form="sum":      h = D(chosen) - D(rejected)                              as printed

    The default is the average: long answers do not dominate. The authors told TRL that theirs are averages too.
    The same losses as `dpo` with loss=ipo and loss=ipo_sum, where tau is called beta.

    Logged: `rewards/margin` is h, to be compared with 1 / (2 tau); `rewards/accuracy` is the share with h > 0.
    """

    paper: ClassVar[str] = "Azar et al. 2023, arXiv 2310.12036"
    settings: ClassVar[ObjectiveSettings] = PREFERENCE
    needs_reference: ClassVar[bool] = True

    form: Literal["average", "sum"] = Field(
        "average", description="average: margins per token, as the authors run it; sum: of whole answers, as printed."
    )
    tau: float = Field(
        0.1, gt=0, description="How strongly the reference is held on to: the margin asked is 1/(2 tau)."
    )

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        rewards = pairs.gains / pairs.lengths if self.form == "average" else pairs.gains
        h = rewards[:, 0] - rewards[:, 1]  # [P]
        return Comparison({"preference": pairs.weighted_sum((h - 1 / (2 * self.tau)).square())}, rewards)
