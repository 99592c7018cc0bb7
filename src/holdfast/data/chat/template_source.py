"""Which Jinja source a conversation is written with, and which settings it reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.core.spelling import nearest
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
    named = dict(own) if isinstance(own, dict) else {}
    name = tokenizer.name_or_path or "tokenizer"
    if choice is not None:
        if choice in named:
            return str(named[choice])
        if not Path(choice).is_file():
            known = f"the tokenizer of {name} has {', '.join(sorted(named))}" if named else "it names none of several"
            raise UserError(f"data.chat_template: {choice} is no file, and {known}; give a .jinja file")
        return Path(choice).read_text(encoding="utf-8")
    if named and "default" not in named:
        raise UserError(
            f"{name}: has several chat templates ({', '.join(sorted(named))}) and none called default; choose one with "
            "data.chat_template"
        )
    return str(named["default"] if named else own) if own else PLAIN


def refuse_unread(kwargs: Iterable[str], text: str, name: str) -> None:
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
            known = [switch for switch in SWITCHES if switch in words]
            has = f"; it reads {', '.join(known)}" if known else nearest(key, sorted(words))
            raise UserError(f"data.chat_template_kwargs: the chat template of {name} never reads {key}{has}")


def names_in(text: str) -> set[str]:
    """All words of a template that may be names of variables."""
    return set(re.findall(r"[A-Za-z_]\w*", text))
