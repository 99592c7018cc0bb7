"""The clipped policy gradient on rollouts: the loss of PPO and of all that followed it, but for who gets the credit."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.scored.grpo import clipped_surrogate, kl_estimates, sequence_means
from holdfast.methods.objectives.terms.labels import label_weights

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


class PolicyGradient(Objective):
    """Policy gradient with clipped ratios, on the model's own rollouts. [Schulman et al. 2017, arXiv 1707.06347]

    What it does: raises the probability of tokens with positive advantage and lowers that of the others, no further
    than `clip` from the policy that wrote them. What a token is worth comes with it (`credit`); with `value_weight` a
    value head learns the returns beside it.

    When it helps: a reward that can be computed for any answer, and a model that earns it sometimes.

    When it fails: rewards that are nearly always the same teach nothing; far from the policy that wrote an answer the
    clip range stops all learning from it.

    Columns: none; batches hold `advantages` and `behaviour` (the log-probabilities of the policy that wrote the tokens;
    none: it is this one) for each label, and with a value head `returns` and `old_values`.

    Formula, for label t of an answer with n labels; l is its log-probability, b that when it was written, l_0 that of
    the untouched model; advantage A:

        rho = exp(l - b)                             level="token"
              exp(mean of l - b over the answer)     level="sequence" (GSPO) [Zheng et al. 2025, 2507.18071]
              exp(sum of l - b over the answer)      level="answer" (RLOO) [Ahmadian et al. 2024, 2402.14740]
        loss = -min(rho A, clamp(rho, 1 - clip, 1 + clip_high) A)
               A < 0 with dual_clip c: at most -c A [Ye et al. 2019, 1912.09729]
               sg(min(rho, 1 + clip_high)) (-A) l    surrogate="cispo" [MiniMax 2025, 2506.13585]
             + beta k      d = l - l_0; k2: d^2 / 2, k3: exp(-d) - 1 + d, "ratio_k3": times rho
             + value_weight / 2 max((V - R)^2, (clamp(V, V_old +- value_clip) - R)^2)

    The mean is over answers of their mean ("sequence"), over tokens ("token", DAPO), or over `longest` tokens for every
    answer ("constant", Dr. GRPO). As a loss k1 would have no gradient in the mean, k2 has that of KL(p || p_0), k3 that
    of KL(p_0 || p): another optimum.

    Paper's settings: clip 0.2; RLHF: value_weight 0.1, value_clip 0.2.
    """

    paper: ClassVar[str] = "Schulman et al. 2017, arXiv 1707.06347"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(1e-6, None, 1.0, 1024, "Shao et al. 2024")
    rows: ClassVar[Kind] = "prompt"
    needs_rollouts: ClassVar[bool] = True

    clip: float = Field(0.2, gt=0, lt=1, description="How far below 1 a ratio of probabilities is followed.")
    clip_high: float | None = Field(None, gt=0, description="How far above 1; default: as far as below.")
    dual_clip: float | None = Field(None, gt=1, description="Largest ratio that counts for a negative advantage.")
    surrogate: Literal["clip", "cispo"] = Field("clip", description="The clipped surrogate, or clipped weights.")
    level: Literal["token", "sequence", "answer"] = Field(
        "token", description="What has a ratio: a token, an answer in the mean of its tokens (GSPO), or as a whole."
    )
    reduction: Literal["sequence", "token", "constant"] = Field(
        "token", description="Every answer counts alike, every token, or tokens by a constant."
    )
    longest: int = Field(512, gt=0, description="Tokens of the longest answer, for reduction constant.")
    beta: float = Field(0.0, ge=0, description="Weight of the divergence from the untouched model, in the loss.")
    divergence: Literal["k2", "k3", "ratio_k3"] = Field("k2", description="How it is estimated: see the formula.")
    value_weight: float = Field(0.0, ge=0, description="Weight of the value head's loss; 0: there is no value head.")
    value_clip: float | None = Field(0.2, gt=0, description="How far a prediction may move from the old one at once.")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """The untouched model is asked where its divergence counts."""
        return self.beta > 0

    @property
    def needs_values(self) -> bool:  # type: ignore[override]
        """A value head is trained where its loss counts."""
        return self.value_weight > 0

    @model_validator(mode="after")
    def _knobs_are_used(self) -> Self:
        if self.dual_clip is not None and self.surrogate == "cispo":
            raise ValueError("dual_clip has no effect with surrogate cispo; leave it out")
        uses = (("divergence", "beta", self.beta), ("value_clip", "value_weight", self.value_weight))
        for knob, other, weight in uses:
            if not weight and getattr(self, knob) != type(self).model_fields[knob].default:
                raise ValueError(f"{knob} has no effect without {other}; set that, or leave it out")
        return self

    def normalizers(self, batch: Batch) -> dict[str, float]:
        most = float(batch.n_sequences * self.longest)
        count = {"sequence": batch.n_sequences, "token": batch.weight, "constant": most}[self.reduction]
        terms = {"policy": count} | ({"divergence": count} if self.beta else {})
        return terms | ({"value": batch.weight} if self.value_weight else {})

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        logps, advantages = policy.token_logps(batch), batch.token_values["advantages"]  # [N]
        # Without numbers of the policy that wrote the answers it is this one: the ratio is 1, and its gradient stays.
        away = logps - batch.token_values.get("behaviour", logps.detach())
        ratio = self._compute_ratios(away, batch)
        high = self.clip if self.clip_high is None else self.clip_high
        weights = label_weights(batch, "sequence" if self.reduction == "sequence" else "token")
        sums = {"policy": (self._surrogate_losses(ratio, logps, advantages, high) * weights).sum()}
        is_clipped = ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & (ratio < 1 - self.clip))
        tokens = float(len(logps))
        metrics = {
            "ratio/clipped": (is_clipped.sum().item(), tokens),
            "ratio/mean": (ratio.detach().sum().item(), tokens),
            "kl/behaviour": (kl_estimates(away.detach()).sum().item(), tokens),
        }
        if self.beta:
            logratios = logps - policy.reference_logps(batch)
            sums["divergence"] = self.beta * (self._estimate_divergences(logratios, ratio) * weights).sum()
            metrics["kl/reference"] = (kl_estimates(logratios.detach()).sum().item(), tokens)
        if self.value_weight:
            values = self._value_losses(policy.predict_values(batch), batch)
            sums["value"] = self.value_weight * (values * batch.weights).sum()
        return Losses(sums, metrics)

    def _compute_ratios(self, away: Tensor, batch: Batch) -> Tensor:
        if self.level == "token":
            return away.exp()
        if self.level == "sequence":
            return sequence_means(away, batch).exp()
        return batch.sum_per_sequence(away)[batch.sequence].exp()

    def _surrogate_losses(self, ratio: Tensor, logps: Tensor, advantages: Tensor, high: float) -> Tensor:
        """The policy's loss at each label, [N]."""
        import torch

        if self.surrogate == "cispo":
            return -ratio.detach().clamp_max(1 + high) * advantages * logps
        losses = clipped_surrogate(ratio, advantages, self.clip, high)
        if self.dual_clip is None:
            return losses
        return torch.where(advantages < 0, torch.minimum(losses, -self.dual_clip * advantages), losses)

    def _estimate_divergences(self, logratios: Tensor, ratio: Tensor) -> Tensor:
        if self.divergence == "k2":
            return logratios.square() / 2
        return kl_estimates(logratios) * (ratio if self.divergence == "ratio_k3" else 1)

    def _value_losses(self, values: Tensor, batch: Batch) -> Tensor:
        """Half the squared error of each prediction [N], which moves no further than `value_clip` at once."""
        import torch

        returns, old = batch.token_values["returns"], batch.token_values["old_values"]
        errors = (values - returns).square()
        if self.value_clip is not None:
            near = old + (values - old).clamp(-self.value_clip, self.value_clip)
            errors = torch.maximum(errors, (near - returns).square())
        return errors / 2
