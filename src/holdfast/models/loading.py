"""Models by name: load and fingerprint. Safetensors only; no code from a model's repository is ever run."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from holdfast.core.hashing import tensor_fingerprint
from holdfast.core.hub import fetch_model
from holdfast.core.in_memory import is_memory, model_path
from holdfast.errors import UserError
from holdfast.models.adapters import read_tuner, tuner_of
from holdfast.models.eyes import auto_class_of
from holdfast.models.files import (
    ADAPTER,
    OWN_WEIGHTS,
    PEFT_SETTINGS,
    TUNER,
    explain_load_errors,
    is_adapter,
    refuse_endless_patterns,
    refuse_no_numbers,
    refuse_odd_settings,
    weight_files,
)
from holdfast.models.placement import choose_device, weights_dtype
from holdfast.recipe.shorthand import LAB_MODELS

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig
    from typing_extensions import TypeIs

    from holdfast.axes.tuner import Tuner

    Model = PreTrainedModel | PeftModel

STORED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types that models are saved in; of others, such as fp64 or fp8, fp32 is made."""
LAB_DIRECTORY = Path(__file__).parent.parent / "lab" / "models"
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
"""What is fetched of a hub repository: weights, settings, tokenizer; never pickles or code."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for use.

    Args:
        model: In eval mode on its device; a `PeftModel` when `path` holds an adapter.
        tokenizer: Its tokenizer.
        path: The directory it was read from.
        fingerprint: SHA-256 of its configuration and weights; for an adapter, of adapter and base.
        lab: Whether it is the laboratory model or descends from it.
        dtype: Of the weights in its files (of an adapter: in those of its base), whatever `model` holds them in.
        device: Where it was put.
        tuner: Who reads and writes it, and folds it in where `path` holds an adapter.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    path: Path
    fingerprint: str
    lab: bool
    dtype: torch.dtype
    device: torch.device
    tuner: Tuner


def load_model(
    name: str | Path, dtype: torch.dtype | None = None, *, device: torch.device | str = "auto"
) -> LoadedModel:
    """Load a model and its tokenizer by name.

    Args:
        name: A model directory, a run directory, a PEFT adapter directory, a laboratory model or a hub name.
        dtype: In which the weights are held; default as `weights_dtype` says for this model and device.
        device: Where it shall live, or as `choose_device` takes it.
    Raises:
        UserError: If there is no such model or device, or what is there is not a causal language model in safetensors.
    """
    device = choose_device(device) if isinstance(device, str) else device
    path = locate_model(name)
    adapter, tuner = is_adapter(path), tuner_of(path)
    base = adapter_base(path) if adapter else path
    own = own_dtype(base)
    dtype = dtype or weights_dtype(own, device)
    beneath = _file_fingerprint(base) if adapter else ""  # once: reading all weights is most of the work
    if adapter:
        refuse_other_base(path, base, beneath)
    model = _load_adapter(tuner, path, base, dtype) if adapter else load_plain_model(path, dtype)
    tokenizer = read_tokenizer(path if (path / "tokenizer_config.json").exists() else base)
    lab = any(LAB_DIRECTORY in place.parents for place in (path, base)) or bool(
        getattr(model.config, "holdfast_lab", False)
    )
    fingerprint = _file_fingerprint(path, beneath)
    return LoadedModel(move_to_device(model, device).eval(), tokenizer, path, fingerprint, lab, own, device, tuner)


def build_skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """A model with the modules and shapes of a configuration, and no memory for weights."""
    with torch.device("meta"):
        return auto_class_of(config).from_config(config, trust_remote_code=False)


def move_to_device(model: Model, device: torch.device) -> Model:
    """`model`, moved to `device`."""
    return model.to(device)  # type: ignore[arg-type]  # its wrapper hides the type


def is_lab(name: str | Path) -> bool:
    """Whether a model called as in `load` is the laboratory model or descends from it; nothing is loaded."""
    path = locate_model(name)
    path = adapter_base(path) if is_adapter(path) else path
    settings = load_config(path).to_dict()
    return LAB_DIRECTORY in path.parents or bool(settings.get("holdfast_lab", False))


def context_length(config: PretrainedConfig, virtual_tokens: int = 0, factor: float = 1.0) -> int | None:
    """Most tokens a model of this configuration reads at once; `None` where nothing limits them.

    Args:
        virtual_tokens: Places of the context that virtual tokens take.
        factor: How many times longer a tuner makes it.

    `max_position_embeddings` of the language model: positions beyond it have no embedding (GPT-2), or were never seen
    in training (rotary ones). It means nothing where positions are not embedded (ALiBi); recurrent models have none.
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if getattr(text, "alibi", False) or not isinstance(limit, int) or limit < 2:
        return None
    return int(limit * factor) - virtual_tokens


