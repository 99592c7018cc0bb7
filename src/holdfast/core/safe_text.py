"""Text that is safe to show and to publish: without control characters of a terminal, without keys in addresses."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

from holdfast.errors import UserError

HIDDEN_KEY = "***"
"""What stands for a key that was left out."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a terminal may obey instead of showing it (C0 but for tab and line end, DEL, C1), and half characters."""

UNUSABLE = re.compile("[\0\ud800-\udfff]")

ADDRESS = re.compile(r"https?:/{0,2}[^\s'\"<>`]+", re.IGNORECASE)
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A part of an address that stands in the environment, so that it stands in no recipe: `?key=${MY_KEY}`."""

WORD = re.compile(r"[A-Z]?[a-z]{1,15}|[A-Z]{1,4}|v?\d{1,4}[A-Za-z]{0,3}|[A-Z][a-z]+[A-Z][a-z]+")
"""A part of a name that people choose: `openai`, `API`, `v1`, `70B`, `LiteLlm`; a key is made of others."""
KEY_BEGINS = re.compile(r"(sk|pk|rk|gsk|hf|xai|key|token|secret|bearer|pat)(?![a-z])", re.IGNORECASE)
KEY_NAMES = re.compile(r"key|token|secret|sig|auth|pass|cred|code", re.IGNORECASE)
"""Parameters of an address whose value is hidden whatever it looks like."""


def make_printable(text: str, *, one_line: bool = False) -> str:
    """Replace every character that a terminal would obey.

    Args:
        one_line: Also line ends and tabs, in what is a part of a line (a key, a name, a server's message).
    """
    clean = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
    return re.sub(r"[\n\t\u2028\u2029]", "\N{REPLACEMENT CHARACTER}", clean) if one_line else clean


def published_address(address: str) -> str:
    """An http(s) address without what may be a key in it: user and password, parameters, odd parts of the path.

    A part that names an environment variable (`${NAME}`) stays, and so does what people choose as names.
    """
    scheme, colon, rest = address.partition(":")
    slashes = rest[: len(rest) - len(rest.lstrip("/"))]
    place, question, query = rest.lstrip("/").partition("#")[0].partition("?")
    host, slash, path = place.partition("/")
    user, at, server = host.rpartition("@")
    user = user if not user or VARIABLE.fullmatch(user.rpartition(":")[2]) else HIDDEN_KEY
    parts = "/".join(_publish_part(part) for part in path.split("/"))
    parameters = "&".join(map(_published_parameter, query.split("&"))) if question else ""
    return f"{scheme}{colon}{slashes}{user}{at}{server}{slash}{parts}{question}{parameters}"


def _published_parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    if not equals:
        return _publish_part(name)
    is_public = VARIABLE.fullmatch(value) or not (KEY_NAMES.search(name) or _publish_part(value) == HIDDEN_KEY)
    return f"{name}={value if is_public else HIDDEN_KEY}"


def _publish_part(part: str) -> str:
    """A part of a path as it is, if it is made of words that people choose; else `HIDDEN_KEY`."""
    plain = all(WORD.fullmatch(word) for word in re.split(r"[-_.:+~%]+", part) if word)
    return part if VARIABLE.fullmatch(part) or (plain and not KEY_BEGINS.match(part)) else HIDDEN_KEY


def hide_keys(text: str) -> str:
    """Text with every address in it as `published_address` gives it."""

    def replace_address(match: re.Match[str]) -> str:
        address = match[0].rstrip(".,;:!?)]")  # of the sentence around it
        return published_address(address) + match[0][len(address) :]

    return ADDRESS.sub(replace_address, text)


def hide_keys_in_data(value: Any) -> Any:
    """Plain data, such as a recipe's, in which every text that is an address is a published one."""
    if isinstance(value, dict):
        return {key: hide_keys_in_data(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(hide_keys_in_data(inner) for inner in value)
    return published_address(value) if isinstance(value, str) and ADDRESS.fullmatch(value) else value


def split_address(address: str, setting: str) -> SplitResult:
    """The parts of a server's address, what it takes from the environment put in.

    Raises:
        UserError: If it is no http(s) address, a variable is missing, or its key was left out of a published recipe.
    """
    display = published_address(address)

    def read_variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"{setting}: the environment has no {match[1]}, which {display} needs; export it")
        return os.environ[match[1]]

    if HIDDEN_KEY in address:
        raise UserError(
            f"{setting}: the key was left out of {display} when this recipe was kept; give the whole address again, or "
            "write ${NAME} in its place and export NAME"
        )
    try:
        parts = urlsplit(VARIABLE.sub(read_variable, address))
        _ = parts.port
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{setting}: {display} is not an address like http://localhost:8000/v1")
    return parts


def unusable_texts(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], str]]:
    """Where plain data holds texts that no file or path of a run could hold, and what is wrong with each."""
    if isinstance(data, (dict, list, tuple)):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return [problem for key, value in items for problem in unusable_texts(value, (*path, key))]
    if isinstance(data, str) and UNUSABLE.search(data):
        return [(path, "holds a NUL or half a character, which no file can keep; remove it")]
    return []
