"""What tuners for longer rows ask of a model: its positions, maps of attention, embeddings, norms, plain attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from holdfast.axes.tuner import SavedFormat
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from holdfast.models.loading import Model

LOAD_LONGER = """from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

config = AutoConfig.from_pretrained($base)
config.rope_parameters, config.max_position_embeddings = {rope}, {context}
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained($base, config=config, dtype=$dtype), $place)
tokenizer = AutoTokenizer.from_pretrained($place)"""
"""How PEFT reads an adapter whose base has its positions interpolated."""


def describe_longer(config: PreTrainedConfig) -> SavedFormat:
    """An adapter of PEFT on a base with other positions, which the lines that load it set."""
    text: Any = config.get_text_config()
    values = {"{rope}": repr(text.rope_parameters), "{context}": str(text.max_position_embeddings)}
    load = LOAD_LONGER
    for place, value in values.items():
        load = load.replace(place, value)
    return SavedFormat("peft", load, "", adapter=True)


def check_attention(model: Model) -> None:
    """See that a model's attention is causal and nothing more, with heads that can be halved.

    Raises:
        UserError: If not, by name.
    """
    from holdfast.models.attention_choice import find_attention_obstacle
    from holdfast.models.shifted_attention import is_shifted
    from holdfast.models.varlen_attention import is_varlen

    config: Any = model.config.get_text_config()
    name = config._attn_implementation or "eager"
    name = "sdpa" if is_varlen(name) or is_shifted(name) else name
    if obstacle := find_attention_obstacle(model, name):  # type: ignore[arg-type]  # a plain model
        raise UserError(f"tuner: longlora trains with attention in groups, and {obstacle}; choose lora")
    if config.num_attention_heads % 2:
        raise UserError(
            f"tuner: longlora halves the heads of attention, and {type(model).__name__} has "
            f"{config.num_attention_heads}; choose lora"
        )


def row_length(config: PreTrainedConfig, length: int | None) -> int:
    """Tokens of the longest rows: `length`, or else the context of a model of this configuration.

    Raises:
        UserError: If there is neither.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is None and not isinstance(context, int):
        raise UserError("tuner.length: this model has no context to take it from; set it, or train.max_length")
    return length or context  # type: ignore[return-value]  # an int by the lines above


def group_size(length: int, groups: int) -> int:
    """Tokens of a group, an even number of them, so that half a group is whole."""
    half = math.ceil(length / groups / 2)
    return 2 * half


def position_factor(config: PreTrainedConfig, length: int | None, factor: float | None) -> float:
    """What positions are divided by, so that the longest rows fit into the context; `factor` goes before."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if factor is not None or not isinstance(context, int):
        return factor or 1.0
    return float(max(1, math.ceil(row_length(config, length) / context)))


def check_positions(model: Model, factor: float) -> None:
    """See that the positions of a model can be interpolated, where `factor` says that they must be.

    Raises:
        UserError: If not, by name.
    """
    from holdfast.models.positions import refuse_uninterpolated

    if factor > 1:
        refuse_uninterpolated(model)  # type: ignore[arg-type]  # a plain model


def extend_positions(model: Any, factor: float, kind: Literal["linear", "yarn"], **knobs: float) -> None:
    """Interpolate the positions of a plain model in place, where `factor` is above 1."""
    from holdfast.models.positions import interpolate_positions

    if factor > 1:
        interpolate_positions(model, factor, kind, **knobs)


def is_longer(model: Any) -> bool:
    """Whether the positions of the model beneath an adapter were interpolated."""
    from holdfast.models.positions import is_interpolated

    return is_interpolated(model.get_base_model())


def attention_maps(model: Model) -> list[str]:
    """Paths of the linear maps inside attention; all that is called so, whatever each is called."""
    from torch import nn

    return [
        path
        for path, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and ("attn" in path or "attention" in path)
    ]


def embedding_and_norm_names(model: Model, embeddings: bool, norms: bool) -> list[str]:
    """Paths of the embeddings of tokens and positions, and of the norms with weights."""
    from torch import nn

    return [
        path
        for path, module in model.named_modules()
        if (embeddings and isinstance(module, nn.Embedding))
        or (norms and "norm" in type(module).__name__.lower() and [*module.parameters(recurse=False)])
    ]
