"""Rows and recipes the trainer's tests share; also imported by the scripts that they launch."""

from __future__ import annotations

from typing import Any

import numpy as np
from safetensors.torch import save_file
from transformers import PreTrainedModel

from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.recipe.schema import Recipe
from holdfast.testing.examples import VOCABULARY
from holdfast.testing.examples import tiny_model as model

__all__ = ["VOCABULARY", "model", "recipe", "table", "write_weights"]


def table(rows: int = 24, per_row: int = 1, seed: int = 0) -> TokenTable:
    """Random rows of 6 to 30 tokens, answers of various lengths, weights of 0.5 to 1.5."""
    generator = np.random.default_rng(seed)
    encoded = []
    for row in range(rows):
        prompt = generator.integers(2, VOCABULARY, int(generator.integers(3, 15))).astype(np.int32)
        weight = float(generator.uniform(0.5, 1.5))
        for role in range(per_row):
            answer = generator.integers(2, VOCABULARY, int(generator.integers(3, 16))).astype(np.int32)
            trained = np.arange(len(prompt) + len(answer)) >= len(prompt)
            encoded.append(EncodedSequence(np.concatenate([prompt, answer]), trained, row, role, weight))
    return TokenTable.from_sequences(encoded, fingerprint=f"rows-{rows}-{per_row}-{seed}")


def recipe(train: dict[str, Any] | None = None, **axes: Any) -> Recipe:
    """Two epochs of steps of at most 200 tokens in micro-batches of at most 60."""
    loop = {"epochs": 2, "batch_tokens": 200, "precision": "fp32"} | (train or {})
    axes = {"optimizer": {"name": "adamw", "learning_rate": 0.01}} | axes
    accumulates = axes["optimizer"] != "lomo" and not getattr(axes["optimizer"], "in_backward", False)
    if accumulates and isinstance(axes["optimizer"], dict):
        accumulates = axes["optimizer"]["name"] != "lomo"
    if accumulates:
        loop = {"micro_tokens": 60} | loop
    return Recipe(model="tiny", data={"train": "rows.jsonl"}, train=loop, **axes)


def write_weights(trained: PreTrainedModel, path: str) -> None:
    """All parameters, each once."""
    save_file({name: p.detach().contiguous().clone() for name, p in trained.named_parameters()}, path)
