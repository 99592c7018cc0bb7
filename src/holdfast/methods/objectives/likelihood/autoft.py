"""AutoFT: a sum of losses whose weights are learned by search, on rows unlike those trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.methods.objectives.terms import regularisers
from holdfast.methods.objectives.terms.top_k import check_store_size, compute_base_distributions, top_k_divergence

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.axes.optimizer import Optimizer
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore

OF_TOKENS = ("hinge", "entropy", "dcm", "unlikelihood", "kl")
OF_WEIGHTS = ("l1_zero", "l2_zero", "l1_init", "l2_init")
SHARDED = "objective: autoft's l1_zero, l2_zero, l1_init, l2_init need whole weights, these are sharded; set them to 0"


class AutoFT(Objective):
    """A sum of losses whose weights a search learns on rows unlike the training rows. [Choi et al. 2024, 2401.10220]

    What it does: adds nine terms to the cross-entropy, each with a weight. `holdfast search` learns the weights, with
    learning rate, weight decay and seed: each trial trains a few steps on the training rows and is valued on a small
    set of another distribution (`search.value`), so that what is found holds beyond the training rows.

    When it helps: what the model will be asked differs from what there is to train on, and a few dozen questions of a
    third kind, between the two or beside them, can be had.

    When it fails: by itself, without a search, it is whatever weights you write (all 0, the default, is `sft`). A value
    set like the training rows finds what fits these; a small one is overfitted by many trials. Weights found for a few
    steps need not be those of a long run.

    Columns: conversations with answers. Rows may carry `weight`.

    Formula, with z the logits, p the model, p0 the untouched one, theta the P trained weights, theta0 their beginning:

        L = mean_t [ -log p(y_t) + hinge sum_{k != y} max(0, 1 + z_k - z_y) + entropy H(p) + dcm [argmax p != y] H(p)
                     - unlikelihood sum_{c in y_<t, c != y_t} log(1 - p(c)) + kl KL(p0 || p) ]
            + l1_zero |theta|_1 / P + l2_zero |theta|_2^2 / P + l1_init |theta - theta0|_1 / P
            + l2_init |theta - theta0|_2^2 / P

    Shapes: the terms of tokens are [N], one entry per trained token; those of weights are scalars.

    The space, where the recipe's `search.space` is empty: weights log-uniform from 1e-4 to 10, learning rate from a
    hundredth to a hundred times the recipe's, weight decay 0 to 1, seed 0 to 10. The paper's contrastive term is of
    pictures and texts; in its place are unlikelihood (Welleck et al. 2019, 1908.04319) and `kl` to the base, the `top`
    likeliest tokens of p0 apart. With an adapter theta are the adapter's weights. In the authors' code the learning
    rate that was searched is overwritten, and the first weight is not the 1 it was searched with; here neither.
    """

    paper: ClassVar[str] = "Choi et al. 2024, arXiv 2401.10220"

    hinge: float = Field(0.0, ge=0, description="Weight of the hinge loss over wrong tokens, margin 1.")
    entropy: float = Field(0.0, ge=0, description="Weight of the entropy of the next token.")
    dcm: float = Field(0.0, ge=0, description="Weight of the entropy where the likeliest token is wrong.")
    unlikelihood: float = Field(0.0, ge=0, description="Weight of the loss of repeating earlier tokens of the answer.")
    kl: float = Field(0.0, ge=0, description="Weight of the divergence from the untouched model.")
    l1_zero: float = Field(0.0, ge=0, description="Weight of the mean absolute weight.")
    l2_zero: float = Field(0.0, ge=0, description="Weight of the mean square weight.")
    l1_init: float = Field(0.0, ge=0, description="Weight of the mean absolute distance from the beginning.")
    l2_init: float = Field(0.0, ge=0, description="Weight of the mean square distance from the beginning.")
    top: int = Field(100, ge=0, description="Tokens kept of the untouched distribution for kl; 0 = whole vocabulary.")

    def token_weights(self) -> dict[str, float]:
        """Of the terms of tokens those that count, with their weights."""
        each = (self.hinge, self.entropy, self.dcm, self.unlikelihood, self.kl)
        return {name: weight for name, weight in zip(OF_TOKENS, each, strict=True) if weight}

    def norm_weights(self) -> dict[str, float]:
        """Likewise of the terms of weights."""
        each = (self.l1_zero, self.l2_zero, self.l1_init, self.l2_init)
        return {name: weight for name, weight in zip(OF_WEIGHTS, each, strict=True) if weight}

    def search_space(self, optimizer: Optimizer) -> dict[str, Any]:
        rate = optimizer.learning_rate
        space: dict[str, Any] = {f"objective.{name}": {"log": [1e-4, 10.0]} for name in (*OF_TOKENS, *OF_WEIGHTS)}
        space["optimizer.learning_rate"] = {"log": [rate * 1e-2, rate * 1e2]}
        if "weight_decay" in type(optimizer).model_fields:
            space["optimizer.weight_decay"] = {"range": [0.0, 1.0]}
        return {**space, "train.seed": {"int": [0, 10]}}

    def list_warnings(self, optimizer: Optimizer) -> list[str]:
        if self.token_weights() or self.norm_weights():
            return []
        return ["autoft: every weight is 0, which is sft; learn them by `holdfast search`, or write some"]

    def normalizers(self, batch: Batch) -> dict[str, float]:
        # Of the weights once per micro-batch: what they cost does not depend on how many there are.
        of_tokens = dict.fromkeys(("nll", *self.token_weights()), batch.weight)
        return of_tokens | dict.fromkeys(self.norm_weights(), 1.0)

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        if self.kl:
            check_store_size(policy, batches, self.top, 0)
            for batch in batches():
                store.rows["base"].set_values(batch, compute_base_distributions(policy, batch, self.top))
        if self.l1_init or self.l2_init:
            weights = regularisers.trainable_weights(policy, SHARDED)
            store.tensors |= {name: weight.detach().clone() for name, weight in weights.items()}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        costs = self._sum_token_terms(policy, batch) | self._measure_weights(policy)
        weights = self.token_weights() | self.norm_weights()
        counts = self.normalizers(batch)
        return Losses(
            {name: cost * weights[name] if name in weights else cost for name, cost in costs.items()},
            {f"autoft/{name}": (costs[name].item(), counts[name]) for name in weights},
        )

    def _sum_token_terms(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """Sum over the labels of the cross-entropy and each term of tokens, without their weights."""
        names = list(self.token_weights())
        if not names:
            return {"nll": policy.weighted_nll(batch, batch.weights)}
        # [N, 2 top + 1]; where there is no `kl`, nothing reads it
        base = policy.store.rows["base"].get_values(batch) if self.kl else batch.weights

        def score_tokens(logits: Tensor, part: slice) -> Tensor:
            import torch
            from torch.nn.functional import cross_entropy

            labels = batch.labels[part]
            score = {
                "hinge": lambda: regularisers.hinge_losses(logits, labels),
                "entropy": lambda: regularisers.compute_entropies(logits),
                "dcm": lambda: regularisers.compute_entropies(logits) * (logits.argmax(-1) != labels),
                "unlikelihood": lambda: regularisers.unlikelihood_losses(logits, batch.labels, batch.sequence, part),
                "kl": lambda: top_k_divergence(base[part], logits, self.top),
            }
            columns = [cross_entropy(logits, labels, reduction="none"), *(score[name]() for name in names)]
            return torch.stack(columns, -1)  # [m, 1 + terms]

        totals = (policy.over_vocabulary(batch, score_tokens) * batch.weights[:, None]).sum(0)
        return dict(zip(("nll", *names), totals, strict=True))

    def _measure_weights(self, policy: Policy) -> dict[str, Tensor]:
        """The means over weights, without what they are multiplied by."""
        if not (names := self.norm_weights()):
            return {}
        weights = regularisers.trainable_weights(policy, SHARDED)
        return {
            name: regularisers.mean_distance(
                weights, policy.store.tensors if name.endswith("init") else None, 1 if name.startswith("l1") else 2
            )
            for name in names
        }
