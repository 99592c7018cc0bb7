"""UFT: demonstrations and scored answers in one stage, against one after the other, on a log-linear policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above
from holdfast.lab.reproduce.without_reference import STEPS, mean_of, minimise_loss

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS, ANSWERS, FEATURES = 48, 8, 32
"""Of each of two tasks, demonstrations and scored answers; fewer features than prompts, so that the tasks collide."""


def _draw_world(seed: int, agreement: float) -> tuple[Tensor, ...]:
    """Features of prompts taught, judged and fresh, [P, A, F] each, the base [F], gold [P], said [P], scores [P], and
    what makes an answer score [F].

    Args:
        agreement: Cosine between what makes an answer right and what makes it score; 0: two tasks that collide.
    """
    import torch

    from holdfast.lab.reproduce.tables import seeded_generator

    random = seeded_generator(seed)
    sizes = [(PROMPTS, ANSWERS, FEATURES)] * 3 + [(FEATURES,)] * 3
    tensors = [torch.randn(size, generator=random, dtype=torch.float64) for size in sizes]
    taught_features, scored_features, fresh, base, teacher, quality = tensors
    quality = agreement * teacher + (1 - agreement**2) ** 0.5 * quality
    base, quality = 0.3 * base, quality / FEATURES**0.5
    gold = (taught_features @ teacher).argmax(-1)
    scored_answers = torch.randint(ANSWERS, (PROMPTS,), generator=random)
    scores = torch.sigmoid(2 * scored_features[torch.arange(PROMPTS), scored_answers] @ quality)
    return taught_features, scored_features, fresh, base, gold, scored_answers, scores, quality


def _measure_joint_training(seed: int, beta: float, agreement: float = 0.0) -> dict[str, float]:
    """Demonstrations and scored answers taught to one log-linear policy, together or one after the other.

    Args:
        beta: Of UNA and UFT.
        agreement: Of the scores with what is taught (`_draw_world`).
    """
    import torch
    from torch.nn.functional import nll_loss

    from holdfast.lab.reproduce.tables import rank_correlation
    from holdfast.methods.objectives.scored.una import score_losses

    taught_features, scored_features, fresh, base, gold, scored_answers, scores, quality = _draw_world(seed, agreement)
    rows = torch.arange(PROMPTS)

    def policy_logps(theta: Tensor, features: Tensor) -> Tensor:
        return (features @ theta).log_softmax(-1)  # [P, A]

    def una_loss(theta: Tensor, start: Tensor, features: Tensor, answers: Tensor, goal: Tensor) -> Tensor:
        gains = policy_logps(theta, features) - policy_logps(start, features)
        return score_losses(gains[rows, answers], goal, beta).mean()

    def sft_loss(theta: Tensor) -> Tensor:
        return nll_loss(policy_logps(theta, taught_features), gold)

    def demonstration_loss(theta: Tensor) -> Tensor:
        return una_loss(theta, base, taught_features, gold, torch.ones_like(scores))

    def alignment_loss(theta: Tensor, start: Tensor) -> Tensor:
        return una_loss(theta, start, scored_features, scored_answers, scores)

    first = minimise_loss(base, sft_loss, STEPS, 0.01)
    ends = {
        "sft": (first, base),
        "alone": (minimise_loss(base, demonstration_loss, STEPS, 0.01), base),
        "sequential": (minimise_loss(first, lambda theta: alignment_loss(theta, first), STEPS, 0.01), first),
        # Rows of both in equal number, and the steps of both stages.
        "joint": (
            minimise_loss(
                base, lambda theta: (demonstration_loss(theta) + alignment_loss(theta, base)) / 2, 2 * STEPS, 0.01
            ),
            base,
        ),
    }
    out = {}
    for name, (theta, start) in ends.items():
        out[f"{name} kept"] = 100 * policy_logps(theta, taught_features).exp()[rows, gold].mean().item()
        log_ratios = policy_logps(theta, fresh) - policy_logps(start, fresh)
        out[f"{name} rank"] = rank_correlation(log_ratios[:, 0], fresh[:, 0] @ quality)
    return out


OTHER_BETAS = (0.03, 0.1, 0.5)
"""Beside the paper's."""
AGREEMENT = 0.7


