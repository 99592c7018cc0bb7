"""The parts of a search: its order, its space, who suggests, what is on record."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import statistics

import numpy as np
import pytest

from holdfast.core.line_workers import share_machine
from holdfast.errors import UserError
from holdfast.evaluation.statistics.intervals import compute_confidence_limits, compute_moments
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.summary import bound_loss
from holdfast.evaluation.task import ItemResult, TaskInfo
from holdfast.pipeline.search.driver import choose_winner, share_confidence
from holdfast.pipeline.search.history import History, parse_outcome
from holdfast.pipeline.search.order import (
    FAILED,
    STRICT,
    TrialOutcome,
    count_promotions,
    list_strictness,
    rank_outcomes,
)
from holdfast.pipeline.search.runner import split_evenly
from holdfast.pipeline.search.suggest import (
    ToldTrial,
    measure_importance,
    suggest_at_random,
    suggest_by_tpe,
)
from holdfast.pipeline.search.trials import plan_search
from holdfast.recipe.loader import resolve_any
from holdfast.recipe.search_section import Search, parse_budget
from holdfast.recipe.search_space import parse_space

has_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed")


def test_the_constrained_order_on_a_table() -> None:
    table = [
        TrialOutcome(9, 3),
        TrialOutcome(5, 0.5),
        FAILED,
        TrialOutcome(7, 1),
        TrialOutcome(8, 1.5),
        TrialOutcome(7, -2),
    ]
    # Feasible by gain (ties: the earlier), then infeasible by how far they are off, then what failed.
    assert rank_outcomes(table, 1.0, 0.0) == [3, 5, 1, 4, 0, 2]
    assert rank_outcomes(table, None, 0.0) == [0, 4, 3, 5, 1, 2]  # no limit: by gain alone
    assert rank_outcomes(table, math.inf, 0.0) == [0, 4, 3, 5, 1, 2]
    assert rank_outcomes([TrialOutcome(9, 4), TrialOutcome(1, 3), FAILED], 1.0, 0.0) == [1, 0, 2]  # none feasible
    assert rank_outcomes([FAILED, FAILED], 1.0, 0.0) == [0, 1]
    still = [TrialOutcome(0, 0, bits=9), TrialOutcome(0, 0, bits=4), TrialOutcome(1, 0, bits=12)]
    assert rank_outcomes(still, 1.0, 0.0) == [2, 1, 0], "what solves nothing yet goes by its held-out answers"


def test_the_limit_is_optimistic_first_and_strict_last() -> None:
    assert list_strictness(1) == [STRICT]
    assert list_strictness(2) == [1.0, STRICT]
    assert list_strictness(4) == [1.0, 0.5, 0.0, STRICT]
    noisy = TrialOutcome(5, loss=1.5, error=1.0)
    assert [noisy.compute_violation(1.0, z) for z in list_strictness(4)] == pytest.approx([0, 0, 0.5, 1.78])
    assert FAILED.compute_violation(None, 0.0) == math.inf


def draw_bounds(loss: float, searches: int, finalists: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Of finalists that lose so many points the measured loss and its upper limit, on three tasks of 60 questions."""
    dice = np.random.default_rng(0)
    lost, won = 0.04 + loss / 100, 0.04
    drawn = dice.random((3, searches, finalists, 1, 60))
    differences = -1.0 * (drawn < lost) + 1.0 * ((drawn >= lost) & (drawn < lost + won))
    ends = compute_confidence_limits(
        [compute_moments(task) for task in differences], [1 / 3] * 3, is_bounded=True, level=confidence
    )
    assert ends is not None
    return -100 * differences.mean((0, 3, 4)), -100 * ends[0]


def make_finalist(delta: float, bound: float | None) -> dict[str, object]:
    gain = {"delta": 5.0, "low": 4.0, "high": 6.0}
    return {"violation": 0.0, "chosen": {"gain": gain}, "fresh": {"loss": {"delta": delta}, "bound": bound}}


@pytest.mark.parametrize("finalists", [1, 3])
def test_a_recipe_that_breaks_the_limit_is_returned_no_more_often_than_stated(finalists: int) -> None:
    limit, searches = 3.0, 1500
    confidence = share_confidence(0.9, finalists)
    means, bounds = draw_bounds(limit + 0.01, searches, finalists, confidence)  # all break it, as narrowly as can be
    entries = [[make_finalist(*pair) for pair in zip(*one, strict=True)] for one in zip(means, bounds, strict=True)]
    wrong = sum(choose_winner(search, limit) is not None for search in entries) / searches
    assert wrong <= 0.1 + 3 * math.sqrt(0.09 / searches)
    assert np.mean((means <= limit).any(1)) > 0.4  # what the mean alone would let through
    _, bounds = draw_bounds(0.0, searches, finalists, confidence)
    assert np.mean((bounds <= limit).any(1)) > 0.5  # and what loses nothing is found more often than not


