"""RPO and TIS-DPO on tables: preference pairs after something was learned from or about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above, quantity_below
from holdfast.lab.reproduce.tables import seeded_generator

if TYPE_CHECKING:
    from torch import Generator, Tensor

Measurements = Mapping[str, list[float]]


def mean_of(values: list[float]) -> float:
    return sum(values) / len(values)


PROMPTS, ANSWERS, STEP = 512, 8, 16
"""Prompts on a circle, half of them to train on; answers to each; rows in a step."""


def _measure_rpo(seed: int) -> dict[str, float]:
    """Answers whose worth changes smoothly round a circle of prompts, a noisy pair at each; held-out prompts' pairs."""
    import torch

    generator = seeded_generator(seed)
    place = torch.rand(PROMPTS, generator=generator, dtype=torch.float64)
    apart = (place[:, None] - torch.arange(16) / 16).abs()  # to 16 centres
    features = torch.nn.functional.normalize((-(torch.minimum(apart, 1 - apart) / 0.08).square() / 2).exp(), dim=1)
    worth = features @ torch.randn(16, ANSWERS, generator=generator, dtype=torch.float64) * 2  # [prompts, answers]
    reference = torch.zeros(PROMPTS, ANSWERS, dtype=torch.float64).log_softmax(1)
    pairs = torch.rand(PROMPTS, ANSWERS, generator=generator).argsort(1)[:, :2]
    better = worth.gather(1, pairs).diff(dim=1)[:, 0].neg()
    train, test = torch.arange(PROMPTS).chunk(2)
    prefers_first = torch.rand(PROMPTS, generator=generator, dtype=torch.float64) < better.sigmoid()
    labelled_pairs = torch.where(prefers_first[:, None], pairs, pairs.flip(1))
    other_prompts = features[train][torch.randperm(len(train), generator=generator)]
    arms: dict[str, tuple[Tensor, float, bool, float]] = {
        "near": (features[train], 0.5, False, 0.1),
        "random": (other_prompts, 0.5, False, 0.1),
        "uniform": (other_prompts, 1e6, False, 0.1),
        "paired": (features[train], 0.5, True, 0.1),
        "dpo": (features[train], 1e-6, True, 0.1),  # each chosen answer meets its own rejected one
        "near far": (features[train], 0.5, False, STEP),
        "random far": (other_prompts, 0.5, False, STEP),
    }
    out = {}
    for name, (prompts, temperature, is_paired, beta) in arms.items():
        change = _train_rpo(
            features[train], labelled_pairs[train], prompts, temperature, is_paired, beta, seeded_generator(seed)
        )
        gains = ((reference + features @ change).log_softmax(1) - reference).gather(1, pairs)[test]
        out[name] = 100 * ((gains[:, 0] > gains[:, 1]) == (better[test] > 0)).double().mean().item()
    return out


def _train_rpo(
    features: Tensor,
    labelled_pairs: Tensor,
    prompts: Tensor,
    temperature: float,
    is_paired: bool,
    beta: float,
    generator: Generator,
) -> Tensor:
    """How a log-linear policy, uniform before, has changed after 200 steps of RPO, [centres, answers].

    Args:
        features: Of the prompts, [rows, centres]; labelled: chosen and rejected, [rows, 2].
        prompts: Their unit embeddings, which the weights are made of.
    """
    import torch

    from holdfast.methods.objectives.preference.rpo import contrast_losses, contrast_weights

    change = torch.zeros(features.shape[1], ANSWERS, dtype=torch.float64, requires_grad=True)
    rule = torch.optim.Adam([change], lr=0.05)
    for _ in range(200):
        rows = torch.randperm(len(features), generator=generator)[:STEP]
        weights, meets = contrast_weights(prompts[rows], temperature, is_paired)
        gains = (features[rows] @ change).log_softmax(1).gather(1, labelled_pairs[rows])  # less a constant: [rows, 2]
        each = contrast_losses(gains[:, 0], gains[:, 1], weights, beta) * meets
        rule.zero_grad()
        (each.sum() / meets.sum()).backward()
        rule.step()
    return change.detach()


