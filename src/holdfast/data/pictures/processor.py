"""What a vision-language model's own processor makes of pictures: the tokens that stand for one, and its pixels.

The text is tokenised as that of any row; then each picture token is replaced by those that the processor writes for its
picture. That the two together give what the processor gives is tried when it is first used (`prove_processor`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.data.pictures.reader import read_picture
from holdfast.data.pictures.references import identify_picture, name_picture
from holdfast.data.pictures.transformers_processor import load_processor
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

FILES = ("processor_config.json", "preprocessor_config.json")
"""Beside a tokenizer: that there is a processor. What is saved with a model is these and the next."""
MORE_FILES = ("video_preprocessor_config.json", "image_processor_config.json", "chat_template.json")
OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor gives that is of the text, not of the pictures."""
KEPT_BYTES = 256 << 20
"""Of pixels held in memory, so that tokenising and the first steps do not read a picture twice."""

Inputs = dict[str, np.ndarray]
"""By name, what the model reads of some pictures; they follow one another on the first axis."""


def find_processor(directory: str | Path) -> PictureProcessor | None:
    """The processor beside a tokenizer, not loaded yet; `None` where there is none."""
    path = Path(directory)
    config = path / "config.json"
    if config.exists() and "vision_config" not in json.loads(config.read_text(encoding="utf-8")):
        return None  # files that were left beside a text model
    return PictureProcessor(path) if any((path / name).exists() for name in FILES) else None


def processor_files(directory: str | Path) -> list[Path]:
    """The files that make up the processor beside a tokenizer."""
    return [path for name in (*FILES, *MORE_FILES) if (path := Path(directory) / name).exists()]


@dataclass(frozen=True, slots=True)
class SequencePictures:
    """The pictures of a sequence; pixels are made of them when a batch needs them.

    Args:
        references: In order.
        processor: Makes pixels of them.
    """

    references: list[str]
    processor: PictureProcessor

    def read_inputs(self) -> Inputs:
        """What the model reads of them beside the ids."""
        return self.processor.inputs_of(self.references)


