"""Analyses of a finished run: each a section of report.json and of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.axes.registry import name_of

if TYPE_CHECKING:
    from holdfast.data.rows import Rows
    from holdfast.pipeline.phases import RunContext
    from holdfast.training.callbacks import TrainResult


def run_analyses(work: RunContext, result: TrainResult, rows: Rows) -> list[dict[str, Any]]:
    """Run the recipe's analyses on the base, which is loaded again, and the tuned model; their sections in order."""
    import torch

    from holdfast.models.loading import eval_mode, load_model
    from holdfast.models.merging import merged_copy
    from holdfast.models.policy import Policy

    chosen = work.recipe.analyses
    if not chosen:
        return []
    work.ui.start_phase("analyse", len(chosen))
    base = load_model(work.recipe.model, device=work.base.device).model
    sections = []
    plain = merged_copy(result.model, result.tuner) if any(a.folds for a in chosen) and result.tuner.adapter else None
    with torch.no_grad(), eval_mode(base), eval_mode(result.model):
        before, after = Policy(base.eval()), Policy(result.model)
        folded_policy = after if plain is None else Policy(plain.eval())
        for analysis in chosen:
            section = analysis.measure(before, folded_policy if analysis.folds else after, rows)
            sections.append({"name": name_of(analysis), **section.to_json()})
            work.ui.advance()
    return sections
