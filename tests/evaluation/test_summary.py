"""Reports from items: law 1 (nothing changed is exactly nothing), signs, flips, the gate, comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from holdfast.errors import RunError, UserError
from holdfast.evaluation.gate import apply_gate, refuse_gate
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.statistics.seed_disagreement import measure_disagreement
from holdfast.evaluation.summary import (
    MeasuredRun,
    compute_role_figures,
    compute_score,
    pair_scores,
    read_run,
    summarise_comparison,
    summarise_run,
)
from holdfast.evaluation.task import ItemResult, Task, TaskInfo
from holdfast.report.arms import arm_lines

TARGET, KEEP, TEXT = (
    TaskInfo("new", "generate", "target", "exact"),
    TaskInfo("old", "generate"),
    TaskInfo("prose", "perplexity"),
)


def items(right: Any, stopped: bool = True) -> list[ItemResult]:
    return [
        ItemResult(str(i), f"q{i}", f"said {int(ok)}", "ref", float(ok), bool(ok), stopped, 5)
        for i, ok in enumerate(right)
    ]


def texts(logps: Any, tokens: int = 10) -> list[ItemResult]:
    return [ItemResult(str(i), "t", "", "", float(v), True, True, tokens) for i, v in enumerate(logps)]


def coin(seed: int, share: float, n: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


BASE = {"new": items(coin(0, 0.4)), "old": items(coin(1, 0.8)), "prose": texts(-10 * (1 + coin(2, 0.5)))}


def test_base_against_base_is_exactly_nothing():
    found = summarise_run([TARGET, KEEP, TEXT], BASE, BASE)
    for part in [*found["tasks"][:2], found["gain"], found["loss"]]:
        assert part["delta"] == 0
        assert part["high"] == -part["low"] == pytest.approx(2.717, abs=0.001), "what 100 questions leave open"
    assert (found["tasks"][2]["delta"], found["tasks"][2]["low"]) == (0.0, None)
    assert found["text"] == {"percent": 0.0, "low": None, "high": None, "worst": "prose"}
    assert "-0.0" not in json.dumps(found)
    for task in found["tasks"][:2]:
        assert (task["p"], task["won"], task["lost"], task["flips"]) == (1.0, 0, 0, [])
        assert task["base"] == task["tuned"]
        assert task["noise"] > 0


def test_gain_and_loss_have_opposite_signs():
    tuned = {
        "new": items(coin(0, 0.4) | coin(5, 0.5)),
        "old": items(coin(1, 0.8) & coin(6, 0.7)),
        "prose": BASE["prose"],
    }
    found = summarise_run([TARGET, KEEP], BASE, tuned)
    new, old = found["tasks"]
    assert found["gain"]["delta"] == new["delta"] == pytest.approx(new["tuned"] - new["base"])
    assert found["gain"]["low"] > 0
    assert found["loss"]["delta"] == -old["delta"] > 0
    assert found["loss"]["low"] == -old["high"] > 0
    assert found["loss"]["worst"] == "old"
    assert found["gain"]["n"] == 100
    assert old["lost"] - old["won"] == round(found["loss"]["delta"])
    assert old["p"] < 0.001


def test_flips_show_both_answers():
    tuned = {"new": items(~coin(0, 0.4))}
    (task,) = summarise_run([TARGET], BASE, tuned)["tasks"]
    assert len(task["flips"]) == 20
    assert task["won"] + task["lost"] == 100
    assert {f["won"] for f in task["flips"]} == {True, False}
    assert not task["flips"][0]["won"]
    for flip in task["flips"]:
        assert (flip["base"], flip["tuned"]) == (("said 0", "said 1") if flip["won"] else ("said 1", "said 0"))
    assert len(summarise_run([TARGET], {"new": items([1] * 30)}, {"new": items([0] * 30)})["tasks"][0]["flips"]) == 20


def test_text_is_counted_in_bits_per_byte():
    found = summarise_run([TEXT], {"prose": texts([-10.0, -20.0])}, {"prose": texts([-20.0, -40.0])})
    (task,) = found["tasks"]
    assert (task["unit"], task["better"]) == ("bits per byte", "lower")
    assert task["base"] == pytest.approx(30 / np.log(2) / 2)  # two texts of one byte each
    assert task["tuned"] == pytest.approx(60 / np.log(2) / 2)
    assert task["delta"] == pytest.approx(task["tuned"] - task["base"])
    assert task["low"] <= task["delta"] <= task["high"]
    assert task["percent"] == pytest.approx(100)
    assert task["extra"]["perplexity_base"] == pytest.approx(np.exp(1.5))
    assert [task[k] for k in ("p", "won", "lost", "stop_base", "length_tuned")] == [None] * 5
    assert found["loss"] is None, "text is never mixed into a mean of points"
    assert found["text"] == pytest.approx({"percent": 100, "low": None, "high": None, "worst": "prose"})


def test_text_of_many_bytes_counts_them_as_utf8():
    letters = [ItemResult("a", "a\u00e4\u3042", "", "", -6 * np.log(2), True, True, 2)]
    assert compute_score(TEXT, letters) == pytest.approx(1.0)  # 1 + 2 + 3 bytes


def test_a_target_in_bits_gains_where_it_falls():
    answers = TaskInfo("held-out loss", "held_out", "target")
    found = summarise_run([answers], {"held-out loss": texts([-10, -30])}, {"held-out loss": texts([-5, -15])})
    gain, held_out = found["gain"], found["held_out"]
    assert gain["unit"] == held_out["unit"] == "bits per token"
    assert gain["delta"] == pytest.approx(1 / np.log(2))
    assert gain["percent"] == pytest.approx(50)
    assert held_out["base"] == pytest.approx(2 / np.log(2))
    assert held_out["delta"] == pytest.approx(-gain["delta"])
    assert gain["low"] == pytest.approx(-held_out["high"])
    assert found["tasks"][0]["extra"]["bits_per_byte_base"] == pytest.approx(40 / np.log(2) / 2)


def test_the_held_out_loss_beside_a_judged_target_is_no_target():
    answers, score_of = TaskInfo("held-out loss", "held_out", "watch"), {"new": items([1, 0]), "old": items([1, 1])}
    tuned = {"new": items([1, 1]), "old": items([1, 1]), "held-out loss": texts([-5, -5])}
    found = summarise_run([TARGET, answers, KEEP], {**score_of, "held-out loss": texts([-10, -10])}, tuned)
    assert (found["gain"]["unit"], found["gain"]["delta"]) == ("points", 50)
    assert found["loss"]["delta"] == 0
    assert found["held_out"]["delta"] == pytest.approx(-0.5 / np.log(2))
    assert compute_role_figures([TARGET, answers, KEEP], tuned) == {
        "target": 100.0, "keep": 100.0, "text": None, "held_out": pytest.approx(0.5 / np.log(2)),
    }  # fmt: skip


def test_stop_rate_and_length():
    (task,) = summarise_run([KEEP], {"old": items([1, 1])}, {"old": items([1, 1], stopped=False)})["tasks"]
    assert (task["stop_base"], task["stop_tuned"], task["length_base"]) == (1.0, 0.0, 5.0)


def test_other_questions_are_refused():
    with pytest.raises(RunError, match="same questions"):
        pair_scores(KEEP, items([1, 0]), items([1, 0, 1]))
    shuffled = items([1, 0])[::-1]
    assert pair_scores(KEEP, items([1, 0]), shuffled).tuned.tolist() == [1.0, 0.0]  # matched by id, not by place


def limits(
    max_loss: float | None = None,
    min_gain: float | None = None,
    max_bits: float | None = None,
    max_kl: float | None = None,
) -> Any:
    return SimpleNamespace(max_loss=max_loss, min_gain=min_gain, max_bits=max_bits, max_kl=max_kl)


def test_gate():
    lost = summarise_run([TARGET, KEEP], BASE, {"new": items(~coin(0, 0.4)), "old": items(coin(1, 0.7))})
    assert apply_gate(limits(), lost) is None
    assert apply_gate(limits(50, 1), lost) == {"passed": True, "reasons": []}
    close = apply_gate(limits(max_loss=lost["loss"]["delta"] + 0.1), lost)
    assert close["passed"]
    assert close["unsure"] == [
        f"max_loss is {lost['loss']['delta'] + 0.1:g}, and the 95 % interval {lost['loss']['low']:.1f} to "
        f"{lost['loss']['high']:.1f} reaches beyond it"
    ]
    said = apply_gate(limits(2.0, 90), lost)
    assert not said["passed"]
    assert len(said["reasons"]) == 2
    loss, gain = lost["loss"], lost["gain"]
    assert said["reasons"] == [
        f"lost {loss['delta']:.1f} points on the kept tasks (95 % interval {loss['low']:.1f} to {loss['high']:.1f}; "
        "most on old), where max_loss allows 2",
        f"gained {gain['delta']:.1f} points on the target (95 % interval {gain['low']:.1f} to {gain['high']:.1f}), "
        "where min_gain asks for 90",
    ]
    fell = {"gain": {"delta": -20.5, "low": -46.7, "high": 3.3}, "loss": {**loss, "delta": 1.004}, "text": None}
    assert apply_gate(limits(1.0, 5), fell)["reasons"][0].startswith("lost 1.004 points")
    assert apply_gate(limits(None, 5), fell)["reasons"] == [
        "lost 20.5 points on the target (95 % interval -3.3 to 46.7), where min_gain asks for a gain of 5"
    ]
    nothing = summarise_run([], {}, {})
    assert nothing == {"tasks": [], "gain": None, "loss": None, "text": None, "held_out": None, "probe": None}
    assert len(apply_gate(limits(2.0, 0.0), nothing)["reasons"]) == 2
    spoilt = {**lost["loss"], "delta": float("nan")}
    assert not apply_gate(limits(2.0), {"gain": None, "loss": spoilt, "text": None})["passed"]


def test_a_catastrophe_of_text_cannot_pass_a_gate():
    """Perplexity 32.85 -> 241.90 is 2.6 points of 100 / perplexity, and 57 % more bits."""
    before, after = (texts(-400 * np.log(perplexity) + np.arange(8), 400) for perplexity in (32.85, 241.90))
    found = summarise_run([TEXT], {"prose": before}, {"prose": after})
    assert found["text"]["percent"] == pytest.approx(57.2, abs=0.2)
    assert apply_gate(limits(max_bits=60), found)["passed"]
    (reason,) = apply_gate(limits(max_bits=5), found)["reasons"]
    assert reason.startswith("the kept texts take 57.3 % more bits (95 % interval")
    assert not apply_gate(limits(3.5), found)["passed"]
    with pytest.raises(UserError, match="max_bits"):
        refuse_gate(limits(3.5), [TEXT])
    with pytest.raises(UserError, match="text:FILE"):
        refuse_gate(limits(max_bits=5), [TARGET, KEEP])
    refuse_gate(limits(3.5, 1.0, 5), [TARGET, KEEP, TEXT])


def test_a_gain_in_bits_is_gated_in_per_cent():
    answers = TaskInfo("held-out loss", "held_out", "target")
    found = summarise_run([answers], {"held-out loss": texts([-10, -10])}, {"held-out loss": texts([-9, -9])})
    assert apply_gate(limits(min_gain=9), found)["passed"]
    assert "10.0 % fewer bits" in apply_gate(limits(min_gain=11), found)["reasons"][0]


def test_live_scores():
    assert compute_score(KEEP, items([1, 1, 0, 0])) == 50.0
    assert compute_role_figures([TARGET, KEEP], {"new": items([1]), "old": items([0, 1])})["keep"] == 50.0
    assert compute_role_figures([TARGET], {"new": items([1])})["keep"] is None
    assert compute_role_figures([TARGET, KEEP], {"old": items([1])})["target"] is None, "it was not measured"


def test_comparison_of_methods_over_seeds():
    def run(seed: int, gain: float, loss: float) -> MeasuredRun:
        tuned = {
            "new": items(coin(0, 0.4) | coin(seed + 100, gain)),
            "old": items(coin(1, 0.8) & coin(seed + 9, 1 - loss)),
        }
        return MeasuredRun([TARGET, KEEP], BASE, tuned, seed)

    methods = {"none": [MeasuredRun([TARGET, KEEP], BASE, BASE, s) for s in range(2)]}
    methods |= {"good": [run(s, 0.5, 0.1) for s in range(3)], "bad": [run(s, 0.4, 0.6) for s in range(3)]}
    found = summarise_comparison(methods)
    none, good, bad = found["runs"]
    for part in (none["gain"], none["loss"]):
        assert part["low"] < part["delta"] == 0 < part["high"]
    assert [r["pareto"] for r in found["runs"]] == [True, True, False]
    assert good["gain"]["low"] > 0
    assert bad["loss"]["low"] > good["loss"]["high"]
    assert good["seeds"] == [0, 1, 2]
    assert good["gain"]["delta"] == pytest.approx(np.mean([p["gain"] for p in good["points"]]))
    assert bad["loss"]["delta"] == pytest.approx(np.mean([p["loss"] for p in bad["points"]]))
    assert good["tasks"]["new"]["tuned"] == pytest.approx(good["target"])
    assert found["tasks"][0] == {
        "name": "new", "role": "target", "kind": "generate", "unit": "points", "better": "higher", "n": 100,
        "base": compute_score(TARGET, BASE["new"]),
    }  # fmt: skip


def test_runs_are_read_back_from_disk(tmp_path):
    tuned = {"new": items(~coin(0, 0.4)), "old": BASE["old"]}
    for when, measured in (("base", BASE), ("final", tuned)):
        for info in (TARGET, KEEP):
            task = Task(info.name, info.kind, [], role=info.role)
            ResultsStore(tmp_path / "eval" / when).write_items(task, "f", measured[info.name])
    run = read_run(tmp_path, seed=4)
    assert run.seed == 4
    assert {t.name: t.role for t in run.tasks} == {"new": "target", "old": "keep"}
    assert (
        summarise_run(run.tasks, run.base, run.tuned)["gain"]["delta"]
        == summarise_run([TARGET], BASE, tuned)["gain"]["delta"]
    )
    with pytest.raises(UserError, match="no finished evaluation"):
        read_run(tmp_path / "elsewhere")


def test_what_only_loses_is_not_on_the_front_though_it_loses_least():
    spoilt = {"new": items(coin(0, 0.4) & coin(3, 0.5)), "old": items(coin(1, 0.8) & coin(9, 0.98))}
    gained = {"new": items(coin(0, 0.4) | coin(3, 0.5)), "old": items(coin(1, 0.8) & coin(9, 0.9))}
    methods = {
        name: [MeasuredRun([TARGET, KEEP], BASE, tuned, 0)] for name, tuned in (("bad", spoilt), ("good", gained))
    }
    bad, good = summarise_comparison(methods)["runs"]
    assert 0 < bad["loss"]["delta"] < good["loss"]["delta"]
    assert (bad["pareto"], good["pareto"]) == (False, True)


def test_seeds_of_one_method_are_held_against_each_other():
    """Three seeds, six questions of two tasks: of 18 pairs of judgements 8 differ; kappa by hand."""
    new, old = ([1, 1, 0], [1, 0, 0], [1, 1, 1]), ([0, 1, 1], [0, 1, 0], [1, 1, 0])
    runs = [
        MeasuredRun([TARGET, KEEP, TEXT], BASE, {"new": items(a), "old": items(b), "prose": BASE["prose"]}, seed)
        for seed, (a, b) in enumerate(zip(new, old, strict=True))
    ]
    apart = measure_disagreement([TARGET, KEEP, TEXT], runs)
    assert apart is not None
    assert apart["judged"] == apart["answered"] == pytest.approx(100 * 8 / 18)
    right = 11 / 18
    by_chance = right**2 + (1 - right) ** 2
    assert apart["kappa"] == pytest.approx((10 / 18 - by_chance) / (1 - by_chance))
    assert measure_disagreement([TARGET], runs[:1]) is None
    assert measure_disagreement([TEXT], runs) is None
    same = {"judged": 0.0, "answered": 0.0, "kappa": 1.0}
    assert measure_disagreement([TARGET], [runs[0], runs[0]]) == same
    (line,) = arm_lines({"runs": [{"method": "sft", "seeds_apart": same}]})
    assert (
        line
        == "sft: two seeds judge 0.0 % of the questions differently and answer 0.0 % otherwise (Fleiss' kappa 1.00)"
    )
    assert "divergence" not in apart, "of answers that are no choice there are no options"
    for run, options in zip(runs, ([0.5, 0.5], [0.25, 0.75], [0.5, 0.5]), strict=True):
        run.tuned["new"][0].extra["options"] = np.log(options).tolist()
    apart = measure_disagreement([TARGET, KEEP, TEXT], runs)
    assert apart is not None
    p, q, middle = np.array([0.5, 0.5]), np.array([0.25, 0.75]), np.array([0.375, 0.625])
    by_hand = (p @ np.log(p / middle) + q @ np.log(q / middle)) / 2
    assert apart["divergence"] == pytest.approx(2 / 3 * by_hand), "two of the three pairs"
    (line,) = arm_lines({"runs": [{"method": "sft", "seeds_apart": same | {"divergence": 0.0123}}]})
    assert line.endswith("(Fleiss' kappa 1.00), options 0.012 nats apart (Jensen-Shannon)")
    whole = [replace(run, base=run.tuned) for run in runs]
    assert summarise_comparison({"sft": whole})["runs"][0]["seeds_apart"] == apart
    assert "seeds_apart" not in summarise_comparison({"sft": whole[:1]})["runs"][0]
