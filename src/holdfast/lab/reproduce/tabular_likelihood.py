"""IFT on a frozen lake, UAL on keys of one value or several: worlds so small that the best answer is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import StudyExpectation, quantity_above, quantity_below

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

Measurements = Mapping[str, list[float]]

MAP = "SFFFFHFHFFFHHFFG"
SIDE, MOVES = 4, ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up
OPEN = [i for i, cell in enumerate(MAP) if cell in "SF"]
"""Where a move is made: not the holes, not the goal."""
LAST = 14
"""The cell beside the goal where every shortest way ends."""
DISCOUNT, DEMOS, NOISE, LONGEST = 0.99, 200, 0.2, 20
WIDTH, STEPS, RATE = 32, 500, 0.01
FORMS: dict[str, dict[str, Any]] = {
    "ift eq21": {"form": "eq21"},
    "ift authors": {"form": "authors"},
    "mix only": {"form": "authors", "decay": 0.0},
}
"""IFT as printed, as its authors run it, and with its mixed inputs alone."""
METHODS = ("dpo", *FORMS, "orpo", "sft")


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def next_state(state: int, move: int) -> int:
    """Where a move leads; at the edge one stays."""
    row, column = state // SIDE + MOVES[move][0], state % SIDE + MOVES[move][1]
    return row * SIDE + column if 0 <= row < SIDE and 0 <= column < SIDE else state


def optimal_policy() -> Tensor:
    """The best policy [16, 4] by value iteration, even over moves that are equally good."""
    import torch

    value = torch.zeros(len(MAP), dtype=torch.float64)
    quality = torch.zeros(len(MAP), len(MOVES), dtype=torch.float64)
    for _ in range(100):
        for state in OPEN:
            for move in range(len(MOVES)):
                to = next_state(state, move)
                quality[state, move] = (MAP[to] == "G") + DISCOUNT * value[to]
        value = quality.max(-1).values
    best = (quality > value[:, None] - 1e-9).double()
    return best / best.sum(-1, keepdim=True)


@dataclass(slots=True)
class Walks:
    """Walks from the start.

    Args:
        states, moves: [n, LONGEST], zeros behind the end.
        mask: [n, LONGEST], 1 where there is a move.
        returns: [n], the discounted reward.
    """

    states: Tensor
    moves: Tensor
    mask: Tensor
    returns: Tensor

    def select_rows(self, rows: Tensor) -> Walks:
        return Walks(self.states[rows], self.moves[rows], self.mask[rows], self.returns[rows])


def sample_walks(policy: Tensor, n: int, random: Generator) -> Walks:
    """n walks of a policy [16, 4]."""
    import torch

    numbers = torch.zeros(2, n, LONGEST, dtype=torch.long)
    trajectories = Walks(numbers[0], numbers[1], torch.zeros(n, LONGEST, dtype=torch.float64), torch.zeros(n))
    for i in range(n):
        state = 0
        for t in range(LONGEST):
            move = int(torch.multinomial(policy[state], 1, generator=random))
            trajectories.states[i, t], trajectories.moves[i, t], trajectories.mask[i, t] = state, move, 1
            state = next_state(state, move)
            if MAP[state] in "HG":
                trajectories.returns[i] = DISCOUNT**t if MAP[state] == "G" else 0.0
                break
    return trajectories


def draw_one_pair(random: Generator) -> tuple[Walks, Walks]:
    """A shortest walk, and one of someone who stumbles and comes later or not at all: the paper's data."""
    good, others = sample_walks(optimal_policy(), 1, random), sample_walks(stumbling_policy(), 50, random)
    return good, others.select_rows((others.returns < good.returns).nonzero()[:1, 0])


def draw_many_pairs(random: Generator) -> tuple[Walks, Walks]:
    """Better and worse of two walks of someone who stumbles, DEMOS times."""
    import torch

    one, other = (sample_walks(stumbling_policy(), 3 * DEMOS, random) for _ in range(2))
    rows = (one.returns != other.returns).nonzero()[:DEMOS, 0]
    assert len(rows) == DEMOS
    one, other = one.select_rows(rows), other.select_rows(rows)
    better = one.returns > other.returns
    fields = ("states", "moves", "mask", "returns")

    def pick_walks(keep: Tensor) -> Walks:
        pairs = ((getattr(one, f), getattr(other, f)) for f in fields)
        return Walks(*(torch.where(keep if a.dim() == 1 else keep[:, None], a, b) for a, b in pairs))

    return pick_walks(better), pick_walks(~better)


