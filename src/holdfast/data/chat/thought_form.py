"""What a chat template does with the thoughts of a reasoning model, found out by rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from holdfast.data.chat.tools import TOOL_KEYS
from holdfast.data.pictures.references import split_content
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
        knows_thoughts: Whether the template speaks of thoughts at all.
        opens: The prompt opens a thought (Qwen3-Thinking-2507, QwQ, DeepSeek-R1).
        closes: The prompt holds a thought that is over: the model is asked not to think (`enable_thinking: false`).
        takes_parts: Contents are lists of parts, as models write them that see images too.
        keys: The thought is read from keys of the message, not from its content.
        closing: What stands between a thought and its answer.
        alike: Earlier answers without a thought stand behind the very prompt a server made for them.
        last, earlier: Whether the thought of the last answer, and of answers before it, is written at all.
    """

    marks: tuple[str, str] = MARKS[0]
    knows_thoughts: bool = False
    opens: bool = False
    closes: bool = False
    takes_parts: bool = False
    keys: bool = False
    closing: str = "\n</think>\n\n"
    alike: bool = True
    last: bool = True
    earlier: bool = True

    @property
    def allows_thought(self) -> bool:
        """Whether the prompt leaves room for a thought of a model that knows them."""
        return self.knows_thoughts and not self.closes

    @classmethod
    def from_source(cls, text: str, prompt: str) -> ThoughtForm:
        """What the source of a template and a prompt it wrote say by themselves."""
        tail = prompt.rstrip()
        for marks in MARKS:
            opens, closes = tail.endswith(marks[0].rstrip()), tail.endswith(marks[1])
            if opens or closes:
                return cls(marks, knows_thoughts=True, opens=opens, closes=closes)
        for marks in MARKS:
            if marks[0].strip() in text and marks[1] in text:
                return cls(marks, knows_thoughts=True)
        return cls()

    def build_message(self, message: Message) -> Message:
        """A message as the template is given it."""
        text, more = message["content"], dict[str, str]()
        if self.keys and message["role"] == "assistant":
            reply = split_thought(text)
            if reply.thought and reply.has_ended:
                text, more = reply.answer, dict.fromkeys(KEYS, reply.thought)
        tool_fields = {key: message[key] for key in TOOL_KEYS if key in message}
        content: Any = [{"type": "text", "text": text}] if self.takes_parts else text
        if "images" in message:
            content = split_content(message)
        return {"role": message["role"], "content": content, **tool_fields, **more}

    def convert_marks(self, text: str) -> str:
        """An answer with the marks this template has, where it holds a thought with others."""
        if not self.knows_thoughts:
            return text
        reply = split_thought(text)
        if not reply.thought or not reply.has_ended or reply.marks == self.marks:
            return text
        return join_thought(reply.thought, reply.answer, self.marks)


class TemplateRenderer(Protocol):
    """The part of `data.template.Template` that is asked here."""

    thoughts: ThoughtForm

    def render(
        self, conversations: Sequence[Sequence[Message]], generation: bool = False, form: ThoughtForm | None = None
    ) -> list[str]: ...


def learn_form(template: TemplateRenderer, before: list[Message], answer: str) -> ThoughtForm:
    """`template.thoughts` with what rendering an answer that holds a thought shows.

    Args:
        before: The messages before the answer.
        answer: A stand-in that the template writes as it is.
    """
    base = template.thoughts
    past = [*before, {"role": "assistant", "content": answer}, before[-1]]
    prompt = template.render([before], generation=True)[0]
    base = replace(base, alike=_render_or_empty(template, past, base).startswith(prompt))
    turn = {"role": "assistant", "content": join_thought(STANDIN, answer, base.marks)}
    for keys in (True, False):
        form = replace(base, keys=keys)
        head, separator, rest = _render_or_empty(template, [*before, turn], form).partition(STANDIN)
        if separator:
            form = replace(form, closing=rest.partition(answer)[0], **_marks_behind(head, form))
            more = [*before, turn, before[-1], {"role": "assistant", "content": "."}]
            return replace(form, earlier=STANDIN in _render_or_empty(template, more, form))
    return replace(base, last=False, earlier=False, closing=f"\n{base.marks[1]}\n\n")


def _marks_behind(head: str, form: ThoughtForm) -> dict[str, Any]:
    """The marks with which the template itself opens a thought, if they are known."""
    for marks in MARKS if form.keys else ():
        if head.rstrip().endswith(marks[0].rstrip()):
            return {"marks": marks, "knows_thoughts": True}
    return {}


def _render_or_empty(template: TemplateRenderer, messages: list[Message], form: ThoughtForm) -> str:
    """What the template writes of messages; nothing where it refuses them."""
    try:
        return template.render([messages], form=form)[0]
    except UserError:
        return ""
