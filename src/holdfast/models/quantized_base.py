"""A frozen base in 4 or 8 bits below an adapter that trains (QLoRA), through transformers and bitsandbytes.

Nothing but training sees it: the model is measured before, and the adapter goes on the base as it is after
(`transfer_adapter`), so that what is measured, saved, merged and served has no rounding of this kind in it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.core.quiet import quiet_libraries
from holdfast.errors import UserError
from holdfast.models.loading import load_plain_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from holdfast.axes.tuner import Tuner
    from holdfast.models.loading import Model

FORMATS = {4: "NF4", 8: "LLM.int8()"}
"""By bits: what weights become. In 8 bits what they are multiplied with is rounded to 8 bits too."""


def describe_bits(bits: int | None) -> str:
    """The end of a sentence that says in which types was trained; "" for a base that is held as it is."""
    return f" beside a frozen base in {bits} bits ({FORMATS[bits]})" if bits else ""


def require_bitsandbytes(setting: str) -> None:
    """See that the library is here that knows 4 and 8 bits.

    Args:
        setting: What asks for it, the beginning of the line.
    Raises:
        UserError: If not.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{setting} needs bitsandbytes, which is not installed; pip install 'holdfast[quant]'")


def refuse_unquantizable(model: Model, bits: int) -> None:
    """See that a model can be held in `bits` bits where it is (or would be, without weights).

    Raises:
        UserError: If bitsandbytes is missing or does not know the device, or nothing in the model would be quantized.
    """
    require_bitsandbytes(f"tuner.base_bits {bits}")
    import bitsandbytes

    kind = model.device.type
    if kind not in {*bitsandbytes.supported_torch_devices, "meta"}:
        raise UserError(f"tuner.base_bits: bitsandbytes does not compute on {kind}; leave base_bits out, or use a GPU")
    if not count_quantizable(model):
        raise UserError(
            f"tuner.base_bits: {type(model).__name__} has no linear maps that bitsandbytes quantizes; leave it out"
        )


def count_quantizable(model: Model) -> int:
    """How many weights of a plain model become 4 or 8 bits: those of its linear maps but the head.

    Embeddings, norms and experts that are kept as one tensor stay as they are.
    """
    head = model.get_output_embeddings()
    maps: list[Any] = [m for m in model.modules() if type(m) is nn.Linear or type(m).__name__ == "Conv1D"]
    return sum(m.weight.numel() for m in maps if m is not head)


def is_quantized(model: Model) -> bool:
    """Whether some weights of a model are no floating point numbers."""
    return any(not p.is_floating_point() for p in model.parameters())


def load_quantized_base(path: Path, bits: int, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The plain model of a folder with its linear maps but the head in `bits` bits, read straight to the device.

    4 bits are NF4 with quantized scales, as in Dettmers et al. 2023, arXiv 2305.14314; 8 bits are LLM.int8(),
    Dettmers et al. 2022, arXiv 2208.07339.

    Args:
        dtype: Of all other weights, and what is computed in.
    """
    from transformers import BitsAndBytesConfig

    if bits == 4:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        how = BitsAndBytesConfig(load_in_8bit=True)
    with quiet_libraries():
        model = load_plain_model(path, dtype, quantization_config=how, device_map={"": str(device)})
    for module in model.modules():
        # On some CPUs bitsandbytes would pack the weights anew in the first pass in eval mode, for products that give
        # no gradient, and take those in training too.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
    return model


def transfer_adapter(model: Model, plain: PreTrainedModel, tuner: Tuner) -> Model:
    """The adapter that was trained on a quantized base, on the plain one: a model as `tuner` makes it, trained.

    Args:
        model: With the adapter of `tuner`, trained.
        plain: The same base as it is in its files; adapted in place.
    """
    out = tuner.apply(plain, 0)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in out.named_parameters():
            if p.requires_grad:
                p.data = own[name].detach().to(p.device, own[name].dtype, copy=True)
    return out