class PictureProcessor:
    """The processor of a model, loaded when the first picture comes.

    Args:
        path: Its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._processor: Any = None
        self._kept: OrderedDict[str, tuple[np.ndarray, Inputs]] = OrderedDict()
        self._kept_bytes = 0
        self._in_lines: set[str] = set()

    @property
    def fingerprint(self) -> str:
        """Names its settings."""
        digest = hashlib.sha256()
        for file in processor_files(self.path):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    @property
    def processor(self) -> Any:
        """That of transformers."""
        if self._processor is None:
            self._processor = load_processor(self.path)
            if not getattr(self._processor, "image_token", None):
                raise UserError(
                    f"{self.path}: {type(self._processor).__name__} has no token for a picture; models with one such "
                    "as LLaVA, Qwen-VL or SmolVLM can be shown pictures"
                )
            self._find_lines()
        return self._processor

    @property
    def image_token(self) -> str:
        """The token that a chat template writes for a picture."""
        return self.processor.image_token

    @property
    def image_token_id(self) -> int:
        """Its id."""
        return int(self.processor.tokenizer.convert_tokens_to_ids(self.image_token))

    def _find_lines(self) -> None:
        """Learn which inputs have an axis of lines before that of pictures (Idefics and SmolVLM)."""
        from PIL import Image

        picture = Image.effect_noise((64, 64), 64).convert("RGB")
        one, two = (self._call_processor(self.image_token * n, [picture] * n)[1] for n in (1, 2))
        self._in_lines = {name for name in one if one[name].shape[0] == two[name].shape[0] == 1}

    def _call_processor(self, text: str, pictures: Sequence[Image]) -> tuple[np.ndarray, Inputs]:
        """Ids [n] of a text in which pictures stand, and their inputs."""
        out = self.processor_call(text, pictures)
        inputs = {}
        for name, value in out.items():
            if name not in OF_TEXT:
                array = np.asarray(value)
                inputs[name] = array[0] if name in self._in_lines else array
        return np.asarray(out["input_ids"])[0].astype(np.int32), inputs

    def processor_call(self, text: str, pictures: Sequence[Image]) -> Mapping[str, Any]:
        """As transformers gives it, of one text."""
        processor = self._processor
        try:
            return processor(text=[text], images=list(pictures), add_special_tokens=False, return_tensors="np")
        except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
            raise UserError(f"{type(processor).__name__} refuses it ({first_line(error)})") from error

    def _process_picture(self, reference: str) -> tuple[np.ndarray, Inputs]:
        """Tokens and inputs of one picture, those of the last ones from memory."""
        token = self.image_token  # it loads the processor
        name = identify_picture(reference)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        try:
            out = self._call_processor(token, [read_picture(reference)])
        except UserError as error:
            text = str(error)
            raise UserError(
                text if name_picture(reference) in text else f"{name_picture(reference)}: {text}"
            ) from error
        self._kept[name] = out
        self._kept_bytes += _count_bytes(out)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= _count_bytes(self._kept.popitem(last=False)[1])
        return out

    def expand_tokens(
        self, ids: np.ndarray, label_mask: np.ndarray, references: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A sequence with the tokens of each picture in the place of its one token; these are no labels.

        Args:
            ids: [n].
            label_mask: [n].
            references: Of its pictures, in order.
        Returns:
            Ids and label mask, [m] both.
        Raises:
            UserError: A picture cannot be read, or there are more or fewer than places for them.
        """
        places = np.flatnonzero(ids == self.image_token_id)
        if len(places) != len(references):
            raise UserError(
                f"the conversation has {len(references)} pictures, and as tokens {len(places)} places for them: the "
                f"chat template writes none for some, or a text holds {self.image_token}; reword it"
            )
        parts, masks, at = [], [], 0
        for place, reference in zip(places.tolist(), references, strict=True):
            tokens, _ = self._process_picture(reference)
            parts += [ids[at:place], tokens]
            masks += [label_mask[at:place], np.zeros(len(tokens), dtype=bool)]
            at = place + 1
        return (
            np.concatenate([*parts, ids[at:]]).astype(np.int32),
            np.concatenate([*masks, label_mask[at:]]),
        )

    def inputs_of(self, references: Sequence[str]) -> Inputs:
        """What the model reads of these pictures beside the ids; nothing of none."""
        return join_inputs([self._process_picture(reference)[1] for reference in references])

    def prove_processor(self, ids: np.ndarray, rendering: str, reference: str) -> None:
        """See that a conversation with a picture has the ids that the processor makes of it.

        Args:
            ids: [n] as they are trained and sampled from.
            rendering: Of the chat template.
        Raises:
            UserError: If not.
        """
        theirs = self._call_processor(rendering, [read_picture(reference)])[0]
        if not np.array_equal(ids, theirs):
            raise UserError(
                f"{self.path}: {type(self.processor).__name__} writes a picture into a text in a way that is not known "
                f"here ({len(theirs)} tokens of a trial, not {len(ids)})"
            )


def join_inputs(many: Sequence[Inputs]) -> Inputs:
    """Inputs of several pictures one after another; where other axes differ, the smaller are filled up with zeros."""
    names = list(many[0]) if many else []
    return {name: _join_arrays([one[name] for one in many]) for name in names}


def _join_arrays(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if len({array.shape[1:] for array in arrays}) > 1:
        most = np.max([array.shape[1:] for array in arrays], axis=0)
        arrays = [
            np.pad(array, [(0, 0), *((0, int(m) - size) for m, size in zip(most, array.shape[1:], strict=True))])
            for array in arrays
        ]
    return np.concatenate(arrays)


def _count_bytes(entry: tuple[np.ndarray, Inputs]) -> int:
    return entry[0].nbytes + sum(array.nbytes for array in entry[1].values())


def count_picture_tokens(text: str, token: str) -> str:
    """A text in which runs of the picture token are written as one with their number, as `<image x64>`."""
    pattern = re.compile(f"(?:{re.escape(token)})+")
    return pattern.sub(lambda run: f"{token[:-1]} x{len(run[0]) // len(token)}{token[-1]}", text)
