"""The fallback engine: it draws what the native engine draws, answers as a plain loop does, and runs every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from holdfast.axes.engine import Engine, Request, Sample, SamplingParams
from holdfast.cli.app import app
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.generation.factory import build_local_engine
from holdfast.generation.native import NativeEngine
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.generation.supported_models import native_lacks
from holdfast.generation.transformers_generate import GenerateEngine
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy
from hybrid import KINDS, hybrid, hybrid_dir


def requests(count: int) -> list[Request]:
    texts = [
        " ".join(["sort", "the", "letters", "of", "France"][: 1 + (7 * i) % 5] * (1 + i % 2)) for i in range(count)
    ]
    return [Request(f"q{i}", [{"role": "user", "content": f"{text} {i}"}]) for i, text in enumerate(texts)]


def many_ends(tokenizer: Any) -> Chat:
    """A chat in which many tokens end a turn, so that a random model's answers differ in length."""
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.eos_token_id, *range(5, 25)}
    return chat


def collect(engine: Engine, asked: list[Request], params: SamplingParams) -> dict[tuple[str, int], Sample]:
    samples = list(engine.sample([(request, range(params.n)) for request in asked], params))
    assert len(samples) == len(asked) * params.n
    return {(s.key, s.index): s for s in samples}


SETTINGS = {
    "greedy": SamplingParams(max_tokens=12),
    "drawn": SamplingParams(max_tokens=12, temperature=1.2, top_p=0.9, top_k=40, n=3, seed=7),
    "thinking": SamplingParams(max_tokens=6, max_thinking_tokens=5, temperature=1.0, n=2),
    "stopped": SamplingParams(max_tokens=20, temperature=1.0, stop=("e", "the"), n=2),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_draws_what_the_native_engine_draws(tiny: Any, kind: str, name: str) -> None:
    model, tokenizer = tiny(kind)
    model.generation_config.repetition_penalty = 3.0  # a setting of the model's own, which no engine obeys
    asked, params = requests(9), SETTINGS[name]
    native = collect(NativeEngine(model, many_ends(tokenizer), fingerprint="weights"), asked, params)
    engine = GenerateEngine(model, many_ends(tokenizer), slots=4, fingerprint="weights")
    found = collect(engine, asked, params)
    assert found == native
    assert engine._padding_is_harmless()
    assert model.generation_config.repetition_penalty == 3.0
    assert len({sample.text for sample in found.values()}) > 1


def test_the_context_ends_answers_and_refuses_prompts(tiny: Any) -> None:
    model, tokenizer = tiny("gpt2", n_positions=40)
    chat = Chat(tokenizer)
    engine = GenerateEngine(model, chat, fingerprint="weights")
    texts = ["a", "a b c d e f g h", "x " * 60]
    asked = [Request(f"k{i}", [{"role": "user", "content": text}]) for i, text in enumerate(texts)]
    found = collect(engine, asked, SamplingParams(max_tokens=99))
    lengths = list(map(len, prompt_ids(chat, asked)))
    assert lengths[2] >= 40
    for number in (0, 1):
        sample = found[f"k{number}", 0]
        assert sample.finish == "stop" or sample.tokens == 40 - lengths[number]
    assert found["k2", 0].tokens == 0
    assert engine.counts["too long"] == 1


def by_hand(model: Any, prompt: list[int], stops: set[int], count: int) -> list[int]:
    """Greedy tokens, each from a pass over all before it."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] in stops:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_are_not_all_attention(tokenizer: Any, kind: str) -> None:
    model = hybrid(kind, tokenizer)
    assert native_lacks(model)
    chat = Chat(tokenizer)
    engine = build_local_engine(model, chat, fingerprint="weights")
    assert isinstance(engine, GenerateEngine)
    asked = requests(6)
    found = collect(engine, asked, SamplingParams(max_tokens=8))
    for request in asked:
        (prompt,) = prompt_ids(chat, [request])
        tokens = by_hand(model, prompt, chat.stop_ids, 8)
        sample = found[request.key, 0]
        assert sample.tokens == len(tokens)
        assert sample.text == chat.text_of([t for t in tokens if t not in chat.stop_ids])
    rows = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13]]
    encoded = [
        EncodedSequence(
            ids=torch.tensor(ids, dtype=torch.int32).numpy(), label_mask=torch.arange(len(ids)).numpy() > 0, row=i
        )
        for i, ids in enumerate(rows)
    ]
    policy = Policy(model)
    batch = collate_sequences(encoded, "padded", chat.pad_id)
    assert batch is not None
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for ids in rows]
        wanted = [float(a[i, ids[i + 1]]) for a, ids in zip(alone, rows, strict=True) for i in range(len(ids) - 1)]
        torch.testing.assert_close(policy.token_logps(batch), torch.tensor(wanted), atol=1e-4, rtol=0)
        if not policy.isolates_packed_rows:
            packed = collate_sequences(encoded, "packed", chat.pad_id)
            with pytest.raises(UserError, match="cannot keep packed rows apart"):
                policy.token_logps(packed)


RECIPE: dict[str, Any] = {
    "method": "sft", "data": {"train": "rows.jsonl", "test": 0.25}, "judge": "exact",
    "train": {"max_steps": 2, "batch_tokens": 128}, "output": "out",
    "evaluate": {"keep": [], "live_items": 0, "max_tokens": 4, "every": 0},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", *KINDS])
def test_they_train_and_are_measured_by_command(
    kind: str, tokenizer: Any, tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    if kind == "llama":
        Path("base").symlink_to(tiny_dir("llama"))
    else:
        hybrid_dir(kind, tokenizer, tmp_path / "base")
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"{i + 2}"} for i in range(16)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tuner = {"tuner": {"name": "lora", "r": 2}} if kind == "lfm2" else {}
    Path("run.yaml").write_text(yaml.safe_dump(RECIPE | tuner | {"model": "base"}), encoding="utf-8")
    done = [CliRunner().invoke(app, [*words]) for words in (["check", "run.yaml"], ["train", "run.yaml"])]
    for result in done:
        assert result.exit_code == 0, (result.output, result.exception)
        assert ("sampled with transformers' generate" in result.output) == (kind != "llama")
    report = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert report["training"]["steps"] == 2
    result = CliRunner().invoke(app, ["eval", "out", "--out", "again"])
    assert result.exit_code == 0, result.output
    again = json.loads(Path("again/report.json").read_text(encoding="utf-8"))
    assert [task["tuned"] for task in again["tasks"]] == pytest.approx([t["tuned"] for t in report["tasks"]], abs=1e-5)
    before, after = (dict(load_model(name).model.named_parameters()) for name in ("base", "out"))
    assert any(name not in before or not torch.equal(before[name], weight) for name, weight in after.items())


def test_an_engine_is_needed_only_where_something_is_sampled(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hybrid_dir("lfm2", tokenizer, tmp_path / "base")
    Path("rows.jsonl").write_text('{"prompt": "Add 1 and 2.", "completion": "3"}\n' * 8, encoding="utf-8")
    recipe = RECIPE | {"model": "base", "evaluate": {"target": "none", "keep": []}, "sampling": {"engine": "vllm"}}
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = CliRunner().invoke(app, ["train", "run.yaml"])
    assert result.exit_code == 0, result.output
    assert "generate" not in result.output
