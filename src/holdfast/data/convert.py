"""Records of questions and answers to `Row`s, in every common format, and whether the row makes sense."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from holdfast.data.json_stream import describe
from holdfast.data.rows import Message, Row

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
ROLE_KEYS = {"role", "from"}
CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
ANSWERS = ("output", "completion", "response", "answer", "solution")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")


class BadRow(Exception):
    """A row that cannot be used: `what` is wrong, and what to do beside removing it (`{}` stands for it or them)."""

    def __init__(self, what: str, mend: str = "mend {}") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend

    def line(self, where: str, count: int) -> str:
        """The error line for `count` rows like the one at `where`."""
        if count == 1:
            return f"{where}: {self.what}; remove the row or {self.mend.format('it')}"
        return f"{where}: {self.what} ({count} rows like this); remove or {self.mend.format('them')}"


# ---- values -------------------------------------------------------------------------------------------------------


def text_of(value: Any, field: str) -> str:
    """A text, given as such or as a list of text parts; not empty."""
    if isinstance(value, list) and value and all(isinstance(part, (dict, str)) for part in value):
        value = "".join(_part(part, field) for part in value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"{field} is empty", "fill {} in")
    if not isinstance(value, str):
        raise BadRow(f"{field} is {describe(value)}, not text", "write {} as text")
    if not value.isascii():
        check_encodable(value)
    return value


def check_encodable(text: str) -> None:
    """Refuse what no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("a text holds half a character (a lone surrogate)") from error


