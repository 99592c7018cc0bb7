"""Records of questions and answers to `Row`s, in every common format, and whether the row makes sense."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from holdfast.data.reading.beside import (
    Options,
    is_within,
    lists_options,
    options_of,
    passages_of,
    reference_of,
    thought_of,
    worked_answer,
)
from holdfast.data.reading.json_stream import JsonFault, describe_value, parse_json
from holdfast.data.reading.messages import (
    ROLE_KEYS,
    SKIP_FLAGS,
    TRAIN_FLAGS,
    is_messages,
    message_of,
    parse_conversation,
    unpack_messages,
    with_thought,
)
from holdfast.data.reading.tool_calls import definitions_of
from holdfast.data.reading.values import BadRow, first_key, has_content, shorten_value, text_of
from holdfast.data.rows import Message, Row

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
ANSWERS = ("output", "completion", "response", "answer", "solution")
MEDIA = ("videos", "video", "audios", "audio")
TOOLS = ("tools", "functions", "tool_calls", "function_call")

DEFINITIONS = ("tools", "functions")
"""Of these, what says which functions a model may call in a conversation."""

_UNSUPPORTED = {*MEDIA, *TOOLS, *TRAIN_FLAGS, *SKIP_FLAGS}


def refuse_unsupported(record: dict[str, Any], calls: bool = False) -> None:
    """Refuse what no format can put into a text: media, tools, and flags for each turn outside the messages.

    Args:
        calls: Whether the format is one of messages, in which tools may be called.
    """
    if record.keys().isdisjoint(_UNSUPPORTED):
        return
    for key in MEDIA:
        if has_content(record.get(key)):
            raise BadRow(f"field {key} holds media, only text and pictures can be trained on", "take {} out")
    for key in TOOLS:
        if has_content(record.get(key)) and not (calls and key in DEFINITIONS):
            raise BadRow(
                f"field {key} says what a model may call, and calls stand in messages only",
                f"take {{}} out (or name {key} in data.ignore, to train as if there were none)",
            )
    for key in (*TRAIN_FLAGS, *SKIP_FLAGS):
        value = record.get(key)
        if isinstance(value, list) and value:
            raise BadRow(f"field {key} is a list; which turns are trained is said in the messages", "put {} there")
        if key not in ("weight", "loss_weight") and isinstance(value, bool) and value is (key in SKIP_FLAGS):
            raise BadRow(
                f"field {key} ({str(value).lower()}) says that the row is not to be trained on",
                f"name {key} in data.ignore, if it means something else, or correct {{}}",
            )


# ---- the prompt ---------------------------------------------------------------------------------------------------


def prompt_of(record: dict[str, Any]) -> list[Message]:
    """System message, history and question of alpaca- and prompt-like records, with the passages that the question is
    about; takes them out of `record`."""
    key = first_key(record, PROMPTS)
    if key is None:
        raise BadRow("field prompt is missing", "fill {} in")
    value = unpack_messages(record.pop(key))
    if is_messages(value):
        messages = parse_conversation(value, key)
    else:
        text = text_of(value, f"field {key}")
        messages = marked_turns(text) or [*_take_history(record), {"role": "user", "content": text}]
    if messages[-1]["role"] != "user":
        raise BadRow(f"field {key} does not end with a user turn")
    return with_system(record, _with_passages(record, messages, key))


def _with_passages(record: dict[str, Any], messages: list[Message], key: str) -> list[Message]:
    """The prompt with what else the record says about the question."""
    question, whole = messages[-1]["content"], "\n".join(m["content"] for m in messages)
    for other in PROMPTS:
        also = record.get(other)
        if other != "input" and isinstance(also, str) and has_content(also) and not is_within(also, whole):
            raise BadRow(
                f"fields {key} and {other} both ask something",
                "say in data.columns which is the prompt, as in "
                f'{{{{prompt: "{{{{{key}}}}}\\n{{{{{other}}}}}"}}}}, or mend {{}}',
            )
    more = record.pop("input", None)
    parts = [] if more is None or (isinstance(more, str) and not more.strip()) else [text_of(more, "field input")]
    return add_to_question(messages, [*parts, *passages_of(record, question, whole)])


def add_to_question(messages: list[Message], parts: Sequence[str]) -> list[Message]:
    """The prompt with texts under its last question."""
    if not parts:
        return messages
    last = messages[-1]
    return [*messages[:-1], {**last, "content": "\n".join([last["content"], *parts])}]


def marked_turns(text: str) -> list[Message] | None:
    """The turns of a text such as "Human: ... Assistant:", without the last mark; `None` for any other text."""
    text = text.strip()
    if not (text.startswith("Human:") and text.endswith("\n\nAssistant:")):
        return None
    turns = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.removesuffix("\n\nAssistant:"))[1:]
    roles = ["user" if name == "Human" else "assistant" for name in turns[::2]]
    turn_pairs = zip(roles, turns[1::2], strict=True)
    return parse_conversation([{"role": role, "content": words.strip()} for role, words in turn_pairs], "prompt")


def with_system(record: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Put the record's system message before a conversation that has none; takes it out of `record`."""
    key = first_key(record, ("system", "system_prompt"))
    system = record.pop(key) if key else None
    if not has_content(system):
        return messages
    text = text_of(system, f"field {key}")
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    if not is_within(text, messages[0]["content"]):
        raise BadRow(f"field {key} and the conversation's own system message differ", "keep one of {}")
    return messages


