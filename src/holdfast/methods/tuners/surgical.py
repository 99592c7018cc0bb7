"""Exactly the modules or parameters that a list or a regular expression names move."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from holdfast.axes.tuner import Tuner
from holdfast.core.bounded import find_slow_pattern
from holdfast.errors import UserError
from holdfast.methods.tuners.model_parts import ModelParts, count_parameters, train_only

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class Surgical(Tuner):
    """Exactly the modules that a list or a regular expression names move. [Lee et al. 2022, arXiv 2210.11466]

    What: a name is a module or a parameter by the end of its path (`mlp`, `self_attn.v_proj`, `v_proj.weight`); a
    regular expression matches a whole path (`model\\.layers\\.(0|1)\\..*`). Of a module everything inside moves. All
    else is frozen and out of the optimizer. Every name must stand for something.

    When it helps: the authors' finding is that which part fits goes by what changed: the first block where inputs look
    otherwise, the middle where features do, the last where labels do; and one block then beats tuning everything, on
    little data. In language models MLPs hold much of what is recalled (the default), attention what is looked at.

    When it fails: a wrong guess of the part. `layer_change` (an analysis) of a full run shows what moved most.

    Columns needed: none beyond the objective's. Stored: all weights. Not an adapter.

    Paper: Lee, Chen, Tajwar, Kumar, Yao, Liang, Finn 2022, arXiv 2210.11466 (ICLR 2023).
    """

    paper: ClassVar[str] = "Lee et al. 2022, arXiv 2210.11466"
    formula: ClassVar[str] = "all of the modules named; of MLPs 3 · L · d · inner, or 2"

    modules: str | tuple[str, ...] = Field(
        ("mlp",), description="Names of modules or parameters, by the ends of their paths; or one regular expression."
    )
    layers: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="Only in the layers of these numbers, from 0, negative ones from the last; default: all.",
    )

    @field_validator("modules")
    @classmethod
    def _check_expression(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("nothing is named; name modules or parameters, or leave it out")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value} is not a regular expression: {error}") from error
        return value

    def check(self, model: Model) -> None:
        """See that every name, and the expression, stand for weights of the model.

        Raises:
            UserError: If not; one line that names some that would.
        """
        names = [name for name, _ in model.named_parameters()]
        if isinstance(self.modules, str) and find_slow_pattern([self.modules], names):
            raise UserError(
                f"tuner.modules: {self.modules} does not come to an end on the names of the weights; repeat nothing "
                "that repeats something itself, or name the modules"
            )
        self._list_names(model)

    def list_warnings(self, model: Model) -> list[str]:
        """A line when a weight that two modules share was named by one of them."""
        parts = ModelParts.from_model(model)
        if parts.is_tied and self._list_names(model) & set(parts.embeddings):
            return ["tuner.modules: the embedding is the head as well in this model, and moves as both"]
        return []

    def apply(self, model: Model, seed: int) -> Model:
        """Only the chosen weights get gradients; `seed` is not used."""
        return train_only(model, self._list_names(model))

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """All weights of the modules named."""
        return count_parameters(model, self._list_names(model))

    def _list_names(self, model: Model) -> set[str]:
        """Names of the parameters that move."""
        candidates = self._list_candidates(model)
        names: set[str] = set()
        for target in [self.modules] if isinstance(self.modules, str) else self.modules:
            found_names = {name for name in candidates if self._is_named(target, name)}
            if not found_names:
                raise UserError(self._explain_miss(model, target))
            names |= found_names
        return names

    def _list_candidates(self, model: Model) -> list[str]:
        if self.layers is None:
            return [name for name, _ in model.named_parameters()]
        parts = ModelParts.from_model(model)
        depth = len(parts.layers)
        if beyond := [number for number in self.layers if not -depth <= number < depth]:
            raise UserError(
                f"tuner.layers: {beyond[0]} is no layer of a model that has {depth}; they are counted from 0"
            )
        return [name for number in sorted({n % depth for n in self.layers}) for name in parts.layers[number]]

    def _is_named(self, target: str, name: str) -> bool:
        """Whether a target stands for a parameter, or for a module it is in."""
        pieces = name.split(".")
        paths = [".".join(pieces[:count]) for count in range(1, len(pieces) + 1)]
        if isinstance(self.modules, str):
            return any(re.fullmatch(target, path) for path in paths)
        return any(path == target or path.endswith(f".{target}") for path in paths)

    def _explain_miss(self, model: Model, target: str) -> str:
        """Why nothing is called so, and what is."""
        head = model.get_output_embeddings()
        if ModelParts.from_model(model).is_tied and any(
            module is head and self._is_named(target, path) for path, module in model.named_modules()
        ):
            return f"tuner.modules: {target} shares its weight with the input embedding; name that (it moves as both)"
        own = dict.fromkeys(path.rpartition(".")[2] for path, m in model.named_modules() if [*m.parameters(False)])
        some = ", ".join(list(own)[:6])
        kind = "matches no weight" if isinstance(self.modules, str) else "not found"
        where = "" if self.layers is None else f" in layers {', '.join(map(str, self.layers))}"
        return f"tuner.modules: {target} {kind}{where} in {type(model).__name__}; use names such as {some}"
