"""The linear maps of a model's layers by what they do: queries, keys, values, outputs, attention or MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.models.loading import Model

Part = Literal["attention", "mlp"]
Role = Literal["key", "value", "fused", "output"]

ATTENTION_ROLES: dict[Role, frozenset[str]] = {
    "key": frozenset({"k_proj", "key_proj", "key", "k", "wk", "k_lin"}),
    "value": frozenset({"v_proj", "value_proj", "value", "v", "wv", "v_lin"}),
    "fused": frozenset({"c_attn", "qkv_proj", "query_key_value", "Wqkv", "W_pack", "qkv", "att_proj"}),
    "output": frozenset({"o_proj", "out_proj", "c_proj", "dense", "wo", "o", "out_lin", "attn_out"}),
}
MLP_OUTPUTS = frozenset(
    {"down_proj", "c_proj", "fc2", "dense_4h_to_h", "w2", "wo", "fc_out", "ff_out", "lin2", "proj_out"}
)
"""Names that families of transformers give these maps, without the path before them."""


def is_linear_map(module: nn.Module) -> bool:
    """Whether a module is a linear map; those of GPT-2 are of a class of their own."""
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_of_attention(path: str) -> bool:
    """Whether a map at this path within a layer belongs to attention; what is no norm and does not is the MLP's."""
    return "attn" in path or "attention" in path


def list_layer_maps(model: Model) -> list[dict[str, nn.Module]]:
    """Of every layer its linear maps by their path within it."""
    from holdfast.training.distributed import find_layers

    return [
        {path: module for path, module in layer.named_modules() if is_linear_map(module)}
        for layer in find_layers(model)
    ]


def find_paths(model: Model, part: Part, role: Role | None = None) -> list[str]:
    """Paths within a layer of the maps of one part, all or those of a role, in the order of the layers; each once.

    Layers of one model may differ (dense and expert layers); maps of experts that are tensors are no modules.
    """
    paths = dict.fromkeys(path for maps in list_layer_maps(model) for path in maps)
    own = [path for path in paths if is_of_attention(path) == (part == "attention")]
    if role is None:
        return own
    names = ATTENTION_ROLES[role] if part == "attention" else MLP_OUTPUTS if role == "output" else frozenset()
    return [path for path in own if path.rpartition(".")[2] in names]


def output_maps(model: Model, part: Part, tuner: str) -> list[str]:
    """Paths of the map with which attention, or the MLP, ends; one of every layer.

    Raises:
        UserError: If a layer has none whose name is known, or more than one.
    """
    paths = set(find_paths(model, part, "output"))
    out = []
    for maps in list_layer_maps(model):
        mine = [path for path in maps if path in paths]
        if len(mine) != 1:
            where = "attention" if part == "attention" else "the MLP"
            raise UserError(
                f"tuner: {tuner} stands behind the last linear map of {where}, and {type(model).__name__} has "
                f"{'several' if mine else 'none known'} in a layer; choose lora"
            )
        out += mine
    return out


def shorten_paths(model: Model, paths: list[str]) -> list[str]:
    """The shortest ends of paths that name these maps of the layers and no other module of the model, for PEFT."""
    everything = [name for name, _ in model.named_modules()]
    layers = [name for name in everything if any(name.endswith(f".{path}") for path in paths)]

    def names_no_other(end: str) -> bool:
        return all(name in layers for name in everything if f".{name}".endswith(f".{end}"))

    short = []
    for path in paths:
        words = path.split(".")
        ends = (".".join(words[start:]) for start in range(len(words) - 1, -1, -1))
        short.append(next(end for end in ends if end == path or names_no_other(end)))
    return list(dict.fromkeys(short))
