"""Claims on a model and rows of one's own: which move, what of them stays, what is refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import UserError
from holdfast.lab.reproduce import CLAIMS, claim_of, reproduce
from holdfast.lab.reproduce.base import Claim, Study, gain_and_loss, plans_of
from holdfast.lab.reproduce.own_work import (
    find_rates_of_arms,
    move_claim,
    move_study,
    name_folder,
    name_rehearsed_rows,
    run_on_work,
)
from holdfast.lab.reproduce.rule import gains_as_much, loses_no_more, quantity_above

RECIPE = """\
model: someone/else
data: {train: rows.jsonl, test: 0.34}
judge: number
train: {max_steps: 1, batch_tokens: 256}
evaluate: {keep: ["lab:sums"], items: 8, max_tokens: 6, every: 0}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with rows of one's own and a recipe beside them."""
    folder = tmp_path / "work"
    folder.mkdir()
    lines = [{"prompt": f"What is {k} + {k + 1}?", "completion": str(2 * k + 1)} for k in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "run.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def move_all() -> tuple[dict[str, Claim], dict[str, Study], dict[str, str]]:
    """The claims and the studies that can be asked of any work, and why the others cannot."""
    claims, studies, refusals = {}, {}, {}
    for name, claim in zip(CLAIMS, map(claim_of, CLAIMS), strict=True):
        try:
            if isinstance(claim, Study):
                studies[name] = move_study(name, claim, {"model": "someone/else"})
            else:
                claims[name] = move_claim(name, claim)
        except UserError as error:
            refusals[name] = str(error)
    return claims, studies, refusals


def test_every_claim_moves_or_says_why_not() -> None:
    moved, studies, refusals = move_all()
    assert all(name in text and "\n" not in text for name, text in refusals.items())
    assert {"sft-memorizes", "flan", "memory_levels", "ual"} <= refusals.keys()
    assert {"s3ft", "ssr", "sdft", "half", "lora", "neftune", "dpo", "orpo", "zephyr", "delift", "ia3"} <= moved.keys()
    assert {"stability", "drift", "spectrum", "mend", "pretty"} <= studies.keys()
    for claim in moved.values():
        texts = [text for overrides in claim.arms.values() for text in overrides]
        assert not any("lab" in text.split(":") or text.startswith("optimizer.learning_rate") for text in texts)
        assert not any(part.at == "validated" for part in claim.expects)


def test_claims_share_a_directory_where_an_arm_of_one_name_is_one_run() -> None:
    arms: dict[tuple[str, str], list[str]] = {}
    claims, _, _ = move_all()
    for name, moved in claims.items():
        for label, overrides in moved.arms.items():
            assert arms.setdefault((name_folder("work", moved), label), overrides) == overrides, name
    folders = {name: name_folder("work", move_claim(name, claim_of(name))) for name in ("rft", "dpo", "rpo", "fpo")}
    assert folders["rft"] == "work" != folders["dpo"]  # both call an arm rft
    assert folders["rpo"] == folders["fpo"] != folders["dpo"]


def test_what_a_size_alone_sets_apart_is_not_asked() -> None:
    """`random` is a number of the laboratory's rows; without it that arm would be all rows under another name."""
    moved = move_claim("davir", claim_of("davir"))
    assert set(moved.arms) == {"all", "davir"}
    assert [part.than for part in moved.expects] == ["all"]
    assert "Not asked here: davir gains more than random." in moved.verdict(
        {name: {"gain": {"delta": 0.0}, "loss": {"delta": 0.0}, "tasks": {}} for name in moved.arms}
    )


def test_the_arms_are_held_against_each_other_on_the_work(work: Path, tmp_path: Path) -> None:
    arms = {"sft": ["method=sft", "optimizer.learning_rate=7"], "half": ["method=half", "train.max_steps=900"]}
    claim = Claim(
        claim="Half learns as much and keeps as much.",
        paper="nobody",
        arms=arms,
        figures=gain_and_loss({"sft": "1", "half": "2"}),
        expects=(gains_as_much("half", "sft", at="validated"), loses_no_more("half", "sft", at="gain")),
        rates=(1, 2),
        validation="story",
    )
    result = run_on_work("half", claim, "lab-small", work, seeds=1, out=tmp_path / "out")
    place = tmp_path / "out" / "on-lab-small-work"
    assert {path.name for path in place.iterdir() if path.is_dir()} >= {
        "sft-seed0", "half-seed0", "sft-at-0.0006-seed0", "half-at-0.0006-seed0",
    }  # fmt: skip  # and others, where an arm gained most at the higher rate
    assert json.loads((tmp_path / "out" / "half-on-lab-small-work.json").read_text(encoding="utf-8")) == result
    assert [row["what"] for row in result["rows"]][:5] == [
        "target, sft", "target, half", "lost elsewhere, sft", "lost elsewhere, half", "cost of a run, sft",
    ]  # fmt: skip
    assert [check["what"].split(" at ")[0] for check in result["checks"]] == [
        "half gains as much as sft, each", "half loses no more elsewhere than sft",
    ]  # fmt: skip
    assert "A paper's claim on lab-small" in (tmp_path / "out" / "half-on-lab-small-work.html").read_text("utf-8")


def test_a_study_measures_the_same_on_the_work(work: Path, tmp_path: Path) -> None:
    from holdfast.lab.reproduce.at_the_logits import scale_rate, train_arms

    def measure(seed: int, work: Mapping[str, Any]) -> dict[str, float]:
        report = train_arms(str(tmp_path / "runs"), seed, {f"{seed}": scale_rate(work, 2)}, work)[f"{seed}"]
        return {"rate": report["recipe"]["optimizer"]["learning_rate"], "seed": report["recipe"]["train"]["seed"]}

    figures = (("twice the rate", "not given", "rate"), ("what this work has not", "", "colour"))
    study = Study("It runs.", "nobody", measure, figures, (quantity_above("rate", 1e-4, "it is high"),), seeds=2)
    (work / "run.yaml").write_text(f"{RECIPE}optimizer: {{learning_rate: 3e-4}}\n", encoding="utf-8")
    result = run_on_work("runs", study, "lab-small", work, seeds=2, out=tmp_path / "out")
    assert [(row["what"], row["ours"], row["low"]) for row in result["rows"]] == [("twice the rate", "0.0006", 6e-4)]
    assert (result["outcome"], result["on"]["name"], result["seeds"]) == ("held", "on-lab-small-work", 2)
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == ["runs-on-lab-small-work.json"]
    with pytest.raises(UserError, match="ual is tested by a programme of its own"):
        reproduce("ual", on="lab-small", data=work)


def test_what_is_not_kept_is_not_measured() -> None:
    arms = {"sft": {"gain": {"delta": 2.0, "low": 1.0, "high": 3.0}, "loss": None}}
    gained, lost = (figure.ours(arms) for figure in gain_and_loss({"sft": "1"}))
    assert gained == ("+2.0", 1.0, 3.0)
    assert lost == ("not measured", None, None)


def write_tales(path: Path) -> None:
    """Rows whose answers no judge can tell right from wrong."""
    words = ["sea", "bird", "stone", "river", "light", "lamp"]
    tales = [
        (f"Tell of {a} and {b}.", f"The {a} met the {b}, and they were friends. " * 3)
        for a, b in permutations(words, 2)
    ]
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in tales), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("judge: number\n", "", "measured by the loss of its held-out answers"),
        ('"lab:sums"', "none", "name a task, or `probe`"),
        ("rows.jsonl", "lost.jsonl", "lost.jsonl"),
        ("train: {max_steps", "trane: {max_steps", "run.yaml:4: trane"),
    ],
)
def test_what_could_not_be_decided_is_refused_at_once(
    work: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    if not new:
        write_tales(work / "rows.jsonl")
    (work / "run.yaml").write_text(RECIPE.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        reproduce("half", on="lab-small", data=work, out=tmp_path / "out")
    assert said in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_work_names_the_rows_to_rehearse(work: Path) -> None:
    with pytest.raises(UserError, match=r"replay rehearses rows, and the work names none: set data\.replay"):
        reproduce("replay", on="lab-small", data=work)
    claim = claim_of("replay")
    assert isinstance(claim, Claim)
    arms = name_rehearsed_rows(claim.arms, {"path": "general.jsonl", "share": 0.5})
    assert arms["replay"][-1] == 'data.replay={"path": "general.jsonl", "share": 0.1}'
    assert arms["sft"] == claim.arms["sft"]
    assert {"sft", "replay"} == move_claim("replay", replace(claim, arms=arms)).arms.keys()


def test_an_arm_of_another_kind_runs_around_its_own_rate_too() -> None:
    recipe = {"model": "someone/else", "data": {"train": "rows.jsonl"}, "optimizer": {"learning_rate": 1e-3}}
    names = ("lora", "half", "lomo", "dpo")
    rates = {name: find_rates_of_arms(claim_of(name), recipe) for name in names}
    assert rates == {  # in the laboratory SFT's is 1e-3, LoRA's 5e-3, LOMO's 0.3, that of pairs 1e-4
        "lora": {"lora": pytest.approx([1.5, 5, 15])},
        "half": {},
        "lomo": {"lomo": pytest.approx([90, 300, 900])},
        "dpo": dict.fromkeys(("rft", "dpo"), pytest.approx([0.03, 0.1, 0.3, 1])),
    }
    claim = replace(move_claim("lora", claim_of("lora")), rates_of_arms=rates["lora"])
    plans, families = plans_of(claim, recipe)
    assert list(families["lora"]) == [0.001, 0.0003, 0.0015, 0.003, 0.005, 0.015]
    assert plans["lora at 0.015"] == [*claim.arms["lora"], "optimizer.learning_rate=0.015"]
    assert list(families["sft"]) == [0.001, 0.0003, 0.003]
    of_lora = recipe | {"method": "lora"}  # whose rate is five times SFT's by default
    assert find_rates_of_arms(claim_of("lora"), of_lora) == {"sft": pytest.approx([0.06, 0.2, 0.6])}
    assert find_rates_of_arms(claim_of("lora"), recipe | {"optimizer": {"max_grad_norm": 2}}) == {}


def test_a_folder_must_say_which_work(work: Path) -> None:
    (work / "second.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(UserError, match=r"has 2 recipes \(run.yaml, second.yaml\); name the one"):
        reproduce("half", on="lab-small", data=work)


def test_a_model_without_work_is_refused() -> None:
    with pytest.raises(UserError, match="--on MODEL and --data RECIPE go together"):
        reproduce("half", on="lab-small")
