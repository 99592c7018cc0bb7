"""Adapters in PEFT's format, and which tuner reads what lies in a folder. PEFT is imported by those that use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from holdfast.axes.registry import find_method, name_of
from holdfast.axes.tuner import SavedFormat, Taxonomy, Tuner
from holdfast.errors import UserError, first_line
from holdfast.models.files import PEFT_SETTINGS, TUNER

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from holdfast.models.loading import Model

PEFT = SavedFormat(
    "peft",
    """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained($place, dtype=$dtype)
tokenizer = AutoTokenizer.from_pretrained($place)""",
    "vllm serve $base --enable-lora --lora-modules tuned=$place",
    adapter=True,
)
"""An adapter that PEFT reads."""


def attach_adapter(model: Model, config: PeftConfig, seed: int) -> Model:
    """Put an adapter into `model`, in place, which is frozen; what is drawn at random in it starts from `seed`."""
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)  # type: ignore[arg-type, return-value]


class PeftTuner(Tuner):
    """What PEFT keeps beside a frozen base. A tuner of this kind says in `apply` which adapter that is.

    By itself it reads, folds in and writes again any adapter in PEFT's format, whoever trained it.
    """

    adapter: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    taxonomy: ClassVar[Taxonomy] = "additive"

    def base_context(self, model: Model) -> AbstractContextManager[None]:
        """A context with the adapter switched off."""
        return model.disable_adapter()  # type: ignore[operator]

    def adapter_parameters(self, model: Model) -> set[str]:
        """What PEFT added; copies of the base's own modules (modules_to_save) have the base's type."""
        prefix = "prompt_encoder" if _peft_settings(model).is_prompt_learning else str(model.base_model.prefix)
        return {name for name in model.state_dict() if prefix in name and "modules_to_save" not in name}

    def merge(self, model: Model) -> PreTrainedModel:
        """The plain model with the adapter folded into its weights, in place.

        The sum is made in fp32 and rounded once, to the type of the weights. Where an adapter sits beside an embedding
        that input and output share, each gets a tensor of its own first: the adapter changes only one of them.

        Raises:
            UserError: If it stands before the prompt, where no weights are.
            ValueError: By PEFT, if the merged weights are not finite.
        """
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer

        if _peft_settings(model).is_prompt_learning:
            raise UserError("an adapter of virtual tokens cannot be folded into the weights; use it as it is")

        _untie_weights(model)  # type: ignore[arg-type]
        for layer in model.modules():
            beneath = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
            weight = getattr(beneath, "weight", None)  # layers of experts keep theirs under other names
            if isinstance(layer, BaseTunerLayer) and isinstance(weight, torch.Tensor) and weight.dtype != torch.float32:
                own = weight.dtype
                beneath.float()  # type: ignore[union-attr]
                layer.merge(safe_merge=True)
                beneath.to(own)  # type: ignore[union-attr]
        return model.merge_and_unload(safe_merge=True)  # type: ignore[operator]

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """`adapter_config.json` and `adapter_model.safetensors`."""
        own, settings = self.adapter_parameters(model), _peft_settings(model)
        state = {  # PEFT takes of it what is the adapter's; of the base nothing is copied
            name: tensor.to("cpu", dtype) if "modules_to_save" in name else tensor.cpu() if name in own else tensor
            for name, tensor in model.state_dict().items()
        }
        self.write_adapter(model, directory, state)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        vllm_serves = settings.peft_type == "LORA" and not settings.use_dora and not settings.modules_to_save
        return PEFT if vllm_serves else replace(PEFT, serve="")  # vLLM knows plain LoRA alone

    def write_adapter(self, model: Model, directory: Path, state: dict[str, Tensor]) -> None:
        """Write settings and tensors as PEFT does.

        Args:
            state: Of the model, as it is to be stored.
        """
        # The base is not stored, so its embeddings need no copy; "auto" would ask the hub about them.
        model.save_pretrained(str(directory), save_embedding_layers=False, state_dict=state)

    def load(self, directory: Path, base: PreTrainedModel) -> Model:
        """A `PeftModel` around `base`.

        Raises:
            UserError: If the adapter is that of another base.
        """
        from holdfast.models.adapter_fit import load_peft_adapter

        return load_peft_adapter(directory, base)


def _peft_settings(model: Model) -> Any:
    """What PEFT knows of the adapter that is on."""
    return model.active_peft_config


def write_tuner(tuner: Tuner, model: Model, directory: Path) -> None:
    """Write `tuner.json` into the folder of an adapter that only its own tuner reads, or folds in, as it should be.

    A plain adapter of PEFT needs none: its folder says what it is.
    """
    own_formats = {(cls.load, cls.merge) for cls in (Tuner, PeftTuner)}
    if not tuner.leaves_plain_weights() and (type(tuner).load, type(tuner).merge) not in own_formats:
        about = {"tuner": {"name": name_of(tuner), **tuner.model_dump(mode="json")}, "base": model.name_or_path}
        (directory / TUNER).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8", newline="\n")


def tuner_of(path: Path) -> Tuner:
    """The tuner that reads what lies in a model's folder: the one that `tuner.json` names, PEFT's, or none in between.

    A class of the user's own is imported from where Python finds it; nothing in the folder is ever run.

    Raises:
        UserError: If there is no such tuner here.
    """
    about = read_tuner(path)
    if about is None:
        return PeftTuner() if (path / PEFT_SETTINGS).exists() else Tuner()
    name, *_ = about["tuner"]["name"], None
    try:
        return find_method("tuners", name)(**{key: value for key, value in about["tuner"].items() if key != "name"})  # type: ignore[return-value]
    except UserError as error:
        raise UserError(f"{path / TUNER}: {error}") from error
    except ValidationError as error:
        raise UserError(
            f"{path / TUNER}: tuner {name}: {first_line(error)}; it was saved by another version"
        ) from error


def read_tuner(path: Path) -> Mapping[str, Any] | None:
    """What `write_tuner` wrote; `None` where there is nothing.

    Raises:
        UserError: If it is damaged.
    """
    if not (path / TUNER).exists():
        return None
    try:
        about = json.loads((path / TUNER).read_text(encoding="utf-8"))
        if isinstance(about["tuner"]["name"], str) and isinstance(about["base"], str):
            return about
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path / TUNER}: does not name a tuner and its base; copy the folder again")


def _untie_weights(model: PeftModel) -> None:
    """Give every weight beside an adapter, or replaced by one, a tensor that no other module shares."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    plain: PreTrainedModel = model.get_base_model()  # type: ignore[assignment]  # PEFT says Module
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in plain.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))
    beneath = {id(layer.get_base_layer()) for layer in plain.modules() if isinstance(layer, BaseTunerLayer)}
    for sharing in owners.values():
        if len(sharing) > 1 and any(id(module) in beneath for module, _ in sharing):
            for module, name in sharing[1:]:
                weight = getattr(module, name)
                setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
            for config in (plain.config, plain.config.get_text_config()):
                config.tie_word_embeddings = False
