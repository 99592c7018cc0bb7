"""Rejection-sampling fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from rapidfuzz.distance import Levenshtein

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.data.rows import Row, Rows
from holdfast.data.trace import record_decision
from holdfast.methods.curators.equations import parse_equations
from holdfast.methods.curators.self_generation import sample_and_judge


class RFT(Curator):
    """Add the model's own right answers that reason differently from each other. [Yuan et al. 2023, arXiv 2308.01825]

    For each row k answers are sampled; those judged right are kept, unless an equation in them (`<<3+4=7>>`, or
    `3 + 4 = 7` in plain text) is wrong. Of answers with the same equations in the same order one is kept: a newcomer
    takes the incumbent's place if the sum of its edit distances to the other kept answers is larger. Answers without
    equations count as one path. Out come the gold row, then the kept answers; so there are more rows than before, and
    the same epochs take more steps (compare with `gold` at equal steps: `train.max_steps`).

    When it helps: arithmetic word problems with several ways to the answer; the paper finds the gain to follow the
    number of distinct paths. When it fails: strong models gain little from their own samples.

    The paper samples from a model first fine-tuned on the same rows, and then trains the pre-trained one. Here the
    run's model does both: if yours cannot answer yet, fine-tune it first and start from that.

    Columns: an answer (rows without one get only sampled answers), `reference` if the judge needs something else.
    Needs a judge.

    Paper: Yuan et al. 2023, "Scaling Relationship on Learning Mathematical Reasoning with Large Language Models"
    (arXiv 2308.01825).
    """

    paper = "Yuan et al. 2023 (2308.01825)"
    effect: ClassVar[Effect] = "add"
    samples: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    k: int = Field(100, ge=0, description="Answers sampled per row.")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature.")
    distinct: bool = Field(True, description="Keep one answer per list of equations; false keeps every right one.")

    gold: bool = Field(True, description="Keep each row's own answer too; false trains on the model's alone.")

    def samples_per_row(self) -> int:
        return self.k

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        fresh_rows = [row for row in rows if row.origin != "replay"] if self.k else []
        params = context.sampling.model_copy(
            update={"n": self.k or 1, "temperature": self.temperature, "seed": context.seed}
        )
        attempts = iter(sample_and_judge(fresh_rows, "model", lambda row: row.prompt, params, context))
        out: list[Row] = []
        for row in rows:
            if row.origin == "replay":
                out.append(row)
                continue
            tries = next(attempts) if self.k else []
            selection = self.select_attempts(tries)
            context.note("accepted", sum(entry["passed"] for entry in tries))
            context.note("paths kept", len(selection))
            if row.answer is not None and self.gold:
                context.note("gold kept", 1)
                out.append(record_decision(row, "rft", row, tries))
            for entry in selection:
                new = replace(row.with_answer(entry["response"], "model"), id=f"{row.id}.{entry['index']}")
                out.append(record_decision(new, "rft", row, [entry]))
        return out

    def select_attempts(self, tries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The attempts to train on; each attempt's `path` says what became of it."""
        best_by_path: dict[Any, dict[str, Any]] = {}
        for entry in tries:
            if not entry["passed"]:
                continue
            path_equations = parse_equations(entry["response"])
            if path_equations is None:
                entry["path"] = "wrong arithmetic"
                continue
            key = "|".join(path_equations) if self.distinct else entry["index"]
            old = best_by_path.get(key)
            if old is None or is_farther(entry, old, [other for name, other in best_by_path.items() if name != key]):
                if old is not None:
                    old["path"] = "same equations as another"
                best_by_path[key] = entry
                entry["path"] = "kept"
            else:
                entry["path"] = "same equations as another"
        return list(best_by_path.values())


def is_farther(new: dict[str, Any], old: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether `new` is farther than `old` from the other kept answers, in summed edit distance."""
    if new["response"] == old["response"]:
        return False
    sums = [sum(Levenshtein.distance(entry["response"], other["response"]) for other in others) for entry in (new, old)]
    return sums[0] > sums[1]
