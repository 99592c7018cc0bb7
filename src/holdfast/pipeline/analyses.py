"""Analyses of a finished run: each a section of report.json and of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.axes.registry import name_of

if TYPE_CHECKING:
    from holdfast.data.rows import Rows
    from holdfast.pipeline.phases import Work
    from holdfast.training.callbacks import TrainResult


def analyse(work: Work, result: TrainResult, rows: Rows) -> list[dict[str, Any]]:
    """Run the recipe's analyses on the base, which is loaded again, and the tuned model; their sections in order."""
    import torch

    from holdfast.models.loading import evaluating, load
    from holdfast.models.merging import merged_copy
    from holdfast.models.policy import Policy

    chosen = work.recipe.analyses
    if not chosen:
        return []
    work.ui.phase("analyse", len(chosen))
    base = load(work.recipe.model, device=work.base.device).model
    sections = []
    plain = merged_copy(result.model, result.tuner) if any(a.folds for a in chosen) and result.tuner.adapter else None
    with torch.no_grad(), evaluating(base), evaluating(result.model):
        before, after = Policy(base.eval()), Policy(result.model)
        folded = after if plain is None else Policy(plain.eval())
        for analysis in chosen:
            section = analysis.measure(before, folded if analysis.folds else after, rows)
            sections.append({"name": name_of(analysis), **section.to_json()})
            work.ui.advance()
    return sections
