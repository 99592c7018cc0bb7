"""Whole runs on either device: killed and run again, from the command line, and sampled from."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.cli.app import app
from holdfast.data.chat.encoder import Chat
from holdfast.generation.native import NativeEngine
from holdfast.generation.prompt_ids import prompt_ids

TRAINING = Path(__file__).parents[1] / "training"
ADAMW = {"name": "adamw", "learning_rate": 0.01}
CASES = {
    "full with noise": ("neftune", "full", ADAMW),
    "lora with dropout": ("sft", {"name": "lora", "r": 4, "dropout": 0.2}, ADAMW),
    "half in the backward pass": ("sft", "half", {"name": "lomo", "learning_rate": 0.05}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_it_ends_bit_equal(case: str, tmp_path: Path) -> None:
    """The script is that of `tests/training/test_resume.py`, which runs it on the CPU."""
    command = [sys.executable, str(TRAINING / "killed.py"), str(tmp_path), *map(json.dumps, CASES[case]), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= 3
    calm, stormy = (load_file(tmp_path / name / "final.safetensors") for name in ("calm", "stormy"))
    assert calm.keys() == stormy.keys()
    assert all(torch.equal(calm[name], stormy[name]) for name in calm)


@pytest.mark.parametrize(
    ("place", "method"),
    [("cpu", "dpo"), *(pytest.param("gpu", method, marks=pytest.mark.gpu) for method in ("sft", "dpo", "s3ft+lora"))],
)
def test_the_same_command_writes_the_same_model(
    device: torch.device, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {
        "model": "lab-small", "method": method, "data": {"train": "lab:sums", "limit": 24, "test": 0},
        "train": {"max_steps": 3, "batch_tokens": 256, "deterministic": True}, "sampling": {"max_tokens": 24},
        "evaluate": {"target": "none", "keep": ["none"], "every": 0},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe))
    hashes = []
    for out in ("one", "two"):
        done = CliRunner().invoke(app, ["train", "run.yaml", f"output={out}"])
        assert done.exit_code == 0, done.output
        hashes.append(
            [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(out).rglob("*.safetensors"))]
        )
    assert hashes[0] == hashes[1] != []


def ask(count: int) -> list[Request]:
    """Questions of a few words."""
    rng = random.Random(0)
    words = ["what", "is", "the", "capital", "of", "France", "answer", "sort", "letters", "12", "30"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(count)]
    return [Request(f"q{i}", [{"role": "user", "content": text}]) for i, text in enumerate(texts)]


def collect_samples(model: Any, tokenizer: Any, slots: int, params: SamplingParams) -> dict[tuple[str, int], Sample]:
    """Samples of the native engine, by question and number."""
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.eos_token_id, *range(5, 25)}  # so that a random model's answers differ in length
    engine = NativeEngine(model, chat, slots=slots, fingerprint="weights")
    samples = engine.sample([(request, range(params.n)) for request in ask(12)], params)
    return {(sample.key, sample.index): sample for sample in samples}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("cpu", "llama"),
        *(pytest.param("gpu", kind, marks=pytest.mark.gpu) for kind in ("llama", "qwen2", "gpt2", "gemma2")),
    ],
)
def test_greedy_answers_are_those_of_generate(device: torch.device, kind: str, tiny: Any) -> None:
    model, tokenizer = tiny(kind)
    model = model.to(device)
    found = collect_samples(model, tokenizer, 7, SamplingParams(max_tokens=20))
    chat = Chat(tokenizer)
    for request in ask(12):
        ids = torch.tensor(prompt_ids(chat, [request]), device=device)
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20,
            eos_token_id=[tokenizer.eos_token_id, *range(5, 25)],
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        sample = found[request.key, 0]
        assert sample.tokens == len(output)
        kept = output[:-1] if sample.finish == "stop" else output
        assert sample.text == tokenizer.decode(kept, skip_special_tokens=True)


@pytest.mark.parametrize("place", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_samples_do_not_depend_on_the_batch(device: torch.device, tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    params = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, n=2)
    few, many = (collect_samples(model.to(device), tokenizer, slots, params) for slots in (3, 40))
    assert few == many
    assert len(few) == 24
