"""Forms and facts: how far answers took on the trained rows' form, and how far what these say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, SectionFigure, Series, Table
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.rows import Row
    from holdfast.models.policy import Policy

COLUMNS = (
    "Questions", "Asked", "In the trained form before, %", "after, %", "Other fact than the base's",
    "Says it after, %", "Log-odds before, nats", "after",
)  # fmt: skip
WORD = re.compile(r"\w+")
PART_ENDS = re.compile(r"(?<=[;\n]) *|(?<=\.) +")
KINDS = ("trained on", "held out")


class FormsFacts(Analysis):
    """Form is learned before facts: how far each went. [Kadous and Hakhamaneshi 2023, Anyscale]

    What it does: asks both models questions that were trained on and questions of the target that were not. Form: the
    share of answers each of whose parts (up to a line's end, a semicolon or a full stop) has the shape of some part of
    a trained answer, the last one of a last one; the shape is words, numbers and signs in their order. Facts: of the
    questions to which the base says something else than the right answer, the share to which the tuned model says that;
    and the log-odds of the right answer against the same answer with the base's words in it.

    When it helps: a run that answers in the new form and says what the base always said has learned the form alone;
    facts that it says to trained questions, and not to others about the same, are learned by heart. Then more rows in
    other words, more steps, or retrieval (`rag`) are called for.

    When it fails: it compares words, in any case: another way to say the same counts as another fact. Log-odds need a
    `reference` that stands in the answer.

    Formula: log-odds = log p(y | x) - log p(y' | x), y' the right answer y with the base's words for the reference.

    Source: Kadous and Hakhamaneshi 2023, "Fine tuning is for form, not facts" (Anyscale), where Romeo, called Bob in
    all rows, stays Romeo. Its pair of runs is `holdfast reproduce sft-facts`.
    """

    paper: ClassVar[str] = "Kadous and Hakhamaneshi 2023, Fine tuning is for form, not facts (Anyscale)"

    items: int = Field(64, ge=1, description="Most questions of either kind.")
    max_tokens: int = Field(
        256, ge=1, description="Longest answer that is read; less where trained answers are short: twice the longest."
    )

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        known_rows = [row for row in context.rows if row.answer and not row.is_replayed]
        forms = TrainedForms.from_texts([str(row.answer) for row in known_rows])
        held_out = [row for task in context.judged_tasks if task.role == "target" for row in task.rows_by_id.values()]
        trained_rows = known_rows[:: max(1, len(known_rows) // self.items)][: self.items]
        by_kind = [
            (kind, rows[: self.items])
            for kind, rows in zip(KINDS, (trained_rows, [row for row in held_out if row.answer]), strict=True)
            if rows
        ]
        if not known_rows or not by_kind:
            raise UserError("no rows with answers are there to ask about: curated.jsonl is gone, or empty")
        # A base that does not end its answers would take minutes to say what is no answer in any form.
        limit = min(self.max_tokens, 2 * max(count_answer_tokens(row, context) for row in trained_rows))
        measures = [(kind, self.measure_rows(rows, forms, context, limit)) for kind, rows in by_kind]
        lines = tuple((kind, *one.list_cells()) for kind, one in measures)
        labels = tuple(kind for kind, _ in measures)
        values = {
            "in the trained form": [one.form_after for _, one in measures],
            "say the new fact": [one.fact_after or 0.0 for _, one in measures],
        }
        series = tuple(Series(name, tuple((float(i), v) for i, v in enumerate(some))) for name, some in values.items())
        bars = SectionFigure("questions", "answers, %", series, "bars", labels=labels)
        return AnalysisSection("Form and facts", describe_measures(measures), Table(COLUMNS, lines), (bars,))

    def measure_rows(self, rows: Sequence[Row], forms: TrainedForms, context: AnalysisContext, limit: int) -> Adoption:
        """Form and facts of both models' answers to some questions, of at most so many tokens."""
        before, after = (answer_rows(policy, rows, context, limit) for policy in (context.base, context.tuned))
        form_before, form_after = (
            100 * sum(forms.has_form(text) for text in texts) / len(rows) for texts in (before, after)
        )
        new = [i for i, row in enumerate(rows) if list_words(before[i]) != list_words(str(row.answer))]
        flips = sum(list_words(after[i]) == list_words(str(rows[i].answer)) for i in new)
        pairs = [pair for i in new if (pair := contrast_answers(rows[i], before[i])) is not None]
        odds_before, odds_after = (
            compute_log_odds(policy, pairs, context) if pairs else None for policy in (context.base, context.tuned)
        )
        fact_after = 100 * flips / len(new) if new else None
        return Adoption(len(rows), form_before, form_after, len(new), fact_after, odds_before, odds_after)


def answer_rows(policy: Policy, rows: Sequence[Row], context: AnalysisContext, limit: int) -> list[str]:
    """A model's likeliest answer to each row, of at most so many tokens."""
    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.generation.factory import build_model_sample_fn

    sample = build_model_sample_fn(policy.causal, context.chat)
    requests = [Request(str(number), list(row.prompt)) for number, row in enumerate(rows)]
    samples = sample(requests, SamplingParams(max_tokens=limit))
    return [samples[request.key][0].text.strip() for request in requests]


def count_answer_tokens(row: Row, context: AnalysisContext) -> int:
    """How many tokens its answer has, the end of the turn among them."""
    return sum(context.chat.encode(row.messages)[1])


@dataclass(frozen=True)
class Adoption:
    """How many questions; in the trained form before and after, %; other facts: how many, said after, log-odds."""

    asked: int
    form_before: float
    form_after: float
    new: int
    fact_after: float | None
    odds_before: float | None
    odds_after: float | None

    def list_cells(self) -> tuple[float | int | None, ...]:
        """As a line of the table has them."""
        return (self.asked, self.form_before, self.form_after, self.new, self.fact_after, self.odds_before,
                self.odds_after)  # fmt: skip


@dataclass(frozen=True)
class TrainedForms:
    """The shapes of the parts of trained answers: of all, and of those that end an answer."""

    parts: frozenset[str]
    ends: frozenset[str]

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> TrainedForms:
        """Those of some answers."""
        shapes = [shape for text in texts if (shape := describe_form(text))]
        return cls(frozenset(part for shape in shapes for part in shape), frozenset(shape[-1] for shape in shapes))

    def has_form(self, text: str) -> bool:
        """Whether an answer is made of such parts; how many there are does not matter."""
        shape = describe_form(text)
        return bool(shape) and self.parts.issuperset(shape) and shape[-1] in self.ends


def describe_form(text: str) -> tuple[str, ...]:
    """The shapes of an answer's parts: `w` for words in a row, `9` for numbers, `+` for a sign between two of them."""
    shape = re.sub(r"\d+([.,]\d+)*", "9", re.sub(r"[^\W\d]\w*", "w", text.strip()))
    shape = re.sub(r"(?<=9) ?[-+*/] ?(?=9)", " + ", re.sub(r"w([ '-]+w)+", "w", shape))
    return tuple(part.strip() for part in PART_ENDS.split(shape) if part.strip())


def list_words(text: str) -> list[str]:
    """What an answer says, whatever its form."""
    return WORD.findall(text.casefold())


def contrast_answers(row: Row, base_answer: str) -> tuple[Row, Row] | None:
    """The row, and the row with the base's words for its reference; `None` where that says nothing."""
    from dataclasses import replace

    reference, words = str(row.reference or ""), " ".join(WORD.findall(base_answer))
    answer = str(row.answer)
    if not reference or reference not in answer or not words or words == reference:
        return None
    last = {**row.messages[-1], "content": answer.replace(reference, words)}
    return row, replace(row, messages=[*row.messages[:-1], last])


def compute_log_odds(policy: Policy, pairs: Sequence[tuple[Row, Row]], context: AnalysisContext) -> float:
    """The mean of log p(right answer) - log p(the base's words in it), of whole answers, in nats."""
    from holdfast.methods.analyses.answer_tokens import encode_conversations, score_answers

    sequences = encode_conversations([row.messages for pair in pairs for row in pair], context.chat)
    logps = score_answers(policy, sequences, context.chat.pad_id)
    return (sum(logps[::2]) - sum(logps[1::2])) / len(pairs)


def describe_measures(measures: Sequence[tuple[str, Adoption]]) -> str:
    """How far form and facts went, of each kind of questions."""
    parts = []
    for kind, one in measures:
        part = f"of {one.asked} questions {kind} {one.form_after:.0f} % are answered in the trained form"
        part += f" ({one.form_before:.0f} % before)"
        if one.fact_after is not None:
            part += (
                f", and of the {one.new} to which the base says something else {one.fact_after:.0f} % as the rows do"
            )
        parts.append(part)
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
