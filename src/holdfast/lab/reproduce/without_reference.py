"""CPO, SimPO, ORPO, TPO-L and KTO beside rivals on the laboratory model; UNA and T-Few on something less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.lab.reproduce.base import Claim, Figure, Study, gain_of, loss_of
from holdfast.lab.reproduce.losses import DPO_ARM, OWN_PAIRS, OWN_PAIRS_RATES, PAIRS
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, quantity_above, quantity_below

if TYPE_CHECKING:
    from torch import Generator, Tensor


ArmSpec = tuple[str, Sequence[str], str]
"""Label, overrides, and the paper's number."""


def rival_claim(
    rival: ArmSpec, method: ArmSpec, *, claim: str, paper: str, better: bool = True, control: ArmSpec | None = None,
    common: Mapping[str, Any] = OWN_PAIRS, rates: Sequence[float] = OWN_PAIRS_RATES,
) -> Claim:  # fmt: skip
    """A method and its rival on the same rows and steps, each at its best learning rate.

    Args:
        better: The claim is to gain more than the rival; else as much.
        control: An arm with what the method has beside the preference, which it must gain more than.
        common: What differs from other reproductions; default: pairs of the model's own answers.
        rates: Multiples of the learning rate that every arm runs at.
    """
    arms = [rival, *([control] if control else []), method]
    (other, _, _), (name, _, _) = rival, method

    expects = [(gains_more if better else gains_as_much)(name, other, at="best")]
    expects += [gains_more(name, control[0], at="best")] if control else []
    return Claim(
        claim=claim,
        paper=paper,
        arms={label: list(overrides) for label, overrides, _ in arms},
        figures=(
            *(Figure(f"target, {label}", number, gain_of(label)) for label, _, number in arms),
            *(Figure(f"lost elsewhere, {label}", "not measured", loss_of(label)) for label, _, _ in arms),
        ),
        expects=expects,
        common=common,
        rates=rates,
    )


CPO = rival_claim(
    ("dpo", DPO_ARM, "82.07 (KIWI-XXL, from English)"),
    ("cpo", ["method=cpo", PAIRS], "85.74 (KIWI-XXL, from English)"),
    claim="CPO, without a reference model, gains more from the same pairs than DPO.",
    paper="Xu et al. 2024, arXiv 2401.08417",
)

SIMPO = rival_claim(
    ("dpo", DPO_ARM, "18.2 % (AlpacaEval 2, Llama-3-Base)"),
    ("simpo", ["method=simpo", PAIRS], "22.0 % (AlpacaEval 2, Llama-3-Base)"),
    claim="SimPO, without a reference model, gains more from the same pairs than DPO.",
    paper="Meng et al. 2024, arXiv 2405.14734",
)

ORPO = rival_claim(
    ("sft on chosen", ["method=orpo", "objective.beta=0", PAIRS], "48.37 % (AlpacaEval 1, Phi-2)"),
    ("orpo", ["method=orpo", PAIRS], "71.80 % (AlpacaEval 1, Phi-2)"),
    claim="A small penalty on the odds of rejected answers gains more than SFT on the chosen ones alone.",
    paper="Hong et al. 2024, arXiv 2403.07691",
)


_GOLD: ArmSpec = ("sft", ["method=sft"], "not tried")
"""The control that imitation of a gold answer calls for: is there anything that the pairs add?"""


TPO_L = rival_claim(
    ("simpo", ["method=simpo"], "up to 19.2 points below TPO (GSM8K)"),
    ("tpo_l", ["method=tpo_l"], "52.4 (GSM8K, Llama-3-8B)"),
    claim="Imitating a gold answer beside a length-normalised preference gains more than SimPO on the pairs, and more "
    "than imitation alone.",
    paper="Saeidi et al. 2024, arXiv 2405.16681",
    control=_GOLD,
    common={},
    rates=(0.1, 0.3, 1),
)

KTO = rival_claim(
    ("dpo", DPO_ARM, "40.0 (GSM8K, Zephyr)"),
    ("kto", ["method=kto", PAIRS], "53.5 (GSM8K, Zephyr)"),
    claim="KTO, told only which answers are good and which bad, does not gain less than DPO on pairs.",
    paper="Ethayarajh et al. 2024, arXiv 2402.01306",
    better=False,
)

BETA, ACTIONS = 0.5, 6


