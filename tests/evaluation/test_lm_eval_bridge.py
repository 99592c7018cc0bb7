"""Tasks of lm-eval through the same subject: local tasks only, nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval")

from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.evaluation.measure import measure_all
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.subject import EvaluatedModel
from holdfast.evaluation.summary import summarise_run
from holdfast.evaluation.tasks.lm_eval_bridge import HarnessModel, build_harness_task
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.native import NativeEngine
from holdfast.models.policy import Policy

QUESTIONS = [{"q": f"Add {a} and {a + 2}", "choices": [str(a), str(2 * a + 2)], "gold": 1} for a in range(1, 9)]
HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "{{{{q}}}}"
"""
BODIES = {
    "tiny_choice": """
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "tiny_generate": """
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
num_fewshot: 1
fewshot_split: test
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "tiny_text": """
output_type: loglikelihood_rolling
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}  # fmt: skip


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`harness(name)` -> the path of a task's YAML."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", tmp_path / "modules")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))

    def make(name: str) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(HEAD.format(name=name, file=tmp_path / "q.jsonl") + BODIES[name])
        return str(path)

    return make


def subject(tiny: Callable[..., Any], seed: int = 0) -> EvaluatedModel:
    model, tokenizer = tiny(seed=seed)
    chat = Chat(tokenizer)
    return EvaluatedModel(
        f"m{seed}", chat, build_sample_fn(NativeEngine(model, chat, slots=4, fingerprint=str(seed))), Policy(model)
    )


def test_items_of_every_kind(harness: Callable[[str], str], tiny: Callable[..., Any], tmp_path: Path):
    tasks = [build_harness_task(harness(name), items=5, role="keep") for name in BODIES]
    assert [task.kind for task in tasks] == ["choice", "generate", "perplexity"]
    base = measure_all(tasks, whole := subject(tiny), store=ResultsStore(tmp_path / "eval"))
    for task in tasks:
        items = base[task.name]
        assert [item.id for item in items] == [row.id for row in task.rows]
        assert len(items) == 5
        for item in items:  # the questions are the drawn ones, not the first five
            assert item.prompt.rsplit(": ", 1)[-1].startswith(QUESTIONS[int(item.id.rsplit("/", 1)[1])]["q"])
    choice, generated, text = (base[task.name] for task in tasks)
    for item in choice:
        question = QUESTIONS[int(item.id.rsplit("/", 1)[1])]
        assert item.passed == (item.response == question["choices"][1])
    assert "assistant: " in generated[0].prompt  # the few-shot example is a turn
    assert all(item.tokens == len(item.prompt.encode()) and item.score < 0 for item in text)

    same = summarise_run(tasks, base, measure_all(tasks, whole))
    assert same["loss"]["delta"] == same["loss"]["low"] == same["loss"]["high"] == 0.0
    assert measure_all(tasks, whole, store=ResultsStore(tmp_path / "eval")) == base
    assert measure_all(tasks, subject(tiny, seed=1)) != base


def test_log_likelihoods_are_those_of_our_own_choice_tasks(tiny: Callable[..., Any]):
    from holdfast.evaluation.subject import score_sequences
    from holdfast.evaluation.tasks.multiple_choice import encode_choice

    whole = subject(tiny)
    model = HarnessModel(whole)
    messages = [{"role": "user", "content": "capital of France"}]
    request = type("Request", (), {"args": (model.apply_chat_template(messages), "Paris")})
    ((logp, greedy),) = model.loglikelihood([request])
    assert logp == score_sequences([encode_choice(whole.chat, messages, "Paris", 0)], whole)[0]
    assert not greedy
    whole.policy.greedy_tokens = lambda batch, where: batch.labels  # a model that would say exactly this
    assert model.loglikelihood([request])[0][1] is True


def test_metric_is_chosen_by_name(harness: Callable[[str], str], tiny: Callable[..., Any]):
    path, whole = harness("tiny_choice"), subject(tiny)
    norm = build_harness_task(f"{path}:acc_norm", items=3, role="keep")
    assert measure_all([norm], whole)[norm.name][0].reason.startswith("acc_norm")
    with pytest.raises(UserError, match="no metric acc_nrm; did you mean acc_norm"):
        measure_all([build_harness_task(f"{path}:acc_nrm", items=3, role="keep")], whole)
    with pytest.raises(UserError, match="no filter strict"):
        measure_all([build_harness_task(f"{path}:acc,strict", items=3, role="keep")], whole)


def test_global_randomness_is_left_alone(harness: Callable[[str], str], tiny: Callable[..., Any]):
    task, whole = build_harness_task(harness("tiny_choice"), items=3, role="keep"), subject(tiny)
    np.random.seed(5)
    expected = np.random.RandomState(5).random()
    measure_all([task], whole)
    assert np.random.random() == expected
