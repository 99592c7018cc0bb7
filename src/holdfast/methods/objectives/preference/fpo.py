"""FPO: DPO on averages, held to the reference's features instead of its whole distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs
from holdfast.methods.objectives.terms.pairs import reshape_by_row

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore

MOST = 1024
"""Features of the reference kept for each answer: the strongest; all there are, unless answers are long and varied."""


class FPO(PairObjective):
    """Length-normalised DPO, held to the reference by sparse features of the answers. [Yin et al. 2024, 2411.07618]

    What it does: token-wise constraints (as in TDPO) keep a model near its reference, but need the reference's whole
    distributions. Here a sparse autoencoder turns final hidden states into few active features, and the answers'
    averages of these stand for the distributions: small enough to be kept, and cheap to compare.

    When it helps: the model should learn what is preferred and go on representing answers as it did; no reference
    model fits beside it.

    When it fails: the constraint sees the strongest features only, and only of rejected answers (chosen ones serve as
    the measure, without gradient); with an autoencoder that explains little it is noise: watch `features/explained`.
    It costs a second forward pass.

    Columns: prompts with `chosen` and `rejected`. Rows may carry `weight`.

    Formula, with a(y) the mean log-probability of answer y of n tokens, h_t [D] the final hidden state that predicts
    token t, f(h_t) [F] its features, sg without gradient; a, E [pairs, 2]; mean over pairs:

        f(h) = the `active` largest of max(0, h W + b), others 0          W [D, F], F = wider * D, frozen
        F(y) = (1/n) sum_t f(h_t)                                         under model and reference, [F] each
        E(y) = mean over the `top` largest features of the model's F(y) of (F_ref(y) - F(y))^2
        L    = -log sigmoid(beta [(a - a_ref)(chosen) - (a - a_ref)(rejected) - alpha (E(rejected) - sg E(chosen))])

    alpha = 0: `dpo` with loss sigmoid_norm. The authors' code divides F(y) by the padded length of the batch; here it
    is n, so that neighbours do not matter. They use ready-made autoencoders (Gemma Scope, JumpReLU, 16 thousand
    features of layer 25, fed with final states); here a small one is trained on the untouched model's final states at
    answer tokens before the first step (see `autoencoder.py`), since most models have none.

    Paper's settings: learning rate 5e-7, 150 warm-up steps, Gemma-2 2B and 9B.
    """

    paper: ClassVar[str] = "Yin et al. 2024, arXiv 2411.07618"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-7, None, 1.0, 64, "Yin et al. 2024; epochs as dpo")
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="How strongly the reference is held on to.")
    alpha: float = Field(0.5, ge=0, description="Weight of the features' distance; the paper tries 0.5 and 5.")
    top: int = Field(50, ge=1, description="Features compared: the model's strongest.")
    wider: int = Field(4, ge=1, description="Features for each number of a hidden state.")
    active: int = Field(32, ge=1, description="Features active at a token.")
    steps: int = Field(300, ge=1, description="Steps of the autoencoder's own training.")

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        import torch

        from holdfast.methods.objectives.terms.autoencoder import sample_states, train_autoencoder

        generator, device = torch.Generator().manual_seed(0), policy.causal.device
        states = sample_states(policy, batches, generator)
        store.tensors |= train_autoencoder(
            states, wider=self.wider, active=self.active, steps=self.steps, generator=generator, device=device
        )
        for batch in batches():
            features = self._average_answer_features(
                policy.hidden_states_at(batch, batch.label_positions), batch, store
            )  # [S, F]
            strongest = features.topk(min(MOST, features.shape[1]), dim=1)
            store.rows["strengths"].set_values(batch, strongest.values, by="sequence")
            store.rows["features"].set_values(batch, strongest.indices.int(), by="sequence")

    def score_pairs(self, policy: Policy, batch: Batch) -> ScoredPairs:
        states = policy.hidden_states_at(batch, batch.label_positions)  # [N, D]
        return ScoredPairs.from_logps(policy, batch, policy.token_logps(batch, states=states), True, states=states)

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        batch, store = pairs.batch, pairs.policy.store
        ours = self._average_answer_features(pairs.extra["states"], batch, store)  # [S, F]
        errors = reshape_by_row(
            feature_errors(ours, self._recall_reference_features(batch, store, ours), self.top), batch
        )  # [P, 2]
        gains = pairs.gains / pairs.lengths
        count = float(batch.n_rows)
        metrics = {
            "features/chosen": (errors[:, 0].sum().item(), count),
            "features/rejected": (errors[:, 1].sum().item(), count),
            "features/explained": (store.tensors["explained"].item() * count, count),
        }
        each = pair_losses(gains, errors, self.beta, self.alpha)
        return Comparison({"preference": pairs.weighted_sum(each)}, self.beta * pairs.gains / pairs.lengths, metrics)

    def _average_answer_features(self, states: Tensor, batch: Batch, store: PrecomputedStore) -> Tensor:
        """Features of `states` [N, D] averaged over each answer, [S, F]."""
        from holdfast.methods.objectives.terms.autoencoder import encode_states

        strengths, places = encode_states(states, store.tensors, self.active)  # [N, active]
        return average_features(strengths, places, batch.sequence, batch.label_counts(), len(store.tensors["bias"]))

    def _recall_reference_features(self, batch: Batch, store: PrecomputedStore, like: Tensor) -> Tensor:
        """The reference's features averaged over each answer, [S, F]."""
        strengths, places = (store.rows[name].get_values(batch, by="sequence") for name in ("strengths", "features"))
        return like.new_zeros(like.shape).scatter(1, places.long(), strengths)


def average_features(strengths: Tensor, places: Tensor, sequence: Tensor, lengths: Tensor, features: int) -> Tensor:
    """Sums over each sequence of the labels' `strengths` at `places` [N, active], divided by `lengths` [S]: [S, F]."""
    total = strengths.new_zeros(len(lengths) * features)
    index = sequence[:, None] * features + places
    return total.index_add(0, index.flatten(), strengths.flatten()).view(-1, features) / lengths[:, None]


def feature_errors(ours: Tensor, reference: Tensor, top: int) -> Tensor:
    """The mean squared difference [S] over each sequence's `top` largest features of `ours` [S, F]."""
    largest = ours.detach().topk(min(top, ours.shape[1]), dim=1).indices
    return (reference.gather(1, largest) - ours.gather(1, largest)).square().mean(1)


def pair_losses(gains: Tensor, errors: Tensor, beta: float, alpha: float) -> Tensor:
    """The loss [P] of each pair from gains per token and feature errors, [P, 2] each (chosen, rejected)."""
    from torch.nn.functional import logsigmoid

    constraint = errors[:, 1] - errors[:, 0].detach()
    return -logsigmoid(beta * (gains[:, 0] - gains[:, 1] - alpha * constraint))
