"""Preference pairs of the model's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.axes.judge import JudgeRequest
from holdfast.data.reading.preferences import RankedAnswer, build_group_meta, ranked_pair
from holdfast.data.rows import Row, Rows
from holdfast.data.trace import record_decision
from holdfast.methods.curators.self_generation import sample_and_judge


class Pairs(Curator):
    """Pairs of the model's own answers: the judge's best is chosen, its worst rejected. [Yuan et al. 2024, 2401.10020]

    What it does: for each prompt x, n answers y_1..y_n ~ M(. | x) are drawn and scored, s_i = judge(x, y_i):

        chosen    y_i with the highest s_i                    the first of equals
        rejected  y_j with the lowest s_j ("worst")           as in Self-Rewarding Language Models
                  any y_j with s_j below the highest, drawn   as in Zephyr [Tunstall et al. 2023, 2310.16944], whose
                  with equal chances ("random")               answers came from four other models

    Prompts whose answers are all equally good (or less than `min_gap` apart) give no pair: they are left out, and
    counted as ties. So are those with fewer than two answers that the judge could score; answers cut at the token limit
    are never scored, and those that the judge could not read count as not scored. The gold answer stays at the end of
    the row, where objectives of triples find it and others do not look; with `gold` it also competes, after the model's
    own.

    When it helps: the model is right sometimes, and the judge can tell; both answers of a pair are then in the model's
    own words and differ in what the judge looks at, so little else is taught. Follow with `dpo` or any other objective
    of pairs; `kto` and `una` take the pairs apart, `grpo` takes all the answers that were scored.

    When it fails: where all answers are right, or all wrong, nothing is left; a judge that likes length or a phrase
    teaches that, the more so the worse `rejected` is. Judges that only know right and wrong pair the first right answer
    with the first wrong one.

    The first paper lets the model judge itself (judge `llm` with its default engine does) and repeats the whole; here
    that is a chain of runs. Its sampling is the default here (n = 4, temperature 0.7); it adds top_p 0.9
    (`sampling.top_p`).

    Columns: prompts; an answer or `reference` for judges that compare. Needs a judge.

    Paper: Yuan et al. 2024, "Self-Rewarding Language Models" (arXiv 2401.10020).
    """

    paper = "Yuan et al. 2024 (2401.10020); Tunstall et al. 2023 (2310.16944)"
    samples: ClassVar[bool] = True
    judges: ClassVar[bool] = True
    effect: ClassVar[Effect] = "pair"

    n: int = Field(4, ge=2, description="Answers sampled per prompt.")
    rejected: Literal["worst", "random"] = Field(
        "worst", description="The answer with the lowest score, or a random one below the best."
    )
    temperature: float = Field(0.7, gt=0, description="Sampling temperature.")
    min_gap: float = Field(0.0, ge=0, le=1, description="Least difference between the two scores.")
    gold: bool = Field(False, description="Let the gold answer compete with the model's own.")

    def samples_per_row(self) -> int:
        return self.n

    def reads_answers(self) -> bool:
        return self.gold

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        fresh_rows = [row for row in rows if row.origin != "replay"]
        params = context.sampling.model_copy(
            update={"n": self.n, "temperature": self.temperature, "seed": context.seed}
        )
        attempts = sample_and_judge(fresh_rows, "model", lambda row: row.prompt, params, context)
        gold_attempts = judge_gold_answers(fresh_rows, context) if self.gold else [[] for _ in fresh_rows]
        tries = iter([own + gold for own, gold in zip(attempts, gold_attempts, strict=True)])
        out: list[Row] = []
        for row in rows:
            if row.origin == "replay":
                out.append(row)
            elif paired_row := self.build_pair(row, next(tries), context):
                out.append(paired_row)
        return out

    def build_pair(self, row: Row, tries: Sequence[dict[str, Any]], context: CurationContext) -> Row | None:
        """The row with chosen and rejected answers, or `None` if there is nothing to prefer."""
        usable = [t for t in tries if t["finish"] != "length" and t["response"].strip() and is_judged(t)]
        answers = [RankedAnswer(entry["response"], entry["score"]) for entry in usable]
        pair_indices = None
        if len(answers) > 1:
            seed = f"{context.seed}:{row.id}"
            pair_indices = ranked_pair(answers, self.rejected, seed=seed, min_gap=self.min_gap)
        context.note("pairs", int(pair_indices is not None))
        context.note("ties left out", int(pair_indices is None and len(answers) > 1))
        context.note("too few answers", int(len(answers) < 2))
        if pair_indices is None:
            context.drop(row, "answers equally good" if len(answers) > 1 else "fewer than two answers with a score")
            return None
        best, other = (usable[i] for i in pair_indices)
        scores = {"score_chosen": best["score"], "score_rejected": other["score"]}
        new = replace(
            row, chosen=best["response"], rejected=other["response"], reference=row.gold, origin="model",
            meta={**row.meta, **scores, **build_group_meta(answers)},
        )  # fmt: skip
        reason = f"score {best['score']:.3g} against {other['score']:.3g}"
        return record_decision(new, "pairs", row, tries, reason=reason)


def is_judged(entry: dict[str, Any]) -> bool:
    """Whether the judge could tell how good an attempt is: one it cannot read may be right, and is not rejected."""
    return not (entry["failed"] or entry.get("unreadable"))


def judge_gold_answers(rows: Sequence[Row], context: CurationContext) -> list[list[dict[str, Any]]]:
    """The gold answer of each row as one more attempt; none for rows without."""
    texts = [row.chosen if row.answer is None else row.answer for row in rows]
    answers = [JudgeRequest(row.prompt, text, row.gold) for row, text in zip(rows, texts, strict=True) if text]
    verdicts = iter(context.judge(answers) if answers else [])
    out: list[list[dict[str, Any]]] = []
    for text in texts:
        if not text:
            out.append([])
            continue
        v = next(verdicts)
        entry = {"kind": "gold", "index": 0, "response": text, "finish": "stop", "passed": v.outcome == "right"}
        entry |= {"unreadable": True} if v.unreadable else {}
        out.append([{**entry, "score": v.score, "reason": v.reason, "failed": v.failed}])
    return out
