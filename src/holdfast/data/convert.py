"""Records of every common fine-tuning format to `Row`s: which format it is, and whether the row makes sense."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.data.readers import describe
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
CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
ANSWERS = ("output", "completion", "response", "answer", "solution")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
NOT_PLAIN = {*ANSWERS, "code", "label", "target", "summary", "translation", "chosen", "rejected"}
"""Columns beside `text` that say the text alone is not what should be learned."""

KNOWN = (
    "alpaca (instruction, output), messages or conversations, prompt and completion (or question and answer), "
    "chosen and rejected, or text"
)


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


COLUMNS = {
    *CONVERSATIONS,
    *PROMPTS,
    *ANSWERS,
    *MEDIA,
    *NOT_PLAIN,
    *("text", "system", "system_prompt", "history", "context", "reference", "tests", "choices", "score", "weight"),
    *("kto_tag", "chosen_messages", "rejected_messages"),
}


def columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the columns known here in lower case."""
    return {low if (low := key.strip().lower()) in COLUMNS else key: value for key, value in record.items()}


# ---- which format -------------------------------------------------------------------------------------------------


def signature(record: Mapping[str, Any]) -> frozenset[str]:
    """The columns of a record that hold something, and whether its label is a truth value."""
    keys = {key for key, value in record.items() if value is not None} or set(record)
    if "label" in keys:
        keys.add(f"label={_label_kind(record['label'])}")
    return frozenset(keys)


def _label_kind(value: Any) -> str:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false")):
        return "truth"
    return "bit" if value in (0, 1, "0", "1") else "other"


def format_of(keys: frozenset[str]) -> str | None:
    """alpaca, messages, prompt, preference, kto or text, or None if the columns fit none of them."""
    if {"chosen", "rejected"} <= keys or {"chosen_messages", "rejected_messages"} <= keys:
        return "preference"
    answer = any(k in keys for k in ANSWERS)
    if any(k in keys for k in CONVERSATIONS):
        base: str | None = "messages"
    elif "instruction" in keys and answer:
        base = "alpaca"
    elif any(k in keys for k in PROMPTS) and (answer or "reference" in keys or "tests" in keys):
        base = "prompt"
    else:
        return "text" if "text" in keys and not keys & NOT_PLAIN else None
    return "kto" if keys & {"label=truth", "label=bit", "kto_tag"} else base


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
        _check_encodable(value)
    return value


def _check_encodable(text: str) -> None:
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
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise BadRow(f"field {field} is not a number ({value!r})", "mend {}") from None


