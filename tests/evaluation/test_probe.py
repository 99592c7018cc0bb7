"""The probe: exactly nothing for equal weights, more for more damage, the definition by hand; its prompts and store."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.evaluation.gate import apply_gate, refuse_gate
from holdfast.evaluation.measure import measure_all
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.subject import EvaluatedModel, measurement_fingerprint
from holdfast.evaluation.summary import MeasuredRun, compute_role_figures, summarise_comparison, summarise_run
from holdfast.evaluation.task import ItemResult, TaskInfo
from holdfast.evaluation.tasks.by_name import TaskSettings, build_named_tasks, build_tasks, warn_of_nothing_kept
from holdfast.evaluation.tasks.probe import (
    DATA,
    FEWEST,
    TOP,
    Reference,
    build_probe_tasks,
    compare_answers,
    limit_probe_tasks,
    probe_passages,
    probe_prompts,
    prompt_limit,
)
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.native import NativeEngine
from holdfast.models.policy import Policy


def short(n: int = 12) -> Any:
    """The probe on its `n` shortest prompts, with short answers: it must fit into tiny models."""
    task = build_probe_tasks(1000)[0]
    rows = sorted(task.rows, key=lambda row: len(row.prompt[0]["content"].encode()))[:n]
    return replace(task, rows=rows, max_tokens=8)


def subject(model: Any, tokenizer: Any, name: str = "base", reference: Reference | None = None) -> EvaluatedModel:
    chat = Chat(tokenizer)
    engine = NativeEngine(model, chat, slots=8, fingerprint=name)
    return EvaluatedModel(name, chat, build_sample_fn(engine), Policy(model), reference=reference)


def damaged(model: Any, size: float) -> Any:
    broken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in broken.parameters():
            weight += size * weight.std() * torch.randn(weight.shape, generator=generator)
    return broken


# ---- what is asked --------------------------------------------------------------------------------------------------


def test_the_data_is_as_described():
    kinds = Counter((row.meta["kind"], row.meta["language"]) for row in probe_prompts())
    assert 240 <= len(probe_prompts()) <= 300
    assert {kind for kind, _ in kinds} == {
        "facts", "arithmetic", "instructions", "code", "chat", "refusals", "reading",
    }  # fmt: skip
    japanese = sum(n for (_, language), n in kinds.items() if language == "ja")
    assert 0.15 < japanese / len(probe_prompts()) < 0.25
    assert (
        len({row.prompt[0]["content"] for row in probe_prompts()})
        == len({row.id for row in probe_prompts()})
        == len(probe_prompts())
    )
    size = sum(len((row.answer or "").encode()) for row in probe_passages())
    assert 30_000 < size < 40_000
    sources = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"| {row.id} |" in sources for row in probe_passages())


def test_a_smaller_draw_is_the_beginning_of_a_larger_one_and_mixed_likewise():
    few, more = (build_probe_tasks(n) for n in (70, 140))
    for small, large in zip(few, more, strict=True):
        assert large.rows[: len(small.rows)] == small.rows
    whole = Counter((row.meta["kind"], row.meta["language"]) for row in probe_prompts())
    for rows in (few[0].rows, more[0].rows):
        share = len(rows) / len(probe_prompts())
        found = Counter((row.meta["kind"], row.meta["language"]) for row in rows)
        assert all(abs(found[stratum] - share * n) <= 1 for stratum, n in whole.items())


def test_fewer_prompts_of_a_large_model_without_an_accelerator():
    def model(parameters: int, device: str) -> Any:
        return SimpleNamespace(
            device=SimpleNamespace(type=device), parameters=lambda: [SimpleNamespace(numel=lambda: parameters)]
        )

    assert prompt_limit(model(10**11, "cuda")) is None
    assert prompt_limit(model(10**11, "cpu")) == FEWEST
    assert 100 <= (prompt_limit(model(134_515_008, "cpu")) or 0) <= 150
    tasks = [*build_probe_tasks(1000), short(3)]
    assert [len(task.rows) for task in limit_probe_tasks(tasks, model(10**11, "cpu"))] == [
        FEWEST,
        len(probe_passages()),
        3,
    ]
    assert limit_probe_tasks(tasks, model(10**6, "cpu")) == tasks


def test_names():
    def recipe(*keep: str) -> Any:
        return SimpleNamespace(
            evaluate=SimpleNamespace(target="none", keep=keep, items=20, max_tokens=16, max_thinking_tokens=16),
            objective=SimpleNamespace(makes_reward_model=False),
        )

    for keep in (("auto",), ("probe",), ("auto", "probe")):
        tasks = build_tasks(recipe(*keep))
        assert [(task.name, task.role, len(task.rows)) for task in tasks] == [
            ("probe", "keep", 20), ("probe-text", "keep", 20),
        ]  # fmt: skip
        assert warn_of_nothing_kept(tasks) is None
    assert all(task.kind == "generate" for task in build_tasks(recipe("auto"), lab=True)), "the laboratory's own skills"
    assert "probe" in [task.name for task in build_tasks(recipe("probe", "lab:sums"), lab=True)]
    assert "what training loses will not be measured" in (warn_of_nothing_kept(build_tasks(recipe("none"))) or "")
    assert "inference method loses" in (warn_of_nothing_kept(build_tasks(recipe("none")), trains=False) or "")
    with pytest.raises(UserError, match=r"evaluate\.keep"):
        build_named_tasks("probe", TaskSettings(), role="target")


# ---- what is measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_equal_weights_are_exactly_no_distance(tiny: Callable[..., Any], kind: str):
    model, tokenizer = tiny(kind)
    base = subject(model, tokenizer)
    before = measure_all([short()], base)
    after = measure_all([short()], subject(copy.deepcopy(model), tokenizer, "copy", base.own_reference))
    assert len(after["probe"]) >= 10
    assert all(item.extra["kl"] == 0.0 for item in after["probe"])
    assert all(item.score == 1.0 and item.passed for item in after["probe"])
    assert [item.response for item in before["probe"]] == [item.response for item in after["probe"]]
    found = summarise_run([short()], before, after)
    assert found["probe"]["kl"] | {"noise": 0} == {
        "unit": "bits per token", "value": 0.0, "low": None, "high": None, "noise": 0,
    }  # fmt: skip
    assert found["probe"]["same_answers"] == 1.0
    assert found["probe"]["changed"] == []
    assert (found["loss"]["delta"], found["loss"]["of"]) == (0.0, "probe")


def test_more_damage_is_further_away(tiny: Callable[..., Any]):
    model, tokenizer = tiny()
    base = subject(model, tokenizer)
    before = measure_all([short()], base)
    kl, agreement = [], []
    for size in (0.01, 0.1, 1.0):
        broken = subject(damaged(model, size), tokenizer, f"damaged {size}", base.own_reference)
        part = summarise_run([short()], before, measure_all([short()], broken))["probe"]
        kl.append(part["kl"])
        agreement.append(part["agreement"])
    assert kl[0]["value"] < kl[1]["value"] < kl[2]["value"]
    assert agreement[0]["value"] > agreement[1]["value"] > agreement[2]["value"]
    assert kl[0]["low"] > 100 * kl[0]["noise"], "the smallest damage is far outside what arithmetic does"
    assert agreement[2]["high"] < 100 - agreement[2]["noise"] - 10


@torch.no_grad()
def test_the_figures_are_the_definition(tiny: Callable[..., Any]):
    """One token at a time, with whole distributions: the kept events are exact for themselves, so below the whole."""
    model, tokenizer = tiny()
    broken = damaged(model, 0.2)
    base = subject(model, tokenizer)
    measure_all([short(4)], base)
    assert base.own_reference is not None
    answers = list(base.own_reference.answers.values())
    for answer, (kl, agreement, same) in zip(
        answers, compare_answers(answers, subject(broken, tokenizer, "b")), strict=True
    ):
        total, whole, equal = 0.0, 0.0, 0
        for place in range(answer.start, len(answer.ids)):
            ids = torch.from_numpy(answer.ids[:place]).long()[None]
            p, q = (m(input_ids=ids).logits[0, -1].double().softmax(-1) for m in (model, broken))
            top = p.topk(TOP).indices
            rest = 1 - p[top].sum(), 1 - q[top].sum()
            total += float((p[top] * (p[top] / q[top]).log2()).sum() + rest[0] * (rest[0] / rest[1]).log2())
            whole += float((p * (p / q).log2()).sum())
            equal += int(p.argmax() == q.argmax())
        predictions = len(answer.ids) - answer.start
        assert kl == pytest.approx(total / predictions, rel=1e-3)
        assert kl <= whole / predictions + 1e-6
        assert agreement == pytest.approx(equal / predictions)
        assert same == (equal == predictions)


def test_a_tiny_vocabulary_is_kept_whole(tiny: Callable[..., Any]):
    from holdfast.evaluation.tasks.probe import _keep_top

    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    kept = _keep_top(logits, slice(0, 5))
    assert kept.shape == (5, 2 * TOP + 2)
    assert torch.equal(kept[:, -1].long(), logits.argmax(-1))
    assert kept[:, : TOP + 1].exp().sum(-1).tolist() == pytest.approx([1.0] * 5)


def test_prompts_that_do_not_fit_are_left_out_on_both_sides(tiny: Callable[..., Any]):
    model, tokenizer = tiny(max_position_embeddings=64)
    long = replace(build_probe_tasks(12)[0], max_tokens=8)
    base = subject(model, tokenizer)
    before = measure_all([long], base)
    after = measure_all([long], subject(damaged(model, 0.1), tokenizer, "tuned", base.own_reference))
    assert 0 < len(before["probe"]) < 12
    assert [item.id for item in before["probe"]] == [item.id for item in after["probe"]]
    assert summarise_run([long], before, after)["probe"]["n"] == len(after["probe"])
    assert summarise_run([long], {"probe": []}, {"probe": []})["probe"] is None
    assert compute_role_figures([long], {"probe": []})["keep"] is None


# ---- the store ------------------------------------------------------------------------------------------------------


def test_the_reference_belongs_to_the_base_and_is_shared(tiny: Callable[..., Any], tmp_path: Path):
    model, tokenizer = tiny()
    shared, task = ResultsStore(tmp_path / "cache", by_fingerprint=True), short(6)
    first = subject(model, tokenizer)
    items = measure_all([task], first, store=ResultsStore(tmp_path / "one"), baselines=shared)
    again = subject(model, tokenizer)
    again.draw = None  # it would be an error to ask
    assert measure_all([task], again, store=ResultsStore(tmp_path / "two"), baselines=shared) == items
    for reference in (
        again.own_reference,
        Reference.from_tensors("x", items["probe"], first.own_reference.to_tensors()),
    ):
        for name, answer in reference.answers.items():
            other = first.own_reference.answers[name]
            assert answer.start == other.start
            for part in ("ids", "best", "events", "logps"):
                assert (getattr(answer, part) == getattr(other, part)).all()
    tuned = subject(damaged(model, 0.1), tokenizer, "tuned", again.own_reference)
    assert measurement_fingerprint(task, tuned) != measurement_fingerprint(task, replace(tuned, reference=None))
    measure_all([task], tuned, store=ResultsStore(tmp_path / "final"))
    assert not (tmp_path / "final" / "probe.safetensors").exists()


def test_half_a_reference_is_none(tiny: Callable[..., Any], tmp_path: Path):
    model, tokenizer = tiny()
    store, task = ResultsStore(tmp_path), short(3)
    items = measure_all([task], subject(model, tokenizer), store=store)
    file = tmp_path / "probe.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert store.read_tensors(task, measurement_fingerprint(task, subject(model, tokenizer))) is None
    repeated = subject(model, tokenizer)
    assert measure_all([task], repeated, store=store) == items
    assert repeated.own_reference is not None
    assert file.read_bytes() == whole


# ---- the summary ----------------------------------------------------------------------------------------------------

NEW, OLD, PROBE = TaskInfo("new", "generate", "target"), TaskInfo("old", "generate"), TaskInfo("probe", "probe")


def scored(values: list[float]) -> list[ItemResult]:
    return [ItemResult(str(i), "q", "a", "r", v, v == 1, True, 3, extra={"kl": 1 - v}) for i, v in enumerate(values)]


def test_the_loss_is_of_the_tasks_in_points_and_for_want_of_them_of_the_probe():
    base = {"new": scored([0, 0]), "old": scored([1, 1]), "probe": scored([1, 1])}
    tuned = {"new": scored([1, 1]), "old": scored([1, 0]), "probe": scored([1, 0.5])}
    both, alone = (summarise_run(tasks, base, tuned) for tasks in ([NEW, OLD, PROBE], [NEW, PROBE]))
    assert (both["loss"]["of"], both["loss"]["delta"]) == ("tasks", 50)
    assert (alone["loss"]["of"], alone["loss"]["delta"]) == ("probe", 25)
    assert alone["loss"]["low"] <= 25 <= alone["loss"]["high"]
    assert alone["probe"]["kl"]["value"] == pytest.approx(0.25)
    assert [change["id"] for change in alone["probe"]["changed"]] == ["1"]
    assert compute_role_figures([NEW, PROBE], tuned)["keep"] == 75
    (run,) = summarise_comparison({"sft": [MeasuredRun([NEW, PROBE], base, tuned)]})["runs"]
    assert run["probe"]["kl"] == pytest.approx(0.25)
    assert (run["loss"]["delta"], run["points"][0]["loss"], run["pareto"]) == (25, 25, True)


def test_the_gate_on_the_probe_is_its_divergence():
    def limits(**some: float) -> Any:
        return SimpleNamespace(**{"max_loss": None, "max_bits": None, "max_kl": None, "min_gain": None, **some})

    base, tuned = {"probe": scored([1, 1])}, {"probe": scored([1, 0.5])}
    found = summarise_run([PROBE], base, tuned)
    assert apply_gate(limits(max_kl=0.3), found)["passed"]
    (reason,) = apply_gate(limits(max_kl=0.2), found)["reasons"]
    assert "0.250 bits per token" in reason
    refuse_gate(limits(max_kl=0.2), [PROBE])
    with pytest.raises(UserError, match="max_kl"):
        refuse_gate(limits(max_loss=2.0), [PROBE])
    with pytest.raises(UserError, match="add probe"):
        refuse_gate(limits(max_kl=0.2), [OLD])
    spoilt = summarise_run([PROBE], base, {"probe": scored([math.nan, 1])})
    assert not apply_gate(limits(max_kl=0.2), spoilt)["passed"]
