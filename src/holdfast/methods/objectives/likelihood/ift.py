"""IFT: supervised fine-tuning that lets the model feel where its own answer would lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.optimizer import Optimizer
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


class IFT(Objective):
    """Intuitive fine-tuning: train on inputs mixed with the model's own guesses. [Hua et al. 2024, 2405.11870]

    What it does: a first pass without gradient asks the model for its greedy next token everywhere in the answer; the
    second pass reads input embeddings mixed from the true token and that guess, and each token's error is weighted by
    the errors that follow it (authors), or by how many tokens precede it (eq21). The aim is alignment as by preference
    methods, from plain answers and without reference.

    When it helps: answers of several steps, where one early mistake spoils the rest; demonstrations only, no pairs.

    When it fails: very short answers (nothing follows); costs a second forward pass. Input embeddings get no gradient
    (the authors train against a frozen copy of them); a tied output embedding still does.

    Columns: conversations with answers. Rows may carry `weight`.

    Formula, with E the input embeddings [L, D], g_t the greedy guess of token t, e_t = -log p(y_t | x, E'_<t):

        E'_t = (1 - mix) E(y_t) + mix E(g_t)  in the answer, E(x_t) in the prompt
        C_t  = sum_{i >= t} decay^(i - t) e_i               distances count skipped (prompt) tokens
        L    = mean over answers of  sum_n sum_{i >= n} decay^(i - n) e_i          form="eq21"
        L    = mean over answers of  sum_t e_t C_t / sum_t C_t                     form="authors"

    The authors' code and their Eq. 21 differ: the code weighs early tokens more and keeps the scale of a mean, and its
    gradient flows through the weights C; Eq. 21 weighs later tokens more (undiscounted, e_i counts i + 1 times) and
    grows with the square of the length. With mix = 0, decay = 0, "authors" is `sft` with reduction="sequence".

    Which form: what is printed. On Frozen Lake it does as SFT and on word problems it keeps more at the same gain,
    where the authors' code is behind SFT in both (`docs/laboratory.md`): its weights starve the last tokens. What
    keeps is the weight by position, not the mixing: `mix: 0` does as well. Eq. 21 needs `max_grad_norm` (1, the
    default): unclipped, its first gradients fill Adam's second moment and it hardly learns.

    Paper's settings: 3 epochs, learning rate 5e-7, batches of 512 sequences, RMSprop, clipping at 10, 7B models.
    """

    paper: ClassVar[str] = "Hua et al. 2024, arXiv 2405.11870"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-7, None, 3.0, 512, "Hua et al. 2024")

    mix: float = Field(0.2, ge=0, le=1, description="Share of the model's own guess in each input embedding (lambda).")
    decay: float = Field(0.95, ge=0, le=1, description="How far errors are carried back to earlier tokens (gamma).")
    form: Literal["eq21", "authors"] = Field("eq21", description="eq21: as printed; authors: as their code runs.")

    def list_warnings(self, optimizer: Optimizer) -> list[str]:
        if self.form == "authors" or (optimizer.max_grad_norm and optimizer.clip == "fixed"):
            return []
        return [
            "the sums of Eq. 21 need their gradient clipped to a fixed norm, else the first steps fill Adam's second "
            "moment and little is learned; set optimizer.max_grad_norm: 1 and optimizer.clip: fixed"
        ]

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"nll": batch.n_sequences}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        errors = -policy.token_logps(batch, embeds=mixed_embeddings(policy, batch, self.mix))  # [N]
        table, mask = scatter_by_position(errors, batch)  # [S, T]
        lengths = mask.sum(1)
        weights = batch.sum_per_sequence(batch.weights) / lengths.clamp_min(1)  # [S]
        values = (
            weighted_mean_losses(table, mask, self.decay)
            if self.form == "authors"
            else discounted_sum_losses(table, mask, self.decay)
        )
        return Losses({"nll": (values * weights).sum()})


def mixed_embeddings(policy: Policy, batch: Batch, mix: float) -> Tensor:
    """E' [B, L, D], detached. Label i sits one place right of the position `where[i]` that predicts it."""
    import torch

    with torch.no_grad():
        embeds = policy.embed_tokens(batch.input_ids)
        if mix:
            guesses = policy.greedy_tokens(batch, batch.label_positions, embeds)  # [N]
            lines = embeds.flatten(0, 1).clone()
            lines[batch.label_positions + 1] = torch.lerp(
                lines[batch.label_positions + 1], policy.embed_tokens(guesses), mix
            )
            embeds = lines.view_as(embeds)
    return embeds


def scatter_by_position(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Label values [N] spread over [S, T] by their place since the first label of the sequence; and the mask of labels.

    Gaps (turns of the user between two answers) stay, as zeros.
    """
    first = batch.label_positions.new_full((batch.n_sequences,), batch.position_ids.numel())
    first.scatter_reduce_(0, batch.sequence, batch.label_positions, "amin")
    column = batch.label_positions - first[batch.sequence]
    width = int(column.max()) + 1 if len(column) else 0
    table = values.new_zeros(batch.n_sequences, width).index_put((batch.sequence, column), values)
    mask = values.new_zeros(batch.n_sequences, width).index_put((batch.sequence, column), values.new_ones(()))
    return table, mask


def discounted_sums(errors: Tensor, decay: float) -> Tensor:
    """C_t = sum_{i >= t} decay^(i - t) e_i along the last axis of [S, T], in log2(T) doubling steps."""
    from torch.nn.functional import pad

    total, reach = errors, 1
    while reach < errors.shape[-1]:
        total = total + decay**reach * pad(total[..., reach:], (0, reach))
        reach *= 2
    return total


def weighted_mean_losses(errors: Tensor, mask: Tensor, decay: float) -> Tensor:
    """sum_t e_t C_t / sum_t C_t [S] of errors [S, T]; decay 0 switches the weights off, as in the authors' code."""
    token_weights = discounted_sums(errors, decay) * mask if decay else mask
    return (errors * token_weights).sum(-1) / token_weights.sum(-1).clamp_min(1e-30)


def discounted_sum_losses(errors: Tensor, mask: Tensor, decay: float) -> Tensor:
    """sum_n sum_{i >= n} decay^(i - n) e_i [S], n over the labels."""
    return (discounted_sums(errors, decay) * mask).sum(-1)
