"""RPO: every chosen answer of a step against every rejected one, the nearer their prompts the more."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs
from holdfast.methods.objectives.terms.pairs import row_weights
from holdfast.models.embeddings import directions_by_encoder, directions_by_model

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore

SAME = 1e-4
"""Prompts at a smaller distance count as one and the same."""


class RPO(PairObjective):
    """Relative preferences: chosen answers against those rejected for like prompts. [Yin et al. 2024, 2402.10958]

    What it does: one pair says that an answer is better than one other; a step of them says more, because answers to
    similar questions are comparable too. Chosen i meets rejected j with a weight that falls with the distance of their
    prompts.

    When it helps: many related prompts with few answers each; with `paired: false` only answers to different prompts
    meet, as where every prompt has a single answer that was either liked or not.

    When it fails: weights sum to 1 over a step's N rejected answers, so each is about 1 / N, the margins inside the
    sigmoid shrink, and with them the gradient: set `scaled`, or a larger `beta`. Unrelated prompts add noise: lower
    `temperature`. A step without another prompt teaches nothing if not paired.

    Columns: prompts with `chosen` and `rejected`. Rows may carry `weight`; a contrast has the mean of its two rows'.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t), e_i the embedding of prompt i [D],
    chosen i of M and rejected j of N in the whole step (all micro-batches and processes), d, W, L [M, N]:

        d_ij = 1 - cos(e_i, e_j)
        W_ij = softmax_j(-d_ij / temperature)                    over the j that i meets; times their number if scaled
        L    = mean_ij -log sigmoid(beta W_ij (D(chosen_i) - D(rejected_j)))

    The weight stands inside the sigmoid, as in the authors' code. One pair in a step: `dpo`. Temperature to 0 with
    unlike prompts: `dpo` among M - 1 constants log 2. Temperature to infinity: all alike.

    Embeddings: the paper's come from a sentence encoder: `embedder: sentence-transformers/all-MiniLM-L6-v2`, which
    reads each prompt as text, as the chat template writes it. By default they are the untouched model's own: final
    hidden states averaged over the prompt's tokens, less the mean of all prompts, because a language model's states all
    point much the same way and their distances would say little.

    Paper's settings: learning rate 5e-7 with RMSprop, 150 warm-up steps, 1 epoch; temperatures 0.25, 0.5, 0.75.
    """

    paper: ClassVar[str] = "Yin et al. 2024, arXiv 2402.10958"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-7, None, 1.0, 64, "Yin et al. 2024")
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="How strongly the reference is held on to.")
    temperature: float = Field(0.5, gt=0, description="How fast weights fall with the prompts' distance (tau).")
    paired: bool = Field(True, description="false: only answers to different prompts meet.")
    scaled: bool = Field(False, description="Weights times their number, so that beta means the same in larger steps.")
    embedder: str | None = Field(None, description="A sentence-transformers model (extra `embed`); none: the model.")

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        embeddings = (
            directions_by_model(policy, batches)
            if self.embedder is None
            else directions_by_encoder(self.embedder, policy, batches)
        )
        for batch, prompt_embeddings in embeddings:
            store.rows["prompts"].set_values(batch, prompt_embeddings.repeat_interleave(2, 0), by="sequence")

    def step_statistics(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        gains = self.score_pairs(policy, batch).gains  # [R, 2]
        prompts = policy.store.rows["prompts"].get_values(batch, by="sequence")[batch.roles == 0]  # [R, D]
        return {"chosen": gains[:, 0], "rejected": gains[:, 1], "prompts": prompts, "weights": row_weights(batch)}

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        batch, gains = pairs.batch, pairs.gains  # [R, 2]
        step, mine = batch.step_values, batch.step_values["chosen"].mine
        weights, meets = contrast_weights(step["prompts"].all.float(), self.temperature, self.paired)  # [M, N]
        scale = meets.sum(1, keepdim=True) if self.scaled else 1
        chosen, rejected = (
            insert_own_values(step["chosen"].all, gains[:, 0], mine),
            insert_own_values(step["rejected"].all, gains[:, 1], mine),
        )
        w = step["weights"].all
        # Divided by `counts` over the step, M rows, what remains is the mean over the contrasts.
        share = len(meets) / meets.sum().clamp_min(1)
        each = contrast_losses(chosen, rejected, weights * scale, self.beta) * (w[:, None] + w) / 2 * meets * share
        # The gradient of a contrast goes to both its micro-batches, its value to that of its chosen answer only.
        total = each.sum()
        total = each[mine].sum().detach() + (total - total.detach())
        own = {"weights/own": (weights.diagonal()[mine].sum().item(), float(batch.n_rows))} if self.paired else {}
        return Comparison({"preference": total}, self.beta * gains, own)


def contrast_weights(prompts: Tensor, temperature: float, include_same_prompt: bool = True) -> tuple[Tensor, Tensor]:
    """W [M, M] from unit embeddings `prompts` [M, D], and who meets whom; rows sum to 1, or 0 where one meets none."""
    import torch

    distances = 1 - prompts @ prompts.T
    meets = torch.ones_like(distances, dtype=torch.bool)
    if not include_same_prompt:
        meets = (distances > SAME).fill_diagonal_(False)
    scores = (-distances / temperature).masked_fill(~meets, torch.finfo(distances.dtype).min)
    return scores.softmax(1) * meets, meets


def contrast_losses(chosen: Tensor, rejected: Tensor, weights: Tensor, beta: float) -> Tensor:
    """The loss [M, N] of each contrast from D `chosen` [M], `rejected` [N] and `weights` [M, N]."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * weights * (chosen[:, None] - rejected))


def insert_own_values(step_values: Tensor, own: Tensor, mine: slice) -> Tensor:
    """The step's figures `found`, with one's own [R], which have a gradient, in their places."""
    import torch

    return torch.cat([step_values[: mine.start], own, step_values[mine.stop :]])
