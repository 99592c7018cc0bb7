"""The files of a model folder: which of them are loaded, that they are what they should be, what is wrong if not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from holdfast.core.bounded import find_slow_pattern
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

SINGLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
PEFT_SETTINGS, TUNER = "adapter_config.json", "tuner.json"
"""What makes a folder that of an adapter: PEFT's settings, or the name of the tuner that reads it."""
OWN_WEIGHTS = "base"
"""A folder inside that of an adapter, with the weights that it was trained together with; it has no other base."""
ADVICE = {
    "trust_remote_code": "it needs code of its own, and code from a model's folder is never run",
    "ignore_mismatched_sizes": "the weights have other shapes than config.json says",
    "weights_only": "the weights are pickled, and pickles are not read",
}
"""What other libraries advise, which would switch a safety off or hide a fault, and what is said in its place."""


def is_adapter(path: Path) -> bool:
    """Whether a folder holds what was trained beside a base, and not the base."""
    return (path / PEFT_SETTINGS).exists() or (path / TUNER).exists()


def weight_files(path: Path) -> list[Path]:
    """The files that are loaded of a model or an adapter folder, by name.

    Raises:
        UserError: If there are none, or the index names something that is no safetensors file of this folder.
    """
    if (path / PEFT_SETTINGS).exists():
        return [path / ADAPTER]
    if (path / TUNER).exists():
        return sorted(path.glob("*.safetensors"))
    if (path / SINGLE).exists():
        return [path / SINGLE]
    if not (path / INDEX).exists():
        raise UserError(f"{path}: no {SINGLE} and no {INDEX}; pickled weights are not read, convert them first")
    index = _read_json(path / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{path / INDEX}: no index of weights (weight_map is missing); copy or download it again")
    for name in sorted(set(names.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{path / INDEX}: names {name}, which is no .safetensors file of this folder; nothing else is loaded"
            )
        if not (path / name).exists():
            raise UserError(f"{path}: {name} is missing, which {INDEX} names; copy or download it again")
    return [path / name for name in sorted(set(names.values()))]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); copy or download it again") from error


MOST_LAYERS = 1000
"""Of a model whose weights are not there to be counted."""


def refuse_odd_settings(path: Path, has_weights: bool = True) -> None:
    """Look at what could not be loaded, or not in any time, before a library tries.

    Args:
        has_weights: Whether the weights are there too.
    Raises:
        UserError: If config.json is no mapping, points to other weights, or has more layers than there are tensors.
    """
    settings = _read_json(path / "config.json")
    if not isinstance(settings, dict):
        raise UserError(f"{path / 'config.json'}: no settings of a model in it; copy or download it again")
    if settings.get("transformers_weights"):
        raise UserError(f"{path / 'config.json'}: transformers_weights names other weights; remove it")
    layers = settings.get("num_hidden_layers", settings.get("n_layer"))
    if layers is None or isinstance(layers, bool) or not isinstance(layers, (int, float)):
        return  # the library has its own name for it, or says what is wrong
    if not has_weights and not 0 < layers <= MOST_LAYERS:
        raise UserError(f"{path / 'config.json'}: num_hidden_layers {layers:,} must be 1 to {MOST_LAYERS:,}")
    tensors = sum(_count_tensors(file) for file in weight_files(path)) if has_weights else MOST_LAYERS
    if not 0 < layers <= tensors:
        raise UserError(
            f"{path / 'config.json'}: says {layers:,} layers, and the weights are {tensors:,} tensors; put the "
            "config.json there that belongs to them"
        )


def refuse_endless_patterns(path: Path, names: Sequence[str]) -> None:
    """See that every regular expression of an adapter's settings comes to an end on the names of a model's modules.

    PEFT takes several of its settings for expressions (target_modules, exclude_modules, layers_pattern, the keys of
    rank_pattern and alpha_pattern); here every text that could be one is looked at.

    Raises:
        UserError: If one does not.
    """
    settings = path / "adapter_config.json"
    texts = list(dict.fromkeys(_texts_in(_read_json(settings))))
    if slow := find_slow_pattern(texts, names):
        raise UserError(
            f"{settings}: the regular expression {slow[:80]} does not come to an end on the names of the model's "
            "modules; name the modules in a list instead"
        )


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in settings, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value:
            yield from _texts_in(part)
        if isinstance(value, dict):
            yield from _texts_in(list(value.values()))


def _count_tensors(file: Path) -> int:
    with explain_load_errors(file.parent), safe_open(file, framework="pt") as handle:
        return len(handle.keys())


@contextmanager
def explain_load_errors(path: Path, what: str = "not a causal language model") -> Iterator[None]:
    """Say in one line, with the folder and what to do, what a library says while it reads a model.

    Args:
        path: The folder.
        what: What it turned out not to hold.
    Raises:
        UserError: For any error inside but want of memory.
    """
    import torch  # here, because tuners name this file and `holdfast list` shows them without it

    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except SafetensorError as error:
        raise UserError(describe_broken_weights(path, error)) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        reason = next((text for advice, text in ADVICE.items() if advice in str(error)), reason)
        raise UserError(
            f"{path}: {what} that transformers can load: {reason}; look at its config.json and "
            "tokenizer files, or copy or download the folder again"
        ) from error


def describe_broken_weights(path: Path, error: SafetensorError) -> str:
    """Which file of a model directory cannot be read, and what to do."""
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as damage:
            return f"{file}: broken weights ({damage}); it may have been cut off: copy or download it again"
    return f"{path}: broken weights ({error}); they may have been cut off: copy or download them again"


def count_non_finite(tensors: Iterable[torch.Tensor]) -> int:
    """How many values are infinite or no number; of a sharded tensor those of this process."""
    count = 0
    for tensor in tensors:
        here: Any = tensor.detach()
        here = here.to_local() if hasattr(here, "to_local") else here
        # A sum is a number only where all are, and needs no second tensor; it may itself be too large for its type.
        if here.is_floating_point() and not bool(here.sum().isfinite()):
            count += int((~here.isfinite()).sum())
    return count


def refuse_no_numbers(path: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """See that every weight is a number.

    Raises:
        UserError: With the first that is not.
    """
    for name, weight in weights:
        if count_non_finite([weight]):
            raise UserError(
                f"{path}: weight {name} holds values that are no numbers (NaN or infinite); the files are damaged, or "
                "come of a training that diverged: use others"
            )
