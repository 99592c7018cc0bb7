"""What to try next: by chance, or by Optuna's TPE from what was tried before.

The n-th suggestion depends on the seed and the told trials alone: the study is built anew from them for every ask, with
a sampler seeded by (seed, n). A search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError
from holdfast.recipe.search_space import Dimension

if TYPE_CHECKING:
    import optuna

LEAST_FOR_IMPORTANCE = 20
"""Trials below which importance is noise."""


@dataclass(frozen=True, slots=True)
class ToldTrial:
    """A suggestion and what it came to.

    Args:
        values: Setting to value.
        gain: Not a number where it failed.
        violation: By how much it broke the limit; 0 or less: not.
    """

    values: dict[str, Any]
    gain: float
    violation: float


def seed_ask(seed: int, number: int) -> int:
    """32 bits of a search's seed and the number of an ask."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{number}".encode(), digest_size=4).digest(), "little")


def suggest_at_random(space: Sequence[Dimension], seed: int, number: int) -> dict[str, Any]:
    """The n-th point drawn evenly from the space; it depends on the seed and n alone."""
    draw = random.Random(seed_ask(seed, number))
    return {dimension.key: dimension.pick_value(draw.random()) for dimension in space}


def import_optuna() -> Any:
    """The library.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(
            "search.sampler: tpe needs Optuna; install it with `pip install holdfast[search]`, or set "
            "search.sampler: random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def build_study(space: Sequence[Dimension], results: Sequence[ToldTrial], sampler: Any = None) -> optuna.Study:
    """A study in memory with trials told, in order; a failed one is known as such."""
    optuna = import_optuna()
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = _build_distributions(space)
    for trial in results:
        is_failed = not math.isfinite(trial.gain)
        study.add_trial(
            optuna.trial.create_trial(
                params={d.key: _encode_value(d, trial.values[d.key]) for d in space},
                distributions=distributions,
                state=optuna.trial.TrialState.FAIL if is_failed else optuna.trial.TrialState.COMPLETE,
                values=None if is_failed else [trial.gain],
                constraints=None if is_failed else {"loss": trial.violation},
            )
        )
    return study


def suggest_by_tpe(
    space: Sequence[Dimension], seed: int, number: int, results: Sequence[ToldTrial], startup: int
) -> dict[str, Any]:
    """The n-th suggestion of a tree-structured Parzen estimator. [Bergstra et al. 2011]

    Args:
        startup: Trials that are drawn at random before it learns from them.
    """
    optuna = import_optuna()
    with warnings.catch_warnings():  # what is marked experimental there is pinned by our tests
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed_ask(seed, number), multivariate=True, n_startup_trials=startup)
        suggestion = build_study(space, results, sampler).ask(_build_distributions(space)).params
    return {d.key: json.loads(suggestion[d.key]) if d.kind == "choice" else suggestion[d.key] for d in space}


def measure_importance(space: Sequence[Dimension], results: Sequence[ToldTrial]) -> dict[str, float] | None:
    """Share of each setting in what makes trials good (PED-ANOVA); `None` for few trials, or without Optuna.

    Source: Watanabe et al. 2023, "PED-ANOVA" (arXiv 2304.10255).
    """
    whole = [trial for trial in results if math.isfinite(trial.gain)]
    if len(whole) < LEAST_FOR_IMPORTANCE or len({trial.gain for trial in whole}) < 2 or len(space) < 2:
        return None
    try:
        optuna = import_optuna()
    except UserError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(build_study(space, whole), evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _build_distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    optuna = import_optuna()
    kinds = optuna.distributions
    return {
        d.key: kinds.CategoricalDistribution([json.dumps(value) for value in d.choices])
        if d.kind == "choice"
        else kinds.IntDistribution(int(d.low), int(d.high))
        if d.kind == "int"
        else kinds.FloatDistribution(d.low, d.high, log=d.kind == "log")
        for d in space
    }


def _encode_value(dimension: Dimension, value: Any) -> Any:
    return json.dumps(value) if dimension.kind == "choice" else value
