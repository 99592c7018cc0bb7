"""Requests of the chat-completions protocol: what is understood, and what is refused by name.

A parameter that would change the answer and is not done here is an error, never passed over; one whose value says "as
usual" (a penalty of 0) is taken, and so are labels, which change nothing anywhere.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from holdfast.axes.engine import SamplingParams
from holdfast.core.safe_text import make_printable
from holdfast.core.spelling import suggest_name
from holdfast.data.rows import Message
from holdfast.serving.failures import ApiError

MOST_CHOICES = 128
"""Samples of one request."""
MOST_STOPS, LONGEST_STOP = 16, 256
MOST_TOP = 20
"""Likeliest tokens told with each token, as in OpenAI's API."""

LABELS = ("user", "safety_identifier", "metadata", "prompt_cache_key", "service_tier", "store")
"""They name who asks, or what the provider keeps; no answer depends on them here, and nothing is kept."""
USUAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none",), "functions": ([],),
    "function_call": ("none",), "parallel_tool_calls": (True, False), "modalities": (["text"],), "min_p": (0,),
    "min_tokens": (0,), "best_of": (1,), "echo": (False,), "suffix": ("",), "ignore_eos": (False,),
    "skip_special_tokens": (True,), "use_beam_search": (False,), "length_penalty": (1,), "audio": (),
    "prediction": (), "reasoning_effort": (), "verbosity": (), "web_search_options": (), "guided_json": (),
    "guided_regex": (), "guided_choice": (), "guided_grammar": (), "structured_outputs": (), "thinking": (),
}  # fmt: skip
"""Parameters of this API, and of servers like it, that are not done here, with the values that ask for nothing."""

Count = Annotated[int, Field(strict=True, ge=1)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Text = Annotated[str, Field(strict=True)]


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False
    """Noise that hides the lengths of tokens; none is sent in any case."""


class AnswerBody(BaseModel):
    """What requests for answers have in common."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Text
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=-1)] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=MOST_CHOICES)] | None = None
    stop: Text | list[Text] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None
    stream: Annotated[bool, Field(strict=True)] | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def check_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        """A few short strings, and none of them empty."""
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > MOST_STOPS or any(not 0 < len(text) <= LONGEST_STOP for text in stops):
            raise ValueError(f"at most {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters")
        return stop

    @model_validator(mode="after")
    def check_stream_options(self) -> AnswerBody:
        """Options of a stream that is none would be passed over."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream")
        return self

    @property
    def asked_tokens(self) -> int | None:
        """The longest answer wanted."""
        return self.max_tokens

    @property
    def top_logprobs_asked(self) -> int | None:
        """How many likeliest tokens with each; `None`: no log-probabilities."""
        raise NotImplementedError

    def build_params(self, max_tokens: int, seed: int) -> SamplingParams:
        """How to sample.

        Args:
            max_tokens: Longest answer, where the request names none.
            seed: Where it names none.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            max_tokens=self.asked_tokens or max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            stop=stop,
            n=self.n or 1,
            seed=seed if self.seed is None else self.seed,
        )


class ContentPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None

    def to_message(self) -> Message:
        """The message as a chat template is given it."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        message: Message = {"role": "system" if self.role == "developer" else self.role, "content": content or ""}
        if self.tool_calls:
            message["tool_calls"] = [_read_call(call) for call in self.tool_calls]
        return message | {key: value for key in ("tool_call_id", "name") if (value := getattr(self, key)) is not None}


def _read_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call whose arguments, JSON text in the API, are an object."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        arguments = None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
        raise ValueError("tool_calls: each is a function with a name and arguments in JSON")
    return {**call, "function": {**function, "arguments": arguments}}


class ChatBody(AnswerBody):
    """A request for the next message of a conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: Annotated[bool, Field(strict=True)] | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MOST_TOP)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def check_sense(self) -> ChatBody:
        """Parameters that say two things at once."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs: true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_completion_tokens: differs from max_tokens, its older name; give one of them")
        if self.add_generation_prompt == self.continue_final_message:
            raise ValueError("continue_final_message: goes with add_generation_prompt: false, and only with it")
        is_answer = self.messages[-1].role == "assistant"
        if is_answer and not self.continue_final_message:
            raise ValueError("messages: the last is the assistant's; to go on from it, set continue_final_message")
        if self.continue_final_message and not is_answer:
            raise ValueError("continue_final_message: the last message is not the assistant's")
        if self.continue_final_message and len(self.messages) == 1:
            raise ValueError("messages: nothing stands before the message to go on from")
        return self

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top_logprobs_asked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def read_conversation(self) -> tuple[list[Message], str]:
        """The messages before the answer, and the text that it is to begin with."""
        messages = [message.to_message() for message in self.messages]
        return (messages[:-1], messages[-1]["content"]) if self.continue_final_message else (messages, "")


class CompletionBody(AnswerBody):
    """A request for what follows a text."""

    prompt: Text | list[Text] | list[TokenId] | list[list[TokenId]]
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MOST_TOP)] | None = None

    @property
    def top_logprobs_asked(self) -> int | None:
        return self.logprobs

    def list_prompts(self) -> list[str | list[int]]:
        """The prompts, each as text or token ids."""
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        return [prompt] if is_one else list(prompt)


def parse_json(data: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        ApiError: If it holds none.
    """
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\u" in data:  # half characters, written as escapes, are no text
            json.dumps(body, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        what = "too deep" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON in UTF-8: {what}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def parse_body(kind: type[AnswerBody], body: dict[str, Any]) -> Any:
    """A request, of one kind or the other.

    Raises:
        ApiError: With the first parameter that is wrong, unknown or not done here.
    """
    for name, value in body.items():
        if name not in kind.model_fields:
            _check_extra(kind, name, value)
    try:
        return kind.model_validate({name: value for name, value in body.items() if name in kind.model_fields})
    except ValidationError as error:
        raise _describe_invalid(error) from error


def _describe_invalid(error: ValidationError) -> ApiError:
    """The error for the first parameter that is wrong; of one that may be several things, the closest of these."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    alike = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    nearest = max(alike, key=lambda each: len(each["loc"]))
    message, place = nearest["msg"].removeprefix("Value error, "), nearest["loc"]
    parts = [part for part in place if isinstance(part, int) or part in FIELDS]
    if nearest["type"] == "extra_forbidden":
        parts.append(make_printable(str(place[-1])[:80], one_line=True))
        message = "not known there"
    param = ".".join(map(str, parts))
    code = "missing_required_parameter" if nearest["type"] == "missing" else "invalid_value"
    if not param:  # what several of them say together
        return ApiError(400, message, param=message.partition(":")[0], code=code)
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def _check_extra(kind: type[AnswerBody], name: str, value: Any) -> None:
    """See that a parameter of no field may be passed over."""
    if name in LABELS or (name in USUAL and (value is None or value in USUAL[name])):
        return
    name_text = make_printable(name[:80], one_line=True)
    if name in USUAL or name in FIELDS:
        what = f"{name_text}: this server does not do that here; leave it out"
        raise ApiError(400, what, param=name_text, code="unsupported_parameter")
    what = f"{name_text}: this server knows no such parameter{suggest_name(name, kind.model_fields)}"
    raise ApiError(400, what, param=name_text, code="unknown_parameter")


FIELDS = {
    name for kind in (ChatBody, CompletionBody, ChatMessage, ContentPart, StreamOptions) for name in kind.model_fields
}
"""Names that may stand in the place of an error."""
