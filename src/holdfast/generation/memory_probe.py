"""How well a model knows an answer: a question asked in several ways, several times, and the answer looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator

from holdfast.axes.engine import Request, SampleFn, SamplingParams
from holdfast.data.rows import Row, fingerprint_json
from holdfast.errors import UserError

TEMPLATES = (
    "{question}", "Question: {question}\nAnswer:", "Q: {question}\nA:", "Please answer: {question}",
    "Answer in a few words: {question}", "{question} Answer with the name only.", "Tell me: {question}",
)  # fmt: skip
"""Ways to ask that fit any question. The authors had 21 sentences to complete for each of their relations."""
LEVELS = 5


@dataclass(frozen=True)
class MemoryProbe:
    """Multi-template probing. [Ye et al. 2024, arXiv 2409.15825]

    Args:
        templates: Ways to ask: `{question}`, or what else a row has in `meta`.
        draws: Answers drawn for each.
        temperature: Of these draws.
        max_tokens: Longest of them.
        aliases: Other names of answers.
        asker: Who asks, for messages: "curator memory_levels".
    """

    templates: Sequence[str] = TEMPLATES
    draws: int = 10
    temperature: float = 0.7
    max_tokens: int = 32
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asker: str = "memory_levels"

    def count_hits(self, rows: Sequence[Row], sample: SampleFn, params: SamplingParams) -> tuple[list[int], list[int]]:
        """In how many texts each row's answer stands, and of how many, [rows] both; equal questions are asked once.

        Args:
            sample: Draws the answers.
            params: Whose seed and the rest are kept.
        Raises:
            UserError: If a row has no question, no answer to look for, or fits no template.
        """
        row_requests = [self.build_requests(row, number) for number, row in enumerate(rows, 1)]
        params = params.model_copy(
            update={"n": self.draws, "temperature": self.temperature, "max_tokens": self.max_tokens}
        )
        samples = sample(list({r.key: r for requests in row_requests for r in requests}.values()), params)
        hits, tries = [], []
        for row, requests in zip(rows, row_requests, strict=True):
            names = self.list_names(row)
            texts = [one.text.casefold() for request in requests for one in samples[request.key]]
            hits.append(sum(any(name in text for name in names) for text in texts))
            tries.append(len(texts))
        return hits, tries

    def build_requests(self, row: Row, number: int) -> list[Request]:
        """The row's question in every template for which it has the columns.

        Raises:
            UserError: If it has no question, no answer to look for, or fits no template.
        """
        questions = [m for m in row.prompt if m["role"] == "user"]
        values = {**row.meta, **({"question": questions[-1]["content"]} if questions else {})}
        usable = [t for t in self.templates if all(slot in values for slot in list_slots(t))]
        if not usable or not self.list_names(row):
            lack = "no answer to look for" if usable else "a column for none of the templates"
            raise UserError(f"{row.describe_row(number)}: has {lack}; {self.asker} needs a question and its answer")
        system = [m for m in row.prompt if m["role"] == "system"]
        talks = [[*system, {"role": "user", "content": template.format_map(values)}] for template in usable]
        return [Request(fingerprint_json(talk)[:16], talk) for talk in talks]

    def list_names(self, row: Row) -> list[str]:
        """What to look for in a text: the answer, its aliases, or each of a reference that lists several."""
        gold: Any = row.gold
        names = [str(name) for name in (gold if isinstance(gold, (list, tuple)) else [gold]) if name is not None]
        names += [alias for name in names for alias in self.aliases.get(name, ())]
        return [name.strip().casefold() for name in names if name.strip()]


def list_slots(template: str) -> list[str]:
    """The columns that a template names."""
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Ways to ask, if each has a place for a question.

    Raises:
        ValueError: If one has none.
    """
    for template in templates:
        if not list_slots(template):
            raise ValueError(f"template {template!r} has no slot: write {{question}} where the question belongs")
    return templates


Templates = Annotated[tuple[str, ...], AfterValidator(check_templates)]
"""The type of a knob that holds ways to ask."""


def find_level(hits: int, tries: int) -> int:
    """0 where there is no hit, else i where the share lies in ((i - 1)/4, i/4]."""
    return -(-4 * hits // tries)
