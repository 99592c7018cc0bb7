"""TIS-DPO: DPO whose tokens count by how much they make an answer good or bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.contrast import (
    iterate_model_logratios,
    iterate_prompt_logratios,
    rank_weights,
    token_weights,
)
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs
from holdfast.methods.objectives.terms.pairs import reshape_by_row
from holdfast.methods.objectives.terms.top_k import check_store_size, compute_base_distributions, top_k_divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from holdfast.axes.curator import Curator
    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore


class TISDPO(PairObjective):
    """DPO with token weights estimated from a model of good and one of bad answers. [Liu et al. 2024, 2410.04350]

    What it does: DPO pushes all tokens of the chosen answer up and of the rejected one down, good or not. Here two
    contrasting models say which matter: what is likelier under the positive than under the negative model counts more
    in chosen answers and less in rejected ones. Weights are estimated once, before training, and stay.

    When it helps: answers that differ in few places, or pairs whose chosen answer has bad passages as well.
    When it fails: two models that are alike, or wrong. `estimate` must be given; `ones` with eta 0 is `dpo`.

    Columns: prompts with `chosen` and `rejected`. The paper's three ways: `estimate: models`, trained beforehand by
    `sft` on the chosen and on the rejected answers, or by `dpo` on the pairs and on the pairs swapped; `prompts`, the
    untouched model under a system prompt that asks for good and one that asks for bad answers (below `dpo` there).

    Formula, with l_t, r_t, p_t, q_t the log-probability of token t under the model, the reference, the positive and
    the negative model, one entry per answer token each, mu = 1 for chosen and -1 for rejected; mean over pairs:

        w_t = exp(mu clamp(p_t - q_t, low, high))                               transform="exp", as printed with k = 1
        w_t = 0.7 to 1.3, evenly by the rank of mu (p_t - q_t) in its answer    transform="rank", as in the code
        u   = sum_t w_t (l_t - r_t) over chosen   - the same over rejected
        v   = sum_t w_t KL(model || reference)_t over chosen   - the same over rejected
        L   = -log sigmoid(beta (u - eta v))

    The paper has eta 1; the authors' code leaves v out (0.5 where it is on), and their ablation found no effect:
    `eta: 0` spares the reference's distributions, of which the `top` likeliest tokens and a bucket for all others are
    kept. Their code gives the end of turn no weight: `end_of_turn: false`. They use RMSprop.
    """

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2410.04350"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-7, None, 1.0, 32, "Liu et al. 2024")
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="How strongly the reference is held on to.")
    estimate: Literal["ones", "models", "prompts"] = Field("ones", description="Whence weights come; ones: all alike.")
    positive: str | None = Field(None, description="Model of good answers (folder, run, hub name), or system prompt.")
    negative: str | None = Field(None, description="Model of bad answers, or system prompt.")
    transform: Literal["exp", "rank"] = Field("exp", description="From log-ratios to weights: see the formula.")
    low: float = Field(-0.5, le=0, description="Least log-ratio that counts (L); for exp.")
    high: float = Field(1.5, ge=0, description="Greatest log-ratio that counts (U); for exp.")
    end_of_turn: bool = Field(True, description="false: the last label of each answer has weight 0.")
    eta: float = Field(1.0, ge=0, description="Weight of the divergences from the reference; 0 saves keeping them.")
    top: int = Field(64, ge=0, description="Likeliest tokens of the reference that are kept for eta; 0: all.")

    @model_validator(mode="after")
    def _models_are_given_and_used(self) -> Self:
        count = (self.positive is not None) + (self.negative is not None)
        if count != (0 if self.estimate == "ones" else 2):
            raise ValueError("estimate: models or prompts goes with positive and negative; give all three or none")
        return self

    def find_recipe_problem(self, curators: Sequence[Curator], sampling: Any) -> str | None:
        text = (
            "without estimate gives every token weight 1, which is plain dpo; set objective.estimate: models, with "
            "positive and negative (trained by sft on the chosen and on the rejected answers), or prompts; or use dpo"
        )
        return None if "estimate" in self.model_fields_set else text

    def _contrast_names(self, estimate: str) -> tuple[str, ...]:
        return (self.positive or "", self.negative or "") if self.estimate == estimate else ()

    def extra_models(self) -> tuple[str, ...]:
        return self._contrast_names("models")

    def extra_prompts(self) -> tuple[str, ...]:
        return self._contrast_names("prompts")

    def sequences_per_step(self) -> int | None:
        return 2 if self.extra_prompts() else None

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        if self.eta:
            check_store_size(policy, batches, self.top, 0, 1)
            for batch in batches():
                pairs = batch.select_roles(0, 1) if self.extra_prompts() else batch
                store.rows["reference"].set_values(pairs, compute_base_distributions(policy, pairs, self.top))
        if self.estimate == "ones":
            return
        models = self.extra_models()
        for pairs, ratios in (
            iterate_model_logratios(policy, batches, models) if models else iterate_prompt_logratios(policy, batches)
        ):
            signs = 1 - 2 * pairs.roles[pairs.sequence]
            weights = token_weights(ratios, signs, self.low, self.high)
            if self.transform == "rank":
                weights = rank_weights(signs * ratios, pairs.label_counts().long().tolist())
            store.rows["weights"].set_values(pairs, weights)

    def score_pairs(self, policy: Policy, batch: Batch) -> ScoredPairs:
        if not self.eta:
            return super().score_pairs(policy, batch)
        logps, away = compute_logps_and_divergences(policy, batch, self.top)
        return ScoredPairs.from_logps(policy, batch, logps, True, away=away)

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        from torch.nn.functional import logsigmoid

        batch, weights = pairs.batch, pairs.batch.weights.new_ones(len(pairs.logps))  # [N]
        if self.estimate != "ones":
            weights = pairs.policy.store.rows["weights"].get_values(batch)[:, 0]
        if not self.end_of_turn:
            weights = weights * (batch.sequence.diff(append=batch.sequence.new_tensor([-1])) == 0)
        tokens = token_gains(weights, pairs.logratios, pairs.extra.get("away", 0), self.eta)  # [N]
        gains = reshape_by_row(batch.sum_per_sequence(tokens), batch)  # [P, 2]
        each = -logsigmoid(self.beta * (gains[:, 0] - gains[:, 1]))
        metrics = {"weights/mean": (weights.sum().item(), float(len(weights)))}
        return Comparison({"preference": pairs.weighted_sum(each)}, self.beta * gains, metrics)


def token_gains(weights: Tensor, gains: Tensor, divergences: Tensor | float, eta: float) -> Tensor:
    """w (log p/p0 - eta KL) [N]: what each token adds to the reward of its answer, over beta."""
    return weights * (gains - eta * divergences)


def compute_logps_and_divergences(policy: Policy, batch: Batch, top: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the labels, and KL(model || reference) there, [N] each, of one forward pass."""
    import torch

    reference = policy.store.rows["reference"].get_values(batch)

    def score_labels(logits: Tensor, part: slice) -> Tensor:
        logps = logits.gather(-1, batch.labels[part, None])[:, 0] - logits.logsumexp(-1)
        return torch.stack([logps, top_k_divergence(reference[part], logits, top, reverse=True)], -1)

    both = policy.over_vocabulary(batch, score_labels)
    return both[:, 0], both[:, 1]
