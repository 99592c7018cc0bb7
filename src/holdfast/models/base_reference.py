"""The model of a run that trains nothing: a reference to its base, in the place of a copy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.tuner import SavedFormat, Tuner

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from holdfast.models.loading import Model

FILE = "nothing.safetensors"
"""Weights without a tensor: a folder that has lost its file is told apart from one that never had any."""
FORMAT = SavedFormat(
    "transformers",
    """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained($base, dtype=$dtype)
tokenizer = AutoTokenizer.from_pretrained($place)""",
    "vllm serve $base --tokenizer $place",
    adapter=True,
    note="Nothing was trained: the weights are those of $base, to which this folder refers.",
)


class BaseReference(Tuner):
    """An adapter of no weights: the base as it is, which is read from where it lies."""

    adapter: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True

    def apply(self, model: Model, seed: int) -> Model:
        """The model itself, of which nothing trains."""
        return model.requires_grad_(False)  # type: ignore[return-value]

    def base_context(self, model: Model) -> AbstractContextManager[None]:
        """The model is the base."""
        return nullcontext()

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """A file without a tensor."""
        from safetensors.torch import save_file

        save_file({}, directory / FILE)
        return FORMAT

    def load(self, directory: Path, base: PreTrainedModel) -> Model:
        """The base."""
        return base
