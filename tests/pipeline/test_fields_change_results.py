"""Law 8 by trying: another value of a recipe's field gives another plan, other curated rows or another run.

What is cheap to try is tried here; that the other fields are read by some code is `tests/test_fields_are_read.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.pipeline.check import check
from holdfast.pipeline.curate import curate_only
from holdfast.pipeline.train import train
from holdfast.recipe.data_section import Data, RecipeSection
from holdfast.recipe.loader import resolve_any
from holdfast.recipe.schema import Evaluate, Sampling, Train

ROWS = [
    {"prompt": f"What is {i}?", "answer": f"<think>hm {i}</think>It is {i} {'long ' * (i % 7)}", "note": f"note {i}"}
    for i in range(24)
]

PLANS: dict[str, list[tuple[list[str], str]]] = {
    "data.train": [([], "data.train=more.jsonl")],
    "data.test": [([], "data.test=0.5")],
    "data.format": [(["data.train=both.jsonl"], "data.format=text")],
    "data.document": [(["data.train=text.txt", "data.ignore=[]"], "data.document=line")],
    "data.columns": [([], "data.columns={prompt: answer, answer: prompt}")],
    "data.limit": [([], "data.limit=8")],
    "data.decontaminate": [(["data.test=rows.jsonl"], "data.decontaminate=false")],
    "data.too_long": [(["train.max_length=50"], "data.too_long=cut")],
    "data.system": [([], "data.system=Be brief.")],
    "data.thoughts": [([], "data.thoughts=strip"), ([], "data.thoughts=mask")],
    "data.chat_template": [([], "data.chat_template=own.jinja")],
    "train.epochs": [([], "train.epochs=9")],
    "train.max_steps": [([], "train.max_steps=5")],
    "train.batch_tokens": [([], "train.batch_tokens=200")],
    "train.micro_tokens": [([], "train.micro_tokens=64")],
    "train.max_length": [([], "train.max_length=50")],
    "evaluate.target": [([], "evaluate.target=lab:sums")],
    "evaluate.keep": [([], "evaluate.keep=[lab:sums]")],
    "evaluate.items": [(["evaluate.target=lab:sums"], "evaluate.items=3")],
}
"""Field to what is said besides, and another value of it that `check` must answer differently to."""

CURATED: dict[str, list[tuple[list[str], str]]] = {
    "data.replay": [([], "data.replay={path: lab:sums, share: 0.3}")],
    "sampling.temperature": [([], "sampling.temperature=3")],
    "sampling.top_p": [(["sampling.temperature=3"], "sampling.top_p=0.01")],
    "sampling.top_k": [(["sampling.temperature=3"], "sampling.top_k=1")],
    "sampling.max_tokens": [([], "sampling.max_tokens=2")],
    "sampling.stop": [([], 'sampling.stop=["."]')],
    "train.seed": [(["sampling.temperature=3"], "train.seed=1")],
}
"""The same for the rows that a curator which samples writes."""

RUNS: dict[str, list[tuple[list[str], str]]] = {
    "train.seed": [([], "train.seed=1")],
    "train.seeds": [([], "train.seeds={order: 1}")],  # of the others `training/test_trainer.py` says it
    "train.precision": [([], "train.precision=bf16")],
    "train.residual_dropout": [([], "train.residual_dropout=0.3")],
    "train.mixout": [([], "train.mixout=0.5")],
    "train.stop_at": [([], "train.stop_at=0.5")],
    "train.save_every": [(["train.keep_checkpoints=9"], "train.save_every=0.5")],
    "train.keep_checkpoints": [(["train.keep_checkpoints=9"], "train.keep_checkpoints=3")],
    "evaluate.max_tokens": [([], "evaluate.max_tokens=1")],
}
"""The same for a run: its weights, its checkpoints and the answers that were measured."""

READ_ONLY = {
    "data.ignore", "data.rejected", "data.chat_template_kwargs", "sampling.engine", "sampling.model", "sampling.slots",
    "sampling.draft", "sampling.draft_tokens", "sampling.max_thinking_tokens", "sampling.workers",
    "sampling.runner", "sampling.concurrency", "train.layout", "train.weights", "train.keep", "train.patience",
    "train.gradient_checkpointing", "train.deterministic", "train.compile",
    "evaluate.every", "evaluate.live_items", "evaluate.max_thinking_tokens", "evaluate.gate", "train.vision",
}  # fmt: skip
"""Fields that need a model that thinks or sees, a server, a GPU or a long run, or change nothing but time and memory:
the search of `tests/test_fields_are_read.py` looks after them."""


def plan(settings: list[str]) -> Any:
    recipe = {"model": "lab-small", "data": {"train": "rows.jsonl", "ignore": ["note"]}, "evaluate": {"keep": ["none"]}}
    answer = check(resolve_any({**recipe, "device": "cpu"}, settings))
    answer.pop("estimate")  # which holds the machine's own speed
    return answer


def curated(settings: list[str]) -> Any:
    recipe = {
        "model": "lab-small", "curate": "sdft", "data": {"train": "lab:story", "limit": 6}, "device": "cpu",
        "evaluate": {"keep": ["none"], "target": "none"}, "sampling": {"max_tokens": 12}, "output": "curated",
    }  # fmt: skip
    return curate_only(resolve_any(recipe, settings), restart=True).read_text(encoding="utf-8")


def run(settings: list[str]) -> Any:
    recipe = {
        "model": "lab-small", "data": {"train": "lab:sums", "limit": 12}, "evaluate": {"keep": ["none"], "every": 0},
        "train": {"max_steps": 4, "batch_tokens": 64}, "device": "cpu", "output": "run",
    }  # fmt: skip
    home = Path(train(resolve_any(recipe, settings), restart=True).path)
    weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(home.glob("model/*.safetensors"))]
    answers = [file.read_text(encoding="utf-8") for file in sorted(home.glob("eval/**/*.jsonl"))]
    return weights, sorted(file.name for file in home.glob("checkpoints/*")), answers


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rows in (("rows", ROWS), ("more", [*ROWS, *ROWS[:4]])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    both = [{"prompt": "a b", "answer": f"c {i}", "text": f"All of text {i}.", "note": ""} for i in range(8)]
    Path("both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both), encoding="utf-8")
    Path("text.txt").write_text("".join(f"Text {i}\ngoes on.\n\n" for i in range(8)), encoding="utf-8")
    Path("own.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        encoding="utf-8",
    )


@pytest.mark.parametrize(("look", "table"), [(plan, PLANS), (curated, CURATED), (run, RUNS)])
def test_another_value_gives_another_result(
    look: Callable[[list[str]], Any], table: dict[str, list[tuple[list[str], str]]], here: None
) -> None:
    before = {(): look([])}
    assert look([]) == before[()], "the same recipe gives the same result"
    unchanged = []
    for tries in table.values():
        for besides, other in tries:
            if tuple(besides) not in before:
                before[tuple(besides)] = look(besides)
            if look([*besides, other]) == before[tuple(besides)]:
                unchanged.append(other)
    assert unchanged == []


def test_a_draft_changes_nothing(here: None) -> None:
    assert curated(["sampling.draft=lab-small", "sampling.draft_tokens=3"]) == curated([])


@pytest.mark.parametrize(
    ("name", "cls"), [("data", Data), ("train", Train), ("sampling", Sampling), ("evaluate", Evaluate)]
)
def test_every_field_is_tried_or_looked_for(name: str, cls: type[RecipeSection]) -> None:
    tried = PLANS.keys() | CURATED.keys() | RUNS.keys()
    assert not tried & READ_ONLY
    assert {f"{name}.{field}" for field in cls.model_fields} == {
        field for field in tried | READ_ONLY if field.startswith(f"{name}.")
    }
