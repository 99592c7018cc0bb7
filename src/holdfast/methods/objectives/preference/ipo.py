"""IPO: preference pairs with a target for the margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import PREFERENCE, Settings
from holdfast.methods.objectives.preference.dpo import pair_losses
from holdfast.methods.objectives.terms.pairs import against_reference, row_weights, watched

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


class IPO(Objective):
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
    settings: ClassVar[Settings] = PREFERENCE
    rows: ClassVar[Kind] = "pair"
    needs_reference: ClassVar[bool] = True

    form: Literal["average", "sum"] = Field(
        "average", description="average: margins per token, as the authors run it; sum: of whole answers, as printed."
    )
    tau: float = Field(
        0.1, gt=0, description="How strongly the reference is held on to: the margin asked is 1/(2 tau)."
    )

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"preference": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        gains, s, lengths = against_reference(policy, batch)  # [P, 2]
        pairs = pair_losses(gains, lengths, "ipo" if self.form == "average" else "ipo_sum", self.tau)
        compared = gains / lengths if self.form == "average" else gains
        return Losses({"preference": (pairs * row_weights(batch)).sum()}, watched(s, compared, gains))