RPO = Study(
    claim="Unpaired RPO, contrasting answers to different prompts only, ranks over 80 % of held-out pairs rightly, and "
    "better than with weights that know nothing of the prompts.",
    paper="Yin et al. 2024, arXiv 2402.10958",
    measure=_measure_rpo,
    figures=(
        ("held-out pairs ranked rightly, unpaired RPO", "above 80 % (proposed)", "near"),
        ("the same, weights of other prompts", "lower (proposed)", "random"),
        ("the same, uniform weights", "not seen", "uniform"),
        ("RPO, paired", "above DPO (win rates)", "paired"),
        ("DPO", "below RPO (win rates)", "dpo"),
        (f"unpaired RPO, beta {STEP}", "not given", "near far"),
        (f"the same, weights of other prompts, beta {STEP}", "not given", "random far"),
    ),
    expects=(
        quantity_above("near", 80.0, "over 80 % of held-out pairs are ranked rightly"),
        quantity_above(
            "near", "random", "weights that know the prompts rank better than those of other prompts", by=2.0
        ),
    ),
    verdict=lambda values: (
        f"Answers to other prompts are enough: {mean_of(values['near']):.0f} % against {mean_of(values['dpo']):.0f} % "
        "by DPO. "
        f"But it hardly matters to which ({mean_of(values['random']):.0f} % with weights of other prompts): weights "
        "sum to "
        "1, so while margins times weights are small, where the sigmoid is straight, each chosen answer is raised and "
        "each rejected one lowered about as much by any weights. With "
        f"beta {STEP} margins are not small, and the two are at {mean_of(values['near far']):.0f} and "
        f"{mean_of(values['random far']):.0f} %."
    ),
)

DIGITS, KEYS, WRONG = 4, 16, 24
"""Digits of the right answer; prompts; pairs of each, the right answer against a copy with one other digit."""
LIMIT, ENOUGH = 600, 0.9
"""Most steps of gradient descent; share of pairs that shall be told apart."""

Tables = list["Tensor"]
"""A policy that spells digits: logits by prompt, place and digit [KEYS, DIGITS, 10], plus others by place, digit before
and digit [DIGITS, 11, 10], common to all prompts, by which pairs teach about tokens that their answers share."""


def _digit_logps(tables: Tables, prompt: Tensor, answers: Tensor) -> Tensor:
    """Log-probabilities [rows, 2, DIGITS] of the digits of the two answers `said` to each `prompt` [rows]."""
    import torch

    own, common = tables
    before = torch.cat([torch.full_like(answers[..., :1], 10), answers[..., :-1]], -1)
    logits = own[prompt][:, None] + common[torch.arange(DIGITS), before]  # [rows, 2, DIGITS, 10]
    return logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]


def _pair_accuracy(tables: Tables, prompt: Tensor, answers: Tensor) -> float:
    """The share of pairs whose first answer is the likelier one."""
    s = _digit_logps(tables, prompt, answers).detach().sum(2)
    return (s[:, 0] > s[:, 1]).double().mean().item()


def _train_weighted_dpo(
    reference: Tables, pairs: tuple[Tensor, Tensor], weights: Tensor, enough: tuple[Tensor, Tensor]
) -> tuple[Tables, int]:
    """The reference trained on weighted `pairs` until it tells `enough` of others apart; and how many steps it took."""
    import torch

    from holdfast.methods.objectives.preference.dpo import pair_losses

    before = _digit_logps(reference, *pairs)
    tables = [table.clone().requires_grad_() for table in reference]
    rule = torch.optim.SGD(tables, lr=5.0)
    steps = 0
    while steps < LIMIT and _pair_accuracy(tables, *enough) < ENOUGH:
        gains = (weights * (_digit_logps(tables, *pairs) - before)).sum(2)  # [rows, 2]
        rule.zero_grad()
        pair_losses(gains, torch.ones_like(gains), "sigmoid", 0.1).mean().backward()
        rule.step()
        steps += 1
    return [table.detach() for table in tables], steps


