"""What a report holds: one description for a run, stages, an evaluation and a comparison, their pages and their cards.

Whoever writes a report checks it against this, whoever reads one too, and the pages ask for these names. What a report
of an older version does not hold is `None` to a page; what one of a newer version holds besides stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

VERSION = 2
"""Of the reports written here. Those of Holdfast 0.1 say none, which stands for 1: no units, probe or held-out loss."""

Number: TypeAlias = int | float | None
Table: TypeAlias = dict[str, Any]


class ReportPart(BaseModel):
    """A part of a report: every entry may be missing, and there may be others."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ChangeReport(ReportPart):
    """A gain, a loss, or another difference (tuned - base) with its 95 % interval.

    Args:
        delta, low, high: In `unit`; the ends are `None` where no interval can be given. percent: Of the base's figure.
        n: Questions. worst: The task that lost most. of: What a loss is of, "tasks" or "probe".
        base, tuned: The two figures, where there are single ones.
    """

    base: Number = None
    tuned: Number = None
    delta: Number = None
    low: Number = None
    high: Number = None
    n: int | None = None
    unit: str | None = None
    percent: Number = None
    worst: str | None = None
    of: str | None = None


class TaskReport(ReportPart):
    """A task before and after.

    Args:
        name, role, kind, judge: Of the task. n: Questions. unit, better: What the figures are counted in, and which
            way is better.
        base, tuned, delta, low, high, percent: As ChangeReport.
        p: Of McNemar's test on the `won` and `lost` answers. noise: What an unpaired comparison could not have seen.
        stop, length, unreadable: Share of answers that were ended, their mean tokens, and how many no judge could read.
        flips: Answers that changed. extra: The same likelihood in other units.
        thoughts, unanswered: Counts for both models. left_out: Questions that neither figure counts.
        answering: How often the tuned model was asked for an answer and what it wrote for it, and the figures of other
            answers that stand beside it, where an inference method makes several.
        episodes: Mean turns and return, and the share that succeeded at once, where the model plays in an environment.
    """

    name: str = ""
    role: str | None = None
    kind: str | None = None
    judge: str | None = None
    n: int | None = None
    unit: str | None = None
    better: str | None = None
    base: Number = None
    tuned: Number = None
    delta: Number = None
    low: Number = None
    high: Number = None
    percent: Number = None
    p: Number = None
    won: int | None = None
    lost: int | None = None
    noise: Number = None
    stop_base: Number = None
    length_base: Number = None
    unreadable_base: Number = None
    stop_tuned: Number = None
    length_tuned: Number = None
    unreadable_tuned: Number = None
    flips: list[Table] | None = None
    extra: Table | None = None
    thoughts: Table | None = None
    unanswered: Table | None = None
    left_out: int | None = None
    answering: Table | None = None
    episodes: Table | None = None


class StageReport(ReportPart):
    """One stage of several, on the tasks of the whole recipe."""

    name: str | None = None
    method: str | None = None
    model: str | None = None
    directory: str | None = None
    rows: int | None = None
    steps: int | None = None
    tokens: int | None = None
    seconds: Number = None
    gain: ChangeReport | None = None
    loss: ChangeReport | None = None
    text: ChangeReport | None = None
    held_out: ChangeReport | None = None
    target: Number = None
    keep: Number = None


class CurvePoint(ReportPart):
    """A step of training, or the base at step 0, with what was measured there."""

    step: int | None = None
    tokens: int | None = None
    loss: Number = None
    learning_rate: Number = None
    target: Number = None
    keep: Number = None
    text: Number = None
    held_out: Number = None


class CurationReport(ReportPart):
    """Rows by origin, what the curators counted, what they left out by reason, and a few rows.

    Args:
        decontaminated: Whether rows that overlap with what is measured were left out.
    """

    counts: dict[str, Number] | None = None
    notes: dict[str, Number] | None = None
    dropped: list[Table] | None = None
    decontaminated: bool | None = None
    examples: list[Table] | None = None


class TrainingReport(ReportPart):
    """What was trained on, and how far.

    Args:
        arithmetic: In which types, where the recipe chose them. base_bits: Of the frozen base while it was trained on.
    """

    rows: int | None = None
    steps: int | None = None
    planned_steps: int | None = None
    kept_step: int | None = None
    stopped_early: bool | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    dropped: dict[str, int] | None = None
    epochs: Number = None
    batch_tokens: int | None = None
    batch: str | None = None
    learning_rate: str | None = None
    windows: int | None = None
    clipped: Number = None
    clip_factor: Number = None
    arithmetic: str | None = None
    base_bits: int | None = None
    warnings: list[str] | None = None


class CostReport(ReportPart):
    """Seconds by phase, speed, memory and sampled tokens; what measuring the tuned model took.

    Args:
        forward_passes: For its sampled answers, one for each token of every model. questions: How many it answered so.
    """

    seconds: dict[str, Number] | None = None
    tokens_per_second: Number = None
    peak_memory_gib: Number = None
    sampled_tokens: Number = None
    sampled_for_training: Number = None
    answer_seconds: Number = None
    forward_passes: Number = None
    questions: Number = None