def tuned_context_length(config: PretrainedConfig, tuner: Tuner) -> int | None:
    """`context_length` of a model while and after a tuner trains it; `config` is that of before."""
    return context_length(config, tuner.virtual_tokens(), tuner.context_factor(config))


def count_embeddings(model: Model) -> int:
    """How many token ids the model has an input embedding for."""
    return len(cast(Any, model.get_input_embeddings()).weight)


def load_skeleton(name: str | Path) -> PreTrainedModel:
    """The modules and shapes of a model called as in `load`, without its weights (and without its adapter)."""
    path = locate_model(name)
    return build_skeleton(load_config(adapter_base(path) if is_adapter(path) else path))


def load_context(name: str | Path) -> int | None:
    """`context_length` of a model called as in `load`, without its weights."""
    path = locate_model(name)
    return context_length(load_config(adapter_base(path) if is_adapter(path) else path))


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer alone of a model called as in `load`."""
    return read_tokenizer(_tokenizer_path(locate_model(name)))


def _tokenizer_path(path: Path) -> Path:
    """Where the tokenizer lies: an adapter may leave it with its base."""
    adapter = is_adapter(path)
    return adapter_base(path) if adapter and not (path / "tokenizer_config.json").exists() else path


def locate_model(name: str | Path) -> Path:
    """The local directory `name` stands for; hub models are fetched (or found in the cache) first.

    Raises:
        UserError: If it is no model; the line says what is missing.
    """
    text = str(name)
    if text in LAB_MODELS:
        return _resolve_directory(LAB_DIRECTORY / text, text)
    if is_memory(text):
        return _resolve_directory(model_path(text), text)
    if Path(text).expanduser().exists():
        return _resolve_directory(Path(text).expanduser().resolve(), text)
    path = _resolve_directory(fetch_model(text, HUB_FILES, bundled_models=LAB_MODELS), text)
    if (path / TUNER).exists():
        raise UserError(
            f"{text}: {TUNER} names a tuner to be imported, which no hub repository may; if you trust it, download it "
            "to a folder and give that"
        )
    return path


def _resolve_directory(path: Path, name: str) -> Path:
    """`path`, or the `model/` inside it when it is a run directory; checked to hold a model."""
    if not path.exists():
        raise UserError(f"{name}: the laboratory model is not built yet; run `holdfast lab build`")
    if not path.is_dir():
        raise UserError(f"{name} is a file; give the folder that holds config.json and the .safetensors weights")
    if is_adapter(path):
        if (path / PEFT_SETTINGS).exists() and not (path / ADAPTER).exists():
            raise UserError(f"{name}: {ADAPTER} is missing; pickled adapters are not read")
        if not weight_files(path):
            raise UserError(f"{name}: no .safetensors weights; copy the folder again")
        return path
    if not (path / "config.json").exists():
        if (path / "model").is_dir():
            return _resolve_directory(path / "model", f"{name}/model")
        if (path / "resolved.yaml").exists():
            raise UserError(f"{name}: this run has no model yet; finish it by running the same command again")
        raise UserError(f"{name}: config.json is missing, so this folder is not a model")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{name}: no .safetensors weights; pickled weights are not read, convert them first")
    weight_files(path)
    return path


def own_dtype(path: Path) -> torch.dtype:
    """The dtype of a plain model's files: as its configuration says, or else as its first weights are."""
    dtype = configured_dtype(load_config(path)) or _first_dtype(path)
    return dtype if dtype in STORED_DTYPES else torch.float32


def configured_dtype(config: PreTrainedConfig) -> torch.dtype | None:
    """The type of a model's weights as its settings say."""
    dtype = config.dtype or config.get_text_config().dtype
    return getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype


def _first_dtype(path: Path) -> torch.dtype:
    with explain_load_errors(path), safe_open(weight_files(path)[0], "pt") as file:
        return next((t.dtype for t in map(file.get_tensor, file.keys()) if t.is_floating_point()), torch.float32)


