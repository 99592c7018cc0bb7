"""Shared fixtures: tiny random models of several families, and a tiny tokenizer. Nothing is downloaded."""

from __future__ import annotations

import os

# Before torch and transformers are imported: two cores are shared with other work, and no test may reach a network.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Results are compared with others made on the CPU, also by programs that tests start, in which torch, accelerate and
# TRL look for cards by themselves: so there are none to see, but in a session for the tests marked `gpu`.
os.environ["HOLDFAST_DEVICE"] = "" if os.environ.get("HOLDFAST_TEST_ACCELERATOR") else "cpu"
os.environ.update(
    {name: "" for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if os.environ["HOLDFAST_DEVICE"]}
)

import fcntl
import functools
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from accelerator import skip_reason

gc.disable()  # until all is collected: nothing of what is imported goes away again

ON_ACCELERATOR = os.environ["HOLDFAST_DEVICE"] == ""
"""Whether this session is for the tests marked `gpu` (`make test-gpu`). Any other is for the CPU."""

# Processes of pytest take all cores already: with two threads each, the same tests took half as long again.
torch.set_num_threads(1)
# A step's rows are dealt to as many threads as there are: in programs that tests start, to as many as here.
os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is not for this session, with the reason; everything is collected in every one.

    The longest come first: one that was left for the end would be waited for by all processes but its own.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    is_there = ON_ACCELERATOR and torch.accelerator.is_available()
    for item in items:
        if reason := skip_reason(item.get_closest_marker("gpu") is not None, ON_ACCELERATOR, is_there):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the collector leave what was imported alone: it would look through a million objects again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What is written need not reach the disk: a run waits for it fifty times, milliseconds, lest the power fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """typer's runner builds the whole tree of commands anew for each command it invokes, as a process does once.

    Should it be called otherwise some day, tests only take longer.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command), raising=False)
        yield


KINDS = ("llama", "qwen2", "gpt2", "gemma2")
"""Families of the tiny models: rotary + grouped heads; biases in attention; learned positions, tied head; soft-capped
logits with scaled, tied embeddings and sliding windows."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "What is the capital of France? The capital of France is Paris.",
    "Add 12 and 30. The answer is 42. Subtract 5 from 19: the result is 14.",
    "user assistant system question answer write sort the letters of the word in order",
] * 4


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE with a few merges, a ChatML-like template, eos `<|im_end|>` and pad `<|pad|>`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def tiny_config(kind: str, tokenizer: PreTrainedTokenizerBase, **overrides: Any) -> Any:
    """Configuration of a two-layer model. Wide initial weights, so that log-probabilities differ visibly."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    if kind == "gpt2":
        shared |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        shared |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        shared |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256}
        shared |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "gemma2":
        shared |= {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16, "final_logit_softcapping": 5.0}
    return AutoConfig.for_model(kind, **(shared | overrides))


def tiny_model(kind: str, tokenizer: PreTrainedTokenizerBase, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A seeded random model of about 30 thousand parameters, fp32, in eval mode; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, tokenizer, **overrides), dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


@pytest.fixture
def tiny(tokenizer: PreTrainedTokenizerBase) -> Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerBase]]:
    """`tiny(kind="llama", seed=0, **config)` -> a fresh `(model, tokenizer)`; the test may change the model."""

    def make(kind: str = "llama", seed: int = 0, **overrides: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return tiny_model(kind, tokenizer, seed, **overrides), tokenizer

    return make


@pytest.fixture
def tiny_dir(
    tiny: Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    saved_models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """`tiny_dir(kind="llama", seed=0)` -> a fresh directory with the model and tokenizer saved by transformers."""

    def make(kind: str = "llama", seed: int = 0, **overrides: Any) -> Path:
        directory = tmp_path_factory.mktemp(f"tiny-{kind}")
        wanted = repr((kind, seed, sorted(overrides.items())))
        if wanted not in saved_models:
            saved_models[wanted] = tmp_path_factory.mktemp(f"saved-{kind}")
            model, tokenizer = tiny(kind, seed, **overrides)
            model.save_pretrained(saved_models[wanted])
            tokenizer.save_pretrained(saved_models[wanted])
        return Path(shutil.copytree(saved_models[wanted], directory, dirs_exist_ok=True))

    return make


@pytest.fixture(scope="session")
def saved_models() -> dict[str, Path]:
    """The directories that `tiny_dir` copies, by what was asked for: saving takes longer than most of what follows."""
    return {}


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`make_once(name, make)` -> the directory that `make(directory)` filled, once for all processes of this pytest.

    What is in it is to be read only: the tests that share it run in any order.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], object]) -> Path:
        directory, made = shared / f"once-{name}", shared / f"once-{name}.made"
        with open(shared / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                directory.mkdir()
                make(directory)
                made.touch()
        return directory

    return get


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[Any]]:
    """`make_rows(n=5, vocab=320, seed=0, pairs=False)` -> seeded random `EncodedSequence` sequences of 4 to 23 tokens.

    A prompt, then trained tokens; the last sequence (or pair) has several answers with prompts between them. With
    `pairs`, 2n sequences: chosen and rejected of n rows, the two sharing a prompt.
    """
    import numpy as np

    from holdfast.data.batching.batches import EncodedSequence

    def make(n: int = 5, vocab: int = 320, seed: int = 0, pairs: bool = False) -> list[EncodedSequence]:
        rng = np.random.default_rng(seed)
        out = []
        for row in range(n):
            prompt = rng.integers(3, vocab, size=rng.integers(2, 10))
            for role in range(2 if pairs else 1):
                answer = rng.integers(3, vocab, size=rng.integers(2, 14))
                ids = np.concatenate([prompt, answer]).astype(np.int32)
                trained = np.arange(len(ids)) >= len(prompt)
                if row == n - 1:
                    trained[len(prompt) + 1 : -1] &= np.arange(len(answer) - 2) % 3 > 0
                out.append(EncodedSequence(ids=ids, label_mask=trained, row=row, role=role))
        return out

    return make
