"""T-Few: learn from several choices of which one is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pairs import log1m_exp, row_indices, row_weights

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


class TFew(Objective):
    """Multiple choice: likelihood, unlikelihood and the choice itself. [Liu et al. 2022, 2205.05638]

    What it does: raises the right choice's likelihood, lowers every token of the wrong ones, and trains the very
    comparison by which a choice is taken: a softmax over the choices' mean log-probabilities per token.

    When it helps: few examples (tens) of multiple choice or classification, answered by ranking the choices. The paper
    pairs it with (IA)^3.

    When it fails: wrong choices share words with right ones, which the unlikelihood then lowers too, most of all those
    the model is sure of (`offset` bounds that); free text has no choices.

    Columns: `choices` (a list of texts) and `answer` (the index of the right one). Rows may have different numbers of
    choices.

    Formula, for a row with right choice y, wrong choices y_n of T_n tokens, and a(y) = 1/T sum_t log p(y_t | x, y_<t);
    mean over rows (a [R, C]):

        L = - a(y)
            - unlikelihood  sum_n sum_t log(1 - p(y_nt | x, y_n<t) + offset) / sum_n T_n
            - choice        log( exp a(y) / (exp a(y) + sum_n exp a(y_n)) )

    reduction="row" is that, as printed. The authors' code divides the first two terms by the tokens of the whole batch
    (reduction="token") and has offset 0.01, which bounds the unlikelihood's gradient and makes it slightly negative
    where p is 0 (and, in their sum, adds a constant for padding, left out here). A row without wrong choices has only
    its likelihood. A choice is taken by the largest a: `choices/accuracy`.

    Paper's settings: all three weights 1, 1,000 steps of 8 rows, Adafactor, learning rate 3e-3 for (IA)^3.
    """

    paper: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        2e-5, 1e-4, 3.0, 8, "Liu et al. 2022 (batch); rates and epochs as sft, theirs go with (IA)^3"
    )
    rows: ClassVar[Kind] = "choices"

    unlikelihood: float = Field(1.0, ge=0, description="Weight of what lowers wrong choices.")
    choice: float = Field(1.0, ge=0, description="Weight of the softmax over choices.")
    offset: float = Field(0.0, ge=0, description="Added to 1 - p before its logarithm; the authors' code: 0.01.")
    reduction: Literal["row", "token"] = Field(
        "row", description="row: every row counts alike, as printed; token: every token, as in the authors' code."
    )

    def normalizers(self, batch: Batch) -> dict[str, float]:
        right = batch.count_labels(0) if self.reduction == "token" else batch.n_rows
        wrong = batch.weight - batch.count_labels(0) if self.reduction == "token" else batch.n_rows
        return {"likelihood": right, "unlikelihood": wrong, "choice": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        logps, wrong = policy.token_logps(batch), (batch.roles > 0)[batch.sequence]  # [N]
        share = batch.weights if self.reduction == "token" else batch.weights / group_label_counts(batch)
        wrong_losses = unlikelihood_losses(logps[wrong], self.offset) * share[wrong]
        means = scatter_by_choice(batch.sum_per_sequence(logps) / batch.label_counts(), batch)  # [R, C]
        row_losses = choice_losses(means) * row_weights(batch)
        right = (means.detach().argmax(1) == 0).sum().item()
        sums = {
            "likelihood": -(logps * share)[~wrong].sum(),
            "unlikelihood": self.unlikelihood * wrong_losses.sum(),
            "choice": self.choice * row_losses.sum(),
        }
        return Losses(sums, {"choices/accuracy": (right, float(len(means)))})


def group_label_counts(batch: Batch) -> Tensor:
    """For each label [N], how many labels the right choice of its row has, or all wrong ones together."""
    group = (2 * row_indices(batch) + (batch.roles > 0))[batch.sequence]  # [N]
    return group.bincount(minlength=2 * batch.n_rows)[group]


def scatter_by_choice(values: Tensor, batch: Batch) -> Tensor:
    """Per-sequence `values` [S] as [R, C], the right choice first; -inf where a row has fewer choices."""
    table = values.new_full((batch.n_rows, int(batch.roles.max()) + 1), float("-inf"))
    return table.index_put((row_indices(batch), batch.roles), values)


def unlikelihood_losses(logps: Tensor, offset: float = 0.0) -> Tensor:
    """- log(1 - p + offset), of the shape of `logps`."""
    import torch

    return -torch.log(offset - torch.expm1(logps)) if offset else -log1m_exp(logps)


def choice_losses(means: Tensor) -> Tensor:
    """- log softmax over choices, at the right (first) one, [R]; of mean log-probabilities [R, C]."""
    return -means.log_softmax(1)[:, 0]