def test_the_limit_is_confirmed_on_what_was_held_out() -> None:
    assert share_confidence(0.9, 0) == share_confidence(0.9, 1) == 0.9
    assert share_confidence(0.9, 4) == pytest.approx(0.975)
    assert choose_winner([make_finalist(0.5, 1.0)], 1.0) is not None
    assert choose_winner([make_finalist(0.5, 1.1)], 1.0) is None
    assert choose_winner([make_finalist(0.5, None)], 1.0) is None  # no limit can be given: not confirmed
    assert choose_winner([make_finalist(9.0, 9.0)], None) is not None
    base = [ItemResult(str(n), "", "", "", 1.0, True, True, 1) for n in range(20)]
    tuned = [ItemResult(str(n), "", "", "", float(n > 2), n > 2, True, 1) for n in range(20)]
    run = MeasuredRun([TaskInfo("k", "generate", "keep")], {"k": base}, {"k": tuned})
    # 3 of 20 lost; Bonett and Price: one flip each way added, n + 2.
    mean, spread = 3 / 22, math.sqrt(((3 + 2) / 22 - (3 / 22) ** 2) / 22)
    assert bound_loss([run], 0.9) == pytest.approx(100 * (mean + 1.2815516 * spread))
    assert bound_loss([MeasuredRun([TaskInfo("k", "generate", "target")], run.base, run.tuned)], 0.9) is None


def test_promotions() -> None:
    assert [count_promotions(n, 3, 3) for n in (40, 12, 7, 2)] == [14, 4, 3, 2]


def test_the_space_as_it_is_written() -> None:
    space = parse_space(
        {"method": ["sft", "s3ft"], "optimizer.learning_rate": {"log": [1e-4, 1e-2]}, "train.seed": {"int": [0, 2]}}
    )
    assert [d.kind for d in space] == ["choice", "log", "int"]
    assert parse_space({"train.seed": [1, 2], "train": {"seed": [3]}}) == parse_space({"train": {"seed": [3]}})
    assert [d.pick_value(0.5) for d in space] == ["s3ft", pytest.approx(1e-3), 1]
    assert [d.pick_value(0.999999) for d in space] == ["s3ft", pytest.approx(1e-2, rel=1e-3), 2]
    for given, text in [
        ({"method": []}, "holds no value for method"),
        ({"method": ["sft", "sft"]}, "holds a value of method twice"),
        ({"train.epochs": 3}, "must say over what train.epochs varies"),
        ({"train.epochs": {"range": [3, 1]}}, "must have two numbers for train.epochs, the smaller first"),
        ({"optimizer.learning_rate": {"log": [0, 1]}}, "must have ends above 0"),
        ({"train.seed": {"int": [0, 1.5]}}, "must have whole numbers"),
        ({"evaluate.items": [1, 2]}, "must not vary evaluate.items: trials that differ in evaluate cannot be compared"),
    ]:
        with pytest.raises(ValueError, match=text):
            Search(space=given)
    assert [parse_budget(text) for text in ("1h", "90m", "1h30m", "45s")] == [3600, 5400, 5400, 45]
    for text in ("", "soon", "0m", "1.5h"):
        with pytest.raises(ValueError, match="must be a time"):
            Search(budget=text)
    with pytest.raises(ValueError, match="must rise to 1"):
        Search(rungs=(0.5, 0.25, 1.0))


def test_random_suggestions_depend_on_seed_and_number_alone() -> None:
    space = parse_space({"a": {"range": [0, 1]}, "b": [1, {"name": "lora"}]})
    assert suggest_at_random(space, 3, 7) == suggest_at_random(space, 3, 7)
    assert len({json.dumps(suggest_at_random(space, s, n)) for s in range(3) for n in range(3)}) == 9


SQUARE = parse_space({"x": {"range": [-3, 3]}, "y": {"range": [-3, 3]}})


def measure_square(values: dict[str, float], draw: random.Random) -> ToldTrial:
    """Best at (1, 1), which x + y <= 1 forbids: there it is (0.5, 0.5), with a gain of 9.5."""
    gain = 10 - (values["x"] - 1) ** 2 - (values["y"] - 1) ** 2 + draw.gauss(0, 0.05)
    return ToldTrial(values, gain, values["x"] + values["y"] - 1)


def search_square(sampler: str, seed: int, trials: int) -> list[ToldTrial]:
    told: list[ToldTrial] = []
    draw = random.Random(seed)
    for number in range(trials):
        values = (
            suggest_at_random(SQUARE, seed, number)
            if sampler == "random"
            else suggest_by_tpe(SQUARE, seed, number, told, startup=8)
        )
        told.append(measure_square(values, draw))
    return told


