"""Messages of a conversation in every common manner: roles, texts, thoughts, and which answers are trained.

What a message says beside these is never dropped in silence: keys that only name or date it are told as not used, and
any other key that holds something is refused, since it may change what should be learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.data.reading.json_stream import JsonFault, describe_value, parse_json
from holdfast.data.reading.picture_parts import take_pictures
from holdfast.data.reading.tool_calls import calls_of, definitions_of
from holdfast.data.reading.values import BadRow, flag_of, has_content, shorten_value, text_of
from holdfast.data.rows import Message
from holdfast.data.thoughts import join_thought, split_thought

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
    "tool": "tool",
    "function": "tool",
}
ROLE_KEYS = {"role", "from"}
CONTENTS = ("content", "value")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thinking_content", "thought", "thoughts", "reasoning_text")
"""What the thought before an answer is called."""

TRAIN_FLAGS = (
    *("weight", "loss_weight", "loss_scale", "loss", "loss_mask", "compute_loss"),
    *("train", "trained", "is_trained", "trainable", "training", "train_on", "supervised"),
)
"""Flags that say whether an answer is trained."""
SKIP_FLAGS = ("mask", "masked", "ignore", "ignored", "no_loss", "no_train", "untrained", "exclude", "mask_loss")
"""Flags that say whether it is not."""
USUAL = ("weight", "loss_weight", "loss_scale")
"""Flags that software writes to every message, whoever speaks: 1 beside a user's turn asks for nothing."""
CALLS = ("tool_calls", "function_call")
"""Under which a message holds what it calls: a list, or (of old) one call."""
TOOLS = ("tool_call", "function_calls")
"""Names of other manners, which nobody can be sure of."""
INERT = {
    *("name", "id", "uuid", "index", "idx", "turn", "timestamp", "time", "date", "created", "model", "model_name"),
    *("language", "lang", "source", "author", "hash", "token_count", "num_tokens", "metadata", "meta"),
}
ENDINGS = ("_id", "_at", "_time", "_date", "_hash", "_index", "_idx", "_timestamp", "_identifier")
"""Keys of these names, or that end so, name a message or date it."""
_PLAIN = {*ROLE_KEYS, *CONTENTS}
_READ_KEYS = {*ROLE_KEYS, *CONTENTS, "images", *THOUGHTS, *TRAIN_FLAGS, *SKIP_FLAGS, *CALLS, "tools"}


def is_messages(value: Any) -> bool:
    """Whether it is a list of messages rather than of parts of a text."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(ROLE_KEYS & value[0].keys())


def unpack_messages(value: Any) -> Any:
    """Messages that a CSV or Parquet cell holds as JSON text; anything else as it is."""
    if not (isinstance(value, str) and value.startswith("[{")):
        return value
    try:
        messages = parse_json(value)
    except JsonFault:
        return value
    return messages if is_messages(messages) and {"content", "value"} & messages[0].keys() else value


def parse_conversation(value: Any, field: str) -> list[Message]:
    """Messages in the OpenAI (role, content) or ShareGPT (from, value) manner, their order checked."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)  # a CSV or Parquet cell
        except JsonFault as fault:
            raise BadRow(f"field {field} is broken JSON ({fault})") from fault
    if not isinstance(value, list):
        raise BadRow(f"field {field} is {describe_value(value)}, not a list of messages")
    if not value:
        raise BadRow(f"field {field} is empty", "fill {} in")
    messages = [message_of(item, f"{field}[{i}]") for i, item in enumerate(value)]
    messages = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    _check_order(messages, field)
    return messages


def message_of(item: Any, field: str) -> Message:
    """One message in either manner, called `field` in errors.

    Raises:
        BadRow: It has no role, no text, or a key that holds something nobody here understands.
    """
    if not isinstance(item, dict):
        raise BadRow(f"{field} is {describe_value(item)}, not a message with role and content")
    role_name = item.get("role", item.get("from"))
    role = ROLES.get(role_name.strip().lower()) if isinstance(role_name, str) else None
    more = not item.keys() <= _PLAIN  # most messages have nothing else, and there are many
    calls = more and any(has_content(item.get(key)) for key in TOOLS)
    if role is None or calls:
        if role:
            raise BadRow(f"{field} has a tool call in a manner that is not known", "put it into tool_calls in {}")
        what = "no role" if role_name is None else f"role {shorten_value(role_name).strip(chr(39))}"
        raise BadRow(f"{field} has {what}; known roles are system, user, assistant and tool")
    if more:
        _check_keys(item, field)
    content = _find_content(item, field)
    if role == "system" and content in (None, ""):
        return {"role": role, "content": ""}
    thought = None
    content, pictures = take_pictures(content, role, f"{field} ({role})")
    if more or isinstance(content, list):
        thought, content = _take_thought(item, content, f"{field} ({role})")
    tool_calls = calls_of(item, role, field) if more else []
    silent = (tool_calls or role == "tool") and (content is None or content == "")
    message: Message = {"role": role, "content": "" if silent else text_of(content, f"{field} ({role})")}
    if pictures := pictures or item.get("images") or []:  # rows we wrote have them beside the text
        message["images"] = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if tool_calls:
        message["tool_calls"] = tool_calls
    if role == "tool":
        message |= {key: item[key] for key in ("name", "tool_call_id") if isinstance(item.get(key), str)}
    if has_content(item.get("tools")):
        message["tools"] = definitions_of(item["tools"], f"{field}, tools,")
    is_trained = _find_train_flag(item, role, field) if more else None
    if thought:
        if role != "assistant":
            raise BadRow(f"{field} is a {role} turn with a thought; only answers have one", "take {} out")
        message["content"] = with_thought(thought, message["content"], field)
    if role == "assistant" and is_trained is False:
        message["weight"] = 0
    return message


