"""How a model is asked: system message, chat template, what the template is given, and what becomes of thoughts.

They belong to the numbers and to the model: they are derived from the recipe and its rows once, told, and kept beside
the weights (`chat_settings.json`), so that whoever measures, serves or talks to the model asks it as it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data.chat.encoder import Chat, Thoughts
from holdfast.data.chat.template import Template
from holdfast.data.chat.template_source import SWITCHES, names_in, source_of
from holdfast.data.rows import Row, Rows
from holdfast.data.thoughts import split_thought
from holdfast.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from holdfast.recipe.data_section import Data

FILE = "chat_settings.json"
SCAN_LIMIT = 20_000
"""Most rows looked at for thoughts, spread evenly."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What `Chat` is given besides the tokenizer.

    Args:
        system: System message of conversations that have none.
        chat_template_kwargs: What the chat template is given.
        thoughts: Whether thoughts are trained.
        template: Jinja source instead of the tokenizer's; not stored, because models are saved with it.
        lines: What is to be told of how they were derived.
        warnings: What may be a mistake.
    """

    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    thoughts: Thoughts = "train"
    template: str | None = None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def build_chat(self, tokenizer: PreTrainedTokenizerBase) -> Chat:
        """A tokenizer with these settings."""
        return Chat(
            tokenizer, self.system, kwargs=self.chat_template_kwargs, thoughts=self.thoughts, source=self.template
        )

    @classmethod
    def from_chat(cls, chat: Chat) -> ChatSettings:
        """The settings of a chat."""
        return cls(chat.system, chat.template.kwargs, chat.thoughts, chat.template.text)

    def to_json(self) -> dict[str, Any]:
        """What is kept beside the weights."""
        values = asdict(self)
        return {key: values[key] for key in ("system", "chat_template_kwargs", "thoughts")}


def settings_of(model: str | Path) -> ChatSettings | None:
    """The settings kept beside a model's weights, if there are any.

    Args:
        model: Its folder, or the run directory that holds it; what is neither has none.
    Raises:
        UserError: If the file cannot be read.
    """
    for path in (Path(model) / FILE, Path(model) / "model" / FILE):
        if path.exists():
            try:
                return ChatSettings(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: not the chat settings of a model ({error}); remove or mend it") from error
    return None


def write_settings(model: Path, chat: Chat) -> None:
    """Keep a chat's settings beside a model's weights."""
    text = json.dumps(ChatSettings.from_chat(chat).to_json(), indent=1, ensure_ascii=False)
    (model / FILE).write_text(text + "\n", encoding="utf-8")


def make_chat(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *rows: Rows,
    say: Callable[[str], Any] = len,
    warn: Callable[[str], Any] = len,
) -> Chat:
    """The chat of a recipe, told in a line or two where thoughts or the template's settings play a part.

    Args:
        rows: All that is trained or measured.
        say, warn: What is called with each line.
    Raises:
        UserError: As `derive_settings`.
    """
    settings = derive_settings(data, tokenizer, *rows)
    for line in settings.lines:
        say(line)
    for line in settings.warnings:
        warn(line)
    return settings.build_chat(tokenizer)


def derive_settings(data: Data, tokenizer: PreTrainedTokenizerBase, *rows: Rows) -> ChatSettings:
    """The settings of a recipe, those it leaves open derived from its rows.

    A template that can be told not to think is told so where no row holds a thought to be trained or read; where some
    do, it is told to think, if it does not by itself.

    Args:
        rows: All that is trained or measured.
    Raises:
        UserError: If there is no such template, or it never reads what it is to be given.
    """
    source = source_of(tokenizer, data.chat_template)
    counts = ThoughtCounts.from_rows(rows)
    strip = data.thoughts == "strip"
    kwargs, why = data.chat_template_kwargs, ""
    if kwargs is None:
        kwargs = derive_kwargs(tokenizer, source, bool(counts.with_thought) and not strip)
        if kwargs:
            why = (
                "no row holds a thought"
                if not counts.with_thought or strip
                else f"{counts.with_thought:,} rows hold a thought"
            )
    template = Template(tokenizer, kwargs, source)
    lines, warnings = counts.format_lines(data.thoughts, template), counts.format_warnings()
    if kwargs:
        kwargs_text = json.dumps(dict(kwargs), ensure_ascii=False)
        lines.insert(0, f"chat template: given {kwargs_text}" + (f", because {why}" if why else ""))
    return ChatSettings(data.system, dict(kwargs), data.thoughts, source, tuple(lines), tuple(warnings))


def derived_sources(data: Data, chat: Chat) -> dict[str, str]:
    """Where the settings of the chat come from that a recipe leaves open, by dotted name, with the value they got."""
    kwargs = chat.template.kwargs
    if data.chat_template_kwargs is not None or not kwargs:
        return {}
    why = "some rows hold a thought" if any(kwargs.values()) else "no row holds a thought to be read"
    return {"data.chat_template_kwargs": f"derived: {json.dumps(kwargs, ensure_ascii=False)}, because {why}"}


def brief_chat(tokenizer: PreTrainedTokenizerBase) -> Chat:
    """A chat whose prompt asks for no thought, where the template can be told so."""
    return Chat(tokenizer, kwargs=derive_kwargs(tokenizer, source_of(tokenizer), False))


def derive_kwargs(tokenizer: PreTrainedTokenizerBase, source: str, thinks: bool) -> dict[str, Any]:
    """What a template must be given so that its prompt asks for a thought, or for none; nothing where it does already,
    or cannot be told."""
    words = names_in(source)
    own = Template(tokenizer, {}, source)
    for switch in SWITCHES:
        if switch not in words or (own.thoughts.closes if not thinks else own.thoughts.opens):
            continue
        switch_template = Template(tokenizer, {switch: thinks}, source)
        user = [{"role": "user", "content": "x"}]
        if switch_template.render_prompts([user]) != own.render_prompts([user]):
            return {switch: thinks}
    return {}


@dataclass(slots=True)
class ThoughtCounts:
    """How many rows hold a thought in an answer, how many one that does not end, and how many train earlier answers."""

    rows: int = 0
    with_thought: int = 0
    without_end: int = 0
    earlier: int = 0

    @classmethod
    def from_rows(cls, several: Iterable[Rows]) -> ThoughtCounts:
        """Count in rows; of many, in as many as `SCAN_LIMIT`, spread evenly."""
        counts = cls()
        for rows in several:
            for row in rows[:: max(1, -(-len(rows) // SCAN_LIMIT))]:
                replies = [split_thought(text) for text in answers_of(row)]
                counts.rows += 1
                counts.with_thought += any(reply.thought for reply in replies)
                counts.without_end += any(not reply.has_ended for reply in replies)
                turns = [m for m in row.messages[:-1] if m["role"] == "assistant" and m.get("weight", 1) != 0]
                counts.earlier += bool(turns) and row.answer is not None
        return counts

    def format_lines(self, thoughts: Thoughts, template: Template) -> list[str]:
        """What is done with thoughts, for the terminal; nothing where neither rows nor template know any."""
        form, out = template.thoughts, []
        if self.with_thought:
            what = {"train": "trained with the answers", "mask": "read but not trained", "strip": "taken out"}[thoughts]
            cut = ", although the chat template would cut them" if not form.last and thoughts != "strip" else ""
            out.append(
                f"thoughts: {self.with_thought:,} of {self.rows:,} rows hold one; they are {what}{cut} "
                f"(data.thoughts: {thoughts})"
            )
        bare = self.rows - (0 if thoughts == "strip" else self.with_thought)
        if form.opens and bare:
            out.append(
                f"thoughts: the prompt opens one ({template.opening.strip()}), and {bare:,} of {self.rows:,} rows have "
                "none; behind it their answers are trained to end it at once"
            )
        if self.earlier and not form.alike:
            out.append(
                f"chat template: earlier answers of a conversation (rows: {self.earlier:,}) stand in it behind another "
                "prompt than a server makes for them; there they are trained as they stand"
            )
        return out

    def format_warnings(self) -> list[str]:
        """A line when thoughts do not end."""
        if not self.without_end:
            return []
        return [f"{self.without_end:,} of {self.rows:,} rows hold a thought that does not end: no answer follows it"]


def answers_of(row: Row) -> list[str]:
    """All texts of the assistant's that a row holds."""
    texts = [m["content"] for m in row.messages if m["role"] == "assistant" and m.get("weight", 1) != 0]
    more = row.meta.get("answers")
    texts += [row.chosen, row.rejected, *(more if isinstance(more, list) else [])]
    return [text for text in texts if isinstance(text, str)]