def _part(part: dict[str, Any] | str, field: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text", part.get("value"))
    if part.get("type", "text") != "text" or not isinstance(text, str):
        raise BadRow(f"{field} holds a part of type {part.get('type')}, only text can be trained on", "leave {} out")
    return text


def number_of(value: Any, field: str) -> float:
    """A number, given as such or (in CSV) as text."""
    try:
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError
        return number
    except (TypeError, ValueError):
        raise BadRow(f"field {field} is not a number ({value!r})", "mend {}") from None


def first(record: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of `keys` that holds something, else the first that is there at all."""
    there = [key for key in keys if key in record]
    return next((key for key in there if record[key] not in (None, "")), there[0] if there else None)


def is_messages(value: Any) -> bool:
    """Whether it is a list of messages rather than of parts of a text."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(ROLE_KEYS & value[0].keys())


def unpacked(value: Any) -> Any:
    """Messages that a CSV or Parquet cell holds as JSON text; anything else as it is."""
    if not (isinstance(value, str) and value.startswith("[{")):
        return value
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        return value
    return found if is_messages(found) and {"content", "value"} & found[0].keys() else value


def conversation(value: Any, field: str) -> list[Message]:
    """Messages in the OpenAI (role, content) or ShareGPT (from, value) manner, their order checked."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)  # a CSV or Parquet cell
        except json.JSONDecodeError as error:
            raise BadRow(f"field {field} is broken JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(value, list):
        raise BadRow(f"field {field} is {describe(value)}, not a list of messages")
    if not value:
        raise BadRow(f"field {field} is empty", "fill {} in")
    messages = [message_of(item, f"{field}[{i}]") for i, item in enumerate(value)]
    messages = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    _check_order(messages, field)
    return messages


def message_of(item: Any, field: str) -> Message:
    """One message in either manner, called `field` in errors."""
    if not isinstance(item, dict):
        raise BadRow(f"{field} is {describe(item)}, not a message with role and content")
    told = item.get("role", item.get("from"))
    role = ROLES.get(told.lower()) if isinstance(told, str) else None
    if role is None or item.get("tool_calls"):
        told = "a tool call" if role else "no role" if told is None else f"role {told}"
        raise BadRow(f"{field} has {told}; known roles are system, user and assistant (tools are not supported)")
    content = item.get("content", item.get("value"))
    if role == "system" and content in (None, ""):
        return {"role": role, "content": ""}
    message: Message = {"role": role, "content": text_of(content, f"{field} ({role})")}
    weight = item.get("weight", item.get("loss_weight"))
    if weight is not None and role == "assistant":
        if weight not in (0, 1):
            raise BadRow(f"{field} has weight {weight!r}; a message counts (1) or not (0)")
        if weight == 0:
            message["weight"] = 0
    return message


def _check_order(messages: list[Message], field: str) -> None:
    before = "system"
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "system" and i:
            raise BadRow(f"{field}[{i}] is a system message inside the conversation; it may only come first")
        if role == "assistant" and before == "system":
            raise BadRow(f"{field}[{i}] is an assistant turn that answers nothing; a user turn must come before it")
        if role == before and role != "system":
            raise BadRow(f"{field}[{i}] is a second {role} turn in a row; turns must alternate")
        before = role


# ---- formats ------------------------------------------------------------------------------------------------------


def prompt_of(record: dict[str, Any]) -> list[Message]:
    """System message, history and question of alpaca- and prompt-like records; takes them out of `record`."""
    key = first(record, PROMPTS)
    if key is None:
        raise BadRow("field prompt is missing", "fill {} in")
    value = unpacked(record.pop(key))
    if is_messages(value):
        messages = conversation(value, key)
    else:
        text = text_of(value, f"field {key}")
        more = record.pop("input", None) or (record.pop("context", None) if key == "instruction" else None)
        if more and not (isinstance(more, str) and not more.strip()):
            text = f"{text}\n{text_of(more, 'field input')}"
        messages = [*_history(record), {"role": "user", "content": text}]
    if messages[-1]["role"] != "user":
        raise BadRow(f"field {key} does not end with a user turn")
    return with_system(record, messages)


def with_system(record: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Put the record's system message before a conversation that has none; takes it out of `record`."""
    system = record.pop("system", None) or record.pop("system_prompt", None)
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": text_of(system, "field system")}, *messages]
    return messages


def _history(record: dict[str, Any]) -> list[Message]:
    past: list[Message] = []
    for i, turn in enumerate(record.pop("history", None) or []):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise BadRow(f"field history[{i}] is not a pair of question and answer")
        past.append({"role": "user", "content": text_of(turn[0], f"field history[{i}]")})
        past.append({"role": "assistant", "content": text_of(turn[1], f"field history[{i}]")})
    return past


def answered(record: dict[str, Any]) -> Row:
    """alpaca and prompt: a question and its answer; or a question alone, for a judge that has a reference."""
    messages = prompt_of(record)
    key = first(record, ANSWERS)
    reference = reference_of(record)
    choices = record.get("choices")
    if choices is not None and key:
        return _choice(record, messages, choices, record.pop(key), f"field {key}")
    if key is None or record[key] is None:
        if reference is not None:
            return Row(messages, reference=reference)
        raise BadRow(f"field {key or 'output'} is {'empty' if key else 'missing'}", "fill {} in")
    answer, _ = side_of(record.pop(key), f"field {key}")
    return Row([*messages, {"role": "assistant", "content": answer}], reference=reference)


def _choice(record: dict[str, Any], messages: list[Message], choices: Any, answer: Any, field: str) -> Row:
    """Multiple choice: the reference is the index of the right choice, the answer its text."""
    if isinstance(choices, dict):  # {"text": [...], "label": [...]}
        choices = choices.get("text")
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise BadRow("field choices is not a list of texts")
    record["choices"] = choices
    names = {chr(65 + i): i for i in range(len(choices))} | {text: i for i, text in enumerate(choices)}
    index = names.get(answer) if isinstance(answer, str) else answer
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(choices):
        raise BadRow(f"{field} ({answer!r}) is none of the {len(choices)} choices, nor the index or letter of one")
    text = text_of(choices[index], "the right choice")
    return Row([*messages, {"role": "assistant", "content": text}], reference=index)


def dialogue(record: dict[str, Any]) -> Row:
    """messages: a conversation that ends with an answer; or with a question, for a judge that has a reference."""
    key = first(record, CONVERSATIONS)
    if key is None:
        raise BadRow("field messages is missing", "fill {} in")
    messages, reference = with_system(record, conversation(record.pop(key), key)), reference_of(record)
    answers = [m for m in messages if m["role"] == "assistant"]
    if messages[-1]["role"] != "assistant" and reference is None:
        if not answers:
            raise BadRow(f"field {key} has no assistant turn", "add {}")
        raise BadRow(f"field {key} ends with a {messages[-1]['role']} turn", "answer {}")
    if answers and all(m.get("weight") == 0 for m in answers):
        raise BadRow(f"field {key} has weight 0 on every assistant turn", "give one of {} weight 1")
    return Row(messages, reference=reference)


def side_of(value: Any, field: str) -> tuple[str, list[Message] | None]:
    """An answer given as text, message or list of messages: its text, and the prompt if that came with it."""
    value = unpacked(value)
    if isinstance(value, dict) and ROLE_KEYS & value.keys():
        value = [value]
    if not is_messages(value):
        if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
            raise BadRow(f"{field} is a list of {len(value)} texts, not one; several answers need scores")
        return text_of(value, field), None
    if len(value) == 1:
        message = message_of(value[0], f"{field}[0]")
        messages: list[Message] = [message]
    else:
        messages = conversation(value, field)
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"{field} does not end with an assistant turn")
    return messages[-1]["content"], messages[:-1] or None


def plain(record: dict[str, Any]) -> Row:
    """text: all of it is learned."""
    return Row([{"role": "assistant", "content": text_of(record.pop("text", None), "field text")}])


def reference_of(record: dict[str, Any]) -> Any:
    """What a judge compares with; taken out of `record`."""
    for key in ("reference", "tests"):
        if record.get(key) is not None:
            return record.pop(key)
    return None