def first(record: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of `keys` that holds something, else the first that is there at all."""
    there = [key for key in keys if key in record]
    return next((key for key in there if record[key] not in (None, "")), there[0] if there else None)


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
    messages = [_message(item, f"{field}[{i}]") for i, item in enumerate(value)]
    messages = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    _check_order(messages, field)
    return messages


def _message(item: Any, field: str) -> Message:
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


def _prompt(record: dict[str, Any]) -> list[Message]:
    """System message, history and question of alpaca- and prompt-like records; takes them out of `record`."""
    key = first(record, PROMPTS)
    if key is None:
        raise BadRow("field prompt is missing", "fill {} in")
    value = record.pop(key)
    if isinstance(value, list) and value and isinstance(value[0], dict) and ("role" in value[0] or "from" in value[0]):
        messages = conversation(value, key)
    else:
        text = text_of(value, f"field {key}")
        more = record.pop("input", None) or (record.pop("context", None) if key == "instruction" else None)
        if more:
            text = f"{text}\n{text_of(more, 'field input')}"
        messages = [*_history(record), {"role": "user", "content": text}]
    system = record.pop("system", None) or record.pop("system_prompt", None)
    if system:
        messages.insert(0, {"role": "system", "content": text_of(system, "field system")})
    if messages[-1]["role"] != "user":
        raise BadRow(f"field {key} does not end with a user turn")
    return messages


def _history(record: dict[str, Any]) -> list[Message]:
    past: list[Message] = []
    for i, turn in enumerate(record.pop("history", None) or []):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise BadRow(f"field history[{i}] is not a pair of question and answer")
        past.append({"role": "user", "content": text_of(turn[0], f"field history[{i}]")})
        past.append({"role": "assistant", "content": text_of(turn[1], f"field history[{i}]")})
    return past


def _answered(record: dict[str, Any]) -> Row:
    """alpaca and prompt: a question and its answer; or a question alone, for a judge that has a reference."""
    messages = _prompt(record)
    key = first(record, ANSWERS)
    reference = _reference(record)
    choices = record.get("choices")
    if choices is not None and key:
        return _choice(record, messages, choices, record.pop(key), f"field {key}")
    if key is None or record[key] is None:
        if reference is not None:
            return Row(messages, reference=reference)
        raise BadRow(f"field {key or 'output'} is {'empty' if key else 'missing'}", "fill {} in")
    answer, _ = _side(record.pop(key), f"field {key}")
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


def _messages(record: dict[str, Any]) -> Row:
    key = first(record, CONVERSATIONS)
    if key is None:
        raise BadRow("field messages is missing", "fill {} in")
    messages, reference = conversation(record.pop(key), key), _reference(record)
    system = record.pop("system", None)
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": text_of(system, "field system")})
    answers = [m for m in messages if m["role"] == "assistant"]
    if messages[-1]["role"] != "assistant" and reference is None:
        if not answers:
            raise BadRow(f"field {key} has no assistant turn", "add {}")
        raise BadRow(f"field {key} ends with a {messages[-1]['role']} turn", "answer {}")
    if answers and all(m.get("weight") == 0 for m in answers):
        raise BadRow(f"field {key} has weight 0 on every assistant turn", "give one of {} weight 1")
    return Row(messages, reference=reference)


def _kto(record: dict[str, Any]) -> Row:
    value = record.pop("kto_tag", None) if "kto_tag" in record else record.pop("label", None)
    kind = _label_kind(value)
    if value is None or kind == "other":
        raise BadRow("field label is missing" if value is None else f"field label ({value!r}) is not true or false")
    row = _messages(record) if first(record, CONVERSATIONS) else _answered(record)
    row.label = str(value).strip().lower() in ("true", "1")
    return row


def _preference(record: dict[str, Any]) -> Row:
    keys = ("chosen", "rejected") if "chosen" in record else ("chosen_messages", "rejected_messages")
    chosen, before = _side(record.pop(keys[0]), f"field {keys[0]}")
    rejected, before_too = _side(record.pop(keys[1], None), f"field {keys[1]}")
    key = first(record, CONVERSATIONS)
    if before != before_too:
        raise BadRow(f"{keys[0]} and {keys[1]} do not answer the same prompt")
    if before is not None:
        messages = before
        for name in (*CONVERSATIONS, *PROMPTS):  # the prompt once more, as in UltraFeedback
            record.pop(name, None)
    elif key is not None:
        messages = conversation(record.pop(key), key)
    elif first(record, PROMPTS) is not None:
        messages = _prompt(record)
    else:
        messages, chosen, rejected = _implicit(chosen, rejected)
    if messages[-1]["role"] != "user":
        raise BadRow("the prompt does not end with a user turn")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    return Row(messages, reference=_reference(record), chosen=chosen, rejected=rejected)


def _side(value: Any, field: str) -> tuple[str, list[Message] | None]:
    """An answer given as text, message or list of messages: its text, and the prompt if that came with it."""
    if isinstance(value, dict) and {"role", "from"} & value.keys():
        value = [value]
    if not (isinstance(value, list) and value and isinstance(value[0], dict) and {"role", "from"} & value[0].keys()):
        return text_of(value, field), None
    if len(value) == 1:
        message = _message(value[0], f"{field}[0]")
        messages: list[Message] = [message]
    else:
        messages = conversation(value, field)
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"{field} does not end with an assistant turn")
    return messages[-1]["content"], messages[:-1] or None


def _implicit(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    """Prompt and answers of two texts that begin with the same prompt, "Human: ... Assistant: ..." or plain."""
    differ = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    shared = chosen[: next(differ, min(len(chosen), len(rejected)))]
    marked = shared.rfind("\n\nAssistant:")
    if marked >= 0 and shared.lstrip().startswith("Human:"):
        cut = marked + len("\n\nAssistant:")
        turns = re.split(r"\n\n(Human|Assistant):", "\n\n" + shared[:marked].lstrip())[1:]
        roles = ["user" if name == "Human" else "assistant" for name in turns[::2]]
        said = zip(roles, turns[1::2], strict=True)
        messages = conversation([{"role": role, "content": text.strip()} for role, text in said], "prompt")
    else:
        cut = max(shared.rfind(mark) + 1 for mark in "\n\t ")
        messages = [{"role": "user", "content": shared[:cut].strip()}]
    if not messages[-1]["content"]:
        raise BadRow("chosen and rejected share no prompt and there is no field prompt", "add a prompt to {}")
    sides = [
        text_of(text[cut:].strip(), f"the answer in {n}") for text, n in ((chosen, "chosen"), (rejected, "rejected"))
    ]
    return messages, sides[0], sides[1]


def _text(record: dict[str, Any]) -> Row:
    return Row([{"role": "assistant", "content": text_of(record.pop("text", None), "field text")}])


FORMATS: dict[str, Callable[[dict[str, Any]], Row]] = {
    "alpaca": _answered,
    "sharegpt": _messages,
    "messages": _messages,
    "prompt": _answered,
    "preference": _preference,
    "kto": _kto,
    "text": _text,
}


# ---- what every row may carry -------------------------------------------------------------------------------------


def _reference(record: dict[str, Any]) -> Any:
    for key in ("reference", "tests"):
        if record.get(key) is not None:
            return record.pop(key)
    return None


def convert(record: Mapping[str, Any], form: str) -> Row:
    """The row of a record in the format `form`; columns no format knows go to `meta`.

    Raises:
        BadRow: With what is wrong and what to do.
    """
    rest = dict(record)
    for key in MEDIA:
        if rest.get(key):
            raise BadRow(f"field {key} holds media, only text can be trained on", "take {} out")
    own = "messages" in rest and isinstance(rest.get("origin"), str)
    row = FORMATS[form](rest)
    for key in ("score", "weight"):
        if rest.get(key) not in (None, ""):
            setattr(row, key, number_of(rest.pop(key), key))
    if row.weight < 0:
        raise BadRow(f"field weight is negative ({row.weight:g})")
    if own:
        row.origin = rest.pop("origin")
        row.id = str(rest.pop("id", row.id))
        row.label = rest.pop("label", row.label)
    meta = rest.pop("meta", None)
    row.meta = {k: v for k, v in rest.items() if v is not None} | (meta if isinstance(meta, dict) else {})
    if row.meta or row.reference is not None:  # only what JSON can hold: Parquet has dates and the like
        text = json.dumps([row.meta, row.reference], ensure_ascii=False, default=str)
        _check_encodable(text)
        row.meta, row.reference = json.loads(text)
    return row
