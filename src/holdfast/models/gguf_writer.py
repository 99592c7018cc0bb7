"""Models as GGUF, the file of llama.cpp and Ollama: tensors under its names and in its layout, tokenizer, template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
}
"""Classes of transformers and what llama.cpp calls them."""
TYPES = ("f32", "f16", "bf16", "q8_0")
"""How matrices are stored; vectors are f32."""
BLOCK = 32
"""Weights of a row that share a scale in q8_0; rows that are no multiple of it are f16."""
SLIDING = 6
"""Of so many layers of Gemma 3 the last attends to the whole text."""
SLIDING_THETA = 1e4
"""Base of the positions in its other layers."""
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {CONTRACTIONS + r"\p{N}{1,3}" + TAIL: "llama-bpe", CONTRACTIONS + r"\p{N}" + TAIL: "qwen2"}
"""Patterns by which text is cut before merging, and their names in llama.cpp."""
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
"""Kinds of tokens in llama.cpp."""


def import_gguf() -> Any:
    """The library that writes the format.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise UserError("GGUF needs the package gguf: pip install 'holdfast[gguf]'") from None
    return gguf


def check_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """See that a model and its tokenizer have a counterpart in llama.cpp.

    Raises:
        UserError: If not; the line says what has none.
    """
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise UserError(
            f"{name} is not written as GGUF here ({', '.join(ARCHITECTURES)} are); use llama.cpp's converter"
        )
    for rope in _list_ropes(model.config):
        if rope.get("rope_type", "default") not in ("default", "linear"):
            raise UserError(f"GGUF: positions scaled by {rope['rope_type']} are not written here; linear ones are")
    _refuse_settings(model.config, ARCHITECTURES[name])
    find_tokenizer_kind(tokenizer)


def _refuse_settings(config: Any, architecture: str) -> None:
    """See that settings which a file does not tell are those that llama.cpp takes for granted.

    Raises:
        UserError: If one is another.
    """
    layers = range(config.num_hidden_layers)
    assumptions: dict[str, Any] = {"hidden_act": "silu", "layer_types": ["full_attention" for _ in layers]}
    if architecture == "gemma3":
        assumptions = {
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["sliding_attention" if (layer + 1) % SLIDING else "full_attention" for layer in layers],
            "query_pre_attn_scalar": config.head_dim,
        }
        if (theta := _list_ropes(config)[0]["rope_theta"]) != SLIDING_THETA:
            raise UserError(f"GGUF: rope_theta of sliding layers is {theta:g} here, and {SLIDING_THETA:g} in llama.cpp")
    for key, value in assumptions.items():
        if (own := getattr(config, key, value)) != value:
            raise UserError(f"GGUF: {key} is {own} here, and llama.cpp takes {value} for granted in a {architecture}")


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: str,
    template: str | None,
    end_id: int,
) -> None:
    """Write a model with its tokenizer and chat template.

    Args:
        path: The file.
        dtype: One of `TYPES`, of the matrices.
        template: The chat template, as a Jinja text.
        end_id: The token that ends an answer.
    Raises:
        UserError: If `check_gguf` says so, or gguf is not installed.
    """
    gguf = import_gguf()
    check_gguf(model, tokenizer)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[type(model).__name__])
    _add_settings(writer, gguf, model, dtype)
    _add_tokenizer(writer, model.config.vocab_size, tokenizer, end_id)
    if template:
        writer.add_chat_template(template)
    for name, tensor in _list_tensors(model, gguf):
        array = tensor.detach().float().cpu().numpy()
        kind = gguf.GGMLQuantizationType[_type_of(tensor, dtype).upper()]
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _type_of(tensor: Tensor, dtype: str) -> str:
    """How a weight is stored in a file of a type."""
    if tensor.ndim == 1:
        return "f32"
    return "f16" if dtype == "q8_0" and tensor.shape[-1] % BLOCK else dtype


def round_weights(model: PreTrainedModel, dtype: str) -> None:
    """Make a model's fp32 weights, in place, what a file of a type holds of them: it reads back as exactly this.

    Rows are rounded each by itself, so that the order in which llama.cpp has them does not matter.
    """
    import torch

    gguf = import_gguf()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            kind = gguf.GGMLQuantizationType[_type_of(tensor, dtype).upper()]
            array = gguf.quants.quantize(tensor.float().cpu().numpy(), kind)
            tensor.copy_(torch.from_numpy(gguf.quants.dequantize(array, kind)))


