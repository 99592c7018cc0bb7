"""Prompt distillation: answer without a document as the model itself does with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.top_k import check_store_size, compute_base_distributions, top_k_divergence

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore


class PromptDistillation(Objective):
    """Prompt distillation: the model without a document imitates itself with it. [Kujanpaa et al. 2024, 2412.14964]

    What it does: the untouched model reads document, question and answer; the model in training reads question and
    answer only, and learns the whole distribution the other has at each answer token. What the document said moves
    into the weights, and since the teacher is the model itself, little else moves.

    When it helps: new facts (manuals, policies, news) that must be known without retrieval; long system prompts to be
    got rid of. In the paper it beats `sft` on the same answers, and matches retrieval.

    When it fails: a model that cannot answer with the document in front of it; few questions per document (the paper
    asks 30, sampled at temperature 1.5, with answers of the teacher at the same: coverage, which the divergence
    corrects). Drop answers cut off at the length limit: their end is no end.

    Columns: conversations with answers, and `context`: what stands before the last question for the teacher. A row
    without context holds the model where it was.

    Formula, with q the question, d the document, a the answer, T = temperature, p the model, p0 the untouched model:

        t_i = p0( . | d, q, a_<i ; T)      s_i = p( . | q, a_<i ; T)         [V] each, at the same answer token
        L   = sum_i w_i KL(t_i || s_i) / sum_i w_i                           reverse: KL(s_i || t_i)

    Shapes: KL is [N], one entry per answer token of the student. Of t_i the `top` likeliest tokens are kept, and the
    rest as one event (`tail`; without it both are renormalised over the top): exact for this coarser view, hence a
    lower bound. No factor T^2: it only matters beside another loss. Kept once, 4 (2 top + 1) bytes per answer token.

    The paper's student is a LoRA; a derivative of its code, whose defaults these are, has rank 1024, alpha 2048,
    dropout 0.05, learning rate 1e-5, 10 epochs. TRL's experimental `sdft` keeps the student's top, without a tail.
    """

    paper: ClassVar[str] = "Kujanpaa et al. 2024, arXiv 2412.14964"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        1e-5, 1e-4, 10.0, 64, "a derivative of the authors' code, with an adapter of rank 1024; smaller ones as sft"
    )
    rows: ClassVar[Kind] = "taught"

    temperature: float = Field(2.0, gt=0, description="Of teacher and student; above 1 the unlikely tokens count more.")
    top: int = Field(100, ge=0, description="Tokens kept of the teacher's distribution; 0 = the whole vocabulary.")
    tail: bool = Field(True, description="All other tokens count as one; false: renormalise over the kept ones.")
    reverse: bool = Field(False, description="KL(student || teacher): seek the teacher's modes, not all it may say.")

    def sequences_per_step(self) -> int | None:
        return 1

    def shares_prompts(self) -> bool:
        return False

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"kl": batch.count_labels(0)}

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        check_store_size(policy, batches, self.top, 1)
        for batch in batches():
            # The answer is the same, so the teacher's labels are the student's, one by one.
            teacher = compute_base_distributions(policy, batch.select_roles(1), self.top, self.temperature)
            store.rows["teacher"].set_values(batch.select_roles(0), teacher)

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        student = batch.select_roles(0)
        teacher = policy.store.rows["teacher"].get_values(student)  # [N, 2 top + 1]

        def teacher_divergence(logits: Tensor, part: slice) -> Tensor:
            return top_k_divergence(teacher[part], logits, self.top, self.temperature, self.tail, self.reverse)

        return Losses({"kl": (policy.over_vocabulary(student, teacher_divergence) * student.weights).sum()})
