"""`Template`: what a chat template writes, where answers lie in it, and what ends them, found by rendering alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import jinja2

from holdfast.data.rows import Message
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
"""For tokenizers without a chat template (base models): contents on lines of their own, the end token after answers."""

STANDIN = "holdfast{}standin"
"""Rendered in place of contents; templates that trim or split contents leave it as it is."""


@dataclass(frozen=True, slots=True)
class Span:
    """An assistant turn in a rendering: `text[begin:end]` is what is generated, `text[end:close]` ends it."""

    begin: int
    end: int
    close: int


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What a template writes around the contents of one sequence of roles.

    Args:
        parts: `parts[i]` stands before content i; the last one after all.
        turns: For each assistant turn: its index, the characters before its content that are generated too (Mistral's
            space), and the characters after it that end the turn.
    """

    parts: tuple[str, ...]
    turns: tuple[tuple[int, int, int], ...]

    def spans(self, contents: Sequence[str], rendered: str) -> list[Span] | None:
        """Where the assistant turns lie in `rendered`, or None if it is not these parts around these contents."""
        pieces = [text for pair in zip(self.parts, contents, strict=False) for text in pair] + [self.parts[-1]]
        if "".join(pieces) != rendered:
            return None
        ends, at = [], 0
        for piece in pieces:
            at += len(piece)
            ends.append(at)
        return [Span(ends[2 * i] - lead, ends[2 * i + 1], ends[2 * i + 1] + close) for i, lead, close in self.turns]