@has_optuna
def test_the_next_suggestion_is_that_of_the_history() -> None:
    told = search_square("tpe", 5, 14)
    again = [ToldTrial(dict(trial.values), trial.gain, trial.violation) for trial in told]  # as read from a file
    assert suggest_by_tpe(SQUARE, 5, 14, told, 8) == suggest_by_tpe(SQUARE, 5, 14, again, 8)
    free = [ToldTrial(trial.values, trial.gain, -1.0) for trial in told]
    assert suggest_by_tpe(SQUARE, 5, 14, free, 8) != suggest_by_tpe(SQUARE, 5, 14, told, 8)  # the limit is known
    failed = [*told, ToldTrial({"x": 0.0, "y": 0.0}, math.nan, math.inf)]
    assert set(suggest_by_tpe(SQUARE, 5, 15, failed, 8)) == {"x", "y"}
    choices = parse_space({"tuner": ["full", {"name": "lora", "r": 8}], "train.seed": {"int": [0, 3]}})
    suggested = suggest_by_tpe(choices, 0, 0, [], 4)
    assert suggested["tuner"] in ("full", {"name": "lora", "r": 8})
    assert suggested["train.seed"] in range(4)


@has_optuna
def test_tpe_regrets_no_more_than_chance_and_keeps_to_the_limit() -> None:
    regrets: dict[str, list[float]] = {"tpe": [], "random": []}
    for sampler, out in regrets.items():
        for seed in range(20):
            told = search_square(sampler, seed, 24)
            outcomes = [TrialOutcome(trial.gain, trial.violation) for trial in told]
            winner = told[rank_outcomes(outcomes, 0.0, 0.0)[0]]
            assert winner.violation <= 0
            x, y = winner.values["x"], winner.values["y"]
            out.append(9.5 - (10 - (x - 1) ** 2 - (y - 1) ** 2))
    assert statistics.median(regrets["tpe"]) <= statistics.median(regrets["random"])


@has_optuna
def test_importance_names_what_decides() -> None:
    draw = random.Random(0)
    told = []
    for number in range(30):
        values = suggest_at_random(SQUARE, 0, number)
        told.append(ToldTrial(values, -(values["x"] ** 2) + draw.gauss(0, 0.01), 0.0))
    shares = measure_importance(SQUARE, told)
    assert shares is not None
    assert shares["x"] > 0.8
    assert measure_importance(SQUARE, told[:5]) is None


def test_a_torn_line_is_cut_off_and_another_search_is_refused(tmp_path) -> None:
    with History(tmp_path, "key") as history:
        history.append_event("ask", trial=2, values={"a": 1})
        history.append_event("result", trial=2, rung=0, gain=None, loss=None, error=None, failure="no", seconds=2.0)
        assert history.sum_seconds() == 2.0
        with pytest.raises(UserError, match="another search is at work here"):
            History(tmp_path, "key")
    path = tmp_path / "search.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "as')
    with History(tmp_path, "key") as history:
        assert [event["event"] for event in history.events] == ["begin", "ask", "result"]
        assert parse_outcome(history.events[-1]).is_failed
        assert history.find_event("ask", trial=3) is None
    assert path.read_bytes() == whole
    with pytest.raises(UserError, match="holds another search; set another --out, or add --restart"):
        History(tmp_path, "other")
    path.write_bytes(whole + b"[1]\n")
    with pytest.raises(UserError, match=r"search\.jsonl:4: not a line of a search; remove it"):
        History(tmp_path, "key")


def test_the_section_is_of_the_recipe_and_not_of_its_stages() -> None:
    recipe = resolve_any(
        {"model": "lab-small", "data": {"train": "lab:strings"}, "stages": ["sft", "dpo"], "search": {"trials": 3}}
    ).recipe
    assert recipe.search is not None
    assert recipe.search.trials == 3
    with pytest.raises(UserError, match="has stages, which a search cannot stop half way"):
        plan_search(resolve_any(recipe), None)


def test_workers_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [share_machine(place, 3, 8, []) for place in range(3)] == [{"OMP_NUM_THREADS": "2"}] * 3
    assert share_machine(0, 4, 2, ["0"]) == {"OMP_NUM_THREADS": "1"}
    cards = [share_machine(place, 3, 3, ["4", "7"])["CUDA_VISIBLE_DEVICES"] for place in range(3)]
    assert cards == ["4", "7", "4"]
    for given, own in (("5", "2"), ("1", "1"), ("4,2", "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert share_machine(0, 3, 8, []) == {"OMP_NUM_THREADS": own}
    assert split_evenly([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
