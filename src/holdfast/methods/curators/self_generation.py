"""What S3FT, SSR and SDFT share: ask the model, judge what it says, take the first right answer, else keep the gold.

The three methods differ only in what the model is asked (`SamplingStage`s, in order), so that their identities hold by
construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.judge import JudgeRequest
from holdfast.data.chat.prompts import paraphrase_messages
from holdfast.data.rows import Message, Row, fingerprint_json
from holdfast.data.thoughts import final_answer
from holdfast.data.trace import record_decision
from holdfast.errors import UserError


@dataclass(frozen=True, slots=True)
class SamplingStage:
    """One way of asking.

    Args:
        origin: Who wrote the answers it gives: "model" or "paraphrase".
        ask: What the model is shown for a row.
        counter_name: Name of the counter of rows it decides.
        n: Answers drawn per row; the first right one is taken.
    """

    origin: str
    ask: Callable[[Row], list[Message]]
    counter_name: str
    n: int = 1


def build_own_answer_stage(n: int = 1) -> SamplingStage:
    """The model's own answer to the question, as it will be asked in training."""
    return SamplingStage("model", lambda row: row.prompt, "accepted", n)


def build_paraphrase_stage(template: str, n: int = 1) -> SamplingStage:
    """The gold answer in the model's own words."""
    return SamplingStage("paraphrase", lambda row: paraphrase_messages(row, template), "paraphrases accepted", n)


def curate_in_stages(
    name: str, rows: Sequence[Row], stages: Sequence[SamplingStage], context: CurationContext
) -> list[Row]:
    """Give each row the first answer that is finished and judged right, stage after stage; rows without one stay.

    Every row comes out once, in its place, with an entry in its trace. Replayed rows of an earlier
    curator pass untouched.
    """
    for number, row in enumerate(rows, 1):
        if not row.answer and row.origin != "replay":
            raise UserError(
                f"{row.describe_row(number)}: has no answer; {name} needs rows that end with an assistant turn"
            )
    out = list(rows)
    attempts: list[list[dict[str, Any]]] = [[] for _ in rows]
    open_rows = [i for i, row in enumerate(rows) if row.origin != "replay"]
    for stage in stages:
        stage_rows = [rows[i] for i in open_rows]
        params = context.sampling.model_copy(update={"n": stage.n, "seed": context.seed})
        remaining_rows = []
        for i, tries in zip(
            open_rows, sample_and_judge(stage_rows, stage.origin, stage.ask, params, context), strict=True
        ):
            attempts[i] += tries
            right = next((t for t in tries if t["passed"]), None)
            if right is None:
                remaining_rows.append(i)
                continue
            out[i] = record_decision(rows[i].with_answer(right["response"], stage.origin), name, rows[i], attempts[i])
        context.note(stage.counter_name, len(open_rows) - len(remaining_rows))
        open_rows = remaining_rows
    context.note("gold kept", len(open_rows))
    for i in open_rows:
        out[i] = record_decision(rows[i], name, rows[i], attempts[i])
    return out


def sample_and_judge(
    rows: Sequence[Row],
    kind: str,
    ask: Callable[[Row], list[Message]],
    params: SamplingParams,
    context: CurationContext,
) -> list[list[dict[str, Any]]]:
    """Draw `params.n` answers per row and judge the finished ones against the row's gold answer.

    Returns:
        Per row, its attempts by index: `kind`, `index`, `response`, `finish`, `passed`, `score`, `reason`, `failed`,
        and `unreadable` where the judge could not tell, which counts as not passed.
        Answers cut at the token limit and empty ones are never passed, and are not shown to the judge.
    """
    messages = [ask(row) for row in rows]
    keys = [f"{row.id}:{kind}:{fingerprint_json(m)[:16]}" for row, m in zip(rows, messages, strict=True)]
    requests = {key: Request(key, m) for key, m in zip(keys, messages, strict=True)}  # equal rows share their samples
    samples = context.sample(list(requests.values()), params) if requests else {}
    flat_samples = [sample for key in requests for sample in samples[key]]
    context.note("sampled", len(flat_samples))
    context.note("cut off", sum(is_truncated(sample) for sample in flat_samples))
    out, answers, waiting = [], [], []
    for row, key in zip(rows, keys, strict=True):
        tries = []
        for s in samples[key]:
            text = s.text.encode("utf-8", "replace").decode()  # endpoints may send half a character
            entry: dict[str, Any] = {
                "kind": kind, "index": s.index, "response": text, "finish": "length" if is_truncated(s) else "stop",
                "passed": False, "score": 0.0,
            }  # fmt: skip
            if is_truncated(s):
                entry |= {"reason": f"cut off after {s.tokens} tokens", "failed": False}
            elif not final_answer(text).strip():
                entry |= {"reason": "empty", "failed": False}
            else:
                answers.append(JudgeRequest(row.prompt, text, row.gold))
                waiting.append(entry)
            tries.append(entry)
        out.append(tries)
    for entry, verdict in zip(waiting, context.judge(answers) if answers else [], strict=True):
        is_right = verdict.outcome == "right"
        entry |= {"unreadable": True} if verdict.unreadable else {}
        entry |= {"passed": is_right, "score": verdict.score, "reason": verdict.reason, "failed": verdict.failed}
    context.note("judge failed", sum(entry["failed"] for entry in waiting))
    if unreadable := sum("unreadable" in entry for entry in waiting):
        context.note("unreadable", unreadable)
    return out


def is_truncated(sample: Sample) -> bool:
    """Whether an answer, or the thought before it, reached its limit: no model should learn to break off there."""
    return sample.finish == "length" or sample.thought_cut
