"""What every judge must do, by what it declares: pass what is right, nothing else, and bear any text."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.axes.method import Method
from holdfast.testing.failure import CheckFailed, expect_that, require_kind

WORDS: tuple[tuple[str, Any, str], ...] = (
    ("What is the capital of France?", "Paris", "Paris"),
    ("What is 5 plus 7?", "12", "12"),
    ("What is 5 plus 7?", 12, "12"),
)
"""Right answers for judges that give none: question, reference, and the reference itself as the answer."""

LONG = 10_000
ODD_TEXTS = (
    "\ud83d", "\0", "\u202e\u200b", "é" * LONG, "(" * LONG, "[" * LONG + "]" * LONG, "9" * LONG, "1/" * LONG,
    "\\boxed{" * (LONG // 7), "```" * (LONG // 3), "```python\n" * 2000, "<think>" * 2000, "</think>" * 2000,
    "answer is " * 2000, "####" * 5000, "1e99999", "10**10**10", "-", "=", "A B C D " * 2000, " \n\t" * LONG,
    '{"answer": ' * 2000, "None", "nan", "\\frac{1}{" * 2000, "a=" * LONG,
)  # fmt: skip
"""Answers as broken models give them."""

ODD_REFERENCES: tuple[Any, ...] = (
    None,
    "",
    " ",
    [],
    {},
    [[]],
    {"tests": 3},
    {"answer": None},
    3.5,
    True,
    -1,
    "\ud83d",
    "(" * 1000,
)
NOT_RIGHT = ("", " \n\t", "I do not know.", "<think>\n{right}", "<think>{right}</think>", "<think>{right}</think>\n \n")
"""Answers that are empty, cut within their thought, or wrong; `{right}` stands for the right one."""

SECONDS = 30.0
"""Processor time for all odd texts: a hundred times what they take, so that only a blow-up fails."""

MARK = "QUARTZ"
"""What stands in the right answers to judges that ask a model: the scripted one says yes where it sees it."""


def right_requests(judge: Judge) -> list[JudgeRequest]:
    """Answers that are right, as the judge declares or by its references.

    Raises:
        CheckFailed: If there are none.
    """
    if own := list(judge.example_answers()):
        return own
    words = [e for e in WORDS if judge.find_reference_problem(e[1]) is None]
    expect_that(words, "it refuses every reference tried; give it a method example_answers")
    mark = f"{MARK} " if judge.needs_engine else ""
    return [JudgeRequest([{"role": "user", "content": q}], mark + text, reference) for q, reference, text in words]


def ready_judge(judge: Judge, reply: str | None = None) -> Judge:
    """The judge; one that asks a model gets a scripted one.

    Args:
        reply: What that says to everything; default: yes where `MARK` stands in the prompt, else no.
    """

    def draw_samples(
        requests: Sequence[Request], params: SamplingParams, on_sample: Callable[[Sample], Any] | None = None
    ) -> dict[str, list[Sample]]:
        answers = {}
        for request in requests:
            text = ("yes" if MARK in str(request.messages) else "no") if reply is None else reply
            answers[request.key] = [Sample(request.key, index, text, "stop", 1) for index in range(params.n)]
        return answers

    return judge.with_engine(draw_samples) if judge.needs_engine else judge


def check_verdict(verdict: object, answer: str) -> Verdict:
    """The verdict, which is one: with a score in [0, 1], and no pass of what could not be judged."""
    label = f"the verdict on {answer[:40]!r}"
    if not isinstance(verdict, Verdict):
        raise CheckFailed(f"{label} is no Verdict but {verdict!r}")
    expect_that(isinstance(verdict.passed, bool) and isinstance(verdict.reason, str), f"{label} is {verdict!r}")
    expect_that(math.isfinite(verdict.score) and 0 <= verdict.score <= 1, f"{label} has the score {verdict.score}")
    expect_that(
        not (verdict.passed and (verdict.failed or verdict.unreadable)), f"{label} passes what could not be judged"
    )
    return verdict


def check_right_answers(method: Method, folder: Path) -> None:
    """A right answer passes, with a thought before it too, each time, and in whatever company."""
    judge = ready_judge(require_kind(method, Judge))
    requests = right_requests(judge)
    for request in requests:
        for text in (request.response, f"<think>\nHmm, not sure.\n</think>\n{request.response}"):
            verdict = check_verdict(judge.judge(replace(request, response=text)), text)
            expect_that(
                verdict.outcome == "right",
                f"the answer {text!r} to {request.prompt[-1]['content']!r} with the reference {request.reference!r} is "
                f"{verdict.outcome} ({verdict.reason})",
            )
    company = [*requests, replace(requests[0], response="I do not know."), *requests]
    expect_that(
        judge.judge_all(company) == [judge.judge(request) for request in company],
        "judge_all gives other verdicts than judge, or in another order",
    )


def check_not_right(method: Method, folder: Path) -> None:
    """Answers that are empty, wrong, or cut within their thought do not pass."""
    judge = ready_judge(require_kind(method, Judge))
    for request in right_requests(judge):
        texts = [text.format(right=request.response) for text in NOT_RIGHT]
        for text, verdict in zip(texts, judge.judge_all([replace(request, response=t) for t in texts]), strict=True):
            expect_that(
                not check_verdict(verdict, text).passed,
                f"the answer {text!r} passes with the reference {request.reference!r}; of a model that thinks, judge "
                "answer.final_response",
            )


def check_odd_texts(method: Method, folder: Path) -> None:
    """No answer and no reference makes it raise, nor take time out of proportion; a model's odd reply is no pass."""
    judge = ready_judge(require_kind(method, Judge))
    (request, *_), start = right_requests(judge), time.process_time()
    for text, verdict in zip(
        ODD_TEXTS, judge.judge_all([replace(request, response=t) for t in ODD_TEXTS]), strict=True
    ):
        check_verdict(verdict, text)
    seconds = time.process_time() - start
    expect_that(seconds < SECONDS, f"{len(ODD_TEXTS)} odd answers took {seconds:.0f} s of processor time")
    for reference in ODD_REFERENCES:
        problem = judge.find_reference_problem(reference)
        expect_that(problem is None or problem, f"find_reference_problem({reference!r}) is an empty text")
        check_verdict(judge.judge(replace(request, reference=reference)), f"{request.response} for {reference!r}")
    for reply in ODD_TEXTS if judge.needs_engine else ():
        verdict = check_verdict(ready_judge(judge, reply).judge(request), reply)
        expect_that(not verdict.passed, f"the model's reply {reply[:40]!r} passes")


def check_identity(method: Method, folder: Path) -> None:
    """Its identity can be written as JSON, and is the same for the same settings."""
    judge = require_kind(method, Judge)
    same = type(judge).model_validate(judge.model_dump())
    expect_that(
        json.loads(json.dumps(judge.identity)) == json.loads(json.dumps(same.identity)),
        "its identity differs each time",
    )


CHECKS = (check_right_answers, check_not_right, check_odd_texts, check_identity)
