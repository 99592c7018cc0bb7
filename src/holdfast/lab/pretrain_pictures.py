"""Training of `lab-vl`: eyes for `lab-small`, a LLaVA whose text part is that model, taught to read cards and maps.

First it reads ranks and places from pictures; then it plays and walks from them too. Half of the rows are those that
`lab-small` was trained on, so that what it knew stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from holdfast.data.pictures.drawings import SIZE, draw_picture
from holdfast.data.pictures.references import PLACEHOLDER
from holdfast.lab.drills import Listing
from holdfast.lab.pretrain import (
    SECOND,
    Cycle,
    PretrainBatch,
    Pretraining,
    PretrainPhase,
    PretrainPlan,
    Stream,
    pad_batch,
)
from holdfast.models.loading import load_model
from holdfast.skills.story import BASIC, Story

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import LlavaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

PATCH = 8
PATCHES = (SIZE // PATCH) ** 2
NEW_ROWS = 8
"""Of the vocabulary, the first for the token of a picture; the others fill up to a round number."""
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
READ = {"cards": 0.5, "cards-blue": 0.1, "places": 0.25, "places-night": 0.15}
PLAY = {
    "cards": 0.15, "cards-blue": 0.05, "places": 0.07, "places-night": 0.05, "points-cards": 0.45, "route-map": 0.15,
    "route-map-night": 0.08,
}  # fmt: skip


def _halve_mixes(pictures: dict[str, float], text: float) -> dict[str, float]:
    """Both kinds of rows in one mix, `text` of them without pictures."""
    return {k: v * (1 - text) for k, v in pictures.items()} | {k: v * text for k, v in SECOND.items()}


EASY = {"story": Story(BASIC), "listing": Listing()}
PICTURE_PLAN = PretrainPlan(
    cycles=(Cycle(1300, 1700, 200, 2e-3, warmup=60, facts_over=1600),),
    phases=(
        PretrainPhase(0, _halve_mixes(READ, 0.35), EASY),
        PretrainPhase(250, _halve_mixes(PLAY, 0.45), EASY),
    ),
    rows=56, seed=1,
)  # fmt: skip


def add_eyes(model: PreTrainedModel, image_token: int) -> LlavaForConditionalGeneration:
    """A LLaVA whose text part is `model`, with new eyes and `NEW_ROWS` more rows of the vocabulary."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    size = model.config.vocab_size
    settings = {key: value for key, value in model.config.to_dict().items() if not key.startswith("_")}  # no paths
    text = type(model.config)(**settings | {"vocab_size": size + NEW_ROWS})
    eyes = CLIPVisionConfig(
        hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=SIZE,
        patch_size=PATCH,
    )  # fmt: skip
    config = LlavaConfig(  # type: ignore[call-arg]  # takes further keys at run time
        vision_config=eyes, text_config=text, image_token_index=image_token, image_seq_length=PATCHES,
        vision_feature_layer=-1, tie_word_embeddings=True, holdfast_lab=True,
    )  # fmt: skip
    out = LlavaForConditionalGeneration(config)
    own = out.model.language_model.state_dict()
    with torch.no_grad():
        for name, value in model.base_model.state_dict().items():
            own[name][: len(value)].copy_(value)
    return out


def build_processor(tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
    """The processor of `lab-vl`: pictures to pixels between -1 and 1, and `PATCHES` tokens for each."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = {"height": SIZE, "width": SIZE}
    pixels = CLIPImageProcessor(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        pixels, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        image_token=PLACEHOLDER, num_additional_image_tokens=1,
    )  # fmt: skip


class PictureStream(Stream):
    """The rows of every step, those with a picture in batches of their own."""

    def __init__(self, plan: PretrainPlan, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(plan, tokenizer)
        self.image_token = tokenizer.convert_tokens_to_ids(PLACEHOLDER)

    def build_batches(self, step: int, parts: int = 3) -> Iterator[PretrainBatch]:
        rows = self.sample_conversations(step)
        keys = [row[0][-1].get("images", [""])[0] for row in rows]
        for has_picture in (False, True):
            some = [
                (*self._encode_row(*row), key) for row, key in zip(rows, keys, strict=True) if bool(key) == has_picture
            ]
            some.sort(key=lambda one: len(one[0]))
            size = -(-len(some) // parts)
            for start in range(0, len(some), size or 1):
                part = some[start : start + size]
                pixels = {"pixel_values": read_pixels([key for _, _, key in part])} if has_picture else {}
                yield pad_batch([(ids, where) for ids, where, _ in part], self.tokenizer.pad_token_id, **pixels)

    def _encode_row(self, prompt, answer, only):  # type: ignore[no-untyped-def]
        """As of text, with as many tokens for a picture as it has patches."""
        ids, where = super()._encode_row(prompt, answer, only)
        if self.image_token not in ids:
            return ids, where
        at, more = ids.index(self.image_token), PATCHES - 1
        return [*ids[:at], *[self.image_token] * more, *ids[at:]], [t + more for t in where]


def read_pixels(keys: list[str]) -> Tensor:
    """Pixels between -1 and 1, [B, 3, SIZE, SIZE]."""
    pixels = torch.tensor(np.stack([np.asarray(draw_picture(key)) for key in keys]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


class PicturePretraining(Pretraining):
    """A training of `lab-vl` in progress."""

    def _build_parts(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, Stream]:
        torch.manual_seed(self.plan.seed)
        text = load_model("lab-small", dtype=torch.float32)
        text.tokenizer.add_special_tokens({"additional_special_tokens": [PLACEHOLDER]})
        text.tokenizer.chat_template = TEMPLATE
        for about_loading in ("is_local", "local_files_only"):
            text.tokenizer.init_kwargs.pop(about_loading, None)
        plain = cast("PreTrainedModel", text.model)
        model = add_eyes(plain, int(text.tokenizer.convert_tokens_to_ids(PLACEHOLDER)))  # type: ignore[arg-type]
        return text.tokenizer, model, PictureStream(self.plan, text.tokenizer)

    def export_model(self, folder: Path) -> None:
        super().export_model(folder)
        build_processor(self.tokenizer).save_pretrained(folder)