def stumbling_policy() -> Tensor:
    """The best policy, with a move at random now and then."""
    return (1 - NOISE) * optimal_policy() + NOISE / len(MOVES)


def build_network(seed: int) -> tuple[nn.Embedding, nn.Module]:
    """A two-layer policy: embeddings of the states, then from embeddings to the logits of the moves."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Embedding(len(MAP), WIDTH).double(), nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, len(MOVES)).double())


def move_logps(states: nn.Embedding, body: nn.Module, trajectories: Walks) -> Tensor:
    """log pi of the moves [n, LONGEST], zeros behind the end."""
    return body(states.weight).log_softmax(-1)[trajectories.states, trajectories.moves] * trajectories.mask


def ift_loss(states: nn.Embedding, body: nn.Module, trajectories: Walks, **form: Any) -> Tensor:
    """IFT: inputs mixed with where the policy's own moves would have led, no gradient to them."""
    import torch

    from holdfast.methods.objectives.likelihood.ift import IFT as Objective
    from holdfast.methods.objectives.likelihood.ift import discounted_sum_losses, weighted_mean_losses

    knobs, e = Objective(**form), states.weight.detach()  # [16, WIDTH]
    leads = torch.tensor([[next_state(s, m) for m in range(len(MOVES))] for s in range(len(MAP))])
    with torch.no_grad():
        guessed_states = leads.gather(1, body(e).argmax(-1, keepdim=True))[:, 0]  # [16]
    guesses = torch.cat(
        [trajectories.states[:, :1], guessed_states[trajectories.states[:, :-1]]], 1
    )  # [n, LONGEST]; the start is known
    logps = body(torch.lerp(e[:, None], e, knobs.mix)).log_softmax(-1)  # [16 true, 16 guessed, 4]
    errors = -logps[trajectories.states, guesses, trajectories.moves] * trajectories.mask
    return (weighted_mean_losses if knobs.form == "authors" else discounted_sum_losses)(
        errors, trajectories.mask, knobs.decay
    ).mean()


def build_lake_losses(seed: int, good: Walks, bad: Walks) -> dict[str, Callable[[nn.Embedding, nn.Module], Tensor]]:
    """The loss of each method, on the same walks, from the same network."""
    import torch
    from torch.nn.functional import logsigmoid

    from holdfast.methods.objectives.preference.dpo import pair_losses
    from holdfast.methods.objectives.terms.pairs import log1m_exp

    lengths = torch.stack([good.mask.sum(1), bad.mask.sum(1)], 1)  # [n, 2]

    def sum_logps(states: nn.Embedding, body: nn.Module) -> Tensor:
        both = [move_logps(states, body, trajectories).sum(1) for trajectories in (good, bad)]
        return torch.stack(both, 1)

    with torch.no_grad():
        reference = sum_logps(*build_network(seed))

    def sft_loss(states: nn.Embedding, body: nn.Module) -> Tensor:
        return -move_logps(states, body, good).sum() / good.mask.sum()

    def dpo_loss(states: nn.Embedding, body: nn.Module) -> Tensor:
        return pair_losses(sum_logps(states, body) - reference, lengths, "sigmoid", 0.1).mean()

    def orpo_loss(states: nn.Embedding, body: nn.Module) -> Tensor:
        average = sum_logps(states, body) / lengths
        odds = average - log1m_exp(average)
        return (-average[:, 0] - 0.1 * logsigmoid(odds[:, 0] - odds[:, 1])).mean()

    forms = {name: partial(ift_loss, trajectories=good, **form) for name, form in FORMS.items()}
    return {"sft": sft_loss, "dpo": dpo_loss, "orpo": orpo_loss, **forms}