def _take_history(record: dict[str, Any]) -> list[Message]:
    turns = record.pop("history", None)
    if not has_content(turns):
        return []
    if isinstance(turns, str) and turns.lstrip().startswith("["):  # a cell of a table
        with contextlib.suppress(JsonFault):
            turns = parse_json(turns)
    if not isinstance(turns, list):
        raise BadRow(f"field history is {describe_value(turns)}, not a list of turns")
    if is_messages(turns):
        past = parse_conversation(turns, "history")
        if past[-1]["role"] == "user":
            raise BadRow("field history does not end with an answer")
        return past
    past = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise BadRow(f"field history[{i}] is not a pair of question and answer")
        past.append({"role": "user", "content": text_of(turn[0], f"field history[{i}]")})
        past.append({"role": "assistant", "content": text_of(turn[1], f"field history[{i}]")})
    return past


def merge_prompts(own_prompt: list[Message], before: list[Message], field: str) -> list[Message]:
    """The prompt that a row gives and the one its answer comes with, as one: the longer, if it ends with the other.

    Raises:
        BadRow: They differ.
    """
    one, other = ([(m["role"], m["content"].strip()) for m in messages] for messages in (own_prompt, before))
    if one[-len(other) :] == other:
        return own_prompt
    if other[-len(one) :] == one:
        return before
    raise BadRow(f"{field} answers another prompt than the row has", "give {} one prompt")


# ---- formats ------------------------------------------------------------------------------------------------------


def convert_prompt(record: dict[str, Any], show: bool = True) -> Row:
    """alpaca and prompt: a question and its answer; or a question alone, for a judge that has a reference.

    Args:
        show: Put the options of a choice under the question.
    """
    messages = prompt_of(record)
    options = options_of(record)
    if options is not None and show:
        messages = with_options(messages, options)
    reference = reference_of(record)
    key, bare = worked_answer(record, ANSWERS) if reference is None else (first_key(record, ANSWERS), None)
    if key is None or record[key] is None:
        if reference is not None:
            return Row(messages, reference=reference)
        raise BadRow(f"field {key or 'output'} is {'empty' if key else 'missing'}", "fill {} in")
    answer_value, right = record.pop(key), None
    if options is not None and (options.column == "choices" or not show):
        right = _find_right(
            answer_value if bare is None else bare, options, f"field {key if bare is None else 'answer'}"
        )
        record["choices"] = list(options.texts)
        answer_value, bare = (options.texts[right], None) if bare is None else (answer_value, options.texts[right])
    elif options is not None:
        answer_value, bare = _label_of(answer_value, options), _label_of(bare, options)
    answer, before = side_of(answer_value, f"field {key}")
    if before is not None:
        messages = merge_prompts(messages, before, f"field {key}")
    if (thought := thought_of(record)) is not None:
        answer = with_thought(thought, answer, f"field {key}")
    meta = {} if right is None else {"right": right}
    reference = bare if reference is None else reference
    return Row([*messages, {"role": "assistant", "content": answer}], reference=reference, meta=meta)


def convert_question(record: dict[str, Any]) -> Row:
    """question: what is asked; the answers are in columns that the objective reads by itself."""
    return Row(prompt_of(record))


def with_options(messages: list[Message], options: Options) -> list[Message]:
    """The prompt with the options under the question, unless it lists them already."""
    whole = "\n".join(m["content"] for m in messages)
    return messages if lists_options(options, whole) else add_to_question(messages, [options.format_lines()])


def _label_of(answer: Any, options: Options) -> Any:
    """The label of an option that is given by its number; any other answer as it is."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        return answer
    index = options.find_index(answer)
    return answer if index is None else options.labels[index]


def _find_right(answer: Any, options: Options, field: str) -> int:
    index = options.find_index(answer)
    if index is None:
        raise BadRow(
            f"{field} ({shorten_value(answer)}) is none of the {len(options.texts)} choices, nor the index or letter "
            "of one"
        )
    return index


def convert_messages(record: dict[str, Any]) -> Row:
    """messages: a conversation that ends with an answer; or with a question, for a judge that has a reference."""
    key = first_key(record, CONVERSATIONS)
    if key is None:
        raise BadRow("field messages is missing", "fill {} in")
    messages, reference = with_system(record, parse_conversation(record.pop(key), key)), reference_of(record)
    tools_key = first_key(record, DEFINITIONS)
    if tools_key and has_content(record[tools_key]):
        index = next((i for i, m in enumerate(messages) if m["role"] != "system"), 0)
        messages[index]["tools"] = definitions_of(record.pop(tools_key), f"field {tools_key}")
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
    value = unpack_messages(value)
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
        messages = parse_conversation(value, field)
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"{field} does not end with an assistant turn")
    if messages[-1].get("weight") == 0:
        raise BadRow(f"{field} ends with an answer that is not to be trained")
    return messages[-1]["content"], messages[:-1] or None


def convert_text(record: dict[str, Any]) -> Row:
    """text: all of it is learned."""
    return Row([{"role": "assistant", "content": text_of(record.pop("text", None), "field text")}])
