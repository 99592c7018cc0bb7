"""Measure a model on tasks: base and tuned go through this one path, with the same items, template and stop tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast.axes.analysis import OPTIONS
from holdfast.axes.engine import Request, Sample
from holdfast.axes.judge import JudgeRequest, Judging, Verdict
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.rows import Row, Rows, fingerprint_json
from holdfast.errors import RunError, UserError
from holdfast.evaluation.answer_traces import add_traces, trace_of_prompt
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.subject import (
    EvaluatedModel,
    Rater,
    as_text,
    begin_of_text,
    build_sampling_params,
    cut_to_context,
    format_prompt,
    judge_identity,
    measurement_fingerprint,
    require_part,
    rewrite_prompt,
    score_sequences,
)
from holdfast.evaluation.task import PAIRS, RATED, ItemResult, Task
from holdfast.evaluation.tasks.multiple_choice import (
    append_choice,
    decide_choice,
    encode_choice,
    normalise_logps,
    weigh_choices,
)
from holdfast.evaluation.tasks.perplexity import cut_windows
from holdfast.evaluation.thought_counts import THOUGHT, UNENDED, UNFIT, thought_extra
from holdfast.models.loading import eval_mode


def measure_task(task: Task, subject: EvaluatedModel, **options: Any) -> list[ItemResult]:
    """`measure_all` for one task."""
    return measure_all([task], subject, **options)[task.name]


def measure_all(
    tasks: Sequence[Task],
    subject: EvaluatedModel,
    *,
    store: ResultsStore | None = None,
    baselines: ResultsStore | None = None,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, list[ItemResult]]:
    """The items of every task, in the order of its rows.

    Args:
        tasks: Names must differ. Questions of all "generate" tasks with like settings go to the engine in one call, so
            that its batch stays full.
        subject: The model.
        store: `eval/<when>` of the run: measurements found there are not made again, new ones are written at once.
        baselines: The baselines of all runs (`shared_store()`), for the untouched model.
        progress: Called with the number of items finished, which add up to `count_items(tasks)`.
    """
    names = [task.name for task in tasks]
    if subject.elsewhere is not None:
        own, kept_tasks = ([t for t in tasks if (t.role == "keep") == is_kept] for is_kept in (False, True))
        parts = ((own, replace(subject, elsewhere=None)), (kept_tasks, subject.elsewhere))
        items_by_name = {
            name: items
            for part, who in parts
            for name, items in measure_all(part, who, store=store, baselines=baselines, progress=progress).items()
        }
        return {name: items_by_name[name] for name in names}
    if twice := [name for name in set(names) if names.count(name) > 1]:
        raise UserError(f"evaluate: two tasks are called {sorted(twice)[0]}; rename one of the files")
    tick = progress or (lambda n: None)
    prints = {task.name: measurement_fingerprint(task, subject) for task in tasks}
    items_by_task: dict[str, list[ItemResult]] = {}
    for task in tasks:
        items = _find_stored_items(task, prints[task.name], subject, store, baselines)
        if items is not None:
            items_by_task[task.name] = items
            tick(len(task.rows))
    with _evaluation_mode(subject):
        for task, items in _measure_each([t for t in tasks if t.name not in items_by_task], subject, tick):
            items_by_task[task.name] = items
            tensors = (
                subject.own_reference.to_tensors() if _is_reference(task, subject) and subject.own_reference else None
            )
            for place in filter(None, (store, baselines)):
                place.write_items(task, prints[task.name], items, tensors)
    return {name: items_by_task[name] for name in names}


def count_items(tasks: Sequence[Task]) -> int:
    """How much `progress` of `measure_all` will add up to."""
    return sum(len(task.rows) for task in tasks)


def _is_reference(task: Task, subject: EvaluatedModel) -> bool:
    """Whether measuring the task makes the subject the reference of the models it will be compared with."""
    return task.kind == "probe" and subject.reference is None


def _find_stored_items(
    task: Task, key: str, subject: EvaluatedModel, store: ResultsStore | None, baselines: ResultsStore | None
) -> list[ItemResult] | None:
    """The items of a measurement that one of the stores holds; of a base's probe also the reference
    (`own_reference`).
    """
    for place in filter(None, (store, baselines)):
        items, tensors = place.read_items(task, key), None
        if items is not None and _is_reference(task, subject):
            from holdfast.evaluation.tasks.probe import Reference

            if (tensors := place.read_tensors(task, key)) is None:
                continue
            subject.own_reference = Reference.from_tensors(key, items, tensors)
        if items is not None and place is baselines and store:
            store.write_items(task, key, items, tensors)  # so that the run directory is whole without the cache
        if items is not None:
            return items
    return None


@contextlib.contextmanager
def _evaluation_mode(subject: EvaluatedModel) -> Iterator[None]:
    """No dropout and no gradients while measuring in the middle of training."""
    with eval_mode(subject.policy.model) if subject.policy is not None else contextlib.nullcontext():
        yield


def _measure_each(
    tasks: Sequence[Task], subject: EvaluatedModel, tick: Callable[[int], Any]
) -> Iterator[tuple[Task, list[ItemResult]]]:
    """Each task with its items as soon as they are known; scored tasks first, because they are quick."""
    by_settings: dict[str, list[Task]] = {}
    for task in tasks:
        if "lm_eval" in task.meta:
            from holdfast.evaluation.tasks.lm_eval_bridge import measure_harness

            yield task, measure_harness(task, subject)
            tick(len(task.rows))
        elif task.kind == "probe":
            from holdfast.evaluation.tasks.probe import measure_probe

            yield task, measure_probe(task, subject, tick)
        elif task.kind == "episodes":
            from holdfast.evaluation.tasks.episodes import measure_episodes

            yield task, measure_episodes(task, subject, tick)
        elif task.kind == "generate":
            by_settings.setdefault(build_sampling_params(task).model_dump_json(), []).append(task)
        else:
            yield task, WITHOUT_SAMPLING[task.kind](task, subject)
            tick(len(task.rows))
    for group in by_settings.values():
        yield from _measure_generation(group, subject, tick)


def _measure_generation(
    group: Sequence[Task], subject: EvaluatedModel, tick: Callable[[int], Any]
) -> Iterator[tuple[Task, list[ItemResult]]]:
    requests = [_build_request(task, row, subject) for task in group for row in task.rows]
    if len({request.key for request in requests}) != len(requests):
        raise RunError("two questions of one task have the same id; build tasks with evaluation.tasks")
    samples_by_key = require_part(subject.draw, "sampling engine")(
        requests, build_sampling_params(group[0]), lambda sample: tick(1)
    )
    for task in group:
        samples = [samples_by_key[f"eval/{task.name}/{row.id}"][0] for row in task.rows]
        answers = [JudgeRequest(row.prompt, s.text, row.gold) for row, s in zip(task.rows, samples, strict=True)]
        verdicts = subject.judge(require_part(task.judge, "judge"), answers)
        items = [_build_judged_item(row, s, v) for row, s, v in zip(task.rows, samples, verdicts, strict=True)]
        add_traces(task, items, samples, subject)
        yield task, items


def _build_request(task: Task, row: Row, subject: EvaluatedModel) -> Request:
    """A question, with its judge where a method asks for that."""
    judging = None
    if subject.gives_judge and task.judge is not None:
        judging = Judging(task.judge, row.gold, fingerprint_json([judge_identity(task.judge), as_text(row.gold)]))
    return Request(f"eval/{task.name}/{row.id}", row.prompt, judging=judging)


def _build_judged_item(row: Row, sample: Sample, verdict: Verdict) -> ItemResult:
    is_readable, extra = verdict.outcome != "unreadable", thought_extra(sample)
    reason = f"the thought did not end; {verdict.reason}" if extra.get(THOUGHT) == UNENDED else verdict.reason
    if sample.finish == "length" and not sample.tokens:
        extra, reason = extra | {UNFIT: True}, "the prompt does not fit into the model's context"
    return ItemResult(
        id=row.id, prompt=format_prompt(row.prompt), response=sample.text, reference=as_text(row.gold),
        score=verdict.score if is_readable else 0.0, passed=verdict.passed and is_readable,
        stopped=sample.finish == "stop",
        tokens=sample.tokens - sample.thought_tokens, reason=reason, unreadable=not is_readable, extra=extra,
    )  # fmt: skip


def _measure_choices(task: Task, subject: EvaluatedModel) -> list[ItemResult]:
    if task.name == PAIRS and subject.rater is not None:
        return _rate_pairs(task.rows, subject.rater)
    sequences: list[EncodedSequence] = []
    owners: list[int] = []
    for number, row in enumerate(task.rows):
        for choice in row.meta["choices"]:
            sequences.append(
                cut_to_context(encode_choice(subject.chat, subject.prompt(list(row.prompt)), choice, number), subject)
            )
            owners.append(number)
    logps = np.array(score_sequences(sequences, subject))
    items = []
    for number, row in enumerate(task.rows):
        mine = np.flatnonzero(np.array(owners) == number)
        how = (task.meta.get("normalise", "none"), subject.choice_bias)
        best, score, is_right = decide_choice(logps[mine], row.meta["choices"], row.gold, *how)
        options = normalise_logps(weigh_choices(logps[mine], row.meta["choices"], *how))
        right = row.gold if isinstance(row.gold, list) else [int(i == row.gold) for i in range(len(mine))]
        items.append(
            ItemResult(
                id=row.id,
                prompt=format_prompt(row.prompt),
                response=row.meta["choices"][best],
                reference=" | ".join(c for c, ok in zip(row.meta["choices"], right, strict=True) if ok),
                score=score,
                passed=is_right,
                stopped=True,
                tokens=int(sequences[mine[best]].label_mask.sum()),
                reason="log-likelihoods " + ", ".join(f"{v:.2f}" for v in logps[mine]),
                extra={OPTIONS: options, **trace_of_prompt(row, subject)},
            )
        )
    return items


def _rate_pairs(rows: Rows, rater: Rater) -> list[ItemResult]:
    """Pairs as a reward model ranks them; the options are its rewards as log-odds."""
    answers = [append_choice(row.prompt, choice) for row in rows for choice in row.meta["choices"]]
    rewards = np.array(rater.score_conversations(answers)).reshape(len(rows), -1)
    items = []
    for row, values in zip(rows, rewards, strict=True):
        choices = row.meta["choices"]
        best, score, is_right = decide_choice(values, choices, row.gold)
        items.append(
            ItemResult(
                id=row.id, prompt=format_prompt(row.prompt), response=choices[best], reference=choices[row.gold],
                score=score, passed=is_right, stopped=True, tokens=0,
                reason="rewards " + ", ".join(f"{v:.3g}" for v in values),
                extra={OPTIONS: normalise_logps(values), RATED: True},
            )
        )  # fmt: skip
    return items


def _measure_text(task: Task, subject: EvaluatedModel) -> list[ItemResult]:
    """Log-likelihood of plain text: all its bytes, the first token being predicted from what begins a text."""
    tokenizer, begin = subject.chat.tokenizer, begin_of_text(subject.chat)
    sequences: list[EncodedSequence] = []
    for number, row in enumerate(task.rows):
        ids = [*begin, *tokenizer(row.answer, add_special_tokens=False, verbose=False)["input_ids"]]
        sequences.extend(cut_windows(ids, subject.window, number))
    totals, tokens = _sum_per_row(sequences, subject, len(task.rows))
    return [
        ItemResult(row.id, row.answer or "", "", "", score=float(logp), passed=True, stopped=True, tokens=int(n))
        for row, logp, n in zip(task.rows, totals, tokens, strict=True)
        if n
    ]


def _sum_per_row(
    sequences: Sequence[EncodedSequence], subject: EvaluatedModel, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood in nats and number of scored tokens of each row, [rows] both, summed over its pieces."""
    totals, tokens = np.zeros(rows), np.zeros(rows, dtype=int)
    for piece, logp in zip(sequences, score_sequences(sequences, subject), strict=True):
        totals[piece.row] += logp
        tokens[piece.row] += int(piece.label_mask.sum())
    return totals, tokens


