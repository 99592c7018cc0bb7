"""DFT: supervised fine-tuning where each token counts by the model's own probability of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


class DFT(Objective):
    """Dynamic fine-tuning: each token's loss counts by the model's probability of it. [Wu et al. 2025, 2508.05629]

    What it does: seen as reinforcement learning, the gradient of SFT rewards a right token by 1 / p: the less likely
    the token, the harder the pull, without bound. Multiplying by p takes that away: every right token is rewarded
    alike, and what the model finds next to impossible is left alone.

    When it helps: answers near the model's own, where it needs sharpening more than new knowledge (the paper: maths,
    code); noisy answers, whose mistakes are unlikely tokens.

    When it fails: anything the model does not know yet: new facts, a new format, a new language start at a small p and
    hardly move. Learn these by `sft` first.

    Columns: conversations with answers. Rows may carry `weight`.

    Formula, with p_t = p(y_t | x, y_<t), row weights w, sums over all trained tokens:

        L = sum_t w_t (1 - p_t) / sum_t w_t

    Shapes: p is [N], one entry per trained token of the micro-batch.

    The paper writes the token's loss as -sg(p_t) log p_t, sg stopping the gradient, and so do the authors' code and TRL
    (loss_type="dft"). The gradient is the same, -p_t grad log p_t = grad (1 - p_t), so training is the same; but that
    value is 0 for p = 0 as for p = 1 and may rise while the model learns, where 1 - p falls. It is logged as
    `dft/as_printed`. Code that forgets to stop the gradient pushes tokens with p < 1/e down.
    """

    paper: ClassVar[str] = "Wu et al. 2025, arXiv 2508.05629"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        5e-5, 1e-4, 1.0, 256, "Wu et al. 2025 (1.5B); adapters as sft"
    )

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"dft": batch.weight}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        logps = policy.token_logps(batch)  # [N]
        now = logps.detach()
        token_metrics = {"nll": -now, "dft/as_printed": -now.exp() * now}
        metrics = {
            name: ((values * batch.weights).sum().item(), batch.weight) for name, values in token_metrics.items()
        }
        return Losses({"dft": (token_losses(logps) * batch.weights).sum()}, metrics)


def token_losses(logps: Tensor) -> Tensor:
    """1 - p of log-probabilities [N]."""
    return -logps.expm1()
