"""What would silently be another method is refused, with a way out; what fits is let in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.lab.reproduce import CLAIMS, claim_of
from holdfast.lab.reproduce.base import COMMON, Claim, merge_settings
from holdfast.recipe.loader import resolve_any


def recipe(**given: Any) -> Any:
    return resolve_any({"model": "lab-small", "data": {"train": "lab:story"}, **given}).recipe


GROUP = {"name": "pairs", "n": 8, "temperature": 1}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"method": "tis_dpo"},
            "without estimate gives every token weight 1, which is plain dpo; set objective.est",
        ),
        ({"objective": {"name": "tis_dpo", "beta": 0.2}}, "or use dpo"),
        ({"stages": ["sft", {"method": "tis_dpo"}]}, "without estimate"),
        (
            {"objective": "grpo", "curate": "pairs"},
            "drawn at temperature 0.7, top_p 1, top_k 0; set curate: {name",
        ),
        ({"objective": "grpo", "curate": GROUP, "sampling": {"top_p": 0.9}}, "top_p 0.9"),
        ({"objective": "grpo", "curate": GROUP, "sampling": {"top_k": 5}}, "top_k 5"),
        ({"method": "s3ft+dpo"}, r"let curator pairs write them \(curate: pairs\), make them stages"),
        ({"method": "rft+tpo"}, r"rewrites the gold answer of each row \(s3ft, ssr, sdft\), make them stages"),
        ({"method": "ssr+grpo"}, r"curate: \{name: pairs, n: 8, temperature: 1\}"),
        ({"objective": "sft", "curate": "pairs"}, "choose an objective of pairs, such as dpo, make them stages"),
    ],
)
def test_refused_with_a_way_out(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"objective": {"name": "tis_dpo", "estimate": "ones"}},
        {"objective": {"name": "tis_dpo", "estimate": "prompts", "positive": "Be right.", "negative": "Be wrong."}},
        {"objective": "grpo", "curate": GROUP},
        {"objective": "grpo"},
        {"stages": [{"curate": "s3ft"}, {"objective": "dpo"}]},
        *(
            {"method": f"{curator}+{objective}"}
            for curator in ("s3ft", "ssr", "sdft")
            for objective in ("tpo", "tpo_l")
        ),
    ],
)
def test_let_in_and_read_again(given: dict[str, Any]) -> None:
    found = recipe(**given)
    assert resolve_any(found.model_dump(mode="json")).recipe == found


def test_estimates_use_the_papers_eta() -> None:
    assert recipe(objective={"name": "tis_dpo", "estimate": "ones"}).objective.eta == 1


def test_half_draws_anew_in_every_stage() -> None:
    stages = recipe(
        method="half", stages=["half", {"method": "half", "name": "b"}, {"name": "c", "tuner": {"round": 7}}]
    ).stages
    assert [stage.tuner.round for stage in stages] == [0, 1, 7]
    common = recipe(stages=["sft", {"name": "b"}], tuner={"name": "half", "round": 3}).stages
    assert [stage.tuner.round for stage in common] == [3, 3], "what the recipe says is for all"
    sources = resolve_any(
        {"model": "lab", "data": {"train": "lab:story"}, "stages": ["half", {"name": "b", "tuner": "half"}]}
    )
    assert sources.sources["stages.1.tuner.round"] == "derived: stage 2"


def test_two_stages_of_half_freeze_other_weights(tiny: Any) -> None:
    stages = recipe(stages=["half", {"method": "half", "name": "b"}]).stages
    moving = []
    for stage in stages:
        model, _ = tiny("llama")
        tuned = stage.tuner.apply(model, stage.train.seed)
        moving.append({name for name, p in tuned.named_parameters() if p.requires_grad})
    assert moving[0] != moving[1]


def test_uft_needs_demonstrations_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` and `train` refuse alike, before anything is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    scored = [{"prompt": f"{i}?", "completion": "yes", "score": 0.5} for i in range(4)]
    plain = [{"prompt": f"{i}!", "completion": "no"} for i in range(4)]
    pairs = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(4)]
    for rows, words in (
        (scored, "rows.jsonl has a score for every answer and no demonstrations"),
        (pairs, "rows.jsonl has rejected answers without a score"),
        ([*scored, *plain], ""),
        ([{**pair, "score_chosen": 0.9, "score_rejected": 0.2} for pair in pairs], "no demonstrations"),
    ):
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        content = {
            "model": "lab-small", "method": "uft", "data": {"train": "rows.jsonl", "test": 0},
            "evaluate": {"target": "none", "keep": []}, "output": "out",
        }  # fmt: skip
        Path("run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        for verb in ("check", "train") if words else ("check",):
            done = CliRunner().invoke(app, [verb, "run.yaml"])
            assert done.exit_code == (2 if words else 0), (verb, rows[0], done.output)
            assert words in " ".join(done.output.split())
            assert not Path("out").exists()


def test_uft_takes_a_laboratory_skills_answers_for_demonstrations(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    content = {
        "model": "lab-small", "method": "uft", "data": {"train": "lab:story", "limit": 16, "test": 0},
        "evaluate": {"target": "none", "keep": []}, "output": "out", "train": {"max_steps": 1, "batch_tokens": 512},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", "run.yaml"])
    assert done.exit_code == 0, done.output


def test_every_claims_arms_are_recipes() -> None:
    for name in CLAIMS:
        claim = claim_of(name)
        for label, overrides in claim.arms.items() if isinstance(claim, Claim) else ():
            found = resolve_any(merge_settings(COMMON, claim.common), list(overrides)).recipe
            assert found.optimizer.learning_rate, (name, label)
