"""Answers out of several attempts: the rounds of all questions gone through together, and what each answer cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.axes.engine import Request, Sample, SampleFn, SamplingParams
from holdfast.axes.inference import Check, Draw, Step, Weigh
from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.errors import RunError, UserError

Question = tuple[str, int]
"""(request key, sample index)."""

JudgeFn = Callable[[Judge, Sequence[JudgeRequest]], list[Verdict]]
WeighFn = Callable[[Sequence[Weigh]], list[float]]

CALLS, TOKENS = "calls", "tokens"
"""Keys of a trace: how often the model was asked for the answer, and how many tokens it wrote in all."""


def judge_alone(judge: Judge, answers: Sequence[JudgeRequest]) -> list[Verdict]:
    """Verdicts of a judge that needs no engine."""
    return judge.judge_all(answers)


@dataclass(slots=True)
class Attempt:
    """A question on its way."""

    generator: Generator[Sequence[Step], Sequence[Any], Sample]
    results: list[Any] | None = None
    """What the last round gave."""
    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Round:
    """What all questions ask for in one round, by kind, each with where its result goes: (question, place)."""

    draws: list[tuple[Draw, tuple[Question, int], Question]] = field(default_factory=list)
    checks: list[tuple[Check, tuple[Question, int]]] = field(default_factory=list)
    weighings: list[tuple[Weigh, tuple[Question, int]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AttemptRunner:
    """Goes through the attempts of many questions.

    Args:
        name: Of the method, for errors.
        attempts: Of the method.
        draw: Samples; what a journal holds it does not draw again.
        judge: Verdicts of a judge on several answers.
        weigh: Mean log-probability per token of several responses.
    """

    name: str
    attempts: Callable[[Request], Generator[Sequence[Step], Sequence[Any], Sample]]
    draw: SampleFn
    judge: JudgeFn
    weigh: WeighFn

    def sample_answers(
        self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams
    ) -> Iterator[Sample]:
        """Yield the answer to each (request, index) as soon as it is there."""
        running = {
            (request.key, index): Attempt(self.attempts(request)) for request, indexes in requests for index in indexes
        }
        number = 0
        while running:
            steps = _Round()
            for question, attempt in list(running.items()):
                try:
                    next_steps = attempt.generator.send(attempt.results)  # type: ignore[arg-type]  # None starts it
                except StopIteration as end:
                    yield _finish_sample(end.value, question, attempt)
                    del running[question]
                    continue
                attempt.results = [None] * len(next_steps)
                for place, step in enumerate(next_steps):
                    _add_step(steps, step, question, number, place)
            self._answer_round(steps, running, params)
            number += 1

    def _answer_round(self, steps: _Round, running: Mapping[Question, Attempt], params: SamplingParams) -> None:
        """Put the results of a round where they belong."""
        for target, result in (
            *self._draw_samples(steps, params),
            *self._judge_responses(steps),
            *self._weigh_responses(steps),
        ):
            question, place = target
            attempt = running[question]
            assert attempt.results is not None
            attempt.results[place] = result
            attempt.calls += not isinstance(result, Verdict)
            attempt.tokens += result.tokens if isinstance(result, Sample) else 0

    def _draw_samples(self, steps: _Round, params: SamplingParams) -> Iterator[tuple[tuple[Question, int], Sample]]:
        """The samples of a round, those of like settings in one call."""
        requests: dict[SamplingParams, dict[str, Request]] = defaultdict(dict)
        counts: dict[tuple[SamplingParams, str], int] = {}
        places = []
        for draw, target, (key, index) in steps.draws:
            settings = SamplingParams.model_validate({**params.model_dump(), **draw.settings, "n": 1})
            requests[settings][key] = replace(draw.request, key=key, judging=None)
            counts[settings, key] = max(counts.get((settings, key), 0), index + 1)
            places.append((target, settings, key, index))
        samples: dict[tuple[SamplingParams, str], list[Sample]] = {}
        for (settings, n), names in _group_by_count(counts).items():
            new_samples = self.draw([requests[settings][key] for key in names], settings.model_copy(update={"n": n}))
            samples.update({(settings, key): new_samples[key] for key in names})
        for target, settings, key, index in places:
            yield target, samples[settings, key][index]

    def _judge_responses(self, steps: _Round) -> Iterator[tuple[tuple[Question, int], Verdict]]:
        groups: dict[int, list[tuple[Check, tuple[Question, int]]]] = defaultdict(list)
        for check, target in steps.checks:
            if check.request.judging is None:
                raise UserError(
                    f"inference.{self.name}: nothing judges answers here, and it needs verdicts; set its knob "
                    "judge, as in judge: {name: python, function: check.py:judge}"
                )
            groups[id(check.request.judging.judge)].append((check, target))
        for entries in groups.values():
            judgings = [check.request.judging for check, _ in entries]
            answers = [
                JudgeRequest(check.request.messages, check.response, judging.reference if judging else None)
                for (check, _), judging in zip(entries, judgings, strict=True)
            ]
            assert judgings[0] is not None
            verdicts = self.judge(judgings[0].judge, answers)
            yield from zip((target for _, target in entries), verdicts, strict=True)

    def _weigh_responses(self, steps: _Round) -> Iterator[tuple[tuple[Question, int], float]]:
        if steps.weighings:
            values = self.weigh([weighing for weighing, _ in steps.weighings])
            yield from zip((target for _, target in steps.weighings), values, strict=True)


def _group_by_count(
    counts: Mapping[tuple[SamplingParams, str], int],
) -> dict[tuple[SamplingParams, int], list[str]]:
    """The keys of requests by their settings and how many samples of each are wanted."""
    groups: dict[tuple[SamplingParams, int], list[str]] = defaultdict(list)
    for (settings, key), n in counts.items():
        groups[settings, n].append(key)
    return groups


def _add_step(steps: _Round, step: Step, question: Question, number: int, place: int) -> None:
    target = (question, place)
    if isinstance(step, Check):
        steps.checks.append((step, target))
    elif isinstance(step, Weigh):
        steps.weighings.append((step, target))
    else:
        key, index = question
        # What the plain model would be asked is drawn as the plain model draws it, seed and all.
        name = question if not number and not place else (f"{key}/{index}/{number}.{place}", 0)
        steps.draws.append((step if isinstance(step, Draw) else Draw(step), target, name))


def _finish_sample(sample: Any, question: Question, attempt: Attempt) -> Sample:
    key, index = question
    if not isinstance(sample, Sample):
        raise RunError(f"inference: attempts returned {type(sample).__name__} for {key}, where a Sample is the answer")
    trace = {**(sample.trace or {}), CALLS: attempt.calls, TOKENS: attempt.tokens}
    return replace(sample, key=key, index=index, trace=trace)
