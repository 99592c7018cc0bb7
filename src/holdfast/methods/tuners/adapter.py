"""Bottleneck adapters: two small maps with an activation between, behind or beside the parts of every layer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.tuner import SavedFormat, Taxonomy, Tuner
from holdfast.methods.tuners.layer_maps import output_maps

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from holdfast.models.loading import Model

FILE = "bottlenecks.safetensors"
READ_BY_HOLDFAST = SavedFormat(
    "holdfast",
    """from holdfast import load

loaded = load($place)
model, tokenizer = loaded.model, loaded.tokenizer""",
    "",
    adapter=True,
)


class Adapter(Tuner):
    """Small bottleneck maps inside every layer of a frozen model. [Houlsby et al. 2019, arXiv 1902.00751]

    What: h becomes h + s U f(D h + b_D) + b_U with D [m, d], U [d, m] and an activation f; U and D begin near zero, so
    that the model begins almost as it was. `houlsby`: two in a layer, of what attention and MLP put out, before it is
    added to the residual stream. `pfeiffer` (Pfeiffer et al. 2020, arXiv 2005.00247): one, of the layer's whole output.
    `parallel` (He et al. 2021, arXiv 2110.04366): one beside the MLP, from what the MLP reads, with s = 4 and U = 0.

    When it helps: as `lora`, where a new task needs a computation that the weights do not hold: a bottleneck is not
    linear. It comes off, the base stays bit-identical.

    When it fails: it cannot be folded into the weights, so every token pays for it, vLLM does not serve it, and `dial`
    has nothing to work on. Small models with a large m: as many parameters as full fine-tuning.

    Columns needed: none beyond the objective's.

    Beside the paper: its layer norms train too; here they stay, so that the base is left bit for bit.

    Stored: `bottlenecks.safetensors` with D, U and biases by the layer's name, and `tuner.json` with these settings;
    `holdfast.load` reads both. No pickle.

    Paper: Houlsby, Giurgiu, Jastrzebski, Morrone, de Laroussilhe, Gesmundo, Attariyan, Gelly 2019, arXiv 1902.00751.
    """

    paper: ClassVar[str] = "Houlsby et al. 2019, arXiv 1902.00751"
    adapter: ClassVar[bool] = True
    taxonomy: ClassVar[Taxonomy] = "additive"
    formula: ClassVar[str] = "L · (2 size d + size + d), twice with houlsby"

    placement: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "houlsby",
        description="Behind attention and MLP (houlsby), behind the layer (pfeiffer), beside the MLP (parallel).",
    )
    size: int = Field(64, ge=1, description="Width m of the bottleneck.")
    activation: Literal["gelu", "relu", "swish"] | None = Field(
        None, description="Between the two maps; default: gelu for houlsby, relu for the others, as their authors."
    )
    scale: float | None = Field(None, gt=0, description="Factor s; default: 4 for parallel, 1 for the others.")

    def check(self, model: Model) -> None:
        """See that every layer has the parts behind which bottlenecks stand.

        Raises:
            UserError: If not.
        """
        self._list_places(model)

    def list_warnings(self, model: Model) -> list[str]:
        """A line when the bottleneck is no narrower than what it reads."""
        width = model.config.get_text_config().hidden_size
        return [
            f"tuner.size {self.size:,} is no bottleneck in a model of hidden size {width:,}; set a smaller one, or "
            "tuner: full"
        ] * (self.size >= width)

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """Two matrices and two biases for every bottleneck."""
        width = model.config.get_text_config().hidden_size
        return len(self._list_places(model)) * (2 * self.size * width + self.size + width)

    def apply(self, model: Model, seed: int) -> Model:
        """Put a bottleneck, drawn from `seed`, in every place; the base is frozen."""
        import torch

        from holdfast.models.bottleneck import Bottleneck

        parallel = self.placement == "parallel"
        activation = self.activation or ("gelu" if self.placement == "houlsby" else "relu")
        scale = self.scale or (4.0 if parallel else 1.0)
        places, width = self._list_places(model), model.config.get_text_config().hidden_size
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for place in places:
                device = next(place.parameters()).device
                Bottleneck(width, self.size, activation, scale, parallel).to(device).attach_to(place)
        return model

    def _list_places(self, model: Model) -> list[nn.Module]:
        """The modules behind or beside which bottlenecks stand."""
        from holdfast.training.distributed import find_layers

        layers = find_layers(model)
        if self.placement == "pfeiffer":
            return layers
        ends = output_maps(model, "mlp", "adapter")
        if self.placement == "parallel":  # the module that ends with that map is the MLP
            return [layer.get_submodule(path.rpartition(".")[0]) for layer, path in zip(layers, ends, strict=True)]
        both = (ends, output_maps(model, "attention", "adapter"))
        return [layer.get_submodule(path) for paths in both for layer, path in zip(layers, paths, strict=True)]

    def base_context(self, model: Model) -> AbstractContextManager[None]:
        """A context in which every bottleneck is off."""
        from holdfast.models.bottleneck import switch_off

        return switch_off(model)

    def adapter_parameters(self, model: Model) -> set[str]:
        """Maps and biases of the bottlenecks."""
        return {name for name, _ in model.named_parameters() if ".bottleneck." in name}

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """`bottlenecks.safetensors`."""
        from safetensors.torch import save_file

        own = self.adapter_parameters(model)
        state = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if name in own}
        save_file(state, directory / FILE)
        return READ_BY_HOLDFAST

    def load(self, directory: Path, base: PreTrainedModel) -> Model:
        """`base` with the bottlenecks of a folder.

        Raises:
            UserError: If they are not those of these settings on such a base.
        """
        from holdfast.models.bottleneck import load_beside

        return load_beside(self.apply(base, 0), directory / FILE, self.adapter_parameters)
