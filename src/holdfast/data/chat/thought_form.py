"""What a chat template does with the thoughts of a reasoning model, found out by rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from holdfast.data.chat.tools import KEPT
from holdfast.data.rows import Message
from holdfast.data.thoughts import MARKS, join_thought, split_thought
from holdfast.errors import UserError

KEYS = ("reasoning_content", "reasoning", "thinking")
"""Where templates look for the thought of a message that does not have it in its content."""
STANDIN = "holdfastthoughtstandin"


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """What a template does with thoughts.

    Args:
        marks: Opening and closing mark of a thought.
        known: Whether the template speaks of thoughts at all.
        opens: The prompt opens a thought (Qwen3-Thinking-2507, QwQ, DeepSeek-R1).
        closes: The prompt holds a thought that is over: the model is asked not to think (`enable_thinking: false`).
        listed: Contents are lists of parts, as models write them that see images too.
        keys: The thought is read from keys of the message, not from its content.
        closing: What stands between a thought and its answer.
        alike: Earlier answers without a thought stand behind the very prompt a server made for them.
        last, earlier: Whether the thought of the last answer, and of answers before it, is written at all.
    """

    marks: tuple[str, str] = MARKS[0]
    known: bool = False
    opens: bool = False
    closes: bool = False
    listed: bool = False
    keys: bool = False
    closing: str = "\n</think>\n\n"
    alike: bool = True
    last: bool = True
    earlier: bool = True

    @property
    def thinks(self) -> bool:
        """Whether the prompt leaves room for a thought of a model that knows them."""
        return self.known and not self.closes

    @classmethod
    def of(cls, text: str, prompt: str) -> ThoughtForm:
        """What the source of a template and a prompt it wrote say by themselves."""
        tail = prompt.rstrip()
        for marks in MARKS:
            opens, closes = tail.endswith(marks[0].rstrip()), tail.endswith(marks[1])
            if opens or closes:
                return cls(marks, known=True, opens=opens, closes=closes)
        for marks in MARKS:
            if marks[0].strip() in text and marks[1] in text:
                return cls(marks, known=True)
        return cls()

    def message(self, message: Message) -> Message:
        """A message as the template is given it."""
        text, more = message["content"], dict[str, str]()
        if self.keys and message["role"] == "assistant":
            reply = split_thought(text)
            if reply.thought and reply.ended:
                text, more = reply.answer, dict.fromkeys(KEYS, reply.thought)
        kept = {key: message[key] for key in KEPT if key in message}
        written = [{"type": "text", "text": text}] if self.listed else text
        return {"role": message["role"], "content": written, **kept, **more}

    def content(self, text: str) -> str:
        """An answer with the marks this template has, where it holds a thought with others."""
        if not self.known:
            return text
        reply = split_thought(text)
        if not reply.thought or not reply.ended or reply.marks == self.marks:
            return text
        return join_thought(reply.thought, reply.answer, self.marks)


class Renders(Protocol):
    """The part of `data.template.Template` that is asked here."""

    thoughts: ThoughtForm

    def render(
        self, conversations: Sequence[Sequence[Message]], generation: bool = False, form: ThoughtForm | None = None
    ) -> list[str]: ...


def learn_form(template: Renders, before: list[Message], answer: str) -> ThoughtForm:
    """`template.thoughts` with what rendering an answer that holds a thought shows.

    Args:
        before: The messages before the answer.
        answer: A stand-in that the template writes as it is.
    """
    known = template.thoughts
    past = [*before, {"role": "assistant", "content": answer}, before[-1]]
    asked = template.render([before], generation=True)[0]
    known = replace(known, alike=_written(template, past, known).startswith(asked))
    turn = {"role": "assistant", "content": join_thought(STANDIN, answer, known.marks)}
    for keys in (True, False):
        form = replace(known, keys=keys)
        head, written, rest = _written(template, [*before, turn], form).partition(STANDIN)
        if written:
            form = replace(form, closing=rest.partition(answer)[0], **_marks_behind(head, form))
            more = [*before, turn, before[-1], {"role": "assistant", "content": "."}]
            return replace(form, earlier=STANDIN in _written(template, more, form))
    return replace(known, last=False, earlier=False, closing=f"\n{known.marks[1]}\n\n")


def _marks_behind(head: str, form: ThoughtForm) -> dict[str, Any]:
    """The marks with which the template itself opens a thought, if they are known."""
    for marks in MARKS if form.keys else ():
        if head.rstrip().endswith(marks[0].rstrip()):
            return {"marks": marks, "known": True}
    return {}


def _written(template: Renders, messages: list[Message], form: ThoughtForm) -> str:
    """What the template writes of messages; nothing where it refuses them."""
    try:
        return template.render([messages], form=form)[0]
    except UserError:
        return ""
