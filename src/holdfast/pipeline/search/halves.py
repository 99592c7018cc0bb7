"""Two halves of every task's questions: one to choose by, one that nothing was chosen by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.errors import UserError
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.summary import summarise_comparison
from holdfast.pipeline.search.order import TrialOutcome

Z95 = 1.96
"""Standard errors from the middle of a 95 % interval to its ends."""


def hold_out_questions(run: MeasuredRun, share: float) -> tuple[MeasuredRun, MeasuredRun]:
    """The run on the questions to choose by, and on those held out; which is which goes by the hash of a question.

    Args:
        share: Of each task's questions that are held out; at least one is, and at least one is not.
    Raises:
        UserError: If a task has a single question.
    """
    held_ids: dict[str, set[str]] = {}
    for task in run.tasks:
        ids = sorted({item.id for item in run.base[task.name]}, key=lambda name: _hash_question(task.name, name))
        if len(ids) < 2 and task.info.role in ("target", "keep"):
            raise UserError(
                f"{task.name}: has {len(ids)} question, and a search needs some to choose by and some others"
            )
        held_ids[task.name] = set(ids[: max(1, min(len(ids) - 1, round(share * len(ids))))])

    def select_questions(inside: bool) -> MeasuredRun:
        base, tuned = (
            {name: [item for item in items if (item.id in held_ids[name]) == inside] for name, items in side.items()}
            for side in (run.base, run.tuned)
        )
        return replace(run, base=base, tuned=tuned, tasks=[task for task in run.tasks if base[task.name]])

    return select_questions(False), select_questions(True)


def _hash_question(task: str, name: str) -> str:
    return hashlib.sha256(f"{task}\0{name}".encode()).hexdigest()


def summarise_seeds(runs: Sequence[MeasuredRun]) -> dict[str, Any]:
    """Gain and loss of one recipe over its seeds, each `{"delta", "low", "high", ...}` or `None`, and held-out bits."""
    entry = summarise_comparison({"recipe": list(runs)})["runs"][0]
    return {"gain": entry["gain"], "loss": entry["loss"], "bits": entry["held_out"]}


def read_outcome(summary: dict[str, Any], max_loss: float | None) -> TrialOutcome:
    """What a search needs of a summary.

    Raises:
        UserError: If there is no gain to choose by, or a limit and no loss to hold it against.
    """
    gain, loss, bits = summary["gain"], summary["loss"], summary["bits"] or 0.0
    if gain is None:
        raise UserError("search: there is no target to choose by; set evaluate.target, or search.value")
    if loss is None:
        if max_loss is not None:
            raise UserError(
                "search.max_loss: nothing is kept that counts in points; add a task or the probe to evaluate.keep"
            )
        return TrialOutcome(gain["delta"], bits=bits)
    ends = (loss["low"], loss["high"])
    error = 0.0 if None in ends else (ends[1] - ends[0]) / (2 * Z95)
    return TrialOutcome(gain["delta"], loss["delta"], error, bits)
