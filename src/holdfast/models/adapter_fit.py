"""Adapters in PEFT's format on the base that lies beneath them, whoever trained them: read, or refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError
from holdfast.models.files import PEFT_SETTINGS

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from holdfast.models.loading import Model

TENSORS = "adapter_model.safetensors"
SHAPES = ("token_dim", "num_layers", "num_attention_heads")
"""What PEFT writes of a base's shape into the settings of virtual tokens, and takes from there without a look at it."""


def load_peft_adapter(directory: Path, base: PreTrainedModel) -> PeftModel:
    """A `PeftModel` around `base` with the adapter of a folder, not to be trained.

    Raises:
        UserError: If it is that of another base: of other shapes, other modules, or more or fewer layers.
    """
    from peft import NoMatchingPeftModuleError, PeftConfig, PeftModel

    settings = PeftConfig.from_pretrained(str(directory))
    if settings.is_prompt_learning:
        _refuse_other_shape(directory, base, settings)
    try:
        # Read where the base is now: of itself, PEFT reads adapters to the accelerator it finds.
        model = PeftModel.from_pretrained(base, str(directory), is_trainable=False, torch_device="cpu")
    except NoMatchingPeftModuleError as error:
        raise _explain_misfit(directory, base, "none of the modules it sits beside is there") from error
    except RuntimeError as error:
        if (match := re.search(r"size mismatch for (\S+):", str(error))) is None:
            raise
        raise _explain_misfit(directory, base, f"{match[1]} is of another shape") from error
    if not settings.is_prompt_learning and (directory / TENSORS).exists():
        _refuse_other_modules(directory, base, model)
    return model


def _explain_misfit(directory: Path, base: Model, reason: str) -> UserError:
    return UserError(
        f"{directory}: this adapter does not belong to {base.name_or_path}: {reason}; let base_model_name_or_path in "
        f"{PEFT_SETTINGS} name the model it was trained on"
    )


def _refuse_other_shape(directory: Path, base: PreTrainedModel, settings: Any) -> None:
    """See that virtual tokens are as wide as those that PEFT would make for this base."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    there = {key: getattr(settings, key) for key in SHAPES}
    for key in SHAPES:
        setattr(settings, key, None)
    with torch.device("meta"):
        get_peft_model(AutoModelForCausalLM.from_config(base.config), settings)  # fills them in
    for key, value in there.items():
        if value not in (None, here := getattr(settings, key)):
            raise _explain_misfit(directory, base, f"its {key} is {value}, that of the base {here}")


def _refuse_other_modules(directory: Path, base: PreTrainedModel, model: PeftModel) -> None:
    """See that the file has something for each module with an adapter, and for no other; PEFT only warns."""
    from safetensors import safe_open

    prefix = str(model.base_model.prefix)
    with safe_open(directory / TENSORS, framework="pt") as file:
        stored_names: list[str] = file.keys()
    there = {name.partition(f".{prefix}")[0] for name in stored_names if f".{prefix}" in name}
    here = {name.partition(f".{prefix}")[0] for name, _ in model.named_parameters() if f".{prefix}" in name}
    for names, where in ((there - here, "the base"), (here - there, "the adapter")):
        if names:
            raise _explain_misfit(directory, base, f"{min(names)} is not in {where} ({len(names):,} such)")
