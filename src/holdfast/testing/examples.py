"""Tiny models and random rows to try methods on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from holdfast.data.batching.batches import Batch, EncodedSequence, TokenTable, collate_sequences
from holdfast.models.placement import choose_device
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.axes.objective import Objective
    from holdfast.models.policy import Policy

VOCABULARY = 97
ROLES = {"answer": 1, "single": 1, "pair": 2, "triple": 3, "shifted": 2, "taught": 2, "prompt": 1}
"""Sequences of a row by its shape; of the others two to four."""


def tiny_model(kind: str = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A seeded two-layer model of `VOCABULARY` tokens, fp32, on the device that every verb would choose."""
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    if kind != "gpt2":
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        size["num_key_value_heads"] = 2
    common_settings = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 1}
    if kind == "phi3":
        size |= {"pad_token_id": 0}  # of itself a token beyond this vocabulary
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, **(common_settings | size | overrides))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.to(choose_device())  # the same weights anywhere, since they are drawn on the CPU


def rounding_room(device: torch.device) -> float:
    """How many times what a CPU's fp32 differs by is allowed: an accelerator has other kernels for other shapes."""
    return 1.0 if device.type == "cpu" else 10.0


def example_rows(
    objective: Objective, n: int = 6, vocab: int = VOCABULARY, seed: int = 0, with_weights: bool = True
) -> list[EncodedSequence]:
    """Random sequences of n rows of the shape that an objective takes, of various lengths and weights.

    Rows of choices have two to four of them; in taught rows both sequences end with the same answer, the second after a
    longer prompt.
    """
    rng = np.random.default_rng(seed)
    out = []
    for row in range(n):
        roles = ROLES.get(objective.row_shape().name, 2 + row % 3)
        prompt = rng.integers(3, vocab, size=rng.integers(2, 10))
        values = {c.name: draw_value(c, row, rng) for c in objective.value_columns() if not c.each}
        weight = float(rng.uniform(0.5, 1.5)) if with_weights else 1.0
        answer = rng.integers(3, vocab, size=rng.integers(2, 14))
        for role in range(roles):
            if role and objective.row_shape().name == "taught":
                prompt = np.concatenate([rng.integers(3, vocab, size=4), prompt])
            elif role:
                answer = rng.integers(3, vocab, size=rng.integers(2, 14))
            ids = np.concatenate([prompt, answer]).astype(np.int32)
            own = {c.name: draw_value(c, row, rng) for c in objective.value_columns() if c.each}
            out.append(EncodedSequence(ids, np.arange(len(ids)) >= len(prompt), row, role, weight, values | own))
    if objective.needs_rollouts:
        for sequence in out:
            sequence.token_values = draw_token_values(objective, len(sequence.ids), rng)
    return out


def draw_token_values(objective: Objective, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the tokens of a rollout carry, [count] each; `behaviour` is about the log-probability of any token."""
    values = {"advantages": rng.normal(size=count), "behaviour": rng.normal(-np.log(VOCABULARY), 0.1, size=count)}
    if objective.needs_values:
        values |= {"returns": rng.normal(size=count), "old_values": rng.normal(scale=0.1, size=count)}
    return values


def draw_value(column: Any, row: int, rng: np.random.Generator) -> float:
    """A value in the column's range; truth values alternate."""
    if column.truth:
        return float(row % 2 == 0)
    low, high = max(column.low, 0.0), min(column.high, 1.0)
    return float(rng.uniform(low, high))


def example_table(objective: Objective, name: str = "examples") -> TokenTable | ExampleRollouts:
    """`example_rows` as the trainer takes them."""
    if objective.needs_rollouts:
        return ExampleRollouts(example_rows(objective))
    return TokenTable.from_sequences(example_rows(objective), fingerprint=name)


class ExampleRollouts:
    """The same rollouts at every step, one micro-batch each."""

    fingerprint = "example rollouts"

    def __init__(self, sequences: list[EncodedSequence]) -> None:
        self.micro_batches = [collate_sequences([sequence], "padded", 0) for sequence in sequences]

    def step_batches(self, index: int, policy: Policy) -> list[Batch | None]:
        return list(self.micro_batches)

    def step_figures(self) -> dict[str, tuple[float, float]]:
        return {}

    def epoch_at(self, steps_done: int) -> float:
        return float(steps_done)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to load."""

    def example_batch(self) -> Batch:
        """The largest micro-batch."""
        return max((batch for batch in self.micro_batches if batch is not None), key=lambda batch: batch.tokens)

    def small_batch(self) -> Batch:
        """The same one."""
        return self.example_batch()


def example_recipe(epochs: int, **axes: Any) -> Recipe:
    """All rows at every step, in micro-batches of at most 100 tokens, bit for bit the same on any device."""
    loop = {"epochs": epochs, "batch_tokens": 4000, "micro_tokens": 100, "precision": "fp32", "deterministic": True}
    objective = axes.get("objective")
    if objective is not None and getattr(objective, "needs_rollouts", False):  # whose steps are rounds
        loop = {"max_steps": epochs, "precision": "fp32", "deterministic": True}
        axes = {"credit": "gae" if objective.needs_values else "group"} | axes
    axes = {"optimizer": {"name": "adamw", "learning_rate": 0.01}} | axes
    return Recipe.model_validate({"model": "tiny", "data": {"train": "rows.jsonl"}, "train": loop, **axes})