class Template:
    """A tokenizer's chat template.

    Args:
        tokenizer: Any transformers tokenizer; without a chat template `PLAIN` is used.
        thinking: Given to the template as `enable_thinking`.

    Attributes:
        text: The Jinja source in use.
        eot: What it writes to end an answer, up to and including a special token; without one, any visible text.
        special_end: Whether `eot` ends in a special token; if not, the end-of-sequence token must be added.
        markers: The control tokens it writes around contents, and the end-of-sequence token.
        ends: Those that end an answer.

    Raises:
        UserError: The template does not write the answer, or nothing can end it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, thinking: bool = False) -> None:
        self.tokenizer, self.thinking = tokenizer, thinking
        self.name = tokenizer.name_or_path or "tokenizer"
        self.text: str = tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN
        if not tokenizer.chat_template and tokenizer.eos_token is None:
            raise UserError(self._cannot_end())
        added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values() if str(token).strip()}
        longest_first = sorted(added, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._control = {text for text, special in added.items() if special}
        self._skeletons: dict[tuple[object, ...], Skeleton | None] = {}
        self._suffix, self._cut = "", ""
        self._probe()

    def _cannot_end(self) -> str:
        return (
            f"{self.name}: neither the chat template nor the tokenizer has a token that ends an answer; set eos_token"
        )

    # ---- what the template does, found out once -------------------------------------------------------------------

    def _probe(self) -> None:
        """Learn how the template ends a turn, asks for an answer and treats a system message."""
        user = {"role": "user", "content": STANDIN.format("user")}
        answer = {"role": "assistant", "content": STANDIN.format("answer")}
        full = self.render([[user, answer]])[0]
        head, found, self._tail = full.partition(answer["content"])
        if not found or answer["content"] in self._tail:
            raise UserError(f"{self.name}: the chat template does not write the assistant's answer; nothing to train")
        end = self._special_at(self._tail)
        self.special_end = bool(end)
        self.eot = end or self._tail.rstrip()
        eos = self.tokenizer.eos_token
        if not end and eos is None:
            raise UserError(self._cannot_end())
        prompt = self.render([[user]], generation=True)[0]
        if not self.thinking:
            self._learn_prompt(prompt, head)
        self.folds_system = self._drops_system([user, answer])
        self.ends = tuple({t for t in (end.strip(), str(eos or "")) if t})
        self.markers = tuple(sorted({*self._special.findall(full), *self.ends} & self._control))

    def _special_at(self, text: str) -> str:
        """The special token that `text` starts with, white space before it included, or nothing."""
        found = self._special.match(text, len(text) - len(text.lstrip()))
        return text[: found.end()] if found else ""

    def _learn_prompt(self, prompt: str, head: str) -> None:
        """Make the generation prompt end where answers really begin: some templates write too little, some too much."""
        if head.startswith(prompt) and head[len(prompt) :].strip():
            self._suffix = head[len(prompt) :]
        elif prompt != head and prompt.startswith(head):
            self._cut = prompt[len(head) :]

    def _drops_system(self, turns: list[Message]) -> bool:
        system = {"role": "system", "content": STANDIN.format("system")}
        try:
            return system["content"] not in self.render([[system, *turns]])[0]
        except UserError:  # the template refuses system messages, as Gemma's does
            return True

    # ---- rendering ------------------------------------------------------------------------------------------------

    def render(
        self, conversations: Sequence[Sequence[Message]], generation: bool = False, thinking: bool | None = None
    ) -> list[str]:
        """The renderings of prepared conversations, as the template writes them."""
        plain = [[{"role": m["role"], "content": m["content"]} for m in messages] for messages in conversations]
        try:
            texts = self.tokenizer.apply_chat_template(
                plain,
                tokenize=False,
                chat_template=self.text,
                add_generation_prompt=generation,
                enable_thinking=self.thinking if thinking is None else thinking,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template refuses this conversation ({error}); mend its turns") from error
        return cast("list[str]", texts)  # tokenize=False, several conversations

    def prompts(self, conversations: Sequence[Sequence[Message]], thinking: bool | None = None) -> list[str]:
        """The renderings up to where the next answer begins."""
        return [t.removesuffix(self._cut) + self._suffix for t in self.render(conversations, True, thinking)]

    def prepare(self, messages: Sequence[Message], system: str | None = None) -> list[Message]:
        """The messages as the template takes them: a system message added if there is none, or folded into the first
        user turn if the template has no place for it; end tokens that people wrote into answers themselves dropped."""
        out = list(messages)
        if system is not None and out[0]["role"] != "system":
            out.insert(0, {"role": "system", "content": system})
        if self.folds_system and out[0]["role"] == "system" and len(out) > 1:
            first, user = out[0]["content"], out[1]
            out[:2] = [{**user, "content": f"{first}\n\n{user['content']}"}]
        for index, message in enumerate(out):
            if message["role"] == "assistant" and message["content"].rstrip().endswith(self.ends):
                out[index] = {**message, "content": self.without_end(message["content"])}
        return out

    def without_end(self, text: str) -> str:
        """`text` without the end tokens at its end."""
        while (bare := text.rstrip()).endswith(self.ends):
            text = next(bare.removesuffix(end) for end in self.ends if bare.endswith(end))
        return text

    # ---- where the answers lie ------------------------------------------------------------------------------------

    def spans(self, prepared: list[Message], rendered: str, generation: bool = False) -> list[Span]:
        """The span of every assistant turn in `rendered` (of `render` or `prompts`), proven on this very rendering.

        Raises:
            UserError: An answer cannot be told from the rest.
        """
        if prepared[0]["role"] == "assistant":
            raise UserError("the conversation begins with an assistant turn; put the user's turn before it")
        key = (generation, *(m["role"] for m in prepared))
        if key not in self._skeletons:
            if len(self._skeletons) >= 1024:
                self._skeletons.clear()
            self._skeletons[key] = self._skeleton(prepared, generation)
        skeleton = self._skeletons[key]
        found = skeleton.spans([m["content"] for m in prepared], rendered) if skeleton else None
        if found is not None:
            return found
        turns = [i for i, m in enumerate(prepared) if m["role"] == "assistant"]
        return [
            self._by_prefix(prepared, i, rendered) or self._by_standin(prepared, i, rendered, generation) for i in turns
        ]

    def _skeleton(self, prepared: list[Message], generation: bool) -> Skeleton | None:
        """Render stand-ins for all contents and see what the template writes around them."""
        fake = [{"role": m["role"], "content": STANDIN.format(i)} for i, m in enumerate(prepared)]
        whole = self._one(fake, generation)
        parts: list[str] = []
        turns, rest = [], whole
        for index, message in enumerate(fake):
            part, found, rest = rest.partition(message["content"])
            if not found:
                return None
            parts.append(part)
            if message["role"] == "assistant":
                head = whole[: len(whole) - len(rest) - len(message["content"])]
                prompt = self.prompts([fake[:index]])[0]
                lead = len(head) - len(prompt) if head.startswith(prompt) else 0
                turns.append((index, lead, len(self._end_of(rest))))
        return Skeleton((*parts, rest), tuple(turns))

    def _one(self, prepared: list[Message], generation: bool) -> str:
        return (self.prompts if generation else self.render)([prepared])[0]

    def _end_of(self, tail: str) -> str:
        """The end of turn at the start of what follows an answer."""
        if self.special_end:
            return self._special_at(tail)
        return self.eot if tail.startswith(self.eot) else ""

    def _by_prefix(self, prepared: list[Message], turn: int, rendered: str) -> Span | None:
        """Render up to the turn, and with it; the difference is the turn."""
        with_turn = self.render([prepared[: turn + 1]])[0]
        end = len(with_turn) - len(self._tail)
        close = end + len(self.eot)
        if not with_turn.endswith(self._tail) or not rendered.startswith(with_turn[:close]):
            return None
        modes = [self.thinking] + [not self.thinking] * ("</think>" in prepared[turn]["content"])
        for thinking in modes:
            prompt = self.prompts([prepared[:turn]], thinking)[0]
            if len(prompt) < end and with_turn.startswith(prompt):
                return Span(len(prompt), end, close)
        return None

    def _by_standin(self, prepared: list[Message], turn: int, rendered: str, generation: bool) -> Span:
        """Render with a stand-in for this answer only; what differs is the answer."""
        standin = STANDIN.format("answer")
        changed = [*prepared[:turn], {**prepared[turn], "content": standin}, *prepared[turn + 1 :]]
        head, found, tail = self._one(changed, generation).partition(standin)
        end = len(rendered) - len(tail)
        if not found or end <= len(head) or not (rendered.startswith(head) and rendered.endswith(tail)):
            raise UserError(
                f"the chat template leaves nothing of message {turn + 1} to train on; mend the message or the template"
            )
        return Span(len(head), end, end + len(self._end_of(tail)))
