"""The shape of a model by its settings alone, where its weights are elsewhere, or would not fit here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.hub import fetch_model
from holdfast.core.in_memory import is_memory
from holdfast.models.files import explain_load_errors, is_adapter
from holdfast.models.layer_list import find_layer_list
from holdfast.models.loading import (
    LAB_DIRECTORY,
    STORED_DTYPES,
    build_skeleton,
    configured_dtype,
    has_adapter,
    load_config,
    locate_model,
    read_tokenizer,
)
from holdfast.recipe.shorthand import LAB_MODELS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from holdfast.models.loading import Model

SETTINGS = ["*.json", "*.txt", "*.jinja", "*.model"]
"""What is fetched of a hub repository to know a model's shape and tokenizer."""
HALF = 2
"""Bytes of a number in 16 bits."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model without its weights.

    Args:
        model: Its modules and shapes, in the type of its files.
        path: The directory of its settings.
        lab: Whether it is a laboratory model, or descends from one.
        tokenizer: None where there is none beside the settings.
    """

    model: PreTrainedModel
    path: Path
    lab: bool
    tokenizer: PreTrainedTokenizerBase | None


def load_shape(name: str | Path) -> ModelShape:
    """The shape of a model by name: a folder with a config.json is enough, and of the hub no weights are fetched.

    Raises:
        UserError: If there is none.
    """
    path = locate_settings(name)
    config = load_config(path, has_weights=False)
    dtype = configured_dtype(config)
    with explain_load_errors(path):
        model = build_skeleton(config).to(dtype if dtype in STORED_DTYPES else torch.bfloat16)  # type: ignore[arg-type]
    lab = LAB_DIRECTORY in path.parents or bool(getattr(config, "holdfast_lab", False))
    has_tokenizer = (path / "tokenizer_config.json").exists()
    return ModelShape(model, path, lab, read_tokenizer(path) if has_tokenizer else None)


def locate_settings(name: str | Path) -> Path:
    """The local directory with the settings of a model called as in `loading.load_model`."""
    place = Path(name).expanduser()
    if (place / "config.json").exists() and not is_adapter(place):
        return place.resolve()
    if place.exists() or str(name) in LAB_MODELS or is_memory(str(name)):
        return locate_model(name)
    path = fetch_model(str(name), SETTINGS, bundled_models=LAB_MODELS)
    return path if (path / "config.json").exists() else locate_model(name)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a plan on paper needs of a model.

    Args:
        parameters: All of them.
        active: Those that a token is multiplied with: without the input embedding, and of experts the share it visits.
        trained, trained_active: Of both, what trains.
        experts: Parameters of the experts, all of them.
        visited: Share of the experts that a token visits.
        layers: How many.
        largest_layer, around: Parameters of the largest layer, and of all that is in none.
        attention_width: Heads times the size of one.
        cache_bytes: Of keys and values of one token, in 16 bits.
    """

    parameters: int
    active: float
    trained: int
    trained_active: float
    experts: int
    visited: float
    layers: int
    largest_layer: int
    around: int
    attention_width: int
    cache_bytes: int

    @classmethod
    def from_model(cls, tuned: Model) -> ModelSize:
        """The size of a model with its tuner; its weights need no memory."""
        causal: Any = tuned.get_base_model() if has_adapter(tuned) else tuned
        text = causal.config.get_text_config()
        experts, share = find_experts(tuned, text)
        looked_up = find_looked_up(causal)
        sizes = {id(p): p.numel() * (share if id(p) in experts else 1.0) for p in tuned.parameters()}
        sizes |= dict.fromkeys(looked_up, 0.0)
        layers = [sum(p.numel() for p in layer.parameters()) for layer in find_layer_list(causal)]
        parameters = sum(p.numel() for p in tuned.parameters())
        moving = [p for p in tuned.parameters() if p.requires_grad]
        heads = getattr(text, "num_attention_heads", None) or 0
        head_size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        return cls(
            parameters=parameters,
            active=sum(sizes.values()),
            trained=sum(p.numel() for p in moving),
            trained_active=sum(sizes[id(p)] for p in moving),
            experts=sum(p.numel() for p in tuned.parameters() if id(p) in experts),
            visited=share,
            layers=len(layers),
            largest_layer=max(layers),
            around=parameters - sum(layers),
            attention_width=heads * head_size,
            cache_bytes=count_cache_bytes(text, heads, head_size),
        )

    def read_parameters(self, tokens: float) -> float:
        """Weights that a pass over so many tokens, each of another sequence, reads: of experts the visited ones."""
        share = 1 - (1 - self.visited) ** tokens
        return self.parameters - self.experts * (1 - share)


def find_looked_up(causal: Any) -> Iterator[int]:
    """Identities of weights that are looked up and not multiplied with: the input embedding, unless it is the head."""
    head = causal.get_output_embeddings()
    for weight in causal.get_input_embeddings().parameters():
        if head is None or getattr(head, "weight", None) is not weight:
            yield id(weight)


def find_experts(model: nn.Module, text: Any) -> tuple[set[int], float]:
    """Identities of the weights of experts of which a token visits some, and the share that it visits."""
    count = next((n for key in EXPERTS if (n := getattr(text, key, None))), None)
    chosen = getattr(text, "num_experts_per_tok", None)
    if not count or not chosen:
        return set(), 1.0
    return {id(p) for name, p in model.named_parameters() if "experts" in name.split(".")}, chosen / count


EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts")
"""What models call the number of their experts."""


def count_cache_bytes(text: Any, heads: int, head_size: int) -> int:
    """Bytes of the keys and values of one token, in 16 bits; windows of attention are not looked at.

    Args:
        text: The settings of the language model.
    """
    if rank := getattr(text, "kv_lora_rank", None):  # attention by latent vectors keeps one of them
        return HALF * text.num_hidden_layers * (rank + (getattr(text, "qk_rope_head_dim", None) or 0))
    return HALF * 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * head_size
