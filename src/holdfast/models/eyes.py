"""Vision-language models: which they are, what of them is eyes, and what they read of pictures beside the ids."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from holdfast.axes.tuner import SavedFormat
    from holdfast.models.loading import Model

IN_LINES = ("idefics2", "idefics3", "smolvlm")
"""Families whose pictures have an axis of lines before that of pictures."""


def has_eyes(config: PretrainedConfig) -> bool:
    """Whether a model of this configuration reads pictures."""
    return getattr(config, "vision_config", None) is not None


def auto_class_of(config: PretrainedConfig) -> Any:
    """What of transformers makes a model of this configuration that writes text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if has_eyes(config) else AutoModelForCausalLM


def language_part(model: Model) -> nn.Module:
    """What of a model reads and writes text: all of it, but for eyes and what leads from them."""
    causal = _unwrap_adapter(model)
    return causal.get_decoder() if has_eyes(causal.config) else model


def _unwrap_adapter(model: Model) -> Any:
    """The model inside an adapter of PEFT's, or the model itself."""
    unwrap: Any = getattr(model, "get_base_model", None) if hasattr(model, "peft_config") else None
    return model if unwrap is None else unwrap()


def eye_parameters(model: PreTrainedModel) -> list[str]:
    """Names of the parameters outside the language part: of the eyes, and of what leads from them into it."""
    if not has_eyes(model.config):
        return []
    language = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    of_language = {id(p) for part in language if part is not None for p in part.parameters()}
    return [name for name, p in model.named_parameters() if id(p) not in of_language]


def freeze_eyes(model: Model, keep: bool = False) -> int:
    """Let nothing train outside the language part; how many parameters trained there.

    Args:
        model: As a tuner left it.
        keep: Leave them as they are.
    """
    if not has_eyes(model.config):
        return 0
    causal = _unwrap_adapter(model)
    names = set(eye_parameters(causal))
    parameters = [p for name, p in causal.named_parameters() if name in names and p.requires_grad]
    if not keep:
        for parameter in parameters:
            parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in parameters)


def describe_format(saved_as: SavedFormat, config: PretrainedConfig) -> SavedFormat:
    """How others load what was saved, where it sees: transformers has other classes for that."""
    if not has_eyes(config):
        return saved_as
    plain, whole = "AutoModelForCausalLM", "AutoModelForImageTextToText"
    load = saved_as.load.replace("AutoTokenizer", "AutoProcessor").replace("tokenizer =", "processor =")
    if "AutoPeftModelForCausalLM.from_pretrained($place" in load:
        load = load.replace("from peft import AutoPeftModelForCausalLM", "from peft import PeftModel")
        load = load.replace("import AutoProcessor", f"import {whole}, AutoProcessor")
        base = f"{whole}.from_pretrained($base, dtype=$dtype)"
        load = load.replace(
            "AutoPeftModelForCausalLM.from_pretrained($place, dtype=$dtype)",
            f"PeftModel.from_pretrained({base}, $place)",
        )
    return replace(saved_as, load=load.replace(plain, whole))


class PictureInputs:
    """How a model takes the pictures of a batch.

    Args:
        model: With eyes or without.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, config = model, model.config
        self.has_eyes = has_eyes(config)
        ids = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        self.image_token_id: int = next((i for i in ids if isinstance(i, int)), -1)  # no token is -1
        self.in_lines = config.model_type in IN_LINES
        body: Any = model.base_model
        takes = inspect.signature(body.forward).parameters
        self.marks_pictures = next((name for name in ("mm_token_type_ids", "token_type_ids") if name in takes), "")
        self.has_grid_positions = self.has_eyes and hasattr(body, "get_rope_index")

    def arrange_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs whose pictures follow one another on the first axis, as the model takes them."""
        if not (self.has_eyes and self.in_lines):
            return inputs
        return {name: value[None] for name, value in inputs.items()}

    def mark_pictures(self, ids: Tensor) -> dict[str, Tensor]:
        """Which tokens are of a picture, [B, L], where the model asks for it."""
        return {self.marks_pictures: (ids == self.image_token_id).int()} if self.marks_pictures else {}

    def refuse_lost(self, ids: Tensor, inputs: dict[str, Tensor]) -> None:
        """See that where there are tokens of pictures, there are pictures.

        Raises:
            UserError: If not: whoever made the batch cannot be given rows with pictures.
        """
        if self.has_eyes and not inputs and bool((ids == self.image_token_id).any()):
            raise UserError(
                "some rows have pictures, and what reads them here reads text alone; leave out the curator, objective "
                "or measurement that does, or take rows without pictures"
            )

    def grid_positions(self, ids: Tensor, inputs: dict[str, Tensor]) -> Tensor | None:
        """Positions [3, B, L] of a model that counts height and width of pictures (Qwen-VL); else `None`.

        Padding on the right is read as more text, which nothing looks at.
        """
        if not (self.has_grid_positions and inputs):
            return None
        body: Any = self.model.base_model
        takes = inspect.signature(body.get_rope_index).parameters
        marks = self.mark_pictures(ids)
        grids = {name: value for name, value in (inputs | marks).items() if name in takes}
        return body.get_rope_index(ids, **grids)[0]

    def embed_pictures(self, embeds: Tensor, ids: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Embeddings [B, L, D] with what the eyes say of the pictures in the place of their tokens."""
        body: Any = self.model.base_model
        takes = inspect.signature(body.get_image_features).parameters
        output = body.get_image_features(
            **{k: v for k, v in self.arrange_inputs(inputs).items() if k in takes}, return_dict=True
        )
        features = output.pooler_output
        together = torch.cat(list(features)) if isinstance(features, (list, tuple)) else features.flatten(0, -2)
        place = (ids == self.image_token_id)[..., None].expand_as(embeds)
        return embeds.masked_scatter(place, together.to(embeds.dtype))
