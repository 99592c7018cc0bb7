"""The contract of an analysis: what is looked at in base and tuned models, as one section of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from holdfast.axes.method import Method
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Row, Rows
    from holdfast.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Table:
    """Names of the columns, and rows of texts and numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """What has one colour in a figure (of a heat map: one line): its name, and its points (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class SectionFigure:
    """A figure as data.

    Args:
        x, y: What stands at the axes, with its unit; of a heat map `y` is what its colours stand for.
        series: What is drawn.
        kind: "lines"; "scatter"; "bars": beside each other, at every label one of each series; "heat": a row for each
            series and a column for each label.
        title: Above it; default: the section's.
        labels: Names of the places along x, in order: a point's x is its place, from 0. Bars and heat maps need them.
    """

    x: str
    y: str
    series: tuple[Series, ...]
    kind: Literal["lines", "scatter", "bars", "heat"] = "lines"
    title: str = ""
    labels: tuple[str, ...] = ()


def curve_figure(x: str, y: str, points: Sequence[tuple[float, float]]) -> SectionFigure:
    """A figure of one curve: what stands at the axes, with its unit, and (x, y) from left to right."""
    return SectionFigure(x, y, (Series(y, tuple(points)),))


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """A question with the answers of both models, as it stands below a section.

    Args:
        group: The heading that it stands under.
        id, prompt, reference: Of the question.
        base, tuned: The two answers.
        won: Whether the tuned model's is the right one and the base's a wrong one, or the other way round; `None`
            where the two are not held against each other so.
        note: Why it stands in its group.
    """

    group: str
    id: str
    prompt: str
    reference: str
    base: str
    tuned: str
    won: bool | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class AnalysisSection:
    """What an analysis has to say.

    Args:
        title: A few words.
        sentence: What was seen, in one sentence with its number.
        table: The numbers behind it.
        figures: Drawn in this order.
        examples: Questions and answers that show it, those of one group one after another.
    """

    title: str
    sentence: str
    table: Table
    figures: tuple[SectionFigure, ...] = ()
    examples: tuple[AnswerExample, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return asdict(self)


OPTIONS = "options"
"""Key of `MeasuredAnswer.extra`, of multiple choice: the log-probability of every option, one of which is picked."""


class MeasuredAnswer(Protocol):
    """What a task's measurement keeps of one question; see `evaluation.task.ItemResult`."""

    id: str
    prompt: str
    response: str
    reference: str
    score: float
    passed: bool
    stopped: bool
    tokens: int
    reason: str
    unreadable: bool
    extra: dict[str, Any]


@dataclass(frozen=True)
class AnalysedTask:
    """A task of the recipe with what both models made of it.

    Args:
        name, kind, role: Of the task.
        base, tuned: The answers, of the same questions.
        open_rows: Gives the questions themselves, whose ids are those of the answers.
    """

    name: str
    kind: Literal["generate", "choice", "perplexity", "held_out", "probe", "episodes"]
    role: Literal["target", "keep", "watch"]
    base: Sequence[MeasuredAnswer]
    tuned: Sequence[MeasuredAnswer]
    open_rows: Callable[[], Sequence[Row]] = tuple

    @property
    def is_judged(self) -> bool:
        """Whether each answer is right or wrong."""
        return self.kind in ("generate", "choice", "episodes")

    @cached_property
    def rows_by_id(self) -> dict[str, Row]:
        """The questions; read when they are first asked for."""
        return {row.id: row for row in self.open_rows()}

    def pair_answers(self) -> list[tuple[MeasuredAnswer, MeasuredAnswer]]:
        """The two answers to each question that both were asked."""
        after = {answer.id: answer for answer in self.tuned}
        return [(answer, after[answer.id]) for answer in self.base if answer.id in after]


@dataclass(frozen=True)
class AnalysedRun:
    """A finished run among several.

    Args:
        name: Short, and unlike that of the others.
        group: What its seeds share: the method.
        seed: Its own.
        tasks: With what base and run answered.
        open_policy: Loads its tuned model, in eval mode, each time it is called: hold one at a time.
        n_rows: How many rows it was trained on.
    """

    name: str
    group: str
    seed: int
    tasks: Sequence[AnalysedTask]
    open_policy: Callable[[], Policy]
    n_rows: int = 0


@dataclass
class AnalysisContext:
    """What an analysis looks at. Models are loaded when they are first asked for: answers alone need none.

    Args:
        rows: What was trained on.
        tasks: The recipe's tasks with the answers of base and tuned model; of several runs, those of the first.
        chat: Makes tokens of conversations, as in training.
        open_base, open_tuned: Give the models, in eval mode and on one device.
        open_folded: Gives the tuned model as plain weights, an adapter folded in.
        runs: All runs that are compared; one where an analysis looks at one run.
    """

    rows: Rows
    tasks: Sequence[AnalysedTask]
    chat: Chat
    open_base: Callable[[], Policy]
    open_tuned: Callable[[], Policy]
    open_folded: Callable[[], Policy]
    runs: Sequence[AnalysedRun] = field(default=())

    @cached_property
    def base(self) -> Policy:
        """The model before training."""
        return self.open_base()

    @cached_property
    def tuned(self) -> Policy:
        """The model after it, as it is measured and saved; plain, or with an adapter."""
        return self.open_tuned()

    @cached_property
    def plain_tuned(self) -> Policy:
        """The same with its adapter folded in, for who compares weight by weight."""
        return self.open_folded()

    @property
    def judged_tasks(self) -> list[AnalysedTask]:
        """Those of which each answer is right or wrong."""
        return [task for task in self.tasks if task.is_judged]


class Analysis(Method):
    """What is looked at after training. It trains nothing and changes no model."""

    folds: ClassVar[bool] = False
    """Whether it reads `context.plain_tuned`: what cannot be folded into the weights is refused."""
    compares: ClassVar[bool] = False
    """Whether it looks at several runs (`context.runs`): `holdfast analyse A B C`, and not in a recipe."""
    across_bases: ClassVar[bool] = False
    """Whether these runs may have started from different models."""

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        """Look at the models, in eval mode and on one device, gradients off, and at what they answered.

        Raises:
            UserError: If there is nothing here that it could look at.
        """
        raise UserError(f"analysis {type(self).__name__} has no method `measure`: write one")