def _measure_stages(seed: int) -> dict[str, float]:
    """The same with the paper's beta, with others, and with scores that agree with the demonstrations."""
    from holdfast.methods.objectives.scored.uft import UFT as Objective

    beta = Objective().beta
    out = _measure_joint_training(seed, beta)
    for other in OTHER_BETAS:
        out |= {f"{name} at {other}": value for name, value in _measure_joint_training(seed, other).items()}
    return out | {f"{name}, agreeing": value for name, value in _measure_joint_training(seed, beta, AGREEMENT).items()}


UFT = Study(
    claim="Demonstrations and scored answers in one stage keep what the demonstrations taught better than SFT followed "
    "by alignment.",
    paper="Wang et al. 2024, arXiv 2410.21438",
    measure=_measure_stages,
    figures=(
        ("probability of taught answers, SFT alone, %", "29.87 (leaderboard)", "sft kept"),
        ("probability of taught answers, UFT on demonstrations alone, %", "30.09 (leaderboard)", "alone kept"),
        ("probability of taught answers, SFT then UNA, %", "29.16 (leaderboard)", "sequential kept"),
        ("probability of taught answers, UFT, %", "32.81 (leaderboard)", "joint kept"),
        *(
            (f"the same, {what}, beta {beta}, %", "not tried", f"{name} kept at {beta}")
            for beta in OTHER_BETAS
            for what, name in (("SFT then UNA", "sequential"), ("UFT", "joint"))
        ),
        (
            "the same, SFT then UNA, scores that agree with the demonstrations, %",
            "nearest",
            "sequential kept, agreeing",
        ),
        ("the same, UFT, scores that agree with what is taught, %", "nearest", "joint kept, agreeing"),
    ),
    expects=(quantity_above("joint kept", "sequential kept", "one stage keeps more of what was taught", by=2.0),),
    verdict=lambda values: (
        f"With the paper's beta, 0.01: SFT taught {mean_of(values['sft kept']):.0f} %; alignment after it left "
        f"{mean_of(values['sequential kept']):.0f} %, one stage {mean_of(values['joint kept']):.0f} %. It is a matter "
        f"of beta: with 0.5 two stages leave {mean_of(values['sequential kept at 0.5']):.0f} % and one "
        f"{mean_of(values['joint kept at 0.5']):.0f} %, since a demonstration's target of 1 then pulls for ever."
    ),
)

UFT_SCORES = Study(
    claim="Demonstrations and scored answers in one stage align no worse with the scores than SFT followed by "
    "alignment.",
    paper="Wang et al. 2024, arXiv 2410.21438",
    measure=_measure_stages,
    figures=(
        ("rank correlation with fresh scores, SFT then UNA", "not given", "sequential rank"),
        ("rank correlation with fresh scores, UFT", "not given", "joint rank"),
        ("the same, SFT then UNA, scores that agree with what is taught", "nearest", "sequential rank, agreeing"),
        ("the same, UFT, scores that agree with what is taught", "nearest", "joint rank, agreeing"),
    ),
    expects=(quantity_above("joint rank", "sequential rank", "one stage aligns no worse", by=-0.05),),
    verdict=lambda values: (
        f"Fresh scores are ranked at {mean_of(values['sequential rank']):.2f} by two stages and "
        f"{mean_of(values['joint rank']):.2f} by one, where the scored task has nothing to do with the taught one "
        f"and collides with it; at {mean_of(values['sequential rank, agreeing']):.2f} and "
        f"{mean_of(values['joint rank, agreeing']):.2f} where they agree, as answers that people score mostly do."
    ),
)
