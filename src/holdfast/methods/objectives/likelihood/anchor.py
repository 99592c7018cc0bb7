"""Anchor: supervised fine-tuning tied to the untouched model, by its answers or by its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective import Losses, Objective
from holdfast.data.row_shapes import FALSE, TRUE, Column
from holdfast.methods.objectives.terms.regularisers import trainable_weights
from holdfast.methods.objectives.terms.top_k import check_store_size, compute_base_distributions, label_and_divergence

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore

SHARDED = "objective.penalty: l2sp and ewc need whole weights, these are sharded; use kl"


class Anchor(Objective):
    """SFT with a penalty for leaving the untouched model, in words or in weights. [Kirkpatrick et al. 2017, 1612.00796]

    What it does: adds to the cross-entropy of the answers what it costs to move: the divergence of the model's next
    tokens from the untouched model's (`kl`), the squared distance of the weights from where they began (`l2sp`), or
    that distance weighted by how much each weight matters to what the model says (`ewc`).

    When it helps: forgetting is the worry and there is nothing old to rehearse. Where there is, `kl` with `on: replay`
    holds what should stay and leaves the new task free.

    When it fails: `kl` on the new rows resists what they teach; `l2sp` holds weights that do not matter as hard as
    others; `ewc` knows only what the rows show it. Too strong, nothing is learned; too weak, it is `sft`.

    Columns: conversations with answers. Rows may carry `weight`; the replayed ones are those `data.replay` mixed in.

    Formula, with p the model, p0 the untouched one, d the trained weights minus what they were, row weights w:

        L    = - mean log p(y_t) + strength * P                                         mean over all trained tokens
        kl   P = mean KL(p0(. | x, y_<t) || p(. | x, y_<t)), over the tokens of `on`    [Li, Hoiem 2016, 1606.09282]
        l2sp P = 1/2 sum_i d_i^2                                                        [Li et al. 2018, 1802.01483]
        ewc  P = 1/2 sum_i F_i d_i^2,  F_i = mean over the tokens of E[(d log p0(k) / d theta_i)^2], k drawn from p0

    Shapes: KL is [N], one entry per trained token: the `top` likeliest tokens of p0, the rest as one event. F is like
    the weights, and per token: off the diagonal and from the third order on apart, `ewc` is `kl` on the same rows.

    The authors of EWC take F from old data, per example, and strengths of hundreds; here it comes from the training
    rows. Li and Hoiem use strength 1, the default; Li et al. choose theirs by validation. Kept: 4 (2 top + 1) bytes
    per token (`kl`), a copy of the trained weights (`l2sp`) or two (`ewc`); with an adapter these are the adapter's.
    """

    paper: ClassVar[str] = "Kirkpatrick et al. 2017, arXiv 1612.00796; Li et al. 2018, arXiv 1802.01483"

    penalty: Literal["kl", "l2sp", "ewc"] = Field("kl", description="What is held on to: see the formula.")
    strength: float = Field(1.0, ge=0, description="Weight of the penalty.")
    on: Literal["all", "replay", "train"] = Field(
        "all", description="Rows whose answers are held by kl: all, the replayed ones, or the others."
    )
    top: int = Field(100, ge=0, description="Tokens kept of the untouched distribution for kl; 0 = whole vocabulary.")

    @model_validator(mode="after")
    def _on_is_used(self) -> Self:
        if self.on != "all" and self.penalty != "kl":
            raise ValueError(f"on: {self.on} has no effect on {self.penalty}, which holds weights; use kl")
        return self

    def value_columns(self) -> tuple[Column, ...]:
        return () if self.on == "all" else (Column("is_replayed", truth=True),)

    def divergence_weights(self, batch: Batch) -> Tensor:
        """The weight of each label [N] in the divergence."""
        if self.on == "all":
            return batch.weights
        sequence_mask = batch.values["is_replayed"] == (TRUE if self.on == "replay" else FALSE)  # [S]
        return batch.weights * sequence_mask[batch.sequence]

    def normalizers(self, batch: Batch) -> dict[str, float]:
        # Once per micro-batch: what the weights cost does not depend on how many there are.
        return {
            "nll": batch.weight,
            "anchor": float(self.divergence_weights(batch).double().sum()) if self.penalty == "kl" else 1.0,
        }

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        if self.penalty == "kl":
            check_store_size(policy, batches, self.top, 0)
            for batch in batches():
                store.rows["base"].set_values(batch, compute_base_distributions(policy, batch, self.top))
            return
        weights = trainable_weights(policy, SHARDED)
        store.tensors |= {f"start.{name}": p.detach().clone() for name, p in weights.items()}
        if self.penalty == "ewc":
            store.tensors |= {
                f"fisher.{name}": value for name, value in estimate_fisher_diagonal(policy, batches).items()
            }

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        if self.penalty != "kl":
            cost = self.weight_penalty(policy)
            sums = {"nll": policy.weighted_nll(batch, batch.weights), "anchor": self.strength * cost}
            return Losses(sums, {f"anchor/{self.penalty}": (cost.item(), 1.0)})
        base, kl_weights = (
            policy.store.rows["base"].get_values(batch),
            self.divergence_weights(batch),
        )  # [N, 2 top + 1], [N]
        logps, kl = policy.over_vocabulary(
            batch, lambda logits, part: label_and_divergence(logits, batch.labels[part], base[part], self.top)
        ).unbind(-1)  # [N] each
        cost = (kl * kl_weights).sum()
        sums = {"nll": -(logps * batch.weights).sum(), "anchor": self.strength * cost}
        return Losses(sums, {"anchor/kl": (cost.item(), kl_weights.sum().item())})

    def weight_penalty(self, policy: Policy) -> Tensor:
        """1/2 sum F (theta - theta0)^2, differentiable."""
        import torch

        tensors, costs = policy.store.tensors, []
        for name, p in trainable_weights(policy, SHARDED).items():
            squares = (p.float() - tensors[f"start.{name}"].float()).square()
            costs.append((squares * tensors[f"fisher.{name}"] if self.penalty == "ewc" else squares).sum())
        return torch.stack(costs).sum() / 2


def estimate_fisher_diagonal(policy: Policy, batches: Batches) -> dict[str, Tensor]:
    """The diagonal of the Fisher information per trained token, shaped like each weight.

    Labels drawn from the model have independent gradients of mean zero: on average, the square of a micro-batch's
    summed gradient is the sum of the squares, so that one backward pass does for many tokens.
    """
    import torch

    weights, count = trainable_weights(policy, SHARDED), 0
    totals = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in weights.items()}
    random = torch.Generator(policy.causal.device).manual_seed(0)
    for batch in batches():
        labels = policy.over_vocabulary(
            batch, lambda logits, part: torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
        )
        sampled_batch = replace(batch, labels=labels)
        with torch.enable_grad():
            nll = policy.weighted_nll(sampled_batch, torch.ones_like(batch.weights))
            grads = torch.autograd.grad(nll, list(weights.values()), allow_unused=True)
        for name, grad in zip(weights, grads, strict=True):
            if grad is not None:
                totals[name] += grad.float().square()
        count += len(batch.labels)
    return {name: total / count for name, total in totals.items()}
