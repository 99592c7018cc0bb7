"""Reward models: preferences that were never seen, told from those that were."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above
from holdfast.lab.reproduce.tables import seeded_generator

FEATURES, PAIRS = 16, 400


def _measure_rewards(seed: int) -> dict[str, float]:
    """Answers of 16 features and a hidden worth; labels drawn by Bradley and Terry, so that nobody is always right."""
    import torch

    from holdfast.methods.objectives.preference.reward import bradley_terry_losses

    generator = seeded_generator(seed)
    worth = torch.randn(FEATURES, generator=generator, dtype=torch.float64) * 0.5
    pairs = torch.randn(2 * PAIRS, 2, FEATURES, generator=generator, dtype=torch.float64)  # [P, 2, F]
    chance = ((pairs[:, 0] - pairs[:, 1]) @ worth).sigmoid()
    first = torch.rand(2 * PAIRS, generator=generator, dtype=torch.float64) < chance
    train, test = torch.where(first[:, None, None], pairs, pairs.flip(1)).chunk(2)
    head = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([head], max_iter=100)

    def close_step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = bradley_terry_losses(train @ head).mean()
        loss.backward()
        return loss

    optimizer.step(close_step)  # type: ignore[arg-type]  # the stub wants a number; torch takes the tensor
    by_head, by_worth = ((test @ weight.detach()).diff(dim=1)[:, 0] < 0 for weight in (head, worth))
    return {
        "learned": by_head.double().mean().item(), "best": by_worth.double().mean().item(), "chance": 0.5,
        "most": by_worth.double().mean().item() - 0.05,
        "direction": torch.cosine_similarity(head.detach(), worth, 0).item(),
    }  # fmt: skip


REWARD = Study(
    claim="A reward learned from pairs tells the better of two answers it has not seen nearly as well as can be.",
    paper="Ouyang et al. 2022, arXiv 2203.02155",
    measure=_measure_rewards,
    figures=(
        ("held-out pairs ranked as labelled", "69.6 % to 72.4 % (labellers agree on 72.6 %)", "learned"),
        ("the same by the worth that drew the labels", "not known", "best"),
        ("cosine of what was learned and that worth", "not known", "direction"),
    ),
    expects=(
        quantity_above("learned", "chance", "it tells the better answer"),
        quantity_above("learned", "most", "it is less than five points behind the best there is"),
    ),
)
