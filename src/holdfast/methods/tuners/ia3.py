"""(IA)^3: keys, values and the MLP's inner activations, each scaled by a learned vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.errors import UserError
from holdfast.methods.tuners.layer_maps import find_paths, shorten_paths
from holdfast.methods.tuners.modules import check_linear_names, linear_shapes
from holdfast.models.adapters import PeftTuner

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class IA3(PeftTuner):
    """Keys, values and inner activations are scaled by learned vectors. [Liu et al. 2022, arXiv 2205.05638]

    What: K becomes l_k * K, V becomes l_v * V, and what the MLP's last map reads becomes l_ff * that; all l = 1 at the
    start, so that the first step starts from exactly the base model. In a gated MLP the last map reads the product
    act(gate) * up, of which up alone is scaled in the authors' T5: the same.

    When it helps: few rows (the paper has 20 to 70), many tasks on one base: a ten-thousandth of the weights trains.
    It folds into the weights and comes off again.

    When it fails: what is not in the model already; a rate as for `lora`: it needs about thirty times that, which is
    its default here (the paper's 3e-3, with Adafactor). Weight decay, which pulls the vectors to 0, not to 1: leave it.

    Columns needed: none beyond the objective's. The paper's losses for choices are objective `tfew`.

    The authors scale keys and values. PEFT's own defaults scale others in several families (queries and values in
    Qwen, Gemma and Phi; GPT-2's fused queries, keys and values): here it is keys and values everywhere. Where these are
    one matrix with the queries they cannot be scaled apart, and it is for `target_modules` to say so.

    Stored: the vectors as a PEFT adapter. Merging multiplies rows, or columns, of W.

    Paper: Liu, Tam, Muqeeth, Mohta, Huang, Bansal, Raffel 2022, arXiv 2205.05638 (NeurIPS 2022).
    """

    paper: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638"
    formula: ClassVar[str] = "L · (keys + values + the MLP's width)"
    rate_factor: ClassVar[float] = 30.0

    target_modules: tuple[str, ...] = Field(
        (), description="Maps whose outputs are scaled; default: those of keys and values."
    )
    feedforward_modules: tuple[str, ...] = Field(
        (), description="Maps whose inputs are scaled; default: the MLP's last one."
    )

    def check(self, model: Model) -> None:
        """See that the model has such maps.

        Raises:
            UserError: If not, or if keys and values come from one matrix with the queries.
        """
        self._list_targets(model)

    def _list_targets(self, model: Model) -> tuple[list[str], list[str]]:
        """Names of the maps whose outputs are scaled, and of those whose inputs are."""
        for key, names in (("target_modules", self.target_modules), ("feedforward_modules", self.feedforward_modules)):
            check_linear_names(key, model, list(names))
        outputs, inputs = list(self.target_modules), list(self.feedforward_modules)
        if not outputs:
            keys, values = (find_paths(model, "attention", role) for role in ("key", "value"))
            if not (keys and values):
                joint = find_paths(model, "attention", "fused")
                raise UserError(
                    f"tuner: ia3 scales keys and values, and {type(model).__name__} "
                    + (
                        f"computes them with the queries in one map; set tuner.target_modules: [{joint[0]}] to scale "
                        "all three, or choose lora"
                        if joint
                        else "has no maps for them whose names are known; name them in tuner.target_modules"
                    )
                )
            outputs = shorten_paths(model, [*keys, *values])
        if not inputs:
            inputs = shorten_paths(model, find_paths(model, "mlp", "output"))
            if not inputs:
                raise UserError(
                    f"tuner: ia3 scales what the MLP's last map reads, and {type(model).__name__} has none whose name "
                    "is known; name it in tuner.feedforward_modules, or choose lora where experts are tensors"
                )
        return outputs, inputs

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """One number for every output of the first kind of maps and every input of the second."""
        outputs, inputs = self._list_targets(model)
        return sum(out for out, _ in linear_shapes(model, outputs)) + sum(n for _, n in linear_shapes(model, inputs))

    def apply(self, model: Model, seed: int) -> Model:
        """A `PeftModel` around `model` with vectors of ones; nothing is drawn, so `seed` is not used."""
        from peft import IA3Config, get_peft_model

        outputs, inputs = self._list_targets(model)
        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=[*outputs, *inputs],
            feedforward_modules=inputs,
            # GPT-2 stores its linear maps transposed; PEFT asks to be told.
            fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.modules()),
        )
        return get_peft_model(model, config)
