"""What every analysis must do: change neither model, say something that can be drawn and written, and say it again."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import torch

from holdfast.axes.analysis import Analysis, AnalysisSection
from holdfast.axes.method import Method
from holdfast.models.policy import Policy
from holdfast.report.schema import SectionReport
from holdfast.testing.curation_world import sum_rows
from holdfast.testing.examples import tiny_model
from holdfast.testing.failure import expect_that, require_kind


def measure_pair(analysis: Analysis, is_changed: bool = True) -> tuple[AnalysisSection, bool]:
    """The section on a tiny model and one with other weights (or the same), and whether both stayed as they were."""
    base, tuned = tiny_model().eval(), tiny_model().eval()
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.mul_(1.25 if is_changed else 1.0)
        before = [copy.deepcopy(model.state_dict()) for model in (base, tuned)]
        section = analysis.measure(Policy(base), Policy(tuned), sum_rows())
    same = all(
        torch.equal(tensor, weights[name])
        for model, weights in zip((base, tuned), before, strict=True)
        for name, tensor in model.state_dict().items()
    )
    return section, same


def check_section(method: Method, folder: Path) -> None:
    """A title, a sentence, a table whose rows fit its columns, numbers that are numbers, all of it JSON."""
    section, _ = measure_pair(require_kind(method, Analysis))
    expect_that(isinstance(section, AnalysisSection), f"measure gives no AnalysisSection but {type(section).__name__}")
    expect_that(section.title.strip() and section.sentence.strip(), "the section has no title or no sentence")
    widths = {len(row) for row in section.table.rows}
    expect_that(widths <= {len(section.table.columns)}, f"rows of {sorted(widths)} cells, for {section.table.columns}")
    cells = [cell for row in section.table.rows for cell in row if isinstance(cell, (int, float))]
    points = [value for point in (section.figure.points if section.figure else ()) for value in point]
    expect_that(all(map(math.isfinite, [*cells, *points])), "a number in table or figure is not finite")
    SectionReport.model_validate(json.loads(json.dumps(section.to_json(), allow_nan=False)))


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
