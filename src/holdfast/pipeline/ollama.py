"""A Modelfile for Ollama: the model, its chat template in Go's language, what ends an answer, the system message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from holdfast.data.chat.template import STANDIN

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Message

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """What a chat template writes around contents, role by role.

    Args:
        opening: Before the first turn of a conversation without a system message.
        before, after: Around the content of each role.
        prompt: After the last turn, for the next answer.
    """

    opening: str
    before: dict[str, str]
    after: dict[str, str]
    prompt: str

    @classmethod
    def from_chat(cls, chat: Chat) -> TurnTexts | None:
        """Those of a chat; `None` where turns depend on more than their role (tools, dates, thoughts left out).

        They are put together again and held against the template's own renderings.
        """
        user, answer, system = ({"role": r, "content": STANDIN.format(r)} for r in ("user", "assistant", "system"))
        more = {"role": "user", "content": STANDIN.format("more")}
        alone = _cut_at(chat, [user])
        turns, with_system = _cut_at(chat, [user, answer, more]), _cut_at(chat, [system, user])
        if alone is None or turns is None:
            return None
        first, prompt = alone[0], alone[1]
        start = _find_shared_end(first, _behind_end(turns[2], chat.template.eot.strip()))
        opening, end = first.removesuffix(start), turns[2].removesuffix(start)
        user_end = end if prompt.startswith(end) else ""  # what ends an answer ends a question too, in most
        before = {"user": start, "assistant": prompt.removeprefix(user_end)}
        after = {"user": user_end, "assistant": end}
        prompt = before["assistant"]
        if with_system is not None and with_system[1].endswith(start):
            before["system"], after["system"] = with_system[0], with_system[1].removesuffix(start)
        texts = cls(opening, before, after, prompt)
        conversations: list[list[Message]] = [[user], [user, answer, more], [user, answer, more, answer, user]]
        if "system" in before:
            conversations += [[system, *talk] for talk in conversations]
        agrees = all(texts.write_prompt(talk) == chat.template.render_prompts([talk])[0] for talk in conversations)
        return texts if agrees else None

    def write_prompt(self, messages: Sequence[Message]) -> str:
        """The prompt for the next answer."""
        turns = [f"{self.before[m['role']]}{m['content']}{self.after[m['role']]}" for m in messages]
        opening = "" if messages and messages[0]["role"] == "system" else self.opening
        return f"{opening}{''.join(turns)}{self.prompt}"

    def write_go(self, begin: str) -> str:
        """The same in Go's template language, as Ollama reads it.

        Args:
            begin: The token that the runtime itself puts at the beginning; it is left out here.
        """

        def strip_begin(text: str) -> str:
            return text.removeprefix(begin) if begin else text

        roles = [role for role in ROLES if role in self.before]
        parts = []
        for number, role in enumerate(roles):
            head = "if" if number == 0 else "else if"
            before = strip_begin(self.before[role]) if role == "system" else self.before[role]
            parts.append(f'{{{{ {head} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{self.after[role]}')
        opening = strip_begin(self.opening)
        if opening and "system" in roles:
            opening = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{opening}{{{{ end }}}}'
        return f"{opening}{{{{ range .Messages }}}}{''.join(parts)}{{{{ end }}}}{{{{ end }}}}{self.prompt}"


def _behind_end(text: str, end: str) -> str:
    """What follows the end of a turn and the white space after it."""
    _, mark, rest = text.partition(end) if end else ("", "", "")
    return rest.lstrip() if mark else text


def _find_shared_end(one: str, other: str) -> str:
    """The longest text that both end in."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return one[len(one) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]


def _cut_at(chat: Chat, messages: list[Message]) -> list[str] | None:
    """What stands around the contents of a prompt; `None` where the template does not write each of them once."""
    text = chat.template.render_prompts([messages])[0]
    parts = []
    for message in messages:
        before, content, text = text.partition(str(message["content"]))
        if not content:
            return None
        parts.append(before)
    return [*parts, text]


def build_modelfile(chat: Chat, model_file: str, adds_begin: bool) -> tuple[str, str]:
    """The Modelfile, and what the user should know of it ("" where all is said).

    Args:
        model_file: Name of the GGUF beside it.
        adds_begin: Whether the runtime puts the token that begins a text there itself.
    """
    lines = [f"FROM ./{model_file}"]
    texts = TurnTexts.from_chat(chat)
    remark = ""
    if texts is None or any("{{" in text or '"""' in text for text in (*texts.before.values(), *texts.after.values())):
        remark = (
            "the chat template is not of turns alone, so the Modelfile has no TEMPLATE: Ollama goes by the one in the "
            "GGUF where it knows it"
        )
    else:
        begin = str(chat.tokenizer.bos_token or "") if adds_begin else ""
        lines.append(f'TEMPLATE """{texts.write_go(begin)}"""')
    stops = [chat.tokenizer.convert_ids_to_tokens(number) for number in sorted(chat.stop_ids)]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if chat.system:
        lines.append(f'SYSTEM """{chat.system}"""')
    return "\n".join([*lines, ""]), remark
