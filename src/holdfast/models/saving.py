"""Models on disk: written whole, in the dtype they came in, with one card and ordinary rights."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from holdfast.axes.tuner import SavedFormat, Tuner
from holdfast.core.files import fresh_directory
from holdfast.data.chat.settings import write_settings
from holdfast.data.pictures.processor import processor_files
from holdfast.models.adapters import PeftTuner, write_tuner
from holdfast.models.eyes import describe_format
from holdfast.models.files import OWN_WEIGHTS, is_adapter
from holdfast.models.loading import BASE, has_adapter

if TYPE_CHECKING:
    from peft import PeftModel

    from holdfast.data.chat.encoder import Chat

    Model = PreTrainedModel | PeftModel


def reader_of(model: Model) -> Tuner:
    """Who writes and reads a model of which nothing else is known than what it is: plain, or with PEFT around it."""
    return PeftTuner() if has_adapter(model) else Tuner()


def cast_as_reloaded(
    model: Model, file_dtype: torch.dtype, memory_dtype: torch.dtype, tuner: Tuner | None = None
) -> Model:
    """Make the weights of a trained model, in place, what they will be once they were saved and loaded again.

    fp32 master weights are rounded to what the files hold, so that what is measured is what others will load.

    Args:
        file_dtype: The dtype of the files.
        memory_dtype: The dtype in which a loaded model is held (`weights_dtype`).
        tuner: Who trained it and knows what of it is stored apart; default: `reader_of(model)`.
    Returns:
        `model`.
    """
    for parameter, value in _values_as_reloaded(model, file_dtype, memory_dtype, tuner, frozen=True):
        parameter.grad = None
        if parameter.dtype == memory_dtype:
            with torch.no_grad():
                parameter.copy_(value)
        else:
            parameter.data = value
    return model


def copy_as_reloaded(
    model: Model, file_dtype: torch.dtype, memory_dtype: torch.dtype, tuner: Tuner | None = None
) -> Model:
    """A copy of a model in training as `cast_as_reloaded` would make it, sharing what that leaves alone; or `model`
    itself.
    """
    values = _values_as_reloaded(model, file_dtype, memory_dtype, tuner, frozen=False)
    replacements = {id(p): nn.Parameter(value, requires_grad=False) for p, value in values}
    if not replacements:
        return model
    return copy.deepcopy(model, {id(p): p for p in model.parameters()} | replacements)


def _values_as_reloaded(
    model: Model, file_dtype: torch.dtype, memory_dtype: torch.dtype, tuner: Tuner | None, frozen: bool
) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
    """Parameters that are not as they will be once loaded, with their values then.

    Args:
        frozen: Whether those that do not train may have changed since they were loaded, as by merging.
    """
    apart = (tuner or reader_of(model)).adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if name in apart:
            continue  # matrices of an adapter are stored and used in fp32
        if not parameter.is_floating_point():
            continue  # a base in 4 or 8 bits, which is never saved
        value = parameter.detach()
        if parameter.requires_grad or frozen:
            value = value.to(file_dtype)
        if value.dtype != parameter.dtype or memory_dtype != parameter.dtype:
            yield parameter, value.to(memory_dtype)


def save_model(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    *,
    stop_ids: Iterable[int] = (),
    dtype: torch.dtype | None = None,
    chat: Chat | None = None,
    tuner: Tuner | None = None,
    base: str = "",
) -> Path:
    """Write a model that transformers, PEFT and vLLM load as it is; nobody ever sees it half written.

    Args:
        model: Plain, or a `PeftModel` (then only the adapter is written).
        tokenizer: Written beside it with its chat template.
        directory: Replaced if it exists; of a link only the link.
        stop_ids: Token ids that end an answer; they join the eos ids of `generation_config.json`: engines stop there.
        dtype: Of the weights in the files; default: as they are. The matrices of an adapter stay as they are.
        chat: How the model was trained to be asked: its template is written with the tokenizer, its end tokens join
            `stop_ids`, its settings stand in `chat_settings.json`.
        tuner: Who writes the weights; default: `reader_of(model)`.
        base: Fingerprint of the base, written beside an adapter: on other weights it is not loaded.
    Returns:
        The directory.
    """
    with fresh_directory(Path(directory)) as side:
        write_model_files(side, model, tokenizer, stop_ids=stop_ids, dtype=dtype, chat=chat, tuner=tuner, base=base)
    return Path(directory)


def write_model_files(
    side: Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stop_ids: Iterable[int] = (),
    dtype: torch.dtype | None = None,
    chat: Chat | None = None,
    tuner: Tuner | None = None,
    base: str = "",
    shard_size: int | None = None,
) -> SavedFormat:
    """Write a model into the empty directory `side`, the rest as `save`; what was written, and how others load it.

    Args:
        shard_size: Most bytes of one file of a plain model's weights; default: transformers' own.
    """
    tuner = tuner or reader_of(model)
    if chat is not None:
        tokenizer, stop_ids = copy.copy(tokenizer), {*stop_ids, *chat.stop_ids}
        tokenizer.chat_template = chat.template.text
        write_settings(side, chat)
    if not tuner.adapter:
        plain = cast(PreTrainedModel, model)
        _set_stops(plain, tokenizer, stop_ids)
        model = _copy_to_save(plain, dtype or plain.dtype, tuner.adapter_parameters(plain))
    saved_as = describe_format(tuner.save(model, side, dtype), model.config)
    if shard_size is not None and not tuner.adapter:
        _cut_into_shards(cast(PreTrainedModel, model), side, shard_size)
    write_tuner(tuner, model, side)
    if base and is_adapter(side) and not (side / OWN_WEIGHTS).is_dir():
        (side / BASE).write_text(base + "\n", encoding="utf-8", newline="\n")
    tokenizer.save_pretrained(side)
    for file in processor_files(tokenizer.name_or_path):
        shutil.copyfile(file, side / file.name)
    if (side / OWN_WEIGHTS).is_dir():  # a model of its own, for whoever wants it without what stands before it
        tokenizer.save_pretrained(side / OWN_WEIGHTS)
        if chat is not None:
            write_settings(side / OWN_WEIGHTS, chat)
    give_rights(side)
    return saved_as


def _cut_into_shards(model: PreTrainedModel, side: Path, size: int) -> None:
    """Write the weights of a plain model once more, in files of at most `size` bytes or one tensor."""
    (side / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)  # would be loaded in place of the shards
    model.save_pretrained(side, max_shard_size=size)


def give_rights(directory: Path) -> None:
    """Let the files of a directory be read by whom the umask lets; safetensors writes them for their owner alone."""
    probe = directory / ".rights"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _copy_to_save(model: PreTrainedModel, dtype: torch.dtype, apart: Collection[str] = ()) -> PreTrainedModel:
    """A copy of a model on the CPU with weights of `dtype`; or the model itself, if it is like that.

    Args:
        apart: Names of parameters that keep their type.
    """
    dtypes = {id(p): p.dtype if name in apart else dtype for name, p in model.named_parameters()}
    if model.device.type == "cpu" and all(p.dtype == dtypes[id(p)] for p in model.parameters()):
        return model
    weights = {
        id(p): nn.Parameter(p.detach().to("cpu", dtypes[id(p)]), requires_grad=False) for p in model.parameters()
    }
    clone = copy.deepcopy(model, weights)
    clone.to("cpu")  # type: ignore[arg-type]  # buffers; its wrapper hides the type
    return clone


def _set_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: Iterable[int]) -> None:
    """Let `generation_config` end answers at the model's own eos ids, the tokenizer's and `stop_ids`."""
    settings = model.generation_config
    own = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    ids = sorted({i for i in [*own, tokenizer.eos_token_id, *stop_ids] if i is not None})
    settings.eos_token_id = ids[0] if len(ids) == 1 else ids or None
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
