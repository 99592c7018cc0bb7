"""Run by test_spread_by_length.py on two processes: attention by lengths, by a slow function instead of torch's.

Usage: spread_by_length.py DIRECTORY. The main process writes DIRECTORY/said.json.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import material
import torch

from holdfast.models import attention_choice
from holdfast.models.compiled_layers import CompiledLayers
from holdfast.testing.examples import tiny_model
from holdfast.training import setup
from holdfast.training.callbacks import Hooks
from holdfast.training.distributed import shutdown_process_group
from holdfast.training.trainer import Trainer
from varlen_reference import opaque_varlen

CASES: dict[str, dict[str, Any]] = {
    "compiled": {},
    "dpo with lora": {"objective": "dpo", "tuner": {"name": "lora", "r": 4}},
    "soft caps": {},
}
KINDS = {"compiled": "gpt2", "dpo with lora": "mistral", "soft caps": "gemma2"}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


def long_prompts() -> Any:
    """Pairs whose prompts are worth sharing."""
    import numpy as np

    from holdfast.data.batching.batches import EncodedSequence, TokenTable

    generator = np.random.default_rng(0)
    encoded = []
    for row in range(8):
        prompt = generator.integers(2, material.VOCABULARY, 20).astype(np.int32)
        for role in range(2):
            answer = generator.integers(2, material.VOCABULARY, 3 + row % 4).astype(np.int32)
            trained = np.arange(len(prompt) + len(answer)) >= len(prompt)
            encoded.append(EncodedSequence(np.concatenate([prompt, answer]), trained, row, role))
    return TokenTable.from_sequences(encoded, fingerprint="long prompts")


def run(case: str, out: Path, by_length: bool) -> dict[str, Any]:
    """Losses, what was said of attention, and the sum of the weights' squares."""
    attention_choice.find_kernel = lambda device, dtype: (opaque_varlen if by_length else None, "")
    compiles = case == "compiled" and by_length
    setup.CompiledLayers = functools.partial(CompiledLayers, backend="eager")  # type: ignore[misc]
    losses: list[float] = []
    said: list[str] = []
    model = tiny_model(KINDS[case], **(NO_DROPOUT if case == "compiled" else {}))
    table = long_prompts() if "dpo" in case else material.table(12)
    settings = {"batch_tokens": 150, "epochs": 1, "compile": "on" if compiles else "off"}
    hooks = Hooks(on_step=lambda log: losses.append(log.loss), on_note=said.append)
    optimizer = {"name": "adamw", "learning_rate": 0.003, "eps": 1e-4}
    recipe = material.recipe(settings, optimizer=optimizer, **CASES[case])
    trainer = Trainer(recipe, model, table, out, pad_id=0, hooks=hooks)
    result = trainer.fit()
    if not trainer.machine.main:  # which says nothing, and may have shards only
        return {}
    weights = sum(float(p.detach().double().square().sum()) for p in result.model.parameters())
    return {"losses": losses, "attention": said[0], "said": said[1:], "weights": weights}


def main(directory: str) -> None:
    torch.set_num_threads(1)
    said = {case: run(case, Path(directory) / case, True) for case in CASES}
    path = Path(directory) / "said.json"
    if not path.exists() and torch.distributed.get_rank() == 0:
        path.write_text(json.dumps(said))
    shutdown_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