def _measure_lake(seed: int) -> dict[str, float]:
    """Squared error of each method's policy against the best one, over all cells where a move is made."""
    import torch

    right, out = optimal_policy()[OPEN], {}

    def squared_errors(states: nn.Embedding, body: nn.Module) -> Tensor:
        return (body(states.weight[OPEN]).softmax(-1) - right).square().mean(-1)  # [cells]

    out["untrained"] = squared_errors(*build_network(seed)).mean().item()
    for data, draw in (("one", draw_one_pair), ("many", draw_many_pairs)):
        for name, loss in build_lake_losses(seed, *draw(torch.Generator().manual_seed(seed))).items():
            states, body = build_network(seed)
            optimizer = torch.optim.Adam([*states.parameters(), *body.parameters()], lr=RATE)
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss(states, body).backward()
                optimizer.step()
            cell_errors = squared_errors(states, body)
            out[f"{data} {name}"], out[f"{data} {name} last"] = (
                cell_errors.mean().item(),
                cell_errors[OPEN.index(LAST)].item(),
            )
    return out


def _format_ranking(measurements: Measurements, data: str) -> str:
    methods_by_error = sorted(METHODS, key=lambda name: mean_of(measurements[f"{data} {name}"]))
    return ", ".join(f"{name} {mean_of(measurements[f'{data} {name}']):.4f}" for name in methods_by_error)


IFT = Study(
    claim="On a frozen lake, IFT as printed (Eq. 21) comes nearer to the best policy than SFT and ORPO do from the "
    "same demonstrations.",
    paper="Hua et al. 2024, arXiv 2405.11870",
    measure=_measure_lake,
    figures=(
        ("squared error against the best policy, untrained", "not given", "untrained"),
        ("one better and one worse walk, DPO", "lowest", "one dpo"),
        ("one better and one worse walk, IFT, Eq. 21", "second", "one ift eq21"),
        ("one better and one worse walk, IFT, the authors' code", "second", "one ift authors"),
        ("one better and one worse walk, ORPO", "third", "one orpo"),
        ("one better and one worse walk, SFT", "highest", "one sft"),
        ("200 pairs of stumbling walks, DPO", "not tried", "many dpo"),
        ("200 pairs of stumbling walks, IFT, Eq. 21", "not tried", "many ift eq21"),
        ("200 pairs of stumbling walks, IFT, the authors' code", "not tried", "many ift authors"),
        ("200 pairs of stumbling walks, mixed inputs alone", "not tried", "many mix only"),
        ("200 pairs of stumbling walks, ORPO", "not tried", "many orpo"),
        ("200 pairs of stumbling walks, SFT", "not tried", "many sft"),
        ("the same in the last cell before the goal, Eq. 21", "not tried", "many ift eq21 last"),
        ("the same in the last cell before the goal, the authors' code", "not tried", "many ift authors last"),
        ("the same in the last cell before the goal, SFT", "not tried", "many sft last"),
    ),
    expects=tuple(
        quantity_below(f"{data} ift eq21", f"{data} {other}", f"Eq. 21 is nearer than {other.upper()} {words}")
        for data, words in (("one", "from one pair"), ("many", "from 200 pairs"))
        for other in ("sft", "orpo")
    ),
    verdict=lambda values: (
        f"From near to far: from one pair {_format_ranking(values, 'one')}; from 200 pairs "
        f"{_format_ranking(values, 'many')}. The "
        "authors' code weighs a move by the errors that follow it and so starves the last one: before the goal it "
        f"has {mean_of(values['many ift authors last']):.4f}, Eq. 21 {mean_of(values['many ift eq21 last']):.4f}, SFT "
        f"{mean_of(values['many sft last']):.4f}. Mixed inputs alone are as near."
    ),
    seeds=16,
)

KEYS, UNSURE, VALUES, TOKENS, ROWS, RANK = 100, 30, 3, 40, 4, 16
BINS = 10


def calibration_error(confidence: Tensor, accuracy: Tensor) -> float:
    """Expected calibration error of predictions [n] and how often each is right [n], in bins of equal width."""
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    apart = [(confidence[bins == b] - accuracy[bins == b]).sum().abs() for b in range(BINS)]
    return float(sum(apart)) / len(confidence)


