"""A run's model as GGUF with a Modelfile, read back by transformers' own reader before it counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.tuner import SavedFormat
from holdfast.core.files import fresh_directory
from holdfast.errors import RunError, UserError
from holdfast.models.gguf_writer import TYPES, adds_begin, check_gguf, import_gguf, round_weights, write_gguf

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.core.progress import Progress
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import LoadedModel

FILE = "model.gguf"
SAVED_AS = SavedFormat(
    library="gguf",
    load="from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    f'model = AutoModelForCausalLM.from_pretrained($place, gguf_file="{FILE}")\n'
    f'tokenizer = AutoTokenizer.from_pretrained($place, gguf_file="{FILE}")',
    serve="",
    note=f"All weights are in {FILE}, for llama.cpp (`llama-server -m {FILE}`) and Ollama (`ollama create NAME -f "
    "Modelfile`).",
)
"""How the folder is loaded, for its card."""
NAMES = {"fp32": "f32", "fp16": "f16", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""What types are called here, and in llama.cpp."""
TOLERANCE = 1e-4
"""Largest difference of a log-probability between what is read back and the weights rounded as they are in the file."""
TEXTS = (
    "Hello, world! It's 12,345.6 o'clock.\n\n  Next\tline",
    "naïve café, 日本語, Привет 🙂",
    "def f(x):\n    return x",
)
"""Read as tokens by both tokenizers."""


def parse_gguf_type(dtype: str | None, default: str) -> str:
    """llama.cpp's name of a type; default: that of the run's files.

    Raises:
        UserError: If there is none of that name.
    """
    name = dtype or default
    name = NAMES.get(name, name)
    if name not in TYPES:
        raise UserError(f"--dtype: must be fp32, bf16, fp16 or q8_0 for GGUF, not {dtype}")
    return name


def export_gguf(
    model: LoadedModel,
    out: Path,
    chat: Chat,
    exact_logps: Tensor,
    dtype: str,
    card: Callable[[Path], None],
    ui: Progress,
) -> None:
    """Write the file, its Modelfile and card; nothing has the name `out` unless what was read back agrees.

    Args:
        model: Plain weights in fp32, an adapter folded in; in the end they are as rounded as the file's.
        exact_logps: Log-probabilities before rounding, as of `probe_logps`.
        dtype: One of `TYPES`.
        card: Writes the card into a directory.
    Raises:
        UserError: If llama.cpp has no counterpart of the model or its tokenizer, or gguf is not installed.
        RunError: If what is read back gives other log-probabilities, or other tokens.
    """
    from holdfast.models.merging import compute_distance, probe_logps
    from holdfast.pipeline.ollama import build_modelfile

    import_gguf()
    plain_model: Any = model.model
    check_gguf(plain_model, model.tokenizer)
    ui.start_phase("write")
    end_id = model.tokenizer.convert_tokens_to_ids(chat.template.ends[0])
    with fresh_directory(out) as side:
        write_gguf(
            side / FILE,
            plain_model,
            model.tokenizer,
            dtype=dtype,
            template=chat.template.text,
            end_id=int(end_id),  # type: ignore[arg-type]  # the stub forgets that one token gives one id
        )
        text, remark = build_modelfile(chat, FILE, adds_begin(model.tokenizer))
        (side / "Modelfile").write_text(text, encoding="utf-8", newline="\n")
        card(side)
        ui.start_phase("verify")
        round_weights(plain_model, dtype)
        rounded_logps = probe_logps(plain_model)
        worst = _verify_weights(side, model, rounded_logps)
        _verify_tokens(side, model)
    ui.write_line(f"verified: read back by transformers, log-probabilities agree to {worst:.1e}")
    if (shift := compute_distance(exact_logps, rounded_logps)).most > TOLERANCE:
        ui.write_line(
            f"rounding to {dtype} moved log-probabilities by up to {shift.most:.1e}, in the mean by {shift.mean:.1e}"
        )
    if remark:
        ui.write_line(remark)


def _verify_weights(side: Path, model: LoadedModel, expected_logps: Tensor) -> float:
    """The largest difference of a log-probability from what the rounded weights give.

    Raises:
        RunError: If it is more than the order of sums makes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from holdfast.models.merging import compute_distance, probe_logps

    again = AutoModelForCausalLM.from_pretrained(side, gguf_file=FILE, dtype=torch.float32, config=model.model.config)
    worst = compute_distance(expected_logps, probe_logps(again)).most
    if not worst <= TOLERANCE:
        raise RunError(f"{side.name}: not written: read back, its log-probabilities differ by {worst:.1e}")
    return worst


def _verify_tokens(side: Path, model: LoadedModel) -> None:
    """See that the tokenizer in the file reads text as the run's does.

    Raises:
        RunError: If not.
    """
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(side, gguf_file=FILE)
    for text in TEXTS:
        here, there = (one(text, add_special_tokens=False)["input_ids"] for one in (model.tokenizer, again))
        if here != there:
            raise RunError(f"not written: read back, its tokenizer makes other tokens of {text!r}")