def _check_keys(item: Mapping[str, Any], field: str) -> None:
    """Refuse what would otherwise be dropped without anybody knowing what it says."""
    for key, value in item.items():
        if key not in _READ_KEYS and not _is_inert(key) and has_content(value):
            place = f"{field.split('[')[0].removeprefix('field ')}.{key}"
            raise BadRow(
                f"{field} has a key {shorten_value(key).strip(chr(39))} that is not understood",
                f"take {{}} out (or name {shorten_value(place).strip(chr(39))} in data.ignore)",
            )


def _is_inert(key: str) -> bool:
    return key.lower() in INERT or key.lower().endswith(ENDINGS)


def _find_content(item: Mapping[str, Any], field: str) -> Any:
    """What is said, under either name."""
    one, other = (item.get(key) for key in CONTENTS)
    if has_content(one) and has_content(other) and one != other:
        raise BadRow(f"{field} has both content and value, which differ", "keep one of {}")
    return one if has_content(one) or not has_content(other) else other


def _check_order(messages: list[Message], field: str) -> None:
    before = "system"
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "system" and i:
            raise BadRow(f"{field}[{i}] is a system message inside the conversation; it may only come first")
        follows_call = i > 0 and ("tool_calls" in messages[i - 1] or before == "tool")
        if role == "tool" and not follows_call:
            raise BadRow(
                f"{field}[{i}] is a tool turn that answers no call; a turn with tool_calls must come before it"
            )
        if role == "assistant" and before == "system":
            raise BadRow(f"{field}[{i}] is an assistant turn that answers nothing; a user turn must come before it")
        if role == before and role not in ("system", "tool"):
            raise BadRow(f"{field}[{i}] is a second {role} turn in a row; turns must alternate")
        before = role


# ---- thoughts -----------------------------------------------------------------------------------------------------


def with_thought(thought: str, answer: str, field: str) -> str:
    """An answer with the thought before it; as it is, if it begins with that thought.

    Raises:
        BadRow: The answer begins with another thought.
    """
    own = split_thought(answer)
    if own.marks is not None:
        if own.thought == thought.strip():
            return answer
        raise BadRow(f"{field} has a thought of its own and begins with another", "keep one of {}")
    return join_thought(thought, answer)


def _take_thought(item: Mapping[str, Any], content: Any, field: str) -> tuple[str | None, Any]:
    """The thought that a message holds under a key or as parts of its content, and the content without it."""
    thoughts = [text_of(item[key], f"{field}, {key},") for key in THOUGHTS if has_content(item.get(key))]
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")]
        if parts:
            thoughts.append("\n".join(_thought_part(part, field) for part in parts))
            content = [part for part in content if part not in parts]
    if len({text.strip() for text in thoughts}) > 1:
        raise BadRow(f"{field} has several thoughts, which differ", "keep one of {}")
    return (thoughts[0] if thoughts else None), content


def _thought_part(part: Mapping[str, Any], field: str) -> str:
    """The text of a part of type `thinking` (Anthropic's and Mistral's) or `reasoning`."""
    return text_of(next((part[k] for k in (part["type"], "text", "content") if has_content(part.get(k))), None), field)


# ---- which answers are trained ------------------------------------------------------------------------------------


def _find_train_flag(item: Mapping[str, Any], role: str, field: str) -> bool | None:
    """Whether the flags of a message say that it is trained; `None` if they say nothing."""
    flags: dict[str, bool] = {}
    for key in (*TRAIN_FLAGS, *SKIP_FLAGS):
        value = item.get(key)
        if not has_content(value):
            continue
        flag = flag_of(value)
        if key == "mask" and role != "assistant":
            continue
        if flag is None or (key == "mask" and not _is_word(value)):  # a mask of numbers is as often 1 for what is kept
            means = "; write weight 0 where it does not count" if key == "mask" else ""
            raise BadRow(f"{field} has {key} {shorten_value(value)}; a message counts (1) or not (0){means}")
        flags[key] = flag if key in TRAIN_FLAGS else not flag
    if role != "assistant":
        if asking := next(
            (key for key, flag in flags.items() if flag and key in TRAIN_FLAGS and key not in USUAL), None
        ):
            raise BadRow(f"{field} ({role}) asks by {asking} to be trained on, but only answers are", "set {} to false")
        return None
    if len(set(flags.values())) > 1:
        raise BadRow(f"{field} has {' and '.join(flags)}, which contradict each other", "keep one of {}")
    return next(iter(flags.values()), None)


def _is_word(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


# ---- what is told -------------------------------------------------------------------------------------------------


def unread_keys(record: Mapping[str, Any]) -> list[str]:
    """Keys of a record's messages that hold something and are not read: `messages.name`."""
    keys: dict[str, None] = {}
    for column, value in record.items():
        for message in messages_in(value):
            if not message.keys() <= _READ_KEYS:
                keys |= {
                    f"{column}.{key}": None for key in message if key not in _READ_KEYS and has_content(message[key])
                }
    return list(keys)


def messages_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and ROLE_KEYS & value.keys():
        yield value
    elif is_messages(unpack_messages(value)):
        yield from (item for item in unpack_messages(value) if isinstance(item, dict))