def _add_settings(writer: Any, gguf: Any, model: PreTrainedModel, dtype: str) -> None:
    """Sizes and constants of the layers."""
    config: Any = model.config
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(dtype, f"MOSTLY_{dtype.upper()}")])
    ropes = _list_ropes(config)
    writer.add_rope_freq_base(float(ropes[-1]["rope_theta"]))
    if ropes[-1].get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(ropes[-1]["factor"]))
    if getattr(config, "sliding_window", None) and ARCHITECTURES[type(model).__name__] == "gemma3":
        writer.add_sliding_window(config.sliding_window)


def _list_ropes(config: Any) -> list[dict[str, Any]]:
    """The settings of rotary positions: of all layers, or (Gemma) of sliding and then of full attention."""
    parameters = config.rope_parameters
    if "rope_theta" in parameters:
        return [parameters]
    return [parameters[kind] for kind in ("sliding_attention", "full_attention")]


def _list_tensors(model: PreTrainedModel, gguf: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight under llama.cpp's name and in its layout."""
    config: Any = model.config
    architecture = ARCHITECTURES[type(model).__name__]
    kind = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise UserError(f"GGUF: llama.cpp has no place for {name} in a {architecture}")
        if architecture == "llama" and re.search(r"\.[qk]_proj\.(weight|bias)$", name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = interleave_halves(tensor, heads)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            tensor = tensor.float() + 1  # the layer adds it here, and does not there
        yield there, tensor


def interleave_halves(weight: Tensor, heads: int) -> Tensor:
    """The rows [heads * D, ...] of queries or keys as llama.cpp turns them: pairs beside each other, not D/2 apart."""
    halves = weight.unflatten(0, (heads, 2, -1))  # [heads, 2, D/2, ...]
    return halves.swapaxes(1, 2).flatten(0, 2)


def find_tokenizer_kind(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What llama.cpp calls the model and the cutting of a tokenizer: ("gpt2", "qwen2"), ("llama", "default").

    Raises:
        UserError: If it cuts or merges text in a way that llama.cpp has no name for.
    """
    content = read_tokenizer(tokenizer)
    if content["model"]["type"] != "BPE":
        raise UserError(
            f"GGUF: a tokenizer of type {content['model']['type']} has no counterpart in llama.cpp; BPE has"
        )
    if content["model"].get("byte_fallback"):
        return "llama", "default"
    cutting = content.get("pre_tokenizer") or {}
    steps = cutting.get("pretokenizers", [cutting])
    kinds = [step.get("type") for step in steps]
    pattern = steps[0].get("pattern", {}).get("Regex", "") if kinds[:1] == ["Split"] else ""
    if kinds == ["Split", "ByteLevel"] and pattern in SPLITS:
        return "gpt2", SPLITS[pattern]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt2", "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "gpt2", "smollm"
    raise UserError(
        "GGUF: this tokenizer cuts text in a way that llama.cpp has no name for, so that it would read other tokens "
        f"({' then '.join(map(str, kinds))}{f' at {pattern}' if pattern else ''})"
    )


def read_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What stands in its tokenizer.json."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("GGUF: needs a tokenizer with a tokenizer.json")
    return dict(json.loads(backend.to_str()))


def _add_tokenizer(writer: Any, size: int, tokenizer: PreTrainedTokenizerBase, end_id: int) -> None:
    """The vocabulary with the kind of every token, merges, and the tokens that begin and end."""
    model, cutting = find_tokenizer_kind(tokenizer)
    content = read_tokenizer(tokenizer)
    words = {number: word for word, number in content["model"]["vocab"].items()}
    special = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in content["added_tokens"]}
    words |= {token["id"]: token["content"] for token in content["added_tokens"]}
    kinds = []
    for number in range(size):
        is_byte = model == "llama" and len(words.get(number, "")) == 6 and words[number].startswith("<0x")
        kinds.append(special.get(number, BYTE if is_byte else NORMAL) if number in words else UNUSED)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(cutting)
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    if model == "llama":  # merged by score, which falls with the number: what was merged first has the lowest
        writer.add_token_scores([float(-number) for number in range(size)])
        writer.add_add_space_prefix(False)
    else:
        merges = content["model"]["merges"]
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(end_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(adds_begin(tokenizer))


def adds_begin(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts the token that begins a text there itself."""
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
