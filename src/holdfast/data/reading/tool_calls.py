"""Tool calls of messages, and what may be called, in the manner of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.data.reading.json_stream import JsonFault, describe, parse_json
from holdfast.data.reading.values import BadRow, holds


def calls_of(item: Mapping[str, Any], role: str, field: str) -> list[dict[str, Any]]:
    """What a message calls: each with a name and arguments as an object.

    Raises:
        BadRow: It is no call of a function, or not the assistant's.
    """
    if not holds(item.get("tool_calls")) and not holds(item.get("function_call")):
        return []
    if role != "assistant":
        raise BadRow(f"{field} is a {role} turn with a tool call; only the assistant calls", "take {} out")
    if holds(item.get("tool_calls")) and holds(item.get("function_call")):
        raise BadRow(f"{field} has both tool_calls and function_call", "keep one of {}")
    given = _parsed(item["tool_calls"], f"{field}, tool_calls,") if holds(item.get("tool_calls")) else None
    if given is None:
        given = [{"function": _parsed(item["function_call"], f"{field}, function_call,")}]
    if not isinstance(given, list):
        raise BadRow(f"{field} has tool_calls that are {describe(given)}, not a list")
    return [_call(one, f"{field}.tool_calls[{i}]") for i, one in enumerate(given)]


def _call(value: Any, field: str) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRow(f"{field} is no call of a function with a name and arguments")
    arguments = _parsed(function.get("arguments") or {}, f"{field}.arguments")
    if not isinstance(arguments, dict):
        raise BadRow(f"{field}.arguments is {describe(arguments)}, not an object of names and values")
    named = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {"type": "function", **named, "function": {"name": function["name"], "arguments": arguments}}


def definitions_of(value: Any, field: str) -> list[dict[str, Any]]:
    """What a model may call: functions with names, each as `{"type": "function", "function": ...}`.

    Raises:
        BadRow: It is something else.
    """
    given = _parsed(value, field)
    if not isinstance(given, list):
        raise BadRow(f"{field} is {describe(given)}, not a list of functions")
    out = []
    for i, one in enumerate(given):
        function = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise BadRow(f"{field}[{i}] is no function with a name")
        out.append({"type": "function", "function": function})
    return out


def _parsed(value: Any, field: str) -> Any:
    """What a JSON text says, as APIs write arguments and tables write everything; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except JsonFault as fault:
        raise BadRow(f"{field} is broken JSON ({fault})") from fault
