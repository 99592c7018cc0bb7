"""The one rule of all claims: a paired difference, a margin, three outcomes, and reasons for the third."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.evaluation.statistics.paired import MeasuredRun, compare_methods, interpret_difference
from holdfast.evaluation.summary import summarise_comparison
from holdfast.evaluation.task import ItemResult, TaskInfo
from holdfast.lab.reproduce import CLAIMS, claim_of
from holdfast.lab.reproduce.base import (
    COMMON,
    Claim,
    Study,
    decide_claim,
    fingerprint_code,
    folder_of,
    merge_settings,
    plans_of,
    run_claim,
)
from holdfast.lab.reproduce.rule import (
    Arm,
    Expectation,
    StudyExpectation,
    at_best_rate,
    decide_expectation,
    decide_study,
    decide_study_expectation,
    gains_as_much,
    gains_more,
    loses_less,
    loses_no_more,
    outcome_of_all,
    quantity_above,
    quantity_below,
)
from holdfast.pipeline.comparability import find_doubts
from holdfast.skills import load_skill

TARGET, KEEP, PROSE = (
    TaskInfo("new", "generate", "target"),
    TaskInfo("old", "generate"),
    TaskInfo("prose", "perplexity"),
)
N = 400


def items(right: np.ndarray) -> list[ItemResult]:
    return [ItemResult(str(i), "q", "said", "ref", float(ok), bool(ok), True, 5) for i, ok in enumerate(right)]


def shares(new: float, old: float) -> dict[str, list[ItemResult]]:
    """The easiest questions are answered rightly: so many of each task."""
    return {"new": items(np.arange(N) < new * N), "old": items(np.arange(N) < old * N)}


BASE = shares(0.4, 0.9)


def arm(new: float, old: float, seeds: int = 3, **why: str) -> Arm:
    return Arm([MeasuredRun([TARGET, KEEP], BASE, shares(new, old), seed) for seed in range(seeds)], why)


def test_a_paired_difference_is_held_against_the_margin():
    arms = {"sft": arm(0.7, 0.8), "like": arm(0.7, 0.9), "less": arm(0.6, 0.9), "near": arm(0.695, 0.81)}
    outcomes = {
        gains_as_much("like", "sft"): "held",
        loses_less("like", "sft"): "held",
        gains_as_much("less", "sft"): "refuted",
        gains_more("like", "sft"): "refuted",
        gains_as_much("near", "sft"): "held",
        loses_less("near", "sft"): "cannot tell",
        loses_less("near", "sft", margin=0.1): "cannot tell",
        loses_no_more("like"): "held",
        loses_no_more("sft"): "refuted",
        gains_more("sft"): "held",
        gains_as_much("less", "sft", share=0.5): "held",
        Expectation("like", "sft", "old", "more"): "held",
    }
    for expectation, outcome in outcomes.items():
        found = decide_expectation(expectation, arms)
        assert (found["outcome"], found["reasons"]) == (outcome, []), expectation.format_sentence()
    twin = decide_expectation(gains_as_much("twin", "sft"), {**arms, "twin": arm(0.7, 0.8)})
    assert twin["outcome"] == "cannot tell"
    assert twin["reasons"] == ["twin and sft answered alike: what sets them apart changed nothing"]
    assert decide_expectation(gains_as_much("less", "sft"), arms)["delta"] == pytest.approx(-10)
    assert decide_expectation(loses_less("like", "sft"), arms)["delta"] == pytest.approx(10), (
        "kept score, so more of it is better"
    )
    assert loses_less("s3ft", "sft").format_sentence() == "s3ft loses less elsewhere than sft"
    assert loses_no_more("s3ft", "sft", share=0.57).format_sentence() == (
        "s3ft loses no more elsewhere than 57 % of what sft does"
    )


def test_an_arm_at_its_best_rate_is_chosen_by_the_other_seeds():
    steady, fell = arm(0.6, 0.9), arm(0.3, 0.9, rate="the target fell at learning rate 0.001")
    arms = {
        "dpo": replace(fell, at_rates={1e-4: steady, 1e-3: fell}),
        "rft": replace(arm(0.5, 0.9), at_rates={3e-5: arm(0.5, 0.9), 1e-4: arm(0.5, 0.9), 1e-3: arm(0.4, 0.9)}),
    }
    found = decide_expectation(gains_more("dpo", "rft", at="best"), arms)
    assert (found["outcome"], found["reasons"]) == ("held", [])
    assert found["delta"] == pytest.approx(10)
    assert found["what"] == "dpo gains more than rft, each at its best rate"
    assert decide_expectation(gains_more("dpo", "rft"), arms)["reasons"] == [
        "dpo: the target fell at learning rate 0.001"
    ]
    lucky = Arm([arm(new, 0.9).runs[seed] for seed, new in enumerate((0.99, 0.4, 0.4))], {})
    picked = at_best_rate(replace(steady, at_rates={1e-4: arm(0.55, 0.9), 1e-3: lucky}))
    assert [run.tuned["new"][-1 - N // 2].score for run in picked.runs] == [1.0, 0.0, 0.0], "not chosen by its own luck"


def test_what_gained_most_at_the_outermost_rate_is_not_refuted_nor_what_beats_it_held() -> None:
    within = replace(arm(0.6, 0.9), at_rates={1e-4: arm(0.5, 0.9), 1e-3: arm(0.6, 0.9), 1e-2: arm(0.4, 0.9)})
    rising = replace(arm(0.5, 0.9), at_rates={1e-4: arm(0.1, 0.9), 1e-3: arm(0.5, 0.9)})
    arms = {"sft": within, "lomo": rising, "level": replace(within, at_rates={1e-4: arm(0.61, 0.9), 1e-3: within})}
    why = ["lomo: gained most at learning rate 0.001, the outermost that was tried"]

    def decide(part: Expectation) -> tuple[str, str, list[str]]:
        found = decide_expectation(part, arms)
        return found["measured"], found["outcome"], found["reasons"]

    assert decide(gains_as_much("lomo", "sft", at="best")) == ("refuted", "cannot tell", why)
    assert decide(gains_more("sft", "lomo", at="best")) == ("held", "cannot tell", why)
    assert decide(gains_more("lomo", "sft", at="best")) == ("refuted", "cannot tell", why)
    assert decide(gains_as_much("sft", "level", at="best"))[2] == [], "a plateau is no edge"
    assert decide(loses_no_more("sft", "lomo", at="best")) == ("held", "cannot tell", why)


def test_a_gain_is_matched_at_the_rates_of_the_claim_alone() -> None:
    """An arm that went on to where it gains twice as much and loses all is compared where it gained less."""
    sft = replace(arm(0.6, 0.9), at_rates={1e-3: arm(0.6, 0.9), 1e-2: arm(0.9, 0.1)})
    kl = replace(arm(0.6, 0.95), at_rates={1e-3: arm(0.6, 0.95), 1e-2: arm(0.9, 0.1)})
    part = loses_less("kl", "sft", at="gain")
    everywhere = decide_expectation(part, {"sft": sft, "kl": kl})
    asked = [replace(one, further=frozenset({1e-2})) for one in (sft, kl)]
    within = decide_expectation(part, dict(zip(("sft", "kl"), asked, strict=True)))
    assert (everywhere["delta"], within["delta"]) == (pytest.approx(0), pytest.approx(5))
    assert at_best_rate(asked[0]).runs == at_best_rate(sft).runs


def test_paired_is_narrower_than_two_intervals_side_by_side():
    rng = np.random.default_rng(0)
    hard = rng.random(N)
    one, two = ({"new": items(hard + rng.normal(0, 0.05, N) < reach), "old": BASE["old"]} for reach in (0.7, 0.72))
    runs = [[MeasuredRun([TARGET, KEEP], BASE, tuned)] for tuned in (one, two)]
    found = summarise_comparison({"one": runs[0], "two": runs[1]})
    paired = found["runs"][0]["versus"]["two"]["gain"]
    alone = [run["gain"] for run in found["runs"]]
    assert paired["high"] - paired["low"] < 0.6 * (alone[0]["high"] - alone[0]["low"])
    assert paired["delta"] == pytest.approx(alone[0]["delta"] - alone[1]["delta"])
    other = found["runs"][1]["versus"]["one"]["gain"]
    assert (other["low"], other["high"]) == pytest.approx((-paired["high"], -paired["low"]))


def test_readings_of_a_difference():
    assert [interpret_difference(*ends) for ends in ((3, 9), (-9, -3), (-1, 1.5), (-1, 9), (None, None))] == [
        "more", "less", "as much", "cannot tell", "cannot tell",
    ]  # fmt: skip
    assert interpret_difference(0.5, 1.5, margin=0.2) == "more"


def test_a_target_in_bits_and_a_kept_text_differ_in_per_cent():
    answers = TaskInfo("held-out loss", "held_out", "target")

    def texts(each: float) -> list[ItemResult]:
        noise = np.random.default_rng(1).normal(0, 0.01, 30)
        return [
            ItemResult(str(i), "t", "", "", float(-10 * each * (1 + e)), True, True, 10) for i, e in enumerate(noise)
        ]

    base = {"held-out loss": texts(2.0), "prose": texts(1.0)}
    good, bad = ({"held-out loss": texts(a), "prose": texts(b)} for a, b in ((1.0, 1.0), (1.5, 1.2)))
    tasks = [answers, PROSE]
    found = compare_methods(tasks, [MeasuredRun(tasks, base, good)], [MeasuredRun(tasks, base, bad)])
    assert found["gain"]["delta"] == pytest.approx(100 / 3), "a third fewer bits than the other"
    assert (found["gain"]["unit"], found["gain"]["reading"]) == ("%", "cannot tell"), "the differences do not vary"
    assert found["text"]["delta"] == pytest.approx(-100 / 6)
    assert found["loss"] is None


def test_what_the_runs_could_not_show_is_not_told():
    stuck = arm(0.4, 0.9, rate="the target did not clearly move at learning rate 0.0001")
    arms = {
        "dpo": stuck,
        "tpo": arm(0.6, 0.9),
        "sft": arm(0.97, 0.9, ceiling="the target is at its ceiling, 97.0 of 100"),
    }
    arms["high"] = arm(0.96, 0.9, ceiling="the target is at its ceiling, 96.0 of 100")
    easy = decide_expectation(gains_more("tpo", "dpo"), arms)
    assert (easy["measured"], easy["outcome"]) == ("held", "cannot tell"), "a rival that cannot move is no rival"
    assert easy["reasons"] == ["dpo: the target did not clearly move at learning rate 0.0001"]
    assert decide_expectation(gains_as_much("high", "sft"), arms)["outcome"] == "cannot tell"
    assert decide_expectation(gains_as_much("tpo", "sft"), arms)["outcome"] == "refuted", (
        "what is below the ceiling is seen"
    )
    assert decide_expectation(gains_more("tpo", "sft"), arms)["reasons"] == [
        "sft: the target is at its ceiling, 97.0 of 100"
    ]
    assert decide_expectation(loses_no_more("high", "sft"), arms)["reasons"] == [], "the ceiling is of the target"
    arms["vote"] = arm(0.9, 0.9, base="the base is at the ceiling already, 99.0 of 100")
    assert decide_expectation(gains_more("vote"), arms)["outcome"] == "cannot tell", "nothing can be gained"
    assert decide_expectation(gains_more("vote", "dpo"), arms | {"dpo": arm(0.4, 0.9)})["reasons"] == []
    assert [outcome_of_all([{"outcome": o} for o in some]) for some in (("held", "held"), ("held", "cannot tell"))] == [
        "held", "cannot tell",
    ]  # fmt: skip
    assert decide_claim([{"outcome": "refuted"}, {"outcome": "cannot tell"}])["outcome"] == "refuted"


def test_reasons_are_read_off_the_runs(tmp_path: Path):
    def about(gain: tuple[float, float, float], target: float, preferred: list[float], notes: dict[str, int]) -> Any:
        lines = [json.dumps({"step": i, "logps/accuracy": share}) for i, share in enumerate(preferred)]
        (tmp_path / "log.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        parts = dict(zip(("delta", "low", "high"), gain, strict=True)) | {"unit": "points"}
        entry = {"gain": parts, "target": target, "dirs": [str(tmp_path)]}
        return find_doubts(
            entry,
            [{"recipe": {"optimizer": {"learning_rate": 1e-4}}, "curation": {"notes": notes, "counts": {"gold": 400}}}],
        )

    assert about((36.0, 28.0, 43.0), 90.0, [0.6, 0.7, 0.7, 1.0, 1.0], {"pairs": 500, "ties left out": 300}) == {}
    assert about((0.0, -1.4, 1.4), 58.0, [1.0, 1.0, 0.9], {"pairs": 87, "ties left out": 913}) == {
        "pairs": "the base already prefers the chosen answer in 97 % of the pairs",
        "groups": "only 9 % of the questions have better and worse answers",
        "rate": "the target did not clearly move at learning rate 0.0001",
    }
    assert about((-14.0, -22.9, -5.6), 44.0, [], {})["rate"] == "the target fell at learning rate 0.0001"
    assert about((38.0, 30.0, 45.0), 96.0, [], {}) == {"ceiling": "the target is at its ceiling, 96.0 of 100"}
    assert about((-8.0, -12.0, -4.0), 91.0, [], {})["base"] == "the base is at the ceiling already, 99.0 of 100"
    assert (
        about((36.0, 28.0, 43.0), 90.0, [], {"gold kept": 380, "sampled": 400})["rows"]
        == "only 5 % of its rows are not the gold ones"
    )
    for notes in ({"gold kept": 300, "sampled": 400}, {"gold kept": 400}):  # some replaced; none was to be
        assert about((36.0, 28.0, 43.0), 90.0, [], notes) == {}


def test_studies_are_decided_by_student_over_their_seeds():
    found = {"a": [1.0, 1.2, 0.9, 1.1, 1.0], "b": [0.5, 0.8, 0.4, 0.7, 0.5]}
    assert decide_study_expectation(quantity_above("a", "b", "a is above b"), found)["outcome"] == "held"
    assert (
        decide_study_expectation(quantity_above("a", "b", "by more than 0.4", by=0.4), found)["outcome"]
        == "cannot tell"
    )
    assert decide_study_expectation(quantity_above("a", "b", "by more than 1", by=1.0), found)["outcome"] == "refuted"
    assert decide_study_expectation(quantity_below("b", 0.9, "b is below 0.9"), found)["outcome"] == "held"
    lucky = {"a": [1.0, 0.0, 0.0, 0.0, 0.2], "b": [0.0] * 5}
    assert (
        decide_study_expectation(quantity_above("a", "b", "two standard errors would not do"), lucky)["outcome"]
        == "cannot tell"
    )


def test_every_claim_is_decided_by_the_rule_on_arms_it_has():
    for name in CLAIMS:
        claim = claim_of(name)
        assert claim.expects, name
        if isinstance(claim, Claim):
            for part in claim.expects:
                assert {part.arm, part.than} - {None} <= set(claim.arms), (name, part)
                assert part.of in ("gain", "kept") or part.of.startswith("log:") or load_skill(part.of)


def test_claims_on_the_same_work_share_their_arms():
    arms: dict[tuple[str, str], list[str]] = {}
    for name, claim in ((name, claim_of(name)) for name in CLAIMS):
        if isinstance(claim, Claim):
            plans, _ = plans_of(claim, merge_settings(COMMON, claim.common))
            for label, overrides in plans.items():
                same = arms.setdefault((folder_of(name, claim), label), list(overrides))
                assert same == list(overrides), f"{name}: another claim's {label} is in the same directory"
    trained = [(folder, tuple(overrides)) for (folder, _), overrides in arms.items()]
    assert len(trained) == len(set(trained)), "an arm is trained twice under two names"


def test_a_study_broken_off_goes_on_with_the_next_seed_unless_its_code_is_another(tmp_path: Path) -> None:
    measured_seeds: list[int] = []

    def measure(seed: int) -> dict[str, float]:
        measured_seeds.append(seed)
        if measured_seeds == [0, 1, 2]:
            raise KeyboardInterrupt
        return {"height": 1.0 + seed}

    figures = (("how high", "3", "height"),)
    study = Study("It is high.", "Somebody 2020", measure, figures, (quantity_above("height", 0.5, "it is"),), seeds=3)
    with pytest.raises(KeyboardInterrupt):
        run_claim("high", study, seeds=3, out=tmp_path, ui=None)
    result = run_claim("high", study, seeds=3, out=tmp_path, ui=None)
    assert measured_seeds == [0, 1, 2, 2]
    assert result["rows"][0]["ours"] == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["high.html", "high.json"]
    (tmp_path / "high.seeds.json").write_text('{"code": "another", "seeds": [{"height": 9}]}')
    assert run_claim("high", study, seeds=3, out=tmp_path, ui=None)["rows"][0]["ours"] == "2"


def test_nothing_is_told_where_a_premise_does_not_hold() -> None:
    def premise(by: float) -> StudyExpectation:
        return quantity_above("gain", 0.0, "the run gains", by=by, is_premise=True)

    measurements = {"gain": [1.0, 1.1, 1.2], "lost": [0.0, 0.0, 0.0]}
    part = quantity_above("lost", 0.0, "something is lost", by=0.5)
    assert [check["outcome"] for check in decide_study((premise(0.5), part), measurements)] == ["held", "refuted"]
    checks = decide_study((premise(5.0), part), measurements)
    assert [check["outcome"] for check in checks] == ["cannot tell", "cannot tell"]
    assert checks[1]["reasons"] == ["not so here: the run gains"]
    assert checks[1]["measured"] == "refuted"


def test_every_study_says_where_its_programme_is_written() -> None:
    studies = [claim for claim in map(claim_of, CLAIMS) if isinstance(claim, Study)]
    assert len({fingerprint_code(study.measure) for study in studies}) > 10
