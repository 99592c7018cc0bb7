"""Conversations with pictures as a chat encodes them: a model without eyes, places, and the proof on a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from holdfast.data.pictures.processor import PictureProcessor, SequencePictures, find_processor
from holdfast.data.pictures.references import PLACEHOLDER, pictures_of
from holdfast.data.rows import Message
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from holdfast.data.chat.encoder import Chat, Encoding

TRIAL = "lab:cards/3S.JD.7H"


class ChatPictures:
    """How a chat writes pictures.

    Args:
        tokenizer: Whose processor, if there is one, lies beside it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.processor: PictureProcessor | None = find_processor(str(tokenizer.name_or_path))
        self.name = str(tokenizer.name_or_path)
        self._is_proven = False

    @property
    def fingerprint(self) -> list[str]:
        """What encodings depend on, of models that see."""
        return [] if self.processor is None else [self.processor.fingerprint]

    def refuse_blind(self, conversations: Sequence[Sequence[Message]], names: Sequence[str] | None = None) -> None:
        """See that a model without eyes is shown no picture.

        Args:
            names: Of the conversations in errors.
        Raises:
            UserError: If it is.
        """
        if self.processor is not None:
            return
        number = next((k for k, one in enumerate(conversations) if any("images" in message for message in one)), None)
        if number is not None:
            raise UserError(
                f"{names[number] + ': it' if names else 'a prompt'} has a picture, and {self.name} is a model without "
                "eyes (it has no processor for pictures); take a vision-language model"
            )

    def place_all(
        self,
        chat: Chat,
        conversations: Sequence[Sequence[Message]],
        encodings: list[Encoding],
        names: Sequence[str] | None = None,
    ) -> list[Encoding]:
        """The encodings of conversations with the tokens of their pictures.

        Args:
            names: Of the conversations in errors.
        Raises:
            UserError: A picture cannot be read, or has no place.
        """
        if self.processor is None:
            return encodings
        out = []
        for number, (messages, encoding) in enumerate(zip(conversations, encodings, strict=True)):
            try:
                out.append(self._place_pictures(chat, messages, encoding))
            except UserError as error:
                raise UserError(f"{names[number]}: {error}" if names else str(error)) from error
        return out

    def _place_pictures(self, chat: Chat, messages: Sequence[Message], encoding: Encoding) -> Encoding:
        references = pictures_of(messages)
        assert self.processor is not None  # as `place_all` saw
        if references and not self._is_proven:
            self._is_proven = True
            self._prove_processor(chat)
        return self.processor.expand_tokens(*encoding, references)

    def _prove_processor(self, chat: Chat) -> None:
        """See that the model's own processor reads a conversation with a picture as it is encoded here."""
        assert self.processor is not None
        user: Message = {"role": "user", "content": f"One {PLACEHOLDER} two", "images": [TRIAL]}
        rendering = chat.template.render_prompts([[user]])[0]
        if self.processor.image_token not in rendering:
            raise UserError(
                f"{self.name}: the chat template writes nothing for a picture; give the model's own "
                "(data.chat_template)"
            )
        ids = np.array(chat.prompt_ids([user]), dtype=np.int32)
        self.processor.prove_processor(ids, rendering, TRIAL)

    def list_pictures(self, messages: Sequence[Message]) -> SequencePictures | None:
        """The pictures of a conversation, for whoever gives its ids to the model; `None` where it has none."""
        references = pictures_of(messages)
        return SequencePictures(references, self.processor) if references and self.processor is not None else None
