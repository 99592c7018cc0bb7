"""The catalogue of base and instruct models that anyone may have: `models.json`, a file of ours with its date."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from holdfast.data.catalogue.ranking import rank_descriptions
from holdfast.errors import UserError

CATALOGUE = Path(__file__).with_name("models.json")
GIB = 2**30
BYTES_PER_PARAMETER: Mapping[str, float] = {"full": 16.0, "half": 10.0, "lora": 2.1, "qlora": 0.7}
"""Bytes that a tuner needs for each parameter of the model, without activations: weights, gradients and AdamW's two
states in fp32 (full), these of half the weights (half), weights in bf16 or in 4 bits beside a small adapter."""
LARGEST = 3e9
"""Bytes of bf16 weights up to which a model is proposed; as in Prompt2Model."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that is openly available.

    Args:
        name: On the hub, or that of a laboratory model.
        parameters: How many.
        kind: "base" or "instruct".
        licence: Its name.
        context: Most tokens it reads.
        template: Its chat template by the field's name; "none", "own".
        about: What it is for.
        downloads: A month, where known.
        checked: Whether this was held against the model's own files; the catalogue's note says what the rest is.
    """

    name: str
    parameters: float
    kind: str
    licence: str
    context: int
    template: str
    about: str
    downloads: int = 0
    checked: bool = False

    def estimate_memory(self, tuner: str) -> float:
        """GiB that training with a tuner takes, without activations."""
        return BYTES_PER_PARAMETER[tuner] * self.parameters / GIB

    @property
    def weight_bytes(self) -> float:
        """Bytes of its weights in bf16."""
        return 2 * self.parameters


class ModelCatalogue(NamedTuple):
    """Models, when they were written down, and how far that is known to be right."""

    date: str
    note: str
    models: list[ModelEntry]


def read_models(path: Path = CATALOGUE) -> ModelCatalogue:
    """The catalogue of models.

    Raises:
        UserError: If a file of the user's own is no catalogue.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        models = [ModelEntry(**entry) for entry in data["models"]]
        return ModelCatalogue(str(data["date"]), str(data["note"]), models)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: is no catalogue of models ({type(error).__name__}: {error}); see {CATALOGUE}"
        ) from error


def rank_models(
    task: str, models: Sequence[ModelEntry], largest: float = LARGEST, most: int = 5
) -> list[tuple[ModelEntry, float]]:
    """The models that fit a described task best, with their scores.

    The score is BM25 of description and name times log10(downloads + 2) [Viswanathan et al. 2023, 2308.12261]; of equal
    ones instruct models go first, then small ones.

    Args:
        largest: Most bytes of weights in bf16; larger models are not proposed.
    """
    fitting = [model for model in models if model.weight_bytes <= largest]
    scores = rank_descriptions(task, [f"{model.name.replace('/', ' ')} {model.about}" for model in fitting])
    popular = [score * math.log10(model.downloads + 2) for score, model in zip(scores, fitting, strict=True)]
    pairs = sorted(
        zip(fitting, popular, strict=True), key=lambda pair: (-pair[1], pair[0].kind != "instruct", pair[0].parameters)
    )
    return pairs[:most]
