"""`Chat`: conversations to token ids, and which of them are trained.

The trained mask comes from rendering: the conversation is rendered with its answers and with stand-ins for them, and
the difference is where the answers lie (`data.template`). Marker strings and token ids are never searched for, so no
template has to be known and no answer can confuse the mask. Prompts and answers are tokenised apart, as they are when
a model generates: what is trained is exactly what would have to be generated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from tokenizers import Tokenizer

from holdfast.data.chat.template import Template
from holdfast.data.chat.tools import has_tools, require_call, require_tools_written
from holdfast.data.chat.with_pictures import ChatPictures
from holdfast.data.rows import Message, fingerprint_json
from holdfast.data.thoughts import final_answer, split_thought
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHORS = ("\n", ";", "=", "#")
"""Put before a piece, and taken off its ids again, so that the tokenizer does not take it for the start of a text."""

Encoding = tuple[np.ndarray, np.ndarray]
"""`(ids int32 [n], trained bool [n])`."""


Thoughts = Literal["train", "mask", "strip"]
"""Whether the thoughts in answers are trained, only read, or taken out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is tokenised by itself: a prompt, or an answer with the text and the ids that end it.

    Args:
        marked_parts: The parts of an answer, each with whether it is the writer's (and not a mark of the template's);
            empty: all of it is.
    """

    text: str
    end: str = ""
    is_answer: bool = False
    is_trained: bool = False
    close_ids: tuple[int, ...] = ()
    marked_parts: tuple[tuple[str, bool], ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, bool], ...]:
        return self.marked_parts or ((self.text, True),)


class Chat:
    """A tokenizer with its chat template, end of turn and padding.

    Args:
        tokenizer: Any transformers tokenizer. Without a chat template, contents are put on lines of their own and
            answers end with the end-of-sequence token (`data.template.PLAIN`).
        system: System message put before conversations that have none.
        kwargs: What the template is given besides the messages (`enable_thinking`, ...); default: nothing, as a server
            does by itself.
        thoughts: Whether thoughts in answers are trained ("train"), read but not trained ("mask"), or taken out of the
            rows ("strip").
        source: Jinja source instead of the tokenizer's template.

    Attributes:
        template: `data.template.Template`.
        opening: What the prompt has opened when the model begins to write (`<think>` and a line break), or nothing. It
            is put before what was sampled, so that an answer's text says whether its thought ended.
        closing: What stands between a thought and its answer.
        stop_ids: Tokens that end an answer: end of turn and end of sequence.
        enders: Kept by engines: which tokens can complete one of some strings, bool [vocabulary].
        pictures: How it writes the pictures of messages (`data.chat.with_pictures`).
        pad_id: Fills batches. It may equal a real token: padding is known by position, never by id.
        fingerprint: Names template, special tokens, vocabulary and settings.

    Raises:
        UserError: The template does not write the answer, or there is no token to end an answer with.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system: str | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
        thoughts: Thoughts = "train",
        source: str | None = None,
    ) -> None:
        self.tokenizer, self.system, self.thoughts = tokenizer, system, thoughts
        self.template = Template(tokenizer, kwargs, source)
        self.opening = self.template.opening
        self.enders: dict[tuple[str, ...], np.ndarray] = {}
        self.closing = self.template.thoughts.closing
        self._visible_ids = {int(tokenizer.convert_tokens_to_ids(token)) for token in self.template.visible_tokens}  # type: ignore[arg-type]
        self._hidden_ids = set(tokenizer.all_special_ids) - self._visible_ids if self._visible_ids else set[int]()
        eos = tokenizer.eos_token_id
        # Without a special token in the template, only the end-of-sequence token can stop a model.
        self._close_ids: tuple[int, ...] = () if self.template.special_end else (int(eos),)
        self.stop_ids: set[int] = set() if eos is None else {int(eos)}
        if self.template.special_end:
            end = tokenizer.convert_tokens_to_ids(self.template.eot.strip())
            self.stop_ids.add(int(end))  # type: ignore[arg-type]  # the stub forgets that one token gives one id
        pad = tokenizer.pad_token_id
        self.pad_id: int = int(pad) if pad is not None else min(self.stop_ids)
        self.embeddings: int | None = None
        self._backend: Tokenizer | None = None
        self._backend = self._fast_backend()
        self._anchors = self._call_tokenizer(list(ANCHORS))
        self._needs_anchor = self._writes_space()
        self.pictures = ChatPictures(tokenizer)
        self.fingerprint: str = fingerprint_json(
            [
                self.template.text, tokenizer.special_tokens_map, tokenizer.get_vocab(), system, self.template.kwargs,
                thoughts, *self.pictures.fingerprint,
            ]
        )  # fmt: skip

    def _writes_space(self) -> bool:
        """Whether the tokenizer writes a space before any text it is given, as SentencePiece ones do."""
        for text in ("a", " a"):
            for anchor, before in zip(ANCHORS, self._anchors, strict=True):
                after, alone = self._call_tokenizer([anchor + text, text])
                if after[: len(before)] == before and after[len(before) :] != alone:
                    return True
        return False

    # ---- the public side ------------------------------------------------------------------------------------------

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text a model is given to answer `messages`, which end with a user's turn."""
        return self.template.render_prompts([self._prepare_messages(messages)])[0]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids a model is given to answer `messages`: the very ids that precede the answer in `encode`."""
        return self.prompt_ids_many([messages])[0]

    def prompt_ids_many(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """`prompt_ids` for many conversations with one call of the tokenizer, those of the very same messages once."""
        self.pictures.refuse_blind(conversations)
        whole = [tuple(messages) for messages in conversations]  # of an answer each, and many are to one prompt
        names = [tuple(map(id, messages)) for messages in whole]
        message_lists = [self._prepare_messages(messages) for messages in dict(zip(names, whole, strict=True)).values()]
        texts = self.template.render_prompts(message_lists)
        many = [
            self._split_pieces(messages, text, generation=True)
            for messages, text in zip(message_lists, texts, strict=True)
        ]
        encodings = self.pictures.place_all(self, message_lists, self._encode_pieces(many))
        by_name = dict(zip(dict.fromkeys(names), encodings, strict=True))
        return [by_name[name][0].tolist() for name in names]

    def encode(self, messages: Sequence[Message]) -> Encoding:
        """Ids of a conversation, and which are trained: every answer of weight other than 0, its end of turn included.

        What the template writes after the last end of turn is left out. A conversation of a single assistant message is
        plain text (`encode_text`).

        Raises:
            UserError: The template refuses the conversation or leaves nothing of an answer.
        """
        return self.encode_many([messages])[0]

    def encode_text(self, text: str) -> Encoding:
        """Ids of plain text, all trained: beginning and end token, if the tokenizer has them, around it."""
        return self.encode([{"role": "assistant", "content": text}])

    def encode_many(
        self, conversations: Sequence[Sequence[Message]], names: Sequence[str] | None = None
    ) -> list[Encoding]:
        """`encode` for many conversations with one call of the tokenizer; `names` say in errors which one it was."""
        self.pictures.refuse_blind(conversations, names)
        message_lists = [self._prepare_messages(messages) for messages in conversations]
        chats = [k for k, messages in enumerate(message_lists) if not is_text(messages)]
        renderings = dict(zip(chats, self._render_all([message_lists[k] for k in chats]), strict=True))
        many = []
        for k, messages in enumerate(message_lists):
            try:
                many.append(
                    self._split_pieces(messages, renderings[k]) if k in renderings else self._text_pieces(messages)
                )
            except UserError as error:
                raise UserError(f"{names[k]}: {error}" if names else str(error)) from error
        return self.pictures.place_all(self, message_lists, self._encode_pieces(many), names)

    def unroll_answers(self, messages: Sequence[Message]) -> list[Sequence[Message]]:
        """The conversation; or one for every trained answer, where the template cuts the thoughts of earlier ones.

        Each ends with its answer, behind the very prompt a server makes of the turns before it.
        """
        if self.template.thoughts.earlier or self.thoughts == "strip" or is_text(messages):
            return [messages]
        trained_turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight", 1) != 0]
        if not any(split_thought(messages[i]["content"]).thought for i in trained_turns[:-1]):
            return [messages]
        return [[*mask_answers(messages[:i]), messages[i]] for i in trained_turns]

    def ids_of(self, text: str) -> list[int]:
        """Ids of a piece out of running text, control tokens in it being these tokens."""
        return self._tokenize_texts([text])[0]

    def with_masked_thoughts(self) -> Chat:
        """The same chat with thoughts, and the marks of empty ones, read but not trained."""
        other = copy.copy(self)
        other.thoughts = "mask"
        return other

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens but for those that mark a thought."""
        rest = [i for i in ids if i not in self._hidden_ids]
        skip = not self._visible_ids
        text = self.tokenizer.decode(rest, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return cast("str", text)  # one sequence gives one text

    def limit_to(self, embeddings: int) -> None:
        """Refuse, from now on, tokens that a model with this many input embeddings does not know.

        A padding token may lie beyond them, as in tokenizers that were given one: another pads then.
        """
        self.embeddings = embeddings
        if self.pad_id >= embeddings:
            self.pad_id = 0

    def refuse_unknown(self, ids: np.ndarray) -> None:
        """See that the model of `limit_to` has an embedding for every token of `ids` [n].

        Raises:
            UserError: With the first token it has none for.
        """
        if self.embeddings is not None and len(ids) and ids.max() >= self.embeddings:
            token = int(ids[ids >= self.embeddings][0])
            raise UserError(
                f"token {token} ({self.tokenizer.convert_ids_to_tokens(token)}) is unknown to the model, which has "
                f"{self.embeddings:,} embeddings: the tokenizer beside it has tokens too many; put the model's own "
                "tokenizer there, or a model with enlarged embeddings (resize_token_embeddings)"
            )

    # ---- pieces ---------------------------------------------------------------------------------------------------

    def _prepare_messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template takes them, thoughts taken out if they are to be stripped."""
        if is_text(messages):
            return self.template.prepare_messages(messages)
        if self.thoughts == "strip":
            messages = [
                {**m, "content": final_answer(m["content"])} if m["role"] == "assistant" else m for m in messages
            ]
        return self.template.prepare_messages(messages, self.system)

    def _render_all(self, message_lists: list[list[Message]]) -> list[Any]:
        """All renderings at once; where one is refused, each by itself, and None for those refused."""
        if not message_lists:
            return []
        try:
            return self.template.render(message_lists)
        except UserError:
            return [None] * len(message_lists)  # `_split_pieces` renders one by one, and names the one

    def _text_pieces(self, messages: list[Message]) -> list[Piece]:
        text, bos = messages[0]["content"], str(self.tokenizer.bos_token or "")
        eos = self.tokenizer.eos_token_id
        close = (int(eos),) if eos is not None else ()
        return [Piece(bos + text.removeprefix(bos), is_answer=True, is_trained=True, close_ids=close)]

    def _split_pieces(self, messages: list[Message], rendering: str | None, generation: bool = False) -> list[Piece]:
        """Prompt, answer, prompt, answer...; what follows the last answer is dropped unless it is the next prompt."""
        if rendering is None:
            rendering = self.template.render([messages])[0]
        if has_tools(messages):
            require_tools_written(messages, rendering, self.template.name)
        spans = self.template.find_spans(messages, rendering, True) if generation else []
        if not generation:
            rendering, spans = self.template.render_with_spans(messages, rendering)
        pieces, at = [], 0
        turns = [(number, m) for number, m in enumerate(messages, 1) if m["role"] == "assistant"]
        for (number, message), span in zip(turns, spans, strict=True):
            pieces.append(Piece(rendering[at : span.begin]))
            text, end = rendering[span.begin : span.end], rendering[span.end : span.close]
            if "tool_calls" in message:
                require_call(message, number, text, self.template.markers, self.template.name)
            pieces += self._answer_pieces(message, text, end)
            at = span.close
        if generation:
            pieces.append(Piece(rendering[at:]))
        return pieces

    def _answer_pieces(self, message: Message, text: str, end: str) -> list[Piece]:
        """The pieces of an answer that stands as `text` in a rendering: one, or thought and answer apart."""
        is_trained, reply, form = (
            message.get("weight", 1) != 0,
            split_thought(message["content"]),
            self.template.thoughts,
        )
        if reply.marks is None and "tool_calls" in message:  # the call's marks are the template's, and trained
            return [
                Piece(
                    text,
                    end,
                    is_answer=True,
                    is_trained=is_trained,
                    close_ids=self._close_ids,
                    marked_parts=((text, False),),
                )
            ]
        if reply.marks is None and (not form.knows_thoughts or text.strip() == reply.answer.strip()):
            return [Piece(text, end, is_answer=True, is_trained=is_trained, close_ids=self._close_ids)]
        if reply.thought not in text:  # cut by the template: what is left would be taught as an answer without thought
            is_trained = is_trained and not reply.thought
        start = text.find(reply.thought) if reply.thought else 0
        inner = max(start, 0) + (len(reply.thought) if start >= 0 else 0)
        begin = text.rfind(reply.answer.strip()) if reply.answer.strip() else len(text)
        begin = max(begin, inner) if reply.has_ended else len(text)
        if "tool_calls" in message:  # after the thought comes the call
            begin = min(begin, inner) if not reply.answer.strip() else begin
        parts = ((text[: max(start, 0)], False), (text[max(start, 0) : inner], True), (text[inner:begin], False))
        if self.thoughts != "mask":
            whole = (*parts, (text[begin:], True))
            return [
                Piece(text, end, is_answer=True, is_trained=is_trained, close_ids=self._close_ids, marked_parts=whole)
            ]
        thought = Piece(text[:begin], is_answer=True, marked_parts=parts)
        return [
            thought,
            Piece(
                text[begin:], end, is_answer=True, is_trained=is_trained and reply.has_ended, close_ids=self._close_ids
            ),
        ]

    # ---- tokens ---------------------------------------------------------------------------------------------------

    def _call_tokenizer(self, texts: list[str], split: bool = False) -> list[list[int]]:
        """Ids of each text; with `split`, special tokens in it are taken as plain text."""
        if not texts:
            return []
        if self._backend is None:
            options = {"split_special_tokens": True} if split else {}
            return self.tokenizer(
                texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **options
            )["input_ids"]
        # The same, without the offsets and masks that nobody reads: a quarter faster.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = split
        id_lists = [e.ids for e in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        self._backend.encode_special_tokens = False
        return id_lists

    def _fast_backend(self) -> Tokenizer | None:
        """The tokenizer's backend, if it gives what the tokenizer gives."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        texts = [f"{mark} Zwölf Boxkämpfer,\n\n 12 + 30" for mark in ("", *self.template.markers)]
        expected_ids = self._call_tokenizer(texts)
        self._backend = backend
        same = self._call_tokenizer(texts) == expected_ids
        self._backend = None
        return backend if same else None

    def _tokenize_texts(
        self, texts: list[str], first: frozenset[int] = frozenset(), split: bool = False
    ) -> list[list[int]]:
        """Ids of pieces out of running text, in one call of the tokenizer; those in `first` begin a conversation."""
        if not self._needs_anchor:
            return self._call_tokenizer(texts, split)
        out = self._call_tokenizer([text if k in first else ANCHORS[0] + text for k, text in enumerate(texts)], split)
        return [ids if k in first else self._after_anchor(texts[k], ids, split) for k, ids in enumerate(out)]

    def _after_anchor(self, text: str, ids: list[int], split: bool) -> list[int]:
        """The ids of `text` within `ids` of anchor and text; another anchor where the two merged into one token."""
        for number, (anchor, before) in enumerate(zip(ANCHORS, self._anchors, strict=True)):
            joint_ids = ids if number == 0 else self._call_tokenizer([anchor + text], split)[0]
            if joint_ids[: len(before)] == before:
                return joint_ids[len(before) :]
        return self._call_tokenizer([text], split)[0]

    def _encode_pieces(self, many: list[list[Piece]]) -> list[Encoding]:
        """Tokenise the pieces of many conversations together."""
        flat = [piece for pieces in many for piece in pieces]
        first = frozenset(np.cumsum([0, *map(len, many)])[:-1].tolist())
        tokens = self._tokenize_texts([piece.text + piece.end for piece in flat], first)
        # An answer may hold one of the template's own markers as text. Were it made that marker's token, the model
        # would be taught to go on after its end of turn.
        for k, piece in enumerate(flat):
            if piece.is_answer and k not in first and self._quotes_marker(piece):
                tokens[k] = self._without_markers(piece)
        out, at = [], 0
        for pieces in many:
            out.append(self._join_pieces(pieces, tokens[at : at + len(pieces)]))
            at += len(pieces)
        return out

    def _quotes_marker(self, piece: Piece) -> bool:
        """Whether the writer's own text in an answer holds a marker of the template's."""
        return any(own and marker in text for text, own in piece.parts for marker in self.template.markers)

    def _without_markers(self, piece: Piece) -> list[int]:
        """The ids of an answer whose markers are plain text, where its writer wrote them."""
        ids: list[int] = []
        for text, own in (*piece.parts, (piece.end, False)):
            ids += self._tokenize_texts([text], split=own)[0] if text else []
        return ids

    def _join_pieces(self, pieces: list[Piece], tokens: list[list[int]]) -> Encoding:
        ids: list[int] = []
        train_flags: list[bool] = []
        bos = self.tokenizer.bos_token_id
        if bos is not None and tokens[0][:2] == [bos, bos]:
            tokens[0] = tokens[0][1:]  # the template wrote it, and so did the first message
        for piece, part in zip(pieces, tokens, strict=True):
            ids += [*part, *piece.close_ids]
            train_flags += [piece.is_trained] * (len(part) + len(piece.close_ids))
        mask = np.array(train_flags, dtype=np.bool_)
        mask[:1] = False  # nothing stands before the first token to predict it from
        token_ids = np.array(ids, dtype=np.int32)
        self.refuse_unknown(token_ids)
        return token_ids, mask


def is_text(messages: Sequence[Message]) -> bool:
    """Whether a conversation is plain text: a single message of the assistant."""
    return len(messages) == 1 and messages[0]["role"] == "assistant"


def mask_answers(messages: Sequence[Message]) -> list[Message]:
    """Messages of which no answer is trained."""
    return [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages]
