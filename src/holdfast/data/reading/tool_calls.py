"""Tool calls of messages, and what may be called, in the manner of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.data.reading.json_stream import JsonFault, describe_value, parse_json
from holdfast.data.reading.values import BadRow, has_content


def calls_of(item: Mapping[str, Any], role: str, field: str) -> list[dict[str, Any]]:
    """What a message calls: each with a name and arguments as an object.

    Raises:
        BadRow: It is no call of a function, or not the assistant's.
    """
    if not has_content(item.get("tool_calls")) and not has_content(item.get("function_call")):
        return []
    if role != "assistant":
        raise BadRow(f"{field} is a {role} turn with a tool call; only the assistant calls", "take {} out")
    if has_content(item.get("tool_calls")) and has_content(item.get("function_call")):
        raise BadRow(f"{field} has both tool_calls and function_call", "keep one of {}")
    calls = _parse_value(item["tool_calls"], f"{field}, tool_calls,") if has_content(item.get("tool_calls")) else None
    if calls is None:
        calls = [{"function": _parse_value(item["function_call"], f"{field}, function_call,")}]
    if not isinstance(calls, list):
        raise BadRow(f"{field} has tool_calls that are {describe_value(calls)}, not a list")
    return [_parse_call(one, f"{field}.tool_calls[{i}]") for i, one in enumerate(calls)]


def _parse_call(value: Any, field: str) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRow(f"{field} is no call of a function with a name and arguments")
    arguments = _parse_value(function.get("arguments") or {}, f"{field}.arguments")
    if not isinstance(arguments, dict):
        raise BadRow(f"{field}.arguments is {describe_value(arguments)}, not an object of names and values")
    call_id = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {"type": "function", **call_id, "function": {"name": function["name"], "arguments": arguments}}


def definitions_of(value: Any, field: str) -> list[dict[str, Any]]:
    """What a model may call: functions with names, each as `{"type": "function", "function": ...}`.

    Raises:
        BadRow: It is something else.
    """
    functions = _parse_value(value, field)
    if not isinstance(functions, list):
        raise BadRow(f"{field} is {describe_value(functions)}, not a list of functions")
    out = []
    for i, one in enumerate(functions):
        function = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise BadRow(f"{field}[{i}] is no function with a name")
        out.append({"type": "function", "function": function})
    return out


def _parse_value(value: Any, field: str) -> Any:
    """What a JSON text says, as APIs write arguments and tables write everything; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except JsonFault as fault:
        raise BadRow(f"{field} is broken JSON ({fault})") from fault