def _measure_answers(task: Task, subject: EvaluatedModel) -> list[ItemResult]:
    """Log-likelihood of the rows' own answers: the very tokens that training would have as labels."""
    parts = [
        (number, rewrite_prompt(part, subject))
        for number, row in enumerate(task.rows)
        for part in subject.chat.unroll_answers(row.messages)
    ]
    names = [task.rows[number].describe_place(task.rows[number].id) for number, _ in parts]
    both = subject.chat.encode_many([part for _, part in parts], names)
    sequences = [
        cut_to_context(
            EncodedSequence(
                ids=np.asarray(ids, dtype=np.int32),
                label_mask=np.asarray(label_mask, dtype=bool),
                row=number,
                pictures=subject.chat.pictures.list_pictures(part),
            ),
            subject,
        )
        for (number, part), (ids, label_mask) in zip(parts, both, strict=True)
    ]
    totals, tokens = _sum_per_row(sequences, subject, len(task.rows))
    items = []
    for row, logp, n in zip(task.rows, totals, tokens, strict=True):
        answers = [m["content"] for m in row.messages if m["role"] == "assistant" and m.get("weight", 1) != 0]
        if n:
            items.append(
                ItemResult(
                    row.id, format_prompt(row.prompt), "", as_text(row.answer), score=float(logp), passed=True,
                    stopped=True, tokens=int(n),
                    bytes=max(1, sum(len(text.encode("utf-8", "surrogatepass")) for text in answers)),
                )
            )  # fmt: skip
    return items


WITHOUT_SAMPLING: dict[str, Callable[[Task, EvaluatedModel], list[ItemResult]]] = {
    "choice": _measure_choices,
    "perplexity": _measure_text,
    "held_out": _measure_answers,
}
"""How tasks are measured that need no sampling."""