def _measure_optimum(seed: int) -> dict[str, float]:
    """Divergence of policies over a table of actions from the best, ref exp(r / beta) / Z, by what is known of r."""
    import torch

    from holdfast.lab.reproduce.tables import random_policy, seeded_generator, train_policy
    from holdfast.methods.objectives.preference.dpo import pair_losses
    from holdfast.methods.objectives.scored.una import score_losses

    reference = random_policy(ACTIONS, seed=seed)
    rewards = torch.randn(ACTIONS, generator=seeded_generator(seed + 1000), dtype=torch.float64)
    best = (reference + rewards / BETA).log_softmax(-1)
    offset = -BETA * (reference + rewards / BETA).logsumexp(-1)  # c = -beta log Z
    a, b = torch.cartesian_prod(torch.arange(ACTIONS), torch.arange(ACTIONS)).T
    chance = torch.sigmoid(rewards[a] - rewards[b])  # Bradley-Terry: a is chosen

    def score_loss(logps: Tensor, shift: Tensor | float) -> Tensor:
        return score_losses(logps - reference, torch.sigmoid(rewards + shift), BETA).mean()

    def pair_loss(logps: Tensor) -> Tensor:
        gains = torch.stack([logps - reference] * 2, 1)  # [A, 2]
        both = torch.stack([gains[a, 0], gains[b, 1]], 1)  # [A^2, 2]
        return (chance * pair_losses(both, torch.ones_like(both), "sigmoid", BETA)).mean()

    losses = {
        "shifted": lambda p: score_loss(p, offset),
        "as they are": lambda p: score_loss(p, 0.0),
        "pairs": pair_loss,
    }
    policies = {name: train_policy(reference, loss, steps=3000) for name, loss in losses.items()}
    out = {name: (best.exp() * (best - p)).sum().item() for name, p in policies.items()}
    return out | {"untrained": (best.exp() * (best - reference)).sum().item()}


UNA = Study(
    claim="Scores and pairs lead to one policy, the optimum of RLHF, if the scores are shifted by c = -beta log Z.",
    paper="Wang et al. 2024, arXiv 2408.15339",
    measure=_measure_optimum,
    figures=(
        ("divergence from the optimum, untrained", "not given", "untrained"),
        ("divergence, pairs", "0 (theorem)", "pairs"),
        ("divergence, scores shifted by c", "0 (theorem)", "shifted"),
        ("divergence, scores as they are (c = 0)", "not 0", "as they are"),
    ),
    expects=(
        quantity_below("shifted", 1e-3, "scores shifted by c lead to the optimum"),
        quantity_below("pairs", 1e-3, "pairs lead to the optimum"),
        quantity_above("as they are", 1e-3, "scores as they are do not"),
    ),
    seeds=12,
    verdict=lambda values: (
        f"With c the optimum is met to {max(values['shifted']):.1g}; without, which is what is run in practice, scores "
        f"leave a divergence of {mean_of(values['as they are']):.2g}, {100 * _divergence_left(values):.0f} % of the "
        "reference's."
    ),
)


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _divergence_left(measurements: Mapping[str, list[float]]) -> float:
    return mean_of(measurements["as they are"]) / mean_of(measurements["untrained"])


STEPS = 300


def minimise_loss(start: Tensor, loss: Callable[[Tensor], Tensor], steps: int, rate: float) -> Tensor:
    """Parameters after so many steps of Adam."""
    import torch

    theta = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(theta).backward()
        optimizer.step()
    return theta.detach()


TOKENS, LONGEST, CHOICES, TRAIN, TEST, SIZE = 12, 6, 4, 32, 2000, 8


def _measure_choices(seed: int) -> dict[str, float]:
    """Accuracy of ranking fresh choices, in %, after learning a task of 32 questions.

    Texts are Markov chains tilted by their question. The learner knows the chain before it learns the tilt: exactly,
    so that its likelihood is the right one and nothing can beat it for long, or roughly, as a language model would.
    """
    import torch

    from holdfast.lab.reproduce.tables import seeded_generator

    random = seeded_generator(seed)
    language = 1.5 * torch.randn(TOKENS + 1, TOKENS, generator=random, dtype=torch.float64)  # row TOKENS begins a text
    task = torch.randn(SIZE, TOKENS, generator=random, dtype=torch.float64)
    rough = language + 0.75 * torch.randn(language.shape, generator=random, dtype=torch.float64)
    train_questions, fresh = (_draw_questions(language, task, n, random) for n in (TRAIN, TEST))
    out = {}
    for world, learner_language in (("exact", language), ("rough", rough)):
        for name, terms in (("lm", (0, 0)), ("ln", (1, 0)), ("all", (1, 1))):
            out[f"{world} {name}"] = _choice_accuracy(
                learner_language, _train_tilt(learner_language, train_questions, *terms), fresh
            )
        out[f"{world} before"] = _choice_accuracy(learner_language, torch.zeros_like(task), fresh)
    return out


