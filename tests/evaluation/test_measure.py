"""Measuring a model: law 1 on a model that knows something, resuming, sharing, and log-likelihoods by definition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import RunError, UserError
from holdfast.evaluation.gate import apply_gate
from holdfast.evaluation.measure import count_items, measure_all, measure_task
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.subject import EvaluatedModel, measurement_fingerprint
from holdfast.evaluation.summary import summarise_run
from holdfast.evaluation.task import Task
from holdfast.evaluation.tasks.multiple_choice import encode_choice
from holdfast.evaluation.tasks.perplexity import build_text_rows
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.journal import Journal
from holdfast.generation.native import NativeEngine
from holdfast.methods.judges.exact import Exact
from holdfast.models.policy import Policy

FACTS = {"add 1 2": "3", "add 5 4": "9", "sort cab": "abc", "sort fed": "def", "user 7": "ok", "capital": "Paris"}


def rows(facts: dict[str, str]) -> list[Row]:
    return [Row([{"role": "user", "content": q}, {"role": "assistant", "content": a}]) for q, a in facts.items()]


SUMS = Task("sums", "generate", rows(dict(list(FACTS.items())[:3])), Exact(), "target", max_tokens=8)
WORDS = Task("words", "generate", rows(dict(list(FACTS.items())[3:])), Exact(), max_tokens=8)
PICK = Task(
    "pick", "choice",
    [Row([{"role": "user", "content": q}], reference=1, meta={"choices": ["no", a, "sort"]}) for q, a in FACTS.items()],
)  # fmt: skip
TEXT = Task("text", "perplexity", build_text_rows([*FACTS, "The capital of France is Paris."]))
ALL = [SUMS, WORDS, PICK, TEXT]


class Counting:
    """An engine that counts its calls, and can die in the middle of one."""

    def __init__(self, engine: NativeEngine, die_after: int | None = None) -> None:
        self.engine, self.die_after, self.calls, self.drawn = engine, die_after, 0, 0

    @property
    def fingerprint(self) -> str:
        return self.engine.fingerprint

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        self.calls += 1
        for sample in self.engine.sample(requests, params):
            if self.drawn == self.die_after:
                raise KeyboardInterrupt
            self.drawn += 1
            yield sample


def subject(
    model: Any, tokenizer: Any, name: str = "base", die_after: int | None = None
) -> tuple[EvaluatedModel, Counting]:
    chat = Chat(tokenizer)
    engine = Counting(NativeEngine(model, chat, slots=4, fingerprint=name), die_after)
    return EvaluatedModel(name, chat, build_sample_fn(engine), Policy(model)), engine


@pytest.fixture(scope="module")
def taught(tokenizer: Any) -> tuple[Any, Any]:
    """A tiny model that has learned FACTS by heart."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, initializer_range=0.05, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    chat, policy = Chat(tokenizer), Policy(model)
    batch = collate_sequences(
        [EncodedSequence(*chat.encode(r.messages), row=i) for i, r in enumerate(rows(FACTS))], "padded", chat.pad_id
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        (-policy.token_logps(batch).mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval(), tokenizer


def damaged(model: Any, size: float = 0.3) -> Any:
    broken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in broken.parameters():
            weight += size * torch.randn(weight.shape, generator=generator)
    return broken


def test_law_1(taught: tuple[Any, Any]):
    """Base against base is exactly nothing; a damaged model is reported as lost, on every kind of task."""
    model, tokenizer = taught
    kept = [replace(task, role="keep") for task in ALL]
    base = measure_all(kept, subject(model, tokenizer)[0])
    again = measure_all(kept, subject(copy.deepcopy(model), tokenizer)[0])
    assert base == again
    same = summarise_run(kept, base, again)
    nothing = {"delta": 0.0, "worst": "sums", "unit": "points", "of": "tasks"}
    assert {key: same["loss"][key] for key in nothing} == nothing
    assert same["text"] == {"percent": 0.0, "low": None, "high": None, "worst": "text"}
    assert [item.response for task in (SUMS, WORDS) for item in base[task.name]] == list(FACTS.values())
    assert all(item.passed and item.stopped for task in (SUMS, WORDS, PICK) for item in base[task.name])

    lost = summarise_run(kept, base, measure_all(kept, subject(damaged(model), tokenizer, "damaged")[0]))
    assert lost["loss"]["low"] > 0
    assert all(task["delta"] < 0 for task in lost["tasks"] if task["better"] == "higher")
    assert lost["text"]["percent"] > 0
    assert lost["tasks"][-1]["delta"] > 0, "more bits"
    assert lost["tasks"][0]["lost"] == 3
    assert lost["tasks"][0]["flips"][0]["base"] == "3"
    refused = apply_gate(SimpleNamespace(max_loss=2.0, max_bits=None, max_kl=None, min_gain=None), lost)
    assert not refused["passed"]
    assert "lost" in refused["reasons"][0]


def test_questions_of_all_tasks_share_one_call(taught: tuple[Any, Any]):
    whole, engine = subject(*taught)
    ticks: list[int] = []
    together = measure_all(ALL, whole, progress=ticks.append)
    assert engine.calls == 1
    assert sum(ticks) == count_items(ALL) == 3 + 3 + 6 + len(TEXT.rows)
    apart = {task.name: measure_task(task, subject(*taught)[0]) for task in ALL}
    assert list(together) == [task.name for task in ALL]
    assert together == apart
    other = replace(WORDS, max_tokens=4)
    measure_all([SUMS, other], whole)
    assert engine.calls == 3  # other settings, another call


def test_finished_tasks_are_not_measured_again(taught: tuple[Any, Any], tmp_path: Path):
    first = measure_all(ALL, subject(*taught)[0], store=ResultsStore(tmp_path / "base"))
    whole, engine = subject(*taught)
    assert measure_all(ALL, whole, store=ResultsStore(tmp_path / "base")) == first
    assert engine.calls == 0
    fewer = measure_all([SUMS.limit_rows(2)], whole, store=ResultsStore(tmp_path / "base"))
    assert fewer["sums"] == first["sums"][:2]
    assert engine.calls == 1


def test_baseline_is_shared_by_model(taught: tuple[Any, Any], tmp_path: Path):
    shared = ResultsStore(tmp_path / "cache", by_fingerprint=True)
    first = measure_all(ALL, subject(*taught)[0], store=ResultsStore(tmp_path / "run1"), baselines=shared)
    whole, engine = subject(*taught)
    assert measure_all(ALL, whole, store=ResultsStore(tmp_path / "run2"), baselines=shared) == first
    assert engine.calls == 0
    assert set(ResultsStore(tmp_path / "run2").read_measurements()) == {task.name for task in ALL}
    other, engine = subject(*taught, "another model")
    measure_all([SUMS], other, baselines=shared)
    assert engine.calls == 1


def test_fingerprint_names_everything_the_figures_depend_on(taught: tuple[Any, Any]):
    whole = subject(*taught)[0]
    changed = [
        measurement_fingerprint(SUMS, whole),
        measurement_fingerprint(replace(SUMS, max_tokens=9), whole),
        measurement_fingerprint(replace(SUMS, judge=Exact(ignore_case=True)), whole),
        measurement_fingerprint(replace(SUMS, rows=SUMS.rows[:2]), whole),
        measurement_fingerprint(replace(SUMS, meta={"stop": ["\n"]}), whole),
        measurement_fingerprint(SUMS, replace(whole, model="other")),
        measurement_fingerprint(SUMS, replace(whole, chat=Chat(taught[1], system="Be brief."))),
        measurement_fingerprint(SUMS, replace(whole, extra={"precision": "bf16"})),
    ]
    assert len(set(changed)) == len(changed)
    assert (
        measurement_fingerprint(replace(SUMS, role="keep"), whole)
        == measurement_fingerprint(replace(SUMS, name="x"), whole)
        == changed[0]
    )
    assert measurement_fingerprint(TEXT, whole) != measurement_fingerprint(TEXT, replace(whole, width=64))


def test_a_kill_changes_nothing(taught: tuple[Any, Any], tmp_path: Path):
    model, tokenizer = taught
    unbroken = measure_all(ALL, subject(model, tokenizer)[0])
    whole, dying = subject(model, tokenizer, die_after=4)
    with Journal(tmp_path / "samples.jsonl") as journal, pytest.raises(KeyboardInterrupt):
        measure_all(ALL, replace(whole, draw=journal.build_sample_fn(dying)), store=ResultsStore(tmp_path / "eval"))
    assert set(ResultsStore(tmp_path / "eval").read_measurements()) == {"pick", "text"}
    whole, engine = subject(model, tokenizer)
    with Journal(tmp_path / "samples.jsonl") as journal:
        resumed = measure_all(
            ALL, replace(whole, draw=journal.build_sample_fn(engine)), store=ResultsStore(tmp_path / "eval")
        )
    assert resumed == unbroken
    assert engine.drawn == 6 - 4


@torch.no_grad()
def test_choices_are_scored_by_definition(tiny: Callable[..., Any]):
    model, tokenizer = tiny()
    chat = Chat(tokenizer)
    found = measure_task(PICK, EvaluatedModel("m", chat, policy=Policy(model), micro_tokens=64))
    for item, row in zip(found, PICK.rows, strict=True):
        sums = []
        for choice in row.meta["choices"]:
            before = chat.prompt_ids(row.prompt)
            after = tokenizer(choice, add_special_tokens=False)["input_ids"]
            logps = model(input_ids=torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
            sums.append(sum(float(logps[len(before) - 1 + i, t]) for i, t in enumerate(after)))
        assert item.response == row.meta["choices"][int(np.argmax(sums))]
        assert item.passed == (int(np.argmax(sums)) == 1)
        assert item.reference == row.meta["choices"][1]
        shown = [float(v) for v in item.reason.removeprefix("log-likelihoods ").split(", ")]
        assert shown == pytest.approx(sums, abs=0.006)
        assert item.extra["options"] == pytest.approx((sums - np.logaddexp.reduce(sums)).tolist(), abs=1e-4)


def test_only_the_choice_counts(tokenizer: Any):
    chat = Chat(tokenizer)
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "earlier"},
        {"role": "user", "content": "r"},
    ]
    found = encode_choice(chat, turns, "Paris", 0)
    assert tokenizer.decode(found.ids[found.label_mask]) == "Paris"


def test_measuring_leaves_training_alone(tiny: Callable[..., Any]):
    model, tokenizer = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    still = measure_all(ALL, subject(model, tokenizer)[0])
    model.train()
    state = torch.get_rng_state()
    assert measure_all(ALL, subject(model, tokenizer)[0]) == still
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in model.parameters())


def test_long_prompts_keep_their_end(tiny: Callable[..., Any]):
    model, tokenizer = tiny()
    long = Row([{"role": "user", "content": "sort the letters " * 80}], reference=0, meta={"choices": ["yes", "no"]})
    (item,) = measure_task(Task("long", "choice", [long]), EvaluatedModel("m", Chat(tokenizer), policy=Policy(model)))
    assert np.isfinite([float(v) for v in item.reason.removeprefix("log-likelihoods ").split(", ")]).all()


def test_mistakes_are_named(taught: tuple[Any, Any]):
    whole = subject(*taught)[0]
    with pytest.raises(UserError, match="two tasks are called sums"):
        measure_all([SUMS, SUMS], whole)
    with pytest.raises(RunError, match="without a sampling engine"):
        measure_task(SUMS, replace(whole, draw=None))
    with pytest.raises(RunError, match="same id"):
        measure_task(replace(SUMS, rows=[SUMS.rows[0]] * 2), whole)
