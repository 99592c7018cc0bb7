"""ASFT: make the chosen answer likely and the rejected one unlikely, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs
from holdfast.methods.objectives.terms.pairs import log_odds

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch


class ASFT(PairObjective):
    """Aligned supervised fine-tuning: absolute likelihood instead of a gap. [Wang et al. 2024, 2409.10571]

    What it does: beside SFT on the chosen answer, raises the odds of the chosen and lowers the odds of the rejected
    answer, each against an absolute mark instead of against each other, so that a falling chosen answer is never made
    up for by a rejected one that falls faster. No reference model.

    When it helps: DPO lowers the probability of chosen answers along with the rejected ones; one stage from an
    instruction-tuned model.

    When it fails: an independent study (Gorbatovski et al. 2025, 2502.01237) finds such pointwise losses behind
    pairwise ones (`dpo`, `orpo`) on larger models, and best after an SFT stage, with alpha = 0 and beta tuned. The
    push on a rejected answer fades with its probability: its gradient is P / (1 - P).

    Columns: prompts with `chosen` and `rejected`.

    Formula, with a(y) = 1/n sum_t log p(y_t | x, y_<t), P = exp(a), f = log P / (1 - P), ls = log sigmoid; a [P, 2]:

        L = - alpha a(chosen) + weight (- ls(beta f(chosen)) - ls(- beta f(rejected)))       mean over pairs

    With alpha = beta = 1 that is - (1 + weight) log P(chosen) - weight log(1 - P(rejected)), and never less than `orpo`
    with the same weight. P is the geometric mean of the token probabilities, not the probability of the answer. With
    weight = 0 it is `sft` with reduction="sequence" on the chosen answers.

    The authors' lambda (`weight`) is not known to us: 1 weighs both parts alike; the study above tries 0.1 to 1. beta
    is that study's, and 1 is the paper's loss. Not to be mixed up with anchored SFT, which shares the abbreviation.
    """

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2409.10571"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        1e-6, None, 1.0, 64, "Gorbatovski et al. 2025 (after SFT); epochs as dpo"
    )

    weight: float = Field(1.0, ge=0, description="Weight of the alignment terms (lambda).")
    alpha: float = Field(1.0, ge=0, description="Weight of the chosen answer's likelihood; 0 after an SFT stage.")
    beta: float = Field(1.0, gt=0, description="How sharply odds are judged; 1 is the paper's loss.")

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"nll": batch.n_rows, "alignment": batch.n_rows}

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        means = pairs.answer_logps / pairs.lengths
        nll, alignment = pairs.weighted_sum(-means[:, 0]), pairs.weighted_sum(alignment_losses(means, self.beta))
        return Comparison({"nll": self.alpha * nll, "alignment": self.weight * alignment}, log_odds(means))


def alignment_losses(means: Tensor, beta: float = 1.0) -> Tensor:
    """- ls(beta f(chosen)) - ls(- beta f(rejected)) [P] of mean log-probabilities [P, 2], chosen first."""
    from torch.nn.functional import logsigmoid

    f = beta * log_odds(means)
    return -logsigmoid(f[:, 0]) - logsigmoid(-f[:, 1])