Questions = tuple["Tensor", "Tensor", "Tensor"]
"""Questions [R, SIZE], texts [R, C, T] of which the first is the answer, and which of their tokens count."""


def _draw_questions(language: Tensor, task: Tensor, n: int, random: Generator) -> Questions:
    import torch

    questions = torch.randn(n, CHOICES, SIZE, generator=random, dtype=torch.float64)
    texts = torch.full((n, CHOICES, LONGEST), TOKENS)
    for t in range(LONGEST):
        before = texts[..., t - 1] if t else texts[..., 0]
        p = (language[before] + questions @ task).softmax(-1)
        texts[..., t] = torch.multinomial(p.view(-1, TOKENS), 1, generator=random).view(n, CHOICES)
    lengths = torch.randint(2, LONGEST + 1, (n, CHOICES), generator=random)
    return questions[:, 0], texts, (torch.arange(LONGEST) < lengths[..., None]).double()


def _token_logps(language: Tensor, task: Tensor, questions: Tensor, texts: Tensor) -> Tensor:
    """Of each token of the texts, [R, C, T]."""
    import torch

    before = torch.cat([torch.full_like(texts[..., :1], TOKENS), texts[..., :-1]], -1)
    logits = language[before] + (questions @ task)[:, None, None]
    return logits.log_softmax(-1).gather(-1, texts[..., None])[..., 0]


def _train_tilt(language: Tensor, train_questions: Questions, choice: float, unlikelihood_weight: float) -> Tensor:
    """The tilt [SIZE, TOKENS] learned by likelihood and, so weighted, the other two terms of T-Few."""
    import torch

    from holdfast.methods.objectives.likelihood.tfew import choice_losses, unlikelihood_losses

    questions, texts, mask = train_questions
    wrong = mask.clone()
    wrong[:, 0] = 0

    def tilt_loss(task: Tensor) -> Tensor:
        logps = _token_logps(language, task, questions, texts)
        means = (logps * mask).sum(-1) / mask.sum(-1)
        low = (unlikelihood_losses(logps) * wrong).sum((1, 2)) / wrong.sum((1, 2))
        return (-means[:, 0] + choice * choice_losses(means) + unlikelihood_weight * low).mean()

    return minimise_loss(torch.zeros(SIZE, TOKENS, dtype=torch.float64), tilt_loss, STEPS, 0.05)


def _choice_accuracy(language: Tensor, task: Tensor, fresh: Questions) -> float:
    questions, texts, mask = fresh
    means = (_token_logps(language, task, questions, texts) * mask).sum(-1) / mask.sum(-1)
    return 100 * (means.argmax(1) == 0).double().mean().item()


TFEW = Study(
    claim="From 32 questions, unlikelihood of wrong choices and the softmax over choices beside the likelihood of the "
    "right one rank fresh choices better than the likelihood alone.",
    paper="Liu et al. 2022, arXiv 2205.05638",
    measure=_measure_choices,
    figures=(
        ("accuracy before, %", "not given", "rough before"),
        ("accuracy, likelihood alone, %", "60.7", "rough lm"),
        ("accuracy, with the softmax over choices, %", "62.71", "rough ln"),
        ("accuracy, all three, %", "63.3", "rough all"),
        ("accuracy, likelihood alone, language known exactly, %", "not given", "exact lm"),
        ("accuracy, all three, language known exactly, %", "not given", "exact all"),
    ),
    expects=(quantity_above("rough all", "rough lm", "all three rank better than the likelihood alone", by=2.0),),
    verdict=lambda values: (
        f"Likelihood alone {mean_of(values['rough lm']):.1f} %, with the softmax {mean_of(values['rough ln']):.1f} %, "
        f"all three {mean_of(values['rough all']):.1f} %. Where the likelihood is exactly right: "
        f"{mean_of(values['exact lm']):.1f} % alone, {mean_of(values['exact all']):.1f} % with all three."
    ),
)
