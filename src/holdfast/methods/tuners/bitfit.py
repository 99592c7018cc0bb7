"""BitFit: only biases move."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError
from holdfast.methods.tuners.model_parts import count_parameters, train_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from holdfast.models.loading import Model


class BitFit(Tuner):
    """Only biases move. [Ben Zaken, Ravfogel and Goldberg 2021, arXiv 2106.10199]

    What: of every map W x + b only b trains; weights, norms' scales and embeddings are frozen and out of the optimizer.
    About 0.1 % of the weights of BERT. `modules` narrows it to the biases of some modules: the paper's smaller variant
    are those of the queries and of the second map of the MLP.

    Models without biases (Llama, Gemma): `add: true` gives their linear maps biases of zero, where the architecture
    has a switch for them (`attention_bias`, `mlp_bias` and the like). The switched-on model computes the same, and
    what is saved is a plain model of transformers.

    When it helps: few rows, and re-weighting what the model can do already; little is forgotten.

    When it fails: skills that are new to the model; a rate as for `full`. The paper's are 1e-4 to 1e-3, so that the
    default here is ten times that of `full`.

    Columns needed: none beyond the objective's. Stored: all weights. Not an adapter.

    Paper: Ben Zaken, Ravfogel, Goldberg 2021, arXiv 2106.10199 (ACL 2022). Added zero biases: Liu et al. 2022, arXiv
    2205.05638 (T-Few's comparison).
    """

    paper: ClassVar[str] = "Ben Zaken et al. 2021, arXiv 2106.10199"
    formula: ClassVar[str] = "out a map that has a bias, d a norm that has one"
    rate_factor: ClassVar[float] = 10.0

    add: bool = Field(False, description="Give linear maps without a bias one of zeros, where the model has a switch.")
    modules: tuple[str, ...] = Field(
        (), description="Only the biases of modules whose paths end so (q_proj, down_proj); default: all."
    )

    def check(self, model: Model) -> None:
        """See that there are biases, or that they can be added.

        Raises:
            UserError: If not.
        """
        _, new = find_bias_switches(model) if self.add else ((), ())
        self._list_names(model, new)

    def apply(self, model: Model, seed: int) -> Model:
        """Add zero biases if asked to, in place; only biases get gradients. `seed` is not used."""
        if self.add:
            add_biases(model, *find_bias_switches(model))
        return train_only(model, self._list_names(model))

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """A number for each output of a map whose bias moves, added biases included."""
        switches, new = find_bias_switches(model) if self.add else ((), ())
        skeleton = build_switched_skeleton(model, switches)
        return count_parameters(skeleton, self._list_names(model, new))

    def _list_names(self, model: Model, new: tuple[str, ...] = ()) -> set[str]:
        """Names of the biases that move, of those that are there and those that would be."""
        biases = [name for name, _ in model.named_parameters() if name.endswith("bias")] + list(new)
        if not biases:
            raise UserError(
                f"tuner: bitfit trains biases, and {type(model).__name__} has none; set tuner.add: true, or choose "
                "lora or full"
            )
        for target in self.modules:
            if not any(f".{name.rpartition('.')[0]}".endswith(f".{target}") for name in biases):
                some = ", ".join(list(dict.fromkeys(name.split(".")[-2] for name in biases))[:6])
                raise UserError(
                    f"tuner.modules: {target} not found among the modules of {type(model).__name__} with a bias; use "
                    f"names such as {some}"
                )
        return {
            name
            for name in biases
            if not self.modules or any(f".{name.rpartition('.')[0]}".endswith(f".{t}") for t in self.modules)
        }


def find_bias_switches(model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settings of a model's configuration that give it more biases when switched on, and the names of these.

    Found by building the model without weights with each setting that speaks of a bias and is off.

    Raises:
        UserError: If there is none.
    """
    own = {name for name, _ in model.named_parameters()}
    switches, new = list[str](), dict[str, None]()
    for key, value in model.config.to_dict().items():
        if value is not False or "bias" not in key:
            continue
        more = [name for name, _ in build_switched_skeleton(model, (key,)).named_parameters() if name not in own]
        if more and all(name.endswith(".bias") for name in more):
            switches.append(key)
            new |= dict.fromkeys(more)
    if not switches:
        raise UserError(
            f"tuner.add: {type(model).__name__} has no switch for biases, so that nobody could load them; leave it "
            "out, or choose lora or full"
        )
    return tuple(switches), tuple(new)


def build_switched_skeleton(model: Model, switches: tuple[str, ...]) -> PreTrainedModel:
    """A model like this one, without weights, whose configuration has these settings on."""
    from holdfast.models.loading import build_skeleton

    config = copy.deepcopy(model.config)
    for key in switches:
        setattr(config, key, True)
    return build_skeleton(config)


def add_biases(model: Model, switches: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Switch biases on, in place, and make them zeros."""
    import torch
    from torch import nn

    for key in switches:
        setattr(model.config, key, True)
    for name in names:
        module: Any = model.get_submodule(name.rpartition(".")[0])
        rows = module.weight.shape[0]  # [out, in]; the classes with a switch all use torch's linear maps
        module.bias = nn.Parameter(torch.zeros(rows, dtype=module.weight.dtype, device=module.weight.device))
