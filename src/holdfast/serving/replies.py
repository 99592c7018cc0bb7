"""Answers in the protocol's form: whole ones, and the pieces of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.generation.live_batch import TokenDetail
from holdfast.generation.live_engine import AnswerEvent
from holdfast.serving.visible_text import Visible, hold_back, split_growing, split_whole

ReadToken = Callable[[int], tuple[str, list[int]]]
Json = dict[str, Any]


class ChatForm:
    """The form of `/v1/chat/completions`.

    Args:
        read_token: Gives the text and the bytes of a token.
    """

    whole, piece, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, read_token: ReadToken) -> None:
        self.read_token = read_token

    def split_text(self, text: str, is_whole: bool, stop: Sequence[str]) -> Visible:
        """What of a text is shown, thought and answer apart."""
        return split_whole(text) if is_whole else split_growing(text, stop)

    def build_choice(self, index: int, visible: Visible, finish: str, details: Sequence[TokenDetail] | None) -> Json:
        """One whole answer."""
        message: Json = {"role": "assistant", "content": visible.answer, "refusal": None}
        if visible.thought:
            message["reasoning_content"] = visible.thought
        return {
            "index": index, "message": message, "logprobs": self.build_logprobs(details), "finish_reason": finish,
        }  # fmt: skip

    def build_start(self, index: int) -> Json | None:
        """What a stream begins with."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def build_piece(self, index: int, new: Visible, finish: str | None, details: Sequence[TokenDetail] | None) -> Json:
        """What came since the last piece."""
        delta: Json = {}
        if new.thought:
            delta["reasoning_content"] = new.thought
        if new.answer:
            delta["content"] = new.answer
        logprobs = self.build_logprobs(details)
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def build_logprobs(self, details: Sequence[TokenDetail] | None) -> Json | None:
        """Tokens with their log-probabilities."""
        if details is None:
            return None
        return {"content": [self._describe_token(detail) for detail in details], "refusal": None}

    def _describe_token(self, detail: TokenDetail) -> Json:
        top = [self._name_token(token, logprob) for token, logprob in detail.top]
        return self._name_token(detail.token, detail.logprob) | {"top_logprobs": top}

    def _name_token(self, token: int, logprob: float) -> Json:
        text, data = self.read_token(token)
        return {"token": text, "logprob": clip_logprob(logprob), "bytes": data}


class CompletionForm(ChatForm):
    """The form of `/v1/completions`, where a text is a text."""

    whole, piece, prefix = "text_completion", "text_completion", "cmpl"

    def split_text(self, text: str, is_whole: bool, stop: Sequence[str]) -> Visible:
        return Visible("", text if is_whole else hold_back(text, stop))

    def build_choice(self, index: int, visible: Visible, finish: str, details: Sequence[TokenDetail] | None) -> Json:
        logprobs = self.build_logprobs(details)
        return {"index": index, "text": visible.answer, "logprobs": logprobs, "finish_reason": finish}

    def build_start(self, index: int) -> Json | None:
        return None

    def build_piece(self, index: int, new: Visible, finish: str | None, details: Sequence[TokenDetail] | None) -> Json:
        logprobs = self.build_logprobs(details)
        return {"index": index, "text": new.answer, "logprobs": logprobs, "finish_reason": finish}

    def build_logprobs(self, details: Sequence[TokenDetail] | None) -> Json | None:
        if details is None:
            return None
        return {
            "tokens": [self.read_token(detail.token)[0] for detail in details],
            "token_logprobs": [clip_logprob(detail.logprob) for detail in details],
            "top_logprobs": [self._name_top(detail) for detail in details],
            "text_offset": [detail.start for detail in details],
        }

    def _name_top(self, detail: TokenDetail) -> Json:
        """The likeliest tokens by their text; where two read alike, the likelier."""
        return {self.read_token(token)[0]: clip_logprob(logprob) for token, logprob in reversed(detail.top)}


def clip_logprob(logprob: float) -> float:
    """A log-probability that JSON can hold: as in OpenAI's API, -9999 stands for what cannot happen."""
    return max(logprob, -9999.0)


class ChoiceStream:
    """One answer of a stream: what of it was sent, and what can be sent next.

    Args:
        form: Of its pieces.
        index: Which answer.
        stop: What may end it.
        has_details: Whether log-probabilities are asked for.
    """

    def __init__(self, form: ChatForm, index: int, stop: Sequence[str], has_details: bool) -> None:
        self.form, self.index, self.stop, self.has_details = form, index, stop, has_details
        self.sent = Visible("", "")
        self.num_details = 0
        self.is_over = False

    def take_event(self, event: AnswerEvent) -> Json | None:
        """The piece that can be sent now; `None` while all that is new may still be taken back."""
        finish = event.sample.finish if event.sample else None
        visible = self.form.split_text(event.text, finish is not None, self.stop)
        new = Visible(
            _text_beyond(visible.thought, self.sent.thought), _text_beyond(visible.answer, self.sent.answer)
        )  # fmt: skip
        details = self._take_details(event, visible, finish is not None)
        if not (new.thought or new.answer or details or finish):
            return None
        self.sent = Visible(self.sent.thought + new.thought, self.sent.answer + new.answer)
        self.is_over = finish is not None
        piece = self.form.build_piece(self.index, new, finish, details if self.has_details else None)
        return piece | describe_trace(event)

    def _take_details(self, event: AnswerEvent, visible: Visible, is_whole: bool) -> Sequence[TokenDetail]:
        """Log-probabilities of tokens whose text is shown by now; of thoughts, all there are."""
        num_visible = len(event.text) if is_whole or visible.thought else len(visible.answer)
        end = self.num_details
        while end < len(event.details) and (is_whole or event.details[end].start < num_visible):
            end += 1
        details, self.num_details = event.details[self.num_details : end], end
        return details


def describe_trace(event: AnswerEvent) -> Json:
    """What a finished answer rests on, where an inference method says so; no part of OpenAI's API."""
    trace = event.sample.trace if event.sample else None
    return {"trace": dict(trace)} if trace else {}


def _text_beyond(text: str, start: str) -> str:
    """What a text has beyond its beginning; nothing where it begins otherwise."""
    return text[len(start) :] if text.startswith(start) else ""
