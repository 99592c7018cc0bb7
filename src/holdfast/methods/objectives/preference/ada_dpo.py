"""Ada-DPO: preference pairs, each with a temperature of its own."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs

if TYPE_CHECKING:
    from torch import Tensor


LN2 = math.log(2)


class AdaDPO(PairObjective):
    """DPO with adaptive scaling: wide margins for clear pairs, narrow for unclear. [Hong et al. 2024, 2406.02764]

    What it does: every pair finds its own scale tau, the one at which its loss is least: the larger its margin already
    is, the larger tau. Pairs that keep agreeing are driven on with a force that does not fade; pairs that contradict
    each other, so that their margin stays small, are held near the reference.

    When it helps: data where some preferences are plain and others a toss-up, and nothing says which.

    When it fails: clear but wrong labels are driven on too; with tau_max = 5 margins grow to five times those of `dpo`.

    Columns: prompts with `chosen` and `rejected`. Rows may carry `weight`.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t), d = beta (D(chosen) - D(rejected)),
    ls = log sigmoid, H the entropy of a coin in nats; D [pairs, 2], d and tau [pairs]; mean over pairs:

        linear     L = min over tau in [tau_min, tau_max] of  -tau ls(d / tau) + (rho - ln 2) tau
        quadratic  L = min over tau >= tau_min of             -tau ls(d / tau) + rho tau^2 - ln 2 tau

    tau is a constant in the gradient, which is exact: at the minimum, moving tau changes nothing. The whole of L is
    reported, not its first part alone as in the authors' code, for that part *rises* while clear pairs are learned.

    solver="closed" gives the minimum: for linear, tau = clip(|d| / z, tau_min, tau_max) with H(sigmoid(z)) = ln 2 - rho
    (z = 0.943 for rho = 0.1), between the bounds L = -d sigmoid(-z) or -d sigmoid(z), straight lines; rho >= ln 2
    leaves tau = tau_min. For quadratic, the root of H(sigmoid(d / tau)) + 2 rho tau = ln 2, by bisection.
    solver="newton" is the published algorithm: `steps` projected Newton steps from tau = 1. It does not converge for
    small |d|, where all training starts: far from the minimum the curvature is too small, and tau jumps between its
    bounds. Of all |d| <= 1, 18 % end more than 5 % off with rho = 0.2 and 38 % with rho = 0.4, however many the steps;
    with rho = 0.1 none after 5 steps, 38 % after 3. For quadratic it converges.

    Over labels that say "chosen" in a share p, the margin of linear ends at d = tau logit(p) with tau = tau_min if
    H(p) > ln 2 - rho, else tau_max. tau_min = tau_max = 1 is `dpo`.

    Paper's settings: beta 0.1, rho 0.1, tau in [0.1, 5], LoRA r = 64, learning rate 5e-5; the authors' code takes
    5 Newton steps (its README says 3) and rho 0.2 unless told otherwise. AdaDPO of 2605.28440 is another method.
    """

    paper: ClassVar[str] = "Hong et al. 2024, arXiv 2406.02764"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        5e-6, 5e-5, 1.0, 64, "Hong et al. 2024 (adapters); base weights a tenth"
    )
    needs_reference: ClassVar[bool] = True

    form: Literal["linear", "quadratic"] = Field("linear", description="How tau is paid for: see the formula.")
    beta: float = Field(0.1, gt=0, description="Scale of the margins before tau.")
    rho: float = Field(0.1, gt=0, description="Price of tau: with a larger one, fewer pairs count as clear.")
    tau_min: float = Field(0.1, gt=0, description="Scale of unclear pairs.")
    tau_max: float = Field(5.0, gt=0, description="Scale of the clearest pairs (linear only).")
    solver: Literal["closed", "newton"] = Field("closed", description="closed: the minimum; newton: as published.")
    steps: int = Field(5, ge=1, description="Newton steps (newton only).")

    @model_validator(mode="after")
    def _knobs_fit(self) -> Self:
        if self.form == "linear" and self.tau_min > self.tau_max:
            raise ValueError(f"tau_min {self.tau_min:g} is above tau_max {self.tau_max:g}")
        if self.form == "quadratic" and self.tau_max != 5.0:
            raise ValueError("tau_max has no effect on quadratic; leave it out")
        if self.solver == "closed" and self.steps != 5:
            raise ValueError("steps has no effect on the closed solver; use newton")
        return self

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        d = self.beta * (pairs.gains[:, 0] - pairs.gains[:, 1])
        high = self.tau_max if self.form == "linear" else math.inf
        steps = self.steps if self.solver == "newton" else None
        tau = solve_scales(d.detach(), self.rho, self.form == "quadratic", self.tau_min, high, steps)
        each = scaled_losses(d, tau, self.rho, self.form == "quadratic")
        metrics = {"tau": (tau.sum().item(), float(len(tau)))}
        return Comparison({"preference": pairs.weighted_sum(each)}, self.beta * pairs.gains, metrics)


def scaled_losses(d: Tensor, tau: Tensor, rho: float, quadratic: bool = False) -> Tensor:
    """The loss [P] of each pair from its margin `d` [P] and scale `tau` [P]."""
    from torch.nn.functional import logsigmoid

    return -tau * logsigmoid(d / tau) + (rho * tau - LN2 if quadratic else rho - LN2) * tau


def solve_scales(d: Tensor, rho: float, quadratic: bool, low: float, high: float, steps: int | None = None) -> Tensor:
    """tau [P] for margins `d` [P]: the best in [low, high], or what `steps` projected Newton steps make of it."""
    if steps is not None:
        return _run_newton_steps(d, rho, quadratic, low, high, steps)
    if not quadratic:
        return (d.abs() / solve_margin_threshold(rho)).clamp(low, high)
    least = d.new_full(d.shape, low)
    most = d.new_full(d.shape, max(low, LN2 / (2 * rho)))  # the slope there is positive whatever d
    for _ in range(50):
        tau = (least + most) / 2
        rises = binary_entropy(d / tau) + 2 * rho * tau > LN2
        least, most = least.where(rises, tau), tau.where(rises, most)
    return (least + most) / 2


def _run_newton_steps(d: Tensor, rho: float, quadratic: bool, low: float, high: float, steps: int) -> Tensor:
    tau = d.new_ones(d.shape)
    for _ in range(steps):
        z = d / tau
        slope = binary_entropy(z) + (2 * rho * tau if quadratic else rho) - LN2
        curvature = z.square() * z.sigmoid() * (-z).sigmoid() / tau + (2 * rho if quadratic else 0.0)
        tau = (tau - slope / curvature.clamp_min(1e-6)).clamp(low, high)
    return tau


def binary_entropy(z: Tensor) -> Tensor:
    """H(sigmoid(z)) in nats."""
    from torch.nn.functional import logsigmoid

    return z * (-z).sigmoid() - logsigmoid(z)


@lru_cache
def solve_margin_threshold(rho: float) -> float:
    """The z > 0 with H(sigmoid(z)) = ln 2 - rho: margins of z tau keep tau where it is; infinite for rho >= ln 2."""
    if rho >= LN2:
        return math.inf
    least, most = 0.0, 100.0
    for _ in range(80):
        z = (least + most) / 2
        above = z / (1 + math.exp(z)) + math.log1p(math.exp(-z)) > LN2 - rho
        least, most = (z, most) if above else (least, z)
    return (least + most) / 2