def _draw_mistakes(anywhere: bool, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts [rows], right and wrong answers [rows, 2, DIGITS], and where they differ, bool [rows, DIGITS].

    Args:
        anywhere: In each pair at another place; else at one place of each prompt.
    """
    import torch

    right = torch.randint(10, (KEYS, DIGITS), generator=generator)
    prompt = torch.arange(KEYS).repeat(WRONG)
    place = torch.randint(DIGITS, prompt.shape if anywhere else (KEYS,), generator=generator)
    differs = torch.nn.functional.one_hot(place if anywhere else place[prompt], DIGITS)
    shift = torch.randint(1, 10, (len(prompt), 1), generator=generator)
    return prompt, torch.stack([right[prompt], (right[prompt] + differs * shift) % 10], 1), differs.bool()


def _measure_tis_dpo(seed: int) -> dict[str, float]:
    """Weights from DPO and from DPO on swapped pairs: are they larger where the answers differ, and do they help?"""
    import torch

    from holdfast.methods.objectives.terms.contrast import token_weights

    generator = seeded_generator(seed)
    reference = [torch.randn(n, m, 10, generator=generator).double() for n, m in ((KEYS, DIGITS), (DIGITS, 11))]
    out: dict[str, float] = {}
    for world in ("one", "any"):
        prompt, answers, differs = _draw_mistakes(world == "any", generator)
        train, test = ((prompt[rows], answers[rows]) for rows in torch.arange(len(prompt)).chunk(2))
        swapped_pairs = (train[0], train[1].flip(1))
        ones = torch.ones(train[1].shape, dtype=torch.float64)
        good, bad = (_train_weighted_dpo(reference, pairs, ones, pairs)[0] for pairs in (train, swapped_pairs))
        ratios = _digit_logps(good, *train) - _digit_logps(bad, *train)  # [rows, 2, DIGITS]
        estimated_weights = token_weights(ratios, torch.tensor([1, -1])[:, None], -0.5, 1.5)
        order = torch.rand(ratios.shape, generator=generator).argsort(2)
        here = differs[: len(ratios), None].expand(-1, 2, -1)
        out[f"{world} auc"] = _compute_auc(estimated_weights[here], estimated_weights[~here])
        for k, name in enumerate(("chosen", "rejected")):
            out[f"{world} {name}"] = _compute_auc(
                estimated_weights[:, k][here[:, k]], estimated_weights[:, k][~here[:, k]]
            )
        for name, weights in (
            ("dpo", ones),
            ("tis", estimated_weights),
            ("shuffled", estimated_weights.gather(2, order)),
        ):
            out[f"{world} {name}"] = _train_weighted_dpo(reference, train, weights, test)[1]
    return out


def _compute_auc(one: Tensor, other: Tensor) -> float:
    """How often a number of `one` is above one of `other`; ties count half."""
    return ((one[:, None] > other).double() + (one[:, None] == other).double() / 2).mean().item()


TIS_DPO = Study(
    claim="Token weights from DPO and DPO on swapped pairs are larger on the one digit that differs than on those the "
    "answers share, and with them training takes fewer steps than DPO and than with shuffled weights.",
    paper="Liu et al. 2024, arXiv 2410.04350",
    measure=_measure_tis_dpo,
    figures=(
        ("how often the digit that differs has the larger weight", "above 0.9 (proposed by us)", "one auc"),
        ("the same, chosen answers", "not given", "one chosen"),
        ("the same, rejected answers", "not given", "one rejected"),
        ("steps until 90 % of held-out pairs are told apart, DPO", "more", "one dpo"),
        ("the same, TIS-DPO", "fewer", "one tis"),
        ("the same, weights shuffled within each answer", "worse than DPO", "one shuffled"),
        ("mistakes at any place: how often the digit that differs has the larger weight", "not given", "any auc"),
        ("mistakes at any place: chosen answers", "not given", "any chosen"),
        ("mistakes at any place: rejected answers", "not given", "any rejected"),
        ("mistakes at any place: steps, DPO", "more", "any dpo"),
        ("mistakes at any place: steps, TIS-DPO", "fewer", "any tis"),
        ("mistakes at any place: steps, weights shuffled", "worse than DPO", "any shuffled"),
    ),
    expects=(
        quantity_above("one auc", 0.5, "weights are larger on the digit that differs than on others"),
        quantity_below("one tis", "one dpo", "training takes fewer steps than DPO"),
        quantity_below("one tis", "one shuffled", "and fewer than with the weights shuffled"),
    ),
    verdict=lambda values: (
        f"The digit that differs has the larger weight in {100 * mean_of(values['one auc']):.0f} % of comparisons, and "
        f"training takes {mean_of(values['one tis']):.0f} steps instead of {mean_of(values['one dpo']):.0f} "
        f"({mean_of(values['one shuffled']):.0f} with shuffled weights: part of the speed is that weights above 1 are "
        "a larger beta). Weights say how good a token is, not where a pair differs: where mistakes are made at any "
        f"place, all digits of the right answer are good ones ({100 * mean_of(values['any chosen']):.0f} %), and "
        "shuffled "
        f"weights take {mean_of(values['any shuffled']):.0f} steps, estimated ones {mean_of(values['any tis']):.0f}."
    ),
)
