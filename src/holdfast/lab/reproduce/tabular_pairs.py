"""IPO, soft labels, Ada-DPO and DavIR-DPO: preference pairs over tables of actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above, quantity_below
from holdfast.lab.reproduce.tables import random_policy, rank_correlation, seeded_generator, train_policy

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from holdfast.methods.objectives.preference.geometric import Form

Measurements = Mapping[str, list[float]]


def mean_of(values: list[float]) -> float:
    return sum(values) / len(values)


def _measure_ipo(seed: int) -> dict[str, float]:
    """Two actions with a known preference; then three in a strict order, every comparison agreeing."""
    import torch

    from holdfast.methods.objectives.preference.dpo import PairLoss, pair_losses

    tau, chance = 0.5, torch.tensor([0.6, 0.8, 0.95], dtype=torch.float64)  # one prompt each
    two, three = random_policy(3, 2, seed=seed), random_policy(3, seed=seed)
    order = torch.tensor([[0, 1], [1, 2], [0, 2]])

    def noisy_loss(logps: Tensor) -> Tensor:
        gains = logps - two  # [3, 2]
        ones = torch.ones_like(gains)
        right, wrong = (pair_losses(g, ones, "ipo_sum", tau) for g in (gains, gains.flip(1)))
        return (chance * right + (1 - chance) * wrong).sum()

    def train_ordered(loss: PairLoss, steps: int) -> Tensor:
        def certain_loss(logps: Tensor) -> Tensor:
            gains = (logps - three)[order]
            return pair_losses(gains, torch.ones_like(gains), loss, 1.0).sum()

        return train_policy(three, certain_loss, steps=steps)

    gains = train_policy(two, noisy_loss, steps=500) - two
    out = {"apart": (gains[:, 0] - gains[:, 1] - (2 * chance - 1) / (2 * tau)).abs().max().item()}
    losses: tuple[tuple[str, PairLoss], ...] = (("dpo", "sigmoid"), ("ipo", "ipo_sum"))
    for name, loss in losses:
        for steps in (300, 1200):
            gains = train_ordered(loss, steps) - three
            out[f"{name} {steps}"] = (gains[0] - gains[2]).item()
        out[f"{name} best"] = (gains[0] + three[0]).exp().item()
    return out


IPO = Study(
    claim="IPO's margins end at (2p - 1) / (2 tau); where labels never disagree DPO forgets its reference, IPO does "
    "not.",
    paper="Azar et al. 2023, arXiv 2310.12036",
    measure=_measure_ipo,
    figures=(
        ("largest distance of a margin from (2p - 1) / (2 tau), IPO", "0", "apart"),
        ("margin of best over worst of three actions, 300 steps, DPO (beta 1)", "grows without bound", "dpo 300"),
        ("the same, 1200 steps, DPO", "grows without bound", "dpo 1200"),
        ("the same, 300 steps, IPO (tau 1)", "2/3 (exact)", "ipo 300"),
        ("the same, 1200 steps, IPO", "2/3 (exact)", "ipo 1200"),
        ("probability of the best action in the end, DPO", "towards 1 for every beta", "dpo best"),
        ("probability of the best action in the end, IPO", "below 1, by tau", "ipo best"),
    ),
    expects=(
        quantity_below("apart", 1e-3, "IPO's margins end at (2p - 1) / (2 tau)"),
        quantity_above("dpo 1200", "dpo 300", "DPO's margin goes on growing", by=1.0),
        quantity_below("ipo 1200", "ipo 300", "IPO's does not", by=-1e-3),
    ),
    verdict=lambda values: (
        f"From 300 to 1200 steps DPO's margin goes from {mean_of(values['dpo 300']):.1f} to "
        f"{mean_of(values['dpo 1200']):.1f}, IPO's stays at {mean_of(values['ipo 1200']):.3f}."
    ),
)


def _run_bandit(seed: int, spread: float, beta: float, runs: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """100 actions on a line, a hill of reward, data about another place: mass on the hill, reward at the mode.

    Args:
        seed: Draws the comparisons.
        spread: Share of the data that is spread over all actions; the rest lies where rewards are low.
        beta: Of the objectives.
        runs: Steps of gradient descent by run, whose name begins with the form.
    """
    import torch

    from holdfast.methods.objectives.preference.geometric import geometric_losses

    place = torch.linspace(0, 1, 100, dtype=torch.float64)
    crowd, reward = (torch.exp(-((place - at) / 0.1).square() / 2) for at in (0.3, 0.75))
    data = (1 - spread) * crowd / crowd.sum() + spread / 100
    pairs = data.multinomial(4000, replacement=True, generator=seeded_generator(seed)).view(-1, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = pairs.gather(1, reward[pairs].argsort(1, descending=True))  # the better one is chosen
    label = (reward[pairs[:, 0]] - reward[pairs[:, 1]]).sigmoid()  # 0.5 to 0.73

    def train_form(form: Form, steps: int) -> Tensor:
        def geometric_loss(logps: Tensor) -> Tensor:
            gains = (logps - data.log())[pairs]
            return geometric_losses(gains[:, 0] - gains[:, 1], label, form, beta).mean()

        return train_policy(data.log(), geometric_loss, steps=steps, rate=10 / beta, adam=False).exp()

    out = {}
    for name, steps in runs.items():
        final = train_form("gdpo" if name.startswith("gdpo") else "cdpo", steps)
        out[name] = (final[reward > 0.5].sum().item(), reward[final.argmax()].item())
    return out


def _measure_geometric(seed: int) -> dict[str, float]:
    results = _run_bandit(seed, 0.5, 1.0, {"gdpo": 300, "cdpo": 300, "gdpo late": 3000})
    results |= _run_bandit(seed, 0.1, 1.0, {"gdpo rare": 300, "cdpo rare": 300})
    results |= _run_bandit(seed, 0.5, 0.1, {"gdpo free": 300, "cdpo free": 300})
    return {
        f"{name} {what}": value
        for name, both in results.items()
        for what, value in zip(("mass", "mode"), both, strict=True)
    }


GEOMETRIC = Study(
    claim="On a bandit of 100 actions with soft labels, GDPO moves its mass to high rewards, while conservative DPO "
    "keeps its mode where the data lie, at a low reward.",
    paper="Furuta et al. 2024, arXiv 2409.06691",
    measure=_measure_geometric,
    figures=(
        ("mass on high rewards, GDPO, 300 steps (beta 1)", "some (figure 1)", "gdpo mass"),
        ("mass on high rewards, conservative DPO", "not given", "cdpo mass"),
        ("reward at the mode, of at most 1, GDPO", "not given", "gdpo mode"),
        ("reward at the mode, conservative DPO", "low (figure 1)", "cdpo mode"),
        ("mass on high rewards, GDPO, 3000 steps", "not given", "gdpo late mass"),
        ("with high rewards in 2 % of the data: GDPO, 300 steps", "not given", "gdpo rare mass"),
        ("with high rewards in 2 % of the data: conservative DPO", "not given", "cdpo rare mass"),
        ("with beta 0.1: GDPO, 300 steps", "not given", "gdpo free mass"),
        ("with beta 0.1: conservative DPO", "not given", "cdpo free mass"),
    ),
    expects=(
        quantity_above("gdpo mass", "cdpo mass", "GDPO puts more on high rewards"),
        quantity_above("gdpo mode", 0.5, "GDPO's likeliest action has a high reward"),
        quantity_below("cdpo mode", 0.5, "conservative DPO's has a low one"),
    ),
    verdict=lambda values: (
        "Conservative DPO stands still at reference * exp(reward / beta), which is what it should find; GDPO has no "
        f"optimum and goes on ({mean_of(values['gdpo mass']):.2f} of its mass on high rewards after 300 steps, "
        f"{mean_of(values['gdpo late mass']):.2f} after 3000). With beta 0.1 conservative DPO gets there as well "
        f"({mean_of(values['cdpo free mass']):.2f}), and where high rewards are rare in the data GDPO is late too "
        f"({mean_of(values['gdpo rare mass']):.2f}). By plain gradient descent: Adam would "
        "move weakly pushed actions as fast as the others."
    ),
)


def _measure_ada_dpo(seed: int) -> dict[str, float]:
    """200 prompts of two actions; of 50 comparisons each, the first wins a share that goes from 0.55 to 0.99."""
    import torch

    from holdfast.methods.objectives.preference.ada_dpo import scaled_losses, solve_scales

    beta, rho = 0.1, 0.1
    low, high = torch.tensor([0.55, 0.99], dtype=torch.float64).logit().tolist()
    logit = torch.linspace(low, high, 10, dtype=torch.float64).repeat(20)  # [200]
    share = torch.binomial(torch.full_like(logit, 50), logit.sigmoid(), generator=seeded_generator(seed)) / 50
    reference = random_policy(200, 2, seed=seed)

    def compute_margins(logps: Tensor) -> Tensor:
        gains = logps - reference
        return beta * (gains[:, 0] - gains[:, 1])

    def compute_scales(d: Tensor) -> Tensor:
        return solve_scales(d.detach(), rho, False, 0.1, 5.0)

    def dpo_loss(logps: Tensor) -> Tensor:
        d = compute_margins(logps)
        one = torch.ones_like(d)
        return (share * scaled_losses(d, one, rho) + (1 - share) * scaled_losses(-d, one, rho)).sum()

    def ada_loss(logps: Tensor) -> Tensor:
        d = compute_margins(logps)
        return (
            share * scaled_losses(d, compute_scales(d), rho) + (1 - share) * scaled_losses(-d, compute_scales(d), rho)
        ).sum()

    out: dict[str, float] = {}
    for name, loss in (("dpo", dpo_loss), ("ada", ada_loss)):
        d = compute_margins(train_policy(reference, loss, steps=500, rate=0.2))
        levels = d.abs().view(20, 10).mean(0)
        out |= {f"{name} clear": levels[-1].item(), f"{name} unclear": levels[0].item()}
        out[f"{name} ratio"] = out[f"{name} clear"] / out[f"{name} unclear"]
    return out | {"rank": rank_correlation(compute_scales(d), logit)}


ADA_DPO = Study(
    claim="With a scale for each pair, clear preferences get wider and unclear ones narrower margins than by DPO.",
    paper="Hong et al. 2024, arXiv 2406.02764",
    measure=_measure_ada_dpo,
    figures=(
        ("margin (absolute) where the first wins 99 %, DPO", "smaller", "dpo clear"),
        ("margin (absolute) where the first wins 99 %, Ada-DPO", "larger", "ada clear"),
        ("margin (absolute) where the first wins 55 %, DPO", "larger", "dpo unclear"),
        ("margin (absolute) where the first wins 55 %, Ada-DPO", "smaller", "ada unclear"),
        ("clear by unclear, DPO", "smaller", "dpo ratio"),
        ("clear by unclear, Ada-DPO", "larger", "ada ratio"),
        ("rank correlation of the scale with |logit| of the true share", "positive", "rank"),
    ),
    expects=(
        quantity_above("ada ratio", "dpo ratio", "clear pairs get wider margins over unclear ones than by DPO"),
        quantity_above("rank", 0.5, "scales follow how clear a pair is"),
    ),
    verdict=lambda values: (
        f"Clear margins are {mean_of(values['ada ratio']):.0f} times the unclear ones, against "
        f"{mean_of(values['dpo ratio']):.0f} times by DPO."
    ),
)


def _draw_token_counts(policy: Tensor, number: int, generator: Generator) -> Tensor:
    """How often each token occurs in answers [number, V] drawn from a policy over words and, last, the end."""
    import torch

    chances = policy.exp()
    out = torch.zeros(number, len(chances), dtype=torch.float64)
    lengths = torch.empty(number, dtype=torch.float64).geometric_(chances[-1].item(), generator=generator)  # with end
    for row, words in enumerate((lengths.long() - 1).tolist()):
        if words:
            tokens = chances[:-1].multinomial(words, replacement=True, generator=generator)
            out[row] = torch.bincount(tokens, minlength=len(chances))
    out[:, -1] = 1
    return out


def _draw_labelled_pairs(reference: Tensor, by_length: float, generator: Generator) -> Tensor:
    """Token counts [4000, chosen and rejected, V] of pairs judged by the mean worth of their words and by length."""
    import torch

    one, two = (_draw_token_counts(reference, 4000, generator) for _ in range(2))
    worth = torch.randn(reference.shape, generator=generator, dtype=torch.float64)
    worth[-1] = 0
    rewards = [2 * (a @ worth) / a.sum(1) + by_length * a.sum(1).log() for a in (one, two)]
    first = torch.rand(4000, generator=generator, dtype=torch.float64) < (rewards[0] - rewards[1]).sigmoid()
    both = torch.stack([one, two], 1)
    return torch.where(first[:, None, None], both, both.flip(1))


def _measure_davir(seed: int) -> dict[str, float]:
    """Answers drawn token by token, about 20 long; half the pairs train, the other half is measured."""
    import torch

    words = random_policy(20, seed=seed) + torch.tensor(0.95, dtype=torch.float64).log()
    reference = torch.cat([words, torch.tensor([0.05], dtype=torch.float64).log()])
    out = {}
    for arm, by_length in (("", 0.5), (" fair", 0.0)):
        train, test = _draw_labelled_pairs(reference, by_length, seeded_generator(seed)).chunk(2)
        longer = test.sum(2)[:, 0] - test.sum(2)[:, 1]
        for name in ("dpo", "davir"):
            policy, margin = _train_pair_policy(reference, train, test, relative=name == "davir")
            raw = (test @ (policy - reference)).diff(dim=1)[:, 0].neg()
            out[f"{name}{arm} rank"], out[f"{name}{arm} raw"] = (rank_correlation(m, longer) for m in (margin, raw))
            out[f"{name}{arm} tie"] = abs(out[f"{name}{arm} rank"])
            out[f"{name}{arm} length"] = 1 / policy[-1].exp().item()
            out[f"{name}{arm} right"] = (margin > 0).double().mean().item()
    return out


def _train_pair_policy(reference: Tensor, train: Tensor, test: Tensor, *, relative: bool) -> tuple[Tensor, Tensor]:
    """The policy trained on the pairs `train` [P, 2, V], and the margins [P] of what it was trained to compare."""
    from holdfast.methods.objectives.preference.davir_dpo import relative_gains
    from holdfast.methods.objectives.preference.dpo import pair_losses

    beta = 0.1 * (train @ reference).abs().mean().item() if relative else 0.1

    def compute_rewards(logps: Tensor, pairs: Tensor) -> Tensor:
        gains = pairs @ (logps - reference)  # [P, 2]
        return relative_gains(gains, pairs @ reference) if relative else gains

    def pair_loss(logps: Tensor) -> Tensor:
        return pair_losses(compute_rewards(logps, train), train.sum(2), "sigmoid", beta).mean()

    policy = train_policy(reference, pair_loss, steps=300)
    test_rewards = compute_rewards(policy, test)
    return policy, test_rewards[:, 0] - test_rewards[:, 1]


DAVIR_DPO = Study(
    claim="The margins that DavIR-DPO learns depend less on the difference in length than DPO's.",
    paper="Zhou et al. 2023, arXiv 2310.13008",
    measure=_measure_davir,
    figures=(
        ("rank correlation of margin and difference in length, DPO", "0.38", "dpo rank"),
        ("rank correlation of margin and difference in length, DavIR-DPO", "0.07", "davir rank"),
        ("the same with D(y) undivided, DavIR-DPO", "not given", "davir raw"),
        ("held-out pairs ranked as labelled, DPO", "not given", "dpo right"),
        ("held-out pairs ranked as labelled, DavIR-DPO", "not given", "davir right"),
        ("mean length of the policy's answers (20 before), DPO", "not given", "dpo length"),
        ("mean length of the policy's answers, DavIR-DPO", "not given", "davir length"),
        ("rank correlation where length does not count, DPO", "not given", "dpo fair rank"),
        ("rank correlation where length does not count, DavIR-DPO", "not given", "davir fair rank"),
    ),
    expects=tuple(
        quantity_below(f"davir{arm} tie", f"dpo{arm} tie", f"margins go less by length than DPO's{words}")
        for arm, words in (("", ""), (" fair", " where length does not count"))
    ),
    verdict=lambda values: (
        f"With labels that favour length the correlation falls from {mean_of(values['dpo rank']):.2f} to "
        f"{mean_of(values['davir rank']):.2f}; with labels that do not, it is {mean_of(values['dpo fair rank']):.2f} "
        f"by DPO and {mean_of(values['davir fair rank']):.2f} by DavIR-DPO. The undivided log-ratio turns over, to "
        f"{mean_of(values['davir raw']):.2f}: what is freed of length is the reward, not the policy's "
        "log-probabilities."
    ),
)