class GateReport(ReportPart):
    """Whether the result was let pass, and why not."""

    passed: bool | None = None
    reasons: list[str] | None = None


class ModelReport(ReportPart):
    """The model before training."""

    name: str | None = None
    fingerprint: str | None = None
    parameters: int | None = None
    trainable: int | None = None
    dtype: str | None = None
    measured_dtype: str | None = None
    library: str | None = None
    decoding: str | None = None


class AnalysisTable(ReportPart):
    """Names of the columns, and rows of texts and numbers."""

    columns: list[str]
    rows: list[list[str | int | float | None]]


class FigureSeries(ReportPart):
    """What has one colour in a figure, or is one row of a heat map: its name, and its points (x, y)."""

    name: str = ""
    points: list[tuple[float, float]] = Field(default_factory=list)


class AnalysisFigure(ReportPart):
    """A figure as data, which the page draws and a board can draw likewise (`axes.analysis.Figure`).

    Args:
        points: Of a report of an older version, which had one curve.
    """

    x: str
    y: str
    kind: str = "lines"
    title: str = ""
    labels: list[str] = Field(default_factory=list)
    series: list[FigureSeries] = Field(default_factory=list)
    points: list[tuple[float, float]] | None = None


class SectionReport(ReportPart):
    """What an analysis adds to a report (`axes.analysis.AnalysisSection`): text, a table, figures, questions.

    Args:
        about: What the analysis looks at, in a line.
        figure: Of a report of an older version, which had one.
    """

    title: str
    sentence: str
    name: str | None = None
    about: str | None = None
    table: AnalysisTable | None = None
    figures: list[AnalysisFigure] = Field(default_factory=list)
    examples: list[Table] = Field(default_factory=list)
    figure: AnalysisFigure | None = None


class RunReport(ReportPart):
    """`report.json`: of a run, of several stages (with `stages`), or of an evaluation (without what only training has).

    Args:
        version: Of this description. holdfast, versions: What it was made with.
        name, created, method, recipe, model, chat: Of the run.
        tasks, gain, loss, text, held_out, probe: What changed.
        analyses: The sections that analyses add.
    """

    version: int = 1
    holdfast: str | None = None
    name: str | None = None
    created: str | None = None
    method: str | None = None
    recipe: Table | None = None
    versions: Table | None = None
    model: ModelReport | None = None
    chat: Table | None = None
    tasks: list[TaskReport] = Field(default_factory=list)
    gain: ChangeReport | None = None
    loss: ChangeReport | None = None
    text: ChangeReport | None = None
    held_out: ChangeReport | None = None
    probe: Table | None = None
    gate: GateReport | None = None
    stages: list[StageReport] = Field(default_factory=list)
    curves: list[CurvePoint] = Field(default_factory=list)
    curation: CurationReport | None = None
    training: TrainingReport | None = None
    cost: CostReport | None = None
    analyses: list[SectionReport] = Field(default_factory=list)


class RunOutline(BaseModel):
    """What a list of many runs shows of `report.json`: the rest is passed over unread, which is twenty times as quick.

    Args:
        name, method, recipe, model, gain, loss, text, gate, cost: As RunReport.
    """

    model_config = ConfigDict(protected_namespaces=())

    name: str | None = None
    method: str | None = None
    recipe: Table | None = None
    model: ModelReport | None = None
    gain: ChangeReport | None = None
    loss: ChangeReport | None = None
    text: ChangeReport | None = None
    gate: GateReport | None = None
    cost: CostReport | None = None


class MethodReport(ReportPart):
    """One method of a comparison, over its seeds."""

    method: str
    inference: str | None = None
    gain: ChangeReport | None = None
    loss: ChangeReport | None = None
    text: ChangeReport | None = None
    target: Number = None
    keep: Number = None
    held_out: Number = None
    gate: GateReport | None = None
    cost: CostReport | None = None
    trainable: int | None = None
    curves: list[list[CurvePoint]] = Field(default_factory=list)


class CompareReport(ReportPart):
    """`compare.json`: several methods on the same rows, from the same model, by the same number of steps."""

    version: int = 1
    name: str | None = None
    created: str | None = None
    recipe: Table | None = None
    budget: str | None = None
    versions: Table | None = None
    model: ModelReport | None = None
    tasks: list[TaskReport] = Field(default_factory=list)
    runs: list[MethodReport] = Field(default_factory=list)
    matched: Table | None = None
    answers: list[Table] | None = None


def validate_report(kind: type[RunReport] | type[CompareReport], content: Mapping[str, Any]) -> dict[str, Any]:
    """A report to be written: checked, with the version of this description.

    Raises:
        pydantic.ValidationError: If it is no such report.
    """
    return kind.model_validate({"version": VERSION, **content}).model_dump(exclude_unset=True)


def complete_part(part: Mapping[str, Any] | None, kind: type[ReportPart]) -> dict[str, Any]:
    """A part with `None` for every entry that a report (an older one, a partial one) does not hold."""
    return {**dict.fromkeys(kind.model_fields), **(part or {})}
