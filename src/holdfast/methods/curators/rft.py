"""Rejection-sampling fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from rapidfuzz.distance import Levenshtein

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.data.rows import Row, Rows
from holdfast.data.trace import record
from holdfast.methods.curators.equations import equations
from holdfast.methods.curators.self_generation import attempt


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

    def draws(self) -> int:
        return self.k

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        asked = [row for row in rows if row.origin != "replay"] if self.k else []
        params = context.sampling.model_copy(
            update={"n": self.k or 1, "temperature": self.temperature, "seed": context.seed}
        )
        drawn = iter(attempt(asked, "model", lambda row: row.prompt, params, context))
        out: list[Row] = []
        for row in rows:
            if row.origin == "replay":
                out.append(row)
                continue
            tries = next(drawn) if self.k else []
            kept = self.keep(tries)
            context.note("accepted", sum(entry["passed"] for entry in tries))
            context.note("paths kept", len(kept))
            if row.answer is not None and self.gold:
                context.note("gold kept", 1)
                out.append(record(row, "rft", row, tries))
            for entry in kept:
                new = replace(row.with_answer(entry["response"], "model"), id=f"{row.id}.{entry['index']}")
                out.append(record(new, "rft", row, [entry]))
        return out

    def keep(self, tries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The attempts to train on; each attempt's `path` says what became of it."""
        kept: dict[Any, dict[str, Any]] = {}
        for entry in tries:
            if not entry["passed"]:
                continue
            found = equations(entry["response"])
            if found is None:
                entry["path"] = "wrong arithmetic"
                continue
            key = "|".join(found) if self.distinct else entry["index"]
            old = kept.get(key)
            if old is None or farther(entry, old, [other for name, other in kept.items() if name != key]):
                if old is not None:
                    old["path"] = "same equations as another"
                kept[key] = entry
                entry["path"] = "kept"
            else:
                entry["path"] = "same equations as another"
        return list(kept.values())


def farther(new: dict[str, Any], old: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether `new` is farther than `old` from the other kept answers, in summed edit distance."""
    if new["response"] == old["response"]:
        return False
    sums = [sum(Levenshtein.distance(entry["response"], other["response"]) for other in others) for entry in (new, old)]
    return sums[0] > sums[1]
