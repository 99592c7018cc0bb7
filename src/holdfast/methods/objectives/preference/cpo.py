"""CPO: preference pairs without a reference, beside the likelihood of the chosen answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import Settings
from holdfast.methods.objectives.terms.pairs import by_row, row_weights, watched

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy

MarginLoss = Literal["sigmoid", "hinge"]


class CPO(Objective):
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
    settings: ClassVar[Settings] = Settings(1e-6, 1e-4, 1.0, 64, "Xu et al. 2024 (adapters); base weights as TRL")
    rows: ClassVar[Kind] = "pair"
    learned: ClassVar[int] = 0
    """Role of the answer whose likelihood is raised."""

    loss: MarginLoss = Field("sigmoid", description="How the gap is judged: see the formula.")
    beta: float = Field(0.1, gt=0, description="How much a gap in log-probability counts.")
    alpha: float = Field(1.0, ge=0, description="Weight of the negative log-likelihood.")
    nll: Literal["token", "sum"] = Field(
        "token", description="token: mean over all tokens, as it is run; sum: over each answer, as printed."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs thought to be labelled the wrong way."
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> Self:
        if self.label_smoothing and self.loss == "hinge":
            raise ValueError("label_smoothing has no effect on hinge; use sigmoid")
        return self

    def rewards(self, s: Tensor, lengths: Tensor) -> Tensor:
        """What is compared, [R, roles], of log-probabilities and lengths of the answers."""
        return self.beta * s

    def margin(self) -> float:
        """By how much chosen must lead."""
        return 0.0

    def counts(self, batch: Batch) -> dict[str, float]:
        learned = batch.labels_of(self.learned) if self.nll == "token" else batch.n_rows
        return {"preference": batch.n_rows, "nll": learned}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        logps = policy.token_logps(batch)  # [N]
        s = by_row(batch.per_sequence(logps), batch)  # [R, 2], or 3 with a gold answer
        rewards = self.rewards(s, by_row(batch.lengths(), batch))
        preference = margin_losses(rewards, self.margin(), self.loss, self.label_smoothing) * row_weights(batch)
        learned = batch.roles[batch.sequence] == self.learned  # [N]
        nll = -(logps * batch.weights)[learned].sum()
        return Losses({"preference": preference.sum(), "nll": self.alpha * nll}, watched(s, rewards))


def margin_losses(rewards: Tensor, margin: float, loss: MarginLoss = "sigmoid", smoothing: float = 0.0) -> Tensor:
    """The loss [R] of each row from `rewards` [R, 2 or more], chosen first, rejected second."""
    from torch.nn.functional import logsigmoid

    z = rewards[:, 0] - rewards[:, 1] - margin
    if loss == "hinge":
        return (1 - z).relu()
    return -(1 - smoothing) * logsigmoid(z) - smoothing * logsigmoid(-z)
