"""`Template`: what a chat template writes, where answers lie in it, and what ends them, found by rendering alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import jinja2

from holdfast.data.chat.template_source import PLAIN, refuse_endless, refuse_unread_kwargs, source_of
from holdfast.data.chat.thought_form import ThoughtForm, learn_form
from holdfast.data.chat.tools import MEND, has_tools, tools_of
from holdfast.data.rows import Message
from holdfast.data.thoughts import Reply, join_thought, split_thought
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STANDIN = "holdfast{}standin"
"""Rendered in place of contents; templates that trim or split contents leave it as it is."""
SYSTEM: Message = {"role": "system", "content": STANDIN.format("system")}


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

    def find_spans(self, contents: Sequence[str], rendering: str) -> list[Span] | None:
        """Where the assistant turns lie in `rendered`, or None if it is not these parts around these contents."""
        pieces = [text for pair in zip(self.parts, contents, strict=False) for text in pair] + [self.parts[-1]]
        if "".join(pieces) != rendering:
            return None
        ends, at = [], 0
        for piece in pieces:
            at += len(piece)
            ends.append(at)
        return [Span(ends[2 * i] - lead, ends[2 * i + 1], ends[2 * i + 1] + close) for i, lead, close in self.turns]


class Template:
    """A tokenizer's chat template.

    The prompt it writes for the next answer is taken as it is: that is what a server makes of the same messages.

    Args:
        tokenizer: Any transformers tokenizer; without a chat template `PLAIN` is used.
        kwargs: What the template is given besides the messages, as a server's `chat_template_kwargs`.
        text: Jinja source to be used instead of the tokenizer's.

    Attributes:
        text: The Jinja source in use. One without a generation prompt gets one: what stands before its answers.
        eot: What it writes to end an answer, up to and including a special token; without one, any visible text.
        special_end: Whether `eot` ends in a special token; if not, the end-of-sequence token must be added.
        markers: The control tokens it writes around contents, and the end-of-sequence token.
        ends: Those that end an answer.
        visible_tokens: Control tokens that the text of a sampled answer must hold, because they mark its thought.
        thoughts: What it does with thoughts (`data.thought_form`).
        opening: What its prompt opens a thought with, or nothing.

    Raises:
        UserError: The template does not write the answer, or nothing can end it, or it does not come to an end itself,
            or `kwargs` holds what it never reads.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any] | None = None, text: str | None = None
    ) -> None:
        self.tokenizer, self.kwargs = tokenizer, dict(kwargs or {})
        self.name = tokenizer.name_or_path or "tokenizer"
        self.text: str = source_of(tokenizer) if text is None else text
        refuse_unread_kwargs(self.kwargs, self.text, self.name)
        refuse_endless(tokenizer, self.text, self.kwargs, self.name)
        if self.text == PLAIN and tokenizer.eos_token is None:
            raise UserError(self._cannot_end())
        added_tokens = {
            str(token): token.special for token in tokenizer.added_tokens_decoder.values() if str(token).strip()
        }
        longest_first = sorted(added_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._control = {text for text, special in added_tokens.items() if special}
        self._skeletons: dict[tuple[object, ...], Skeleton | None] = {}
        self.thoughts = ThoughtForm()
        self._probe_template()

    def _cannot_end(self) -> str:
        return (
            f"{self.name}: neither the chat template nor the tokenizer has a token that ends an answer; set eos_token"
        )

    # ---- what the template does, found out once -------------------------------------------------------------------

    def _probe_template(self) -> None:
        """Learn how the template ends a turn, asks for an answer and treats a system message and thoughts."""
        user = {"role": "user", "content": STANDIN.format("user")}
        answer = {"role": "assistant", "content": STANDIN.format("answer")}
        before = next((some for some in self._iterate_beginnings(user) if self._writes_last([*some, answer])), [user])
        full = self.render([[*before, answer]])[0]
        head, separator, self._tail = full.partition(answer["content"])
        if not separator or answer["content"] in self._tail:
            raise UserError(f"{self.name}: the chat template does not write the assistant's answer; nothing to train")
        end = self._special_at(self._tail)
        self.special_end = bool(end)
        self.eot = end or self._tail.rstrip()
        eos = self.tokenizer.eos_token
        if not end and eos is None:
            raise UserError(self._cannot_end())
        self._add_generation_prompt(before, head)
        self.folds_system = len(before) == 1 and self._drops_system([user, answer])
        self.ends = tuple({t for t in (end.strip(), str(eos or "")) if t})
        prompt = self.render_prompts([before])[0]
        self.thoughts = replace(ThoughtForm.from_source(self.text, prompt), takes_parts=self.thoughts.takes_parts)
        self.thoughts = learn_form(self, before, answer["content"])
        begin = self.thoughts.marks[0].rstrip()
        self.opening = prompt[prompt.rindex(begin) :] if self.thoughts.opens else ""
        self.markers = tuple(sorted({*self._special.findall(full), *self.ends} & self._control))
        # A server's text leaves special tokens out; where thoughts are marked by some, these must stay.
        mark_tokens = self._control & set(self._special.findall("".join(self.thoughts.marks)))
        self.visible_tokens = tuple(sorted(mark_tokens | set(self.markers) - set(self.ends))) if mark_tokens else ()

    def _iterate_beginnings(self, user: Message) -> Iterator[list[Message]]:
        """What may stand before an answer, the usual first: few need contents in parts or a system message."""
        for in_parts in (False, True):
            self.thoughts = ThoughtForm(takes_parts=in_parts)
            yield [user]
            yield [SYSTEM, user]
        self.thoughts = ThoughtForm()

    def _writes_last(self, messages: list[Message]) -> bool:
        """Whether the template takes these messages and writes the last."""
        try:
            return messages[-1]["content"] in self.render([messages])[0]
        except UserError:
            return False

    def _special_at(self, text: str) -> str:
        """The special token that `text` starts with, white space before it included, or nothing."""
        match = self._special.match(text, len(text) - len(text.lstrip()))
        return text[: match.end()] if match else ""

    def _add_generation_prompt(self, before: list[Message], head: str) -> None:
        """Give a template that has no generation prompt the one its answers stand behind."""
        plain, prompt = self.render([before])[0], self.render_prompts([before])[0]
        missing = head[len(prompt) :] if head.startswith(prompt) else ""
        if prompt == plain and missing.strip():
            # Jinja drops one line break at the end of a template, which is now in the middle.
            text = json.dumps(missing, ensure_ascii=False)
            self.text = self.text.removesuffix("\n") + "{% if add_generation_prompt %}{{ " + text + " }}{% endif %}"

    def _drops_system(self, turns: list[Message]) -> bool:
        try:
            return SYSTEM["content"] not in self.render([[SYSTEM, *turns]])[0]
        except UserError:  # the template refuses system messages, as Gemma's does
            return True

    # ---- rendering ------------------------------------------------------------------------------------------------

    def render(
        self, conversations: Sequence[Sequence[Message]], generation: bool = False, form: ThoughtForm | None = None
    ) -> list[str]:
        """The renderings of prepared conversations, as the template writes them.

        Args:
            generation: With the prompt for the next answer at the end.
            form: How thoughts are given to the template; default: as it takes them.
        """
        if any(tools_of(messages) for messages in conversations):  # these are given for a whole call
            return [self._render_batch([messages], generation, form)[0] for messages in conversations]
        return self._render_batch(conversations, generation, form)

    def _render_batch(
        self, conversations: Sequence[Sequence[Message]], generation: bool, form: ThoughtForm | None
    ) -> list[str]:
        """As `render`, of conversations in which the same may be called: one of them, or nothing in any."""
        form = form or self.thoughts
        plain = [[form.build_message(m) for m in messages] for messages in conversations]
        tools = tools_of(conversations[0]) if conversations else None
        template_kwargs = {**self.kwargs, "tools": tools} if tools else self.kwargs
        try:
            texts = self.tokenizer.apply_chat_template(
                plain, tokenize=False, chat_template=self.text, add_generation_prompt=generation, **template_kwargs
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            mend = MEND if any(map(has_tools, conversations)) else "mend its turns"
            raise UserError(f"the chat template refuses this conversation ({error}); {mend}") from error
        except (ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError) as error:
            # A template is a program: it may divide by zero, or call itself without end on some conversation.
            raise UserError(
                f"{self.name}: the chat template fails ({type(error).__name__}: {first_line(error)}); mend it, or give "
                "another (data.chat_template)"
            ) from error
        return cast("list[str]", texts)  # tokenize=False, several conversations

    def render_prompts(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """The renderings up to where the next answer begins: the prompts a server makes."""
        return self.render(conversations, generation=True)

    def prepare_messages(self, messages: Sequence[Message], system: str | None = None) -> list[Message]:
        """The messages as the template takes them: a system message added if there is none, or folded into the first
        user turn if the template has no place for it; end tokens that people wrote into answers themselves dropped, and
        thoughts between the template's own marks."""
        out = list(messages)
        if system is not None and out[0]["role"] != "system":
            out.insert(0, {"role": "system", "content": system})
        if self.folds_system and out[0]["role"] == "system" and len(out) > 1:
            first, user = out[0]["content"], out[1]
            out[:2] = [{**user, "content": f"{first}\n\n{user['content']}"}]
        for index, message in enumerate(out):
            if message["role"] == "assistant":
                out[index] = {**message, "content": self.thoughts.convert_marks(self.without_end(message["content"]))}
        return out

    def without_end(self, text: str) -> str:
        """`text` without the end tokens at its end."""
        while (bare := text.rstrip()).endswith(self.ends):
            text = next(bare.removesuffix(end) for end in self.ends if bare.endswith(end))
        return text

    # ---- where the answers lie ------------------------------------------------------------------------------------

    def render_with_spans(self, messages: list[Message], rendering: str) -> tuple[str, list[Span]]:
        """The conversation as it is trained on, and the span of every assistant turn in it.

        That is `rendered`, with one exception: where the last answer would not follow the very prompt a server makes,
        or would lose its thought, it is written behind that prompt by hand.

        Args:
            rendering: Of `render`.
        Raises:
            UserError: An answer cannot be told from the rest, or holds a thought where the prompt forbids one.
        """
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        reply = split_thought(messages[last]["content"])
        if reply.thought and self.thoughts.closes:
            raise UserError(
                f"message {last + 1} holds a thought, but the prompt says not to think; set data.thoughts to strip, or "
                "data.chat_template_kwargs so that the model is asked to think"
            )
        plain = self._spans_by_skeleton(messages, rendering, False)
        if plain is not None and not self.thoughts.opens:
            return rendering, plain
        if reply.marks is None and not self.thoughts.opens:
            return rendering, self.find_spans(messages, rendering)
        prompt = self.render_prompts([messages[:last]])[0]
        earlier = self.find_spans(messages[:last], prompt, True)
        span = self._span_by_prefix(messages, last, rendering)
        if span is not None and span.begin == len(prompt) and holds_reply(rendering[span.begin : span.end], reply):
            return rendering, [*earlier, span]
        if "tool_calls" in messages[last]:
            raise UserError(self._call_is_lost(last))
        text = prompt + self._continue_prompt(prompt, messages[last]["content"], reply)
        return text + self.eot, [*earlier, Span(len(prompt), len(text), len(text) + len(self.eot))]

    def _continue_prompt(self, prompt: str, content: str, reply: Reply) -> str:
        """An answer as it goes on from its prompt, which may have opened the thought already."""
        begin, end = self.thoughts.marks
        if reply.marks is None:
            return f"\n{end}\n\n{content}" if self.thoughts.opens else content
        if reply.marks != self.thoughts.marks:
            content = join_thought(reply.thought, reply.answer, self.thoughts.marks) if reply.has_ended else content
        opens_thought = content.lstrip().startswith(begin)
        if not self.thoughts.opens:
            return content if opens_thought else f"{begin}\n{content}"
        body = content.lstrip().removeprefix(begin) if opens_thought else content
        return body.removeprefix(prompt[len(prompt.rstrip()) :])  # the line break that the prompt has already

    def find_spans(self, messages: list[Message], rendering: str, generation: bool = False) -> list[Span]:
        """The span of every assistant turn in `rendered` (of `render` or `render_prompts`), proven on this very
        rendering.

        Raises:
            UserError: An answer cannot be told from the rest.
        """
        spans = self._spans_by_skeleton(messages, rendering, generation)
        if spans is not None:
            return spans
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        return [
            self._span_by_prefix(messages, i, rendering) or self._span_by_standin(messages, i, rendering, generation)
            for i in turns
        ]

    def _spans_by_skeleton(self, messages: list[Message], rendering: str, generation: bool) -> list[Span] | None:
        """The spans, where what the template writes does not depend on the contents."""
        if messages[0]["role"] == "assistant":
            raise UserError("the conversation begins with an assistant turn; put the user's turn before it")
        if has_tools(messages) or any("images" in m for m in messages):  # what is written depends on these
            return None
        key = (generation, *(m["role"] for m in messages))
        if key not in self._skeletons:
            if len(self._skeletons) >= 1024:
                self._skeletons.clear()
            self._skeletons[key] = self._build_skeleton(messages, generation)
        skeleton = self._skeletons[key]
        return skeleton.find_spans([m["content"] for m in messages], rendering) if skeleton else None

    def _build_skeleton(self, messages: list[Message], generation: bool) -> Skeleton | None:
        """Render stand-ins for all contents and see what the template writes around them."""
        fake = [{"role": m["role"], "content": STANDIN.format(i)} for i, m in enumerate(messages)]
        whole = self._render_one(fake, generation)
        parts: list[str] = []
        turns, rest = [], whole
        for index, message in enumerate(fake):
            part, separator, rest = rest.partition(message["content"])
            if not separator:
                return None
            parts.append(part)
            if message["role"] == "assistant":
                head = whole[: len(whole) - len(rest) - len(message["content"])]
                prompt = self.render_prompts([fake[:index]])[0]
                lead = len(head) - len(prompt) if head.startswith(prompt) else 0
                turns.append((index, lead, len(self._end_of(rest))))
        return Skeleton((*parts, rest), tuple(turns))

    def _span_by_end(self, messages: list[Message], turn: int, rendering: str) -> Span:
        """A turn with calls: from its prompt to the first end of turn, if what follows the turn comes after that."""
        prompt = self.render_prompts([messages[:turn]])[0]
        if not rendering.startswith(prompt):  # some prompts hold more than what stands before earlier answers
            content = {**messages[turn], "content": STANDIN.format("call")}
            prompt = self._render_one([*messages[:turn], content, *messages[turn + 1 :]], False).partition(
                content["content"]
            )[0]
        end = rendering.find(self.eot, len(prompt))
        has_call = self.special_end and rendering.startswith(prompt) and end > len(prompt)
        if has_call and turn + 1 < len(messages):
            standin = {**messages[turn + 1], "content": STANDIN.format("next")}
            other = self._render_one([*messages[: turn + 1], standin, *messages[turn + 2 :]], False)
            has_call = other.startswith(rendering[: end + len(self.eot)])
        if not has_call:
            raise UserError(self._call_is_lost(turn))
        return Span(len(prompt), end, end + len(self.eot))

    def _call_is_lost(self, turn: int) -> str:
        """Why a call cannot be trained: it is not there, or not where the model would write it."""
        return (
            f"{self.name}: the chat template does not write the tool call of message {turn + 1} behind the prompt it "
            f"makes; {MEND}"
        )

    def _render_one(self, messages: list[Message], generation: bool) -> str:
        return (self.render_prompts if generation else self.render)([messages])[0]

    def _end_of(self, tail: str) -> str:
        """The end of turn at the start of what follows an answer."""
        if self.special_end:
            return self._special_at(tail)
        return self.eot if tail.startswith(self.eot) else ""

    def _span_by_prefix(self, messages: list[Message], turn: int, rendering: str) -> Span | None:
        """Render up to the turn, and with it; the difference is the turn."""
        with_turn = self.render([messages[: turn + 1]])[0]
        end = len(with_turn) - len(self._tail)
        close = end + len(self.eot)
        if not with_turn.endswith(self._tail) or not rendering.startswith(with_turn[:close]):
            return None
        prompt = self.render_prompts([messages[:turn]])[0]
        return Span(len(prompt), end, close) if len(prompt) < end and with_turn.startswith(prompt) else None

    def _span_by_standin(self, messages: list[Message], turn: int, rendering: str, generation: bool) -> Span:
        """Render with a stand-in for this answer only; what differs is the answer."""
        if "tool_calls" in messages[turn]:
            return self._span_by_end(messages, turn, rendering)
        standin = STANDIN.format("answer")
        with_standin = [*messages[:turn], {**messages[turn], "content": standin}, *messages[turn + 1 :]]
        head, separator, tail = self._render_one(with_standin, generation).partition(standin)
        end = len(rendering) - len(tail)
        if not separator or end <= len(head) or not (rendering.startswith(head) and rendering.endswith(tail)):
            raise UserError(
                f"the chat template leaves nothing of message {turn + 1} to train on; mend the message or the template"
            )
        return Span(len(head), end, end + len(self._end_of(tail)))


def holds_reply(text: str, reply: Reply) -> bool:
    """Whether a text has thought and answer of a reply, white space aside."""
    compact_text = "".join(text.split())
    return all("".join(part.split()) in compact_text for part in (reply.thought, reply.answer))
