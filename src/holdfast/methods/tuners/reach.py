"""What PEFT makes of a tuner's settings, tried on a model without weights: whether it takes them, what they reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.quiet import quiet_libraries
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from holdfast.models.loading import Model


@dataclass(frozen=True, slots=True)
class AdapterCoverage:
    """What adapters sit beside.

    Args:
        weights: Weights of the model, embeddings and head included.
        adapted_weights: Those of them that an adapter changes.
        experts: Names of expert tensors without adapter, of one layer.
        experts_weights: Their weights in all layers.
    """

    weights: int
    adapted_weights: int
    experts: tuple[str, ...]
    experts_weights: int

    def describe_skipped_experts(self) -> list[str]:
        """A line when experts have no adapter."""
        if not self.experts:
            return []
        names = ", ".join(f"mlp.{name}" for name in self.experts)
        return [
            f"tuner.target_modules all-linear leaves the experts as they are, "
            f"{self.experts_weights / self.weights:.0%} of the weights, which are tensors "
            f"here; add tuner.target_parameters: [{names}]"
        ]


def build_meta_adapters(model: Model, config: LoraConfig) -> PeftModel:
    """The adapters that `config` would put into a model like `model`, without memory for weights.

    Raises:
        UserError: If PEFT does not take them: it has no adapter for such modules, or settings exclude each other.
    """
    from peft import get_peft_model

    from holdfast.models.loading import build_skeleton

    try:
        with quiet_libraries():
            return get_peft_model(build_skeleton(model.config), config)  # type: ignore[return-value]
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = first_line(error).partition(". ")[0].rstrip(".")
        raise UserError(
            f"tuner: PEFT cannot adapt this model so: {reason}; name linear maps in target_modules (q_proj, v_proj), "
            "or all-linear"
        ) from error


def compute_coverage(adapters: PeftModel) -> AdapterCoverage:
    """Count what the adapters sit beside."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    beside: set[int] = set()
    for module in adapters.modules():
        if isinstance(module, BaseTunerLayer):
            beneath, name = module.get_base_layer(), getattr(module, "parameter_name", None)
            beside |= {id(getattr(beneath, name))} if name else {id(p) for p in beneath.parameters()}
        elif type(module).__name__ == "ModulesToSaveWrapper":
            beside |= {id(p) for p in module.original_module.parameters()}  # type: ignore[union-attr]
    own = {id(p): (n, p) for n, p in adapters.named_parameters() if "lora_" not in n and ".modules_to_save." not in n}
    skipped_experts = [
        (name.replace(".base_layer", ""), p)
        for key, (name, p) in own.items()
        if key not in beside and ".experts." in name and p.ndim > 2
    ]
    return AdapterCoverage(
        weights=sum(p.numel() for _, p in own.values()),
        adapted_weights=sum(p.numel() for key, (_, p) in own.items() if key in beside),
        experts=tuple(dict.fromkeys("experts." + name.rpartition(".experts.")[2] for name, _ in skipped_experts)),
        experts_weights=sum(p.numel() for _, p in skipped_experts),
    )
