"""Which Jinja source a conversation is written with, and which settings it reads."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.bounded import LimitExceeded, run_bounded
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
"""For tokenizers without a chat template (base models): contents on lines of their own, the end token after answers."""

SWITCHES = ("enable_thinking", "thinking")
"""What templates call the setting that turns thinking on (true) or off (false)."""
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"})
"""What a template is given by whoever uses it."""


def source_of(tokenizer: PreTrainedTokenizerBase, choice: str | None = None) -> str:
    """The Jinja source of a tokenizer's chat template; `PLAIN` for one that has none.

    Args:
        choice: The name of one of its templates, or a file that holds another; default: its own, the one called
            default where it has several.
    Raises:
        UserError: If there is no such template, or there are several and none is chosen.
    """
    own = tokenizer.chat_template
    by_name = dict(own) if isinstance(own, dict) else {}
    name = tokenizer.name_or_path or "tokenizer"
    if choice is not None:
        if choice in by_name:
            return str(by_name[choice])
        if not Path(choice).is_file():
            alternatives = (
                f"the tokenizer of {name} has {', '.join(sorted(by_name))}" if by_name else "it names none of several"
            )
            raise UserError(f"data.chat_template: {choice} is no file, and {alternatives}; give a .jinja file")
        return Path(choice).read_text(encoding="utf-8")
    if by_name and "default" not in by_name:
        raise UserError(
            f"{name}: has several chat templates ({', '.join(sorted(by_name))}) and none called default; choose one "
            "with data.chat_template"
        )
    return str(by_name["default"] if by_name else own) if own else PLAIN


def refuse_unread_kwargs(kwargs: Iterable[str], text: str, name: str) -> None:
    """See that a template reads every setting it is to be given.

    Raises:
        UserError: If not.
    """
    words = names_in(text)
    for key in kwargs:
        if key in RESERVED:
            raise UserError(
                f"data.chat_template_kwargs: {key} is given to the template by the run itself; leave it out"
            )
        if key not in words:
            switches = [switch for switch in SWITCHES if switch in words]
            has = f"; it reads {', '.join(switches)}" if switches else suggest_name(key, sorted(words))
            raise UserError(f"data.chat_template_kwargs: the chat template of {name} never reads {key}{has}")


def names_in(text: str) -> set[str]:
    """All words of a template that may be names of variables."""
    return set(re.findall(r"[A-Za-z_]\w*", text))


TRIAL = Path(__file__).with_name("template_trial.py")
USER_TURN = {"role": "user", "content": "x"}
REPLY = {"role": "assistant", "content": "<think>\ny\n</think>\n\nz"}
CONVERSATIONS = [
    [{"role": "system", "content": "w"}, *turns]
    for turns in ([USER_TURN], [USER_TURN, REPLY], [USER_TURN, REPLY, USER_TURN, REPLY])
]
"""What a template is tried out on, each with its system message and without."""


def refuse_endless(tokenizer: PreTrainedTokenizerBase, text: str, kwargs: Mapping[str, Any], name: str) -> None:
    """See that a template comes to an end, in a process of its own that may only take so long and so much.

    A template is a program, and comes with whatever was downloaded. It is tried out once in a process, which takes a
    tenth of a second.

    Raises:
        UserError: If it does not.
    """
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    try:
        settings = json.dumps([special, dict(kwargs)], sort_keys=True)
    except TypeError:
        raise UserError("data.chat_template_kwargs: holds what JSON cannot; give texts, numbers, lists") from None
    fault = _find_fault(text, settings)
    if fault:
        raise UserError(
            f"{name}: the chat template {fault}; put the model's own template there, or give another "
            "(data.chat_template)"
        )


@lru_cache(256)
def _find_fault(text: str, settings: str) -> str:
    """What is wrong with a template that has no end, given settings (of JSON) or a switch it reads; "" for others."""
    if text == PLAIN:
        return ""
    special, kwargs = json.loads(settings)
    words = names_in(text)
    variants = [kwargs, *({**kwargs, key: on} for key in SWITCHES if key in words for on in (True, False))]
    renderings = [
        {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": asks, **special, **more}
        for more in variants
        for whole in CONVERSATIONS
        for messages in (whole, whole[1:])
        for asks in (False, True)
    ]
    folders = [str(Path(place).parent) for name in ("jinja2", "markupsafe") if (place := _folder_of(name))]
    try:
        return str(run_bounded(TRIAL, {"source": text, "rendered": renderings}, sorted(set(folders))))
    except LimitExceeded as error:
        return str(error)


def _folder_of(package: str) -> str | None:
    """Where a package lies."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return places[0] if places else None
