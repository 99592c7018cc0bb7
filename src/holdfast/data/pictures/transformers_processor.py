"""Loading a model's processor through transformers, of those that read videos too the part for pictures.

transformers makes no processor with a video part where torchvision is missing (and SmolVLM's not without num2words),
although pictures need neither. There the processor's own class is made with its other two parts.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from holdfast.errors import UserError, first_line

VIDEO = "video_processor"
QWEN = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
SMOL = {
    "image_token": "<image>", "video_token": "<video>", "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
}  # fmt: skip
TOKENS = {
    "Qwen2VLProcessor": QWEN, "Qwen2_5_VLProcessor": QWEN, "Qwen3VLProcessor": QWEN, "SmolVLMProcessor": SMOL,
}  # fmt: skip
"""Classes with a video part whose pictures are known to need none, with the tokens that they take as given where the
tokenizer names no others."""


def load_processor(path: Path) -> Any:
    """The processor in a directory.

    Raises:
        UserError: It cannot be loaded; what is missing is said.
    """
    import transformers
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    name = _class_name(path)
    kind = getattr(transformers, name, None)
    has_video = kind is not None and VIDEO in inspect.signature(kind.__init__).parameters
    try:
        if has_video and not is_torchvision_available():
            if name not in TOKENS:
                raise UserError(f"{path}: {name} needs torchvision (pip install torchvision)")
            return _load_without_video(kind, TOKENS[name], path)
        return AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, ImportError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: its processor cannot be loaded ({first_line(error)})") from error


def _class_name(path: Path) -> str:
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (path / file).exists():
            name = json.loads((path / file).read_text(encoding="utf-8")).get("processor_class")
            if isinstance(name, str):
                return name
    return ""


def _load_without_video(kind: Any, tokens: dict[str, str], path: Path) -> Any:
    """A processor of this class that has a part for pictures and one for text."""
    from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin

    settings = path / "processor_config.json"
    values = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    numbers = {key: value for key, value in values.items() if isinstance(value, int)}

    class WithoutVideo(kind):  # type: ignore[misc, valid-type]
        """The class with its attributes set as its own beginning sets them."""

        def __init__(self, image_processor: Any, tokenizer: Any) -> None:
            for attribute, token in tokens.items():
                setattr(self, attribute, getattr(tokenizer, attribute, None) or token)
                if attribute in ("image_token", "video_token"):
                    setattr(self, f"{attribute}_id", tokenizer.convert_tokens_to_ids(getattr(self, attribute)))
            for attribute, number in numbers.items():
                setattr(self, attribute, number)
            ProcessorMixin.__init__(self, image_processor, tokenizer)

    pixels = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    return WithoutVideo(pixels, AutoTokenizer.from_pretrained(path, trust_remote_code=False))