def load_config(path: Path, has_weights: bool = True) -> PreTrainedConfig:
    """The settings of the model in a directory, beside its weights or alone."""
    refuse_odd_settings(path, has_weights)
    with explain_load_errors(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if config.model_type == "rwkv":
        # It halves weights in place when it is put into eval mode, against overflow in fp16; saved then, they would be
        # halved once more whenever they are loaded. Without, it computes the same.
        config.rescale_every = 0
    return config


def load_plain_model(path: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The causal language model of a directory; weights missing from the files are an error, not noise.

    Args:
        options: More for `from_pretrained`.
    """
    with explain_load_errors(path):
        config = load_config(path)
        model_and_info: tuple[PreTrainedModel, dict[str, Any]] = auto_class_of(config).from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    model, info = model_and_info
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(
            f"{path}: the weights lack {missing[0]} ({len(missing)} missing); the language model is incomplete"
        )
    refuse_no_numbers(path, model.named_parameters())
    return model


def adapter_base(path: Path) -> Path:
    """The directory of the base model of the adapter in `path`."""
    if (path / OWN_WEIGHTS).is_dir():
        return path / OWN_WEIGHTS
    if (about := read_tuner(path)) is not None:
        try:
            return locate_model(about["base"])
        except UserError as error:
            raise UserError(f"{path / TUNER}: base model: {error}") from error
    from peft import PeftConfig

    with explain_load_errors(path):
        base = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
    if not base:
        raise UserError(f"{path}/adapter_config.json: base_model_name_or_path is missing; name the base model there")
    try:
        return locate_model(base)
    except UserError as error:
        raise UserError(f"{path}/adapter_config.json: base model: {error}") from error


BASE = "base_fingerprint.txt"
"""Beside an adapter: the fingerprint of the weights it was trained on."""


def read_base(path: Path) -> str:
    """The fingerprint of the weights an adapter was trained on; "" where its folder does not say."""
    return (path / BASE).read_text(encoding="utf-8").strip() if (path / BASE).exists() else ""


def refuse_other_base(path: Path, base: Path, here: str) -> None:
    """See that an adapter lies on the weights it was trained on, where its folder says which these are.

    Args:
        base: The directory of its base.
        here: The fingerprint of what is there now.
    Raises:
        UserError: If they have changed.
    """
    there = read_base(path)
    if there not in ("", here):
        raise UserError(
            f"{path}: this adapter was trained on other weights of {base} (fingerprint {there[:12]} then, {here[:12]} "
            f"now); put the old ones back, or remove {BASE} if they are the same in another form"
        )


def _load_adapter(tuner: Tuner, path: Path, beneath: Path, dtype: torch.dtype) -> Model:
    base = load_plain_model(beneath, dtype)
    if (path / PEFT_SETTINGS).exists():
        refuse_endless_patterns(path, [name for name, _ in base.named_modules()])
    base_ids = set(map(id, base.parameters()))
    with explain_load_errors(path):
        model = tuner.load(path, base)
    refuse_no_numbers(path, ((name, p) for name, p in model.named_parameters() if id(p) not in base_ids))
    return model


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a directory."""
    with explain_load_errors(path, "no tokenizer"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def has_adapter(model: Model) -> TypeIs[PeftModel]:
    """Whether `model` has an adapter around it. PEFT takes a second to import; who has not, has no adapter."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def fingerprint_of(model: Model | Path) -> str:
    """SHA-256 of configuration and weights: of the files for a directory, of the tensors for a model in memory.

    Equal fingerprints mean equal weights. A model and the directory it was saved to have different ones.
    """
    return _file_fingerprint(model) if isinstance(model, Path) else tensor_fingerprint(model)


def _file_fingerprint(path: Path, beneath: str = "") -> str:
    """Of the files of a model; `beneath` is that of an adapter's base, where it is known."""
    digest = hashlib.sha256()
    adapter = is_adapter(path)
    settings = [path / PEFT_SETTINGS, path / TUNER] if adapter else [path / "config.json"]
    for file in [*filter(Path.exists, settings), *weight_files(path)]:
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 24):
                digest.update(block)
    if adapter:
        digest.update((beneath or _file_fingerprint(adapter_base(path))).encode())
    return digest.hexdigest()


def is_hooked_or_patched(module: nn.Module) -> bool:
    """Whether anyone's own code runs in the forward pass of a module or of those inside it.

    That is a hook, a `forward` put in the place of an instance's or of its class's. Who computes the same mathematics
    another way would leave it out.
    """
    return any(map(is_module_hooked_or_patched, module.modules()))


LIBRARIES = ("torch", "transformers")
"""Whose decorators stand around the forward passes of models."""


def is_module_hooked_or_patched(module: nn.Module) -> bool:
    """As `is_hooked_or_patched`, of the module itself."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or "forward" in vars(module):
        return True
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    # A wrapper bears the name of what it wraps, but not the globals it was written among.
    there = getattr(vars(owner)["forward"], "__globals__", {}).get("__name__", owner.__module__)
    return there.partition(".")[0] not in (owner.__module__.partition(".")[0], *LIBRARIES)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
