"""Tuners of a user's own: a kind of LoRA, and one that stores what it trains in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from holdfast.axes.tuner import SavedFormat, Taxonomy, Tuner
from holdfast.methods.tuners.lora import LoRA
from holdfast.models.adapters import PeftTuner

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class VeRA(LoRA):
    """My adapter. [me 2026]"""

    paper: ClassVar[str] = "me 2026"


class Scales(PeftTuner):
    """Vectors between random matrices that all layers share. [Kopiczko et al. 2023, arXiv 2310.11454]"""

    paper: ClassVar[str] = "Kopiczko et al. 2023, arXiv 2310.11454"

    def apply(self, model: Any, seed: int) -> Model:
        from peft import VeraConfig, get_peft_model

        config = VeraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], projection_prng_key=seed)
        return get_peft_model(model, config)


class Prompt(PeftTuner):
    """Trained embeddings before every sequence. [Lester et al. 2021, arXiv 2104.08691]"""

    paper: ClassVar[str] = "Lester et al. 2021, arXiv 2104.08691"
    mergeable: ClassVar[bool] = False

    tokens: int = 4

    def virtual_tokens(self) -> int:
        return self.tokens

    def apply(self, model: Any, seed: int) -> Model:
        from peft import PromptTuningConfig, get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.tokens))


class Shifted(nn.Module):
    """A layer with a vector added to what it computes."""

    def __init__(self, beneath: nn.Module, size: int) -> None:
        super().__init__()
        self.beneath, self.shift, self.on = beneath, nn.Parameter(torch.zeros(size)), True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out = self.beneath(*args, **kwargs)  # [..., D]
        return out + self.shift.to(out.dtype) if self.on else out


class Shift(Tuner):
    """One vector added after the last norm. [me 2026]"""

    paper: ClassVar[str] = "me 2026"
    adapter: ClassVar[bool] = True
    taxonomy: ClassVar[Taxonomy] = "additive"

    scale: float = 1.0

    def apply(self, model: Model, seed: int) -> Model:
        model.requires_grad_(False)
        body: Any = model.base_model
        body.norm = Shifted(body.norm, model.config.hidden_size)
        return model

    def base_context(self, model: Model) -> AbstractContextManager[None]:
        return self._off(model)

    @contextmanager
    def _off(self, model: Any) -> Iterator[None]:
        model.base_model.norm.on = False
        try:
            yield
        finally:
            model.base_model.norm.on = True

    def adapter_parameters(self, model: Model) -> set[str]:
        return {name for name, _ in model.named_parameters() if name.endswith("norm.shift")}

    def save(self, model: Any, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        save_file({"shift": model.base_model.norm.shift.detach().cpu()}, directory / "shift.safetensors")
        return SavedFormat("own_tuners", "model = own_tuners.read($place, base=$base)", "", adapter=True)

    def load(self, directory: Path, base: Any) -> Model:
        model: Any = self.apply(base, 0)
        with torch.no_grad():
            model.base_model.norm.shift.copy_(load_file(directory / "shift.safetensors")["shift"])
        return model
