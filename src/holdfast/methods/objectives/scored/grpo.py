"""GRPO: several scored answers to a prompt, each raised or lowered by how much better it is than the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.data.row_shapes import Column
from holdfast.methods.objectives.terms.labels import label_weights
from holdfast.methods.objectives.terms.pairs import row_indices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from holdfast.axes.curator import Curator
    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


class GRPO(Objective):
    """Group-relative policy optimisation of answers that were scored. [Shao et al. 2024, 2402.03300]

    What it does: an answer better than the others to its prompt becomes likelier, a worse one less likely, in
    proportion to its distance from the group's mean score; no token's probability is pushed further than a clip range
    away from where it began, which is what holds the model near itself.

    When it helps: a judge can score answers and the model is right sometimes. All samples are used, right and wrong,
    where `dpo` takes two and `rft` the right ones. With curator `pairs` (`n`: the group; `temperature: 1`, as
    probabilities are taken here) the answers are the model's own; stages of these two are rounds of reinforcement
    learning, each from the last one's model.

    When it fails: groups whose answers are all equally good teach nothing; answers of others, whose probabilities are
    not the untouched model's, are only nudged; many epochs on the same answers end at the clip range.

    Columns: prompts with `answers` (a list of texts) and `scores` (as many numbers); groups may differ in size. Pairs
    are groups of two.

    Formula, for answer i of a group of G with score s_i and n_i tokens; p_0 is the untouched model, which wrote them:

        A_i   = (s_i - mean s) / (std s + 1e-4)      std with G - 1; scale=false: s_i - mean s
        d_it  = log p(y_it | x, y_i<t) - log p_0(y_it | x, y_i<t)
        r_it  = exp d_it                             level="token"
                exp(1/n_i sum_t d_it)                level="sequence" (GSPO) [Zheng et al. 2025, 2507.18071]
        l_it  = - min(r A_i, clamp(r, 1 - clip, 1 + clip_high) A_i) + beta k_it
        k_it  = exp(-d_it) - 1 + d_it                correct=true: times r_it [DeepSeek-AI 2025, 2512.02556]

        L     = mean_i 1/n_i sum_t l_it              reduction="sequence", as printed
                sum_it l_it / sum_i n_i              reduction="token" (DAPO) [Yu et al. 2025, 2503.14476]
                sum_it l_it / (answers * longest)    reduction="constant" (Dr. GRPO) [Liu et al. 2025, 2503.20783]

    The last two papers: clip_high 0.28 and beta 0; scale=false and beta 0. GSPO: clip 3e-4, clip_high 4e-4. TRL:
    "token" with beta 0, and `correct` where beta is not; its "bnpo" is "token" over each micro-batch, here over the
    step.

    Paper's settings (Section 4.2): beta 0.04, 64 answers a prompt, rate 1e-6 for 7B, batches of 1,024 answers: 16 rows.
    """

    paper: ClassVar[str] = "Shao et al. 2024, arXiv 2402.03300"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(1e-6, None, 1.0, 16, "Shao et al. 2024")
    rows: ClassVar[Kind] = "group"
    needs_reference: ClassVar[bool] = True

    clip: float = Field(0.2, gt=0, lt=1, description="How far below 1 a ratio of probabilities is followed.")
    clip_high: float | None = Field(None, gt=0, description="How far above 1; default: as far as below.")
    beta: float = Field(0.04, ge=0, description="Weight of the divergence from the untouched model.")
    correct: bool = Field(False, description="Weigh the divergence by the ratio, so that its gradient has no bias.")
    scale: bool = Field(True, description="Divide a group's advantages by the standard deviation of its scores.")
    level: Literal["token", "sequence"] = Field("token", description="What has a ratio: a token, or an answer (GSPO).")
    reduction: Literal["sequence", "token", "constant"] = Field(
        "sequence", description="Every answer counts alike, every token, or tokens by a constant: see the formula."
    )
    longest: int = Field(512, gt=0, description="Tokens of the longest answer, for reduction constant.")

    @model_validator(mode="after")
    def _correct_is_used(self) -> Self:
        if self.correct and not self.beta:
            raise ValueError("correct has no effect without beta; leave it out")
        return self

    def find_recipe_problem(self, curators: Sequence[Curator], sampling: Any) -> str | None:
        temperatures = [getattr(curator, "temperature", 1.0) for curator in curators if curator.effect == "pair"]
        if not temperatures or (temperatures[-1] == 1 and sampling.top_p == 1 and not sampling.top_k):
            return None
        return (
            "takes answers for samples of the model as it is, but they are drawn at temperature "
            f"{temperatures[-1]:g}, top_p "
            f"{sampling.top_p:g}, top_k {sampling.top_k}; set curate: {{name: pairs, temperature: 1}}, top_p 1, top_k 0"
        )

    def value_columns(self) -> tuple[Column, ...]:
        return (Column("scores", each=True),)

    def normalizers(self, batch: Batch) -> dict[str, float]:
        constant = float(batch.n_sequences * self.longest)
        count = {"sequence": batch.n_sequences, "token": batch.weight, "constant": constant}[self.reduction]
        return {"policy": count, "divergence": count} if self.beta else {"policy": count}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        logratios = policy.token_logps(batch) - policy.reference_logps(batch)  # [N]
        advantage = group_advantages(batch.values["scores"], row_indices(batch), self.scale)[batch.sequence]  # [N]
        ratio = (logratios if self.level == "token" else sequence_means(logratios, batch)).exp()
        high = self.clip if self.clip_high is None else self.clip_high
        weights = label_weights(batch, "sequence" if self.reduction == "sequence" else "token")
        kl = kl_estimates(logratios) * (ratio if self.correct else 1)
        sums = {"policy": (clipped_surrogate(ratio, advantage, self.clip, high) * weights).sum()}
        if self.beta:
            sums["divergence"] = self.beta * (kl * weights).sum()
        is_clipped = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - self.clip))
        tokens = float(len(logratios))
        metrics = {
            "ratio/clipped": (is_clipped.sum().item(), tokens),
            "kl/answers": (kl.detach().sum().item(), tokens),
        }
        return Losses(sums, metrics)


def group_advantages(scores: Tensor, group: Tensor, scale: bool = True) -> Tensor:
    """How much better than its group's mean each of the `scores` [S] is; `group` [S] counts from 0."""
    values, count = scores.double(), group.bincount()  # in fp32 equal scores may differ from their mean
    means = values.new_zeros(len(count)).index_add(0, group, values) / count
    above = values - means[group]
    if scale:
        squares = values.new_zeros(len(count)).index_add(0, group, above.square())  # [groups]
        above = above / ((squares / (count - 1).clamp_min(1)).sqrt()[group] + 1e-4)
    return above.to(scores.dtype)


def sequence_means(values: Tensor, batch: Batch) -> Tensor:
    """For each label [N], the mean of `values` [N] over the labels of its sequence."""
    return (batch.sum_per_sequence(values) / batch.label_counts())[batch.sequence]


def clipped_surrogate(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """The clipped loss of each token: no more is won where the ratio has left 1 - low to 1 + high the right way."""
    import torch

    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def kl_estimates(logratios: Tensor) -> Tensor:
    """exp(-d) - 1 + d of log-ratios d: never negative, and KL(p || p_0) in the mean over samples of p."""
    import torch

    return torch.expm1(-logratios) + logratios
