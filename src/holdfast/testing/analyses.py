"""What every analysis must do: change no model, say something that can be drawn and written, and say it again."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from holdfast.axes.analysis import AnalysedRun, AnalysedTask, Analysis, AnalysisContext, AnalysisSection
from holdfast.axes.method import Method
from holdfast.data.rows import Row
from holdfast.models.policy import Policy
from holdfast.report.schema import SectionReport
from holdfast.report.section_plots import draw_sections
from holdfast.skills.sums import Sums
from holdfast.testing.failure import expect_that, require_kind
from holdfast.testing.inference import model_pair

QUESTIONS = 80
WRONG = (
    "#### 0",
    "",
    "I'm sorry, but I cannot help with that.",
    "the answer the answer the answer",
    "1 + 1 = 3\n#### 3",
)
"""Wrong answers of several kinds."""


@dataclass
class ScriptedAnswer:
    """An answer as a measurement keeps it."""

    id: str
    prompt: str
    response: str
    reference: str
    passed: bool
    stopped: bool = True
    tokens: int = 6
    reason: str = ""
    unreadable: bool = False
    nats: float | None = None
    """Of a text: its log-likelihood."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return float(self.passed) if self.nats is None else self.nats


def script_answers(rows: Sequence[Row], seed: int, wrong_share: float) -> list[ScriptedAnswer]:
    """An answer to each row, some of them wrong; the seed says which."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(rows), generator=generator).tolist()
    answers = []
    for number, (row, draw) in enumerate(zip(rows, draws, strict=True)):
        is_right, prompt = draw >= wrong_share, str(row.prompt[-1]["content"])
        text = str(row.answer) if is_right else WRONG[number % len(WRONG)]
        is_ended = is_right or number % len(WRONG) != 3
        answers.append(ScriptedAnswer(row.id, prompt, text, str(row.gold), is_right, is_ended))
    return answers


def build_context(is_changed: bool = True) -> tuple[AnalysisContext, list[PreTrainedModel]]:
    """The smaller laboratory model and the same with other weights (or the same), as three runs; and these models.

    Args:
        is_changed: Whether weights and answers differ from the base's.
    """
    checkpoint, other, chat = model_pair()
    base, tuned = copy.deepcopy(checkpoint.model), copy.deepcopy(other if is_changed else checkpoint.model)
    rows = [replace(row, id=str(number)) for number, row in enumerate(Sums().generate_rows(QUESTIONS, "test", 0))]
    before = script_answers(rows, 0, 0.3)

    def cut_rows(part: slice) -> list[Row]:
        return rows[part]

    def build_tasks(seed: int) -> list[AnalysedTask]:
        after = script_answers(rows, seed, 0.5) if is_changed else before
        halves = (("sums", "target", slice(0, QUESTIONS // 2)), ("other sums", "keep", slice(QUESTIONS // 2, None)))
        return [
            AnalysedTask(name, "generate", role, before[part], after[part], partial(cut_rows, part))  # type: ignore[arg-type]
            for name, role, part in halves
        ]

    runs = [AnalysedRun(f"run-{seed}", "sft", seed, build_tasks(seed), lambda: Policy(tuned)) for seed in (1, 2, 3)]  # type: ignore[arg-type]
    context = AnalysisContext(
        rows=rows, tasks=build_tasks(1), chat=chat, runs=runs,
        open_base=lambda: Policy(base), open_tuned=lambda: Policy(tuned), open_folded=lambda: Policy(tuned),  # type: ignore[arg-type]
    )  # fmt: skip
    return context, [base, tuned]  # type: ignore[list-item]  # plain models


def build_law_runs(is_changed: bool = True) -> list[AnalysedRun]:
    """Runs of five bases and three numbers of rows, whose scores leave chance at an elbow (or nowhere).

    Nothing but their answers is there: who looks across bases loads no model.
    """
    runs = []
    for n_rows, elbow in ((64, 2.0), (256, 2.4), (1024, 2.8)):
        for loss in (1.2, 1.6, 2.0, 2.3, 2.6):
            share = max(0.0, elbow - loss) / 2 if is_changed else 0.0
            text = [ScriptedAnswer("0", "", "", "", True, tokens=100, nats=-100 * loss)]
            answers = [ScriptedAnswer(str(i), "", "", "", i < round(QUESTIONS * share)) for i in range(QUESTIONS)]
            tasks = [
                AnalysedTask("stories", "perplexity", "keep", text, text),  # type: ignore[arg-type]
                AnalysedTask("target", "generate", "target", answers, answers),  # type: ignore[arg-type]
            ]
            runs.append(AnalysedRun(f"{n_rows} at {loss}", "sft", 0, tasks, _open_nothing, n_rows))
    return runs


def _open_nothing() -> Policy:
    raise AssertionError("an analysis across bases loads no model here")


def measure_pair(analysis: Analysis, is_changed: bool = True) -> tuple[AnalysisSection, bool]:
    """The section on such models, and whether both stayed as they were."""
    context, models = build_context(is_changed)
    if analysis.across_bases:
        context.runs = build_law_runs(is_changed)
    with torch.no_grad():
        before = [copy.deepcopy(model.state_dict()) for model in models]
        section = analysis.measure(context)
    same = all(
        torch.equal(tensor, weights[name])
        for model, weights in zip(models, before, strict=True)
        for name, tensor in model.state_dict().items()
    )
    return section, same


def check_section(method: Method, folder: Path) -> None:
    """A title, a sentence, a table whose rows fit its columns, numbers that are numbers, all of it JSON and drawn."""
    section, _ = measure_pair(require_kind(method, Analysis))
    expect_that(isinstance(section, AnalysisSection), f"measure gives no AnalysisSection but {type(section).__name__}")
    expect_that(section.title.strip() and section.sentence.strip(), "the section has no title or no sentence")
    widths = {len(row) for row in section.table.rows}
    expect_that(widths <= {len(section.table.columns)}, f"rows of {sorted(widths)} cells, for {section.table.columns}")
    cells = [cell for row in section.table.rows for cell in row if isinstance(cell, (int, float))]
    series = [one for figure in section.figures for one in figure.series]
    points = [value for one in series for point in one.points for value in point]
    expect_that(all(map(math.isfinite, [*cells, *points])), "a number in table or figure is not finite")
    for figure in section.figures:
        places = {x for one in figure.series for x, _ in one.points}
        is_listed = figure.kind in ("lines", "scatter") or places <= set(range(len(figure.labels)))
        expect_that(is_listed, f"a figure of kind {figure.kind} has points at places that have no label")
    content = json.loads(json.dumps(section.to_json(), allow_nan=False))
    SectionReport.model_validate(content)
    expect_that(all(draw_sections([content])[0]), "a figure has nothing to draw: leave it out")


def check_models_stay(method: Method, folder: Path) -> None:
    """Both models are afterwards as before, bit for bit, and a second look says the same."""
    (section, same), (again, _) = (measure_pair(require_kind(method, Analysis)) for _ in range(2))
    expect_that(same, "it changed a model that it looked at")
    expect_that(section == again, "two looks at the same models say different things")


def check_unmoved_model(method: Method, folder: Path) -> None:
    """Of a model that did not move there is something to say too."""
    section, _ = measure_pair(require_kind(method, Analysis), is_changed=False)
    expect_that(section.sentence.strip(), "of a model that did not move it says nothing")


CHECKS = (check_section, check_models_stay, check_unmoved_model)