def fit_table(keys: Tensor, values: Tensor, v: Tensor, seed: int) -> Tensor:
    """Probabilities [KEYS, TOKENS] of a small table of low rank, trained on rows of smoothing v [n]."""
    import torch

    from holdfast.methods.objectives.likelihood.ual import label_and_mean, smoothed_losses

    random = torch.Generator().manual_seed(seed)
    left_factor, right_factor = (
        torch.randn(n, RANK, generator=random, dtype=torch.float64) / 4 for n in (KEYS, TOKENS)
    )
    weights = [left_factor.requires_grad_(), right_factor.requires_grad_()]
    optimizer = torch.optim.Adam(weights, lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logps, uniform = label_and_mean(left_factor[keys] @ right_factor.T, values).unbind(-1)
        smoothed_losses(logps, uniform, v).mean().backward()
        optimizer.step()
    return (left_factor @ right_factor.T).detach().softmax(-1)


def _measure_keys(seed: int) -> dict[str, float]:
    """Calibration and accuracy after training on a few rows of every key, by what the smoothing follows."""
    import torch

    from holdfast.methods.objectives.likelihood.ual import UAL as Objective

    random = torch.Generator().manual_seed(seed)
    truth = torch.zeros(KEYS, TOKENS, dtype=torch.float64)
    for key in range(KEYS):
        several = VALUES if key < UNSURE else 1
        truth[key, torch.randperm(TOKENS, generator=random)[:several]] = 1 / several
    keys = torch.arange(KEYS).repeat_interleave(ROWS)
    values = torch.multinomial(truth[keys], 1, generator=random)[:, 0]
    unsure = (keys < UNSURE).double()
    shuffled_unsure = unsure[torch.randperm(len(unsure), generator=random)]
    smoothing = {"sft": torch.zeros_like(unsure), "even": torch.full_like(unsure, Objective().mean_smoothing)}
    for name, uncertainty in (("ual", unsure), ("shuffled", shuffled_unsure)):
        smoothing[name] = Objective().compute_smoothing(
            uncertainty, torch.stack([uncertainty.mean(), uncertainty.min(), uncertainty.max()])
        )
    out = {}
    for name, v in smoothing.items():
        p = fit_table(keys, values, v, seed)
        confidence, best = p.max(-1)
        accuracy = truth.gather(1, best[:, None])[:, 0]
        out[f"{name} error"] = calibration_error(confidence, accuracy)
        out[f"{name} sure"] = 100 * accuracy[UNSURE:].mean().item()
    return out


UAL = Study(
    claim="Smoothing the rows that are truly uncertain calibrates the model and costs no accuracy on the others; the "
    "same smoothing on random rows does not.",
    paper="Wang et al. 2024, arXiv 2406.04854",
    measure=_measure_keys,
    figures=(
        ("calibration error, SFT", "not measured", "sft error"),
        ("calibration error, UAL, uncertainty known", "+10.62 % AlpacaEval over SFT", "ual error"),
        ("calibration error, UAL, uncertainty shuffled", "not measured", "shuffled error"),
        ("calibration error, the same smoothing for all", "not measured", "even error"),
        ("accuracy on keys of one value, SFT", "reference", "sft sure"),
        ("accuracy on keys of one value, UAL", "+1.81 % MetaMath and GSM8K", "ual sure"),
    ),
    expects=(
        quantity_below("ual error", "sft error", "UAL is better calibrated than SFT"),
        quantity_above("ual sure", "sft sure", "and no less accurate on keys of one value", by=-1.0),
        StudyExpectation(
            "with uncertainty shuffled less than half of that is gained",
            {"shuffled error": 1.0, "sft error": -0.5, "ual error": -0.5},
        ),
    ),
    verdict=lambda values: (
        f"Error {mean_of(values['sft error']):.3f} by SFT, {mean_of(values['ual error']):.3f} by UAL, "
        f"{mean_of(values['shuffled error']):.3f} with uncertainty shuffled, {mean_of(values['even error']):.3f} if "
        "even."
    ),
)
