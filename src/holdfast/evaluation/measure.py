"""Measure a model on tasks: base and tuned go through this one path, with the same items, template and stop tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from holdfast.axes.engine import Request, Sample
from holdfast.axes.judge import Answer, Verdict
from holdfast.data.batching.batches import Encoded
from holdfast.data.rows import Row
from holdfast.errors import RunError, UserError
from holdfast.evaluation.results_store import Store
from holdfast.evaluation.subject import (
    Subject,
    as_text,
    asked,
    begin_of_text,
    fit,
    measurement,
    need,
    sampling_of,
    score_sequences,
    shown,
)
from holdfast.evaluation.task import Item, Task
from holdfast.evaluation.tasks.multiple_choice import choice_tokens, decide
from holdfast.evaluation.tasks.perplexity import windows
from holdfast.evaluation.thought_counts import THOUGHT, UNENDED, UNFIT, thought_extra
from holdfast.models.loading import evaluating


def measure(task: Task, subject: Subject, **options: Any) -> list[Item]:
    """`measure_all` for one task."""
    return measure_all([task], subject, **options)[task.name]


def measure_all(
    tasks: Sequence[Task],
    subject: Subject,
    *,
    store: Store | None = None,
    shared: Store | None = None,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, list[Item]]:
    """The items of every task, in the order of its rows.

    Args:
        tasks: Names must differ. Questions of all "generate" tasks with like settings go to the engine in one call, so
            that its batch stays full.
        subject: The model.
        store: `eval/<when>` of the run: measurements found there are not made again, new ones are written at once.
        shared: The baselines of all runs (`shared_store()`), for the untouched model.
        progress: Called with the number of items finished, which add up to `items_in(tasks)`.
    """
    names = [task.name for task in tasks]
    if twice := [name for name in set(names) if names.count(name) > 1]:
        raise UserError(f"evaluate: two tasks are called {sorted(twice)[0]}; rename one of the files")
    tick = progress or (lambda n: None)
    prints = {task.name: measurement(task, subject) for task in tasks}
    found: dict[str, list[Item]] = {}
    for task in tasks:
        items = _known(task, prints[task.name], subject, store, shared)
        if items is not None:
            found[task.name] = items
            tick(len(task.rows))
    with _quiet(subject):
        for task, items in _measure([t for t in tasks if t.name not in found], subject, tick):
            found[task.name] = items
            tensors = subject.recorded.tensors() if _is_reference(task, subject) and subject.recorded else None
            for place in filter(None, (store, shared)):
                place.write(task, prints[task.name], items, tensors)
    return {name: found[name] for name in names}


def items_in(tasks: Sequence[Task]) -> int:
    """How much `progress` of `measure_all` will add up to."""
    return sum(len(task.rows) for task in tasks)


def _is_reference(task: Task, subject: Subject) -> bool:
    """Whether measuring the task makes the subject the reference of the models it will be compared with."""
    return task.kind == "probe" and subject.reference is None


def _known(task: Task, key: str, subject: Subject, store: Store | None, shared: Store | None) -> list[Item] | None:
    """The items of a measurement that one of the stores holds; of a base's probe also the reference (`recorded`)."""
    for place in filter(None, (store, shared)):
        items, tensors = place.read(task, key), None
        if items is not None and _is_reference(task, subject):
            from holdfast.evaluation.tasks.probe import Reference

            if (tensors := place.tensors(task, key)) is None:
                continue
            subject.recorded = Reference.of(key, items, tensors)
        if items is not None and place is shared and store:
            store.write(task, key, items, tensors)  # so that the run directory is whole without the cache
        if items is not None:
            return items
    return None


@contextlib.contextmanager
def _quiet(subject: Subject) -> Iterator[None]:
    """No dropout and no gradients while measuring in the middle of training."""
    with evaluating(subject.policy.model) if subject.policy is not None else contextlib.nullcontext():
        yield


def _measure(tasks: Sequence[Task], subject: Subject, tick: Callable[[int], Any]) -> Iterator[tuple[Task, list[Item]]]:
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
        elif task.kind == "generate":
            by_settings.setdefault(sampling_of(task).model_dump_json(), []).append(task)
        else:
            yield task, SCORED[task.kind](task, subject)
            tick(len(task.rows))
    for group in by_settings.values():
        yield from _generate(group, subject, tick)


def _generate(group: Sequence[Task], subject: Subject, tick: Callable[[int], Any]) -> Iterator[tuple[Task, list[Item]]]:
    requests = [Request(f"eval/{task.name}/{row.id}", row.prompt) for task in group for row in task.rows]
    if len({request.key for request in requests}) != len(requests):
        raise RunError("two questions of one task have the same id; build tasks with evaluation.tasks")
    drawn = need(subject.draw, "sampling engine")(requests, sampling_of(group[0]), lambda sample: tick(1))
    for task in group:
        samples = [drawn[f"eval/{task.name}/{row.id}"][0] for row in task.rows]
        answers = [Answer(row.prompt, s.text, row.gold) for row, s in zip(task.rows, samples, strict=True)]
        verdicts = subject.judge(need(task.judge, "judge"), answers)
        yield task, [_judged(row, s, v) for row, s, v in zip(task.rows, samples, verdicts, strict=True)]


def _judged(row: Row, sample: Sample, verdict: Verdict) -> Item:
    told, extra = verdict.outcome != "unreadable", thought_extra(sample)
    reason = f"the thought did not end; {verdict.reason}" if extra.get(THOUGHT) == UNENDED else verdict.reason
    if sample.finish == "length" and not sample.tokens:
        extra, reason = extra | {UNFIT: True}, "the prompt does not fit into the model's context"
    return Item(
        id=row.id, prompt=shown(row.prompt), response=sample.text, reference=as_text(row.gold),
        score=verdict.score if told else 0.0, passed=verdict.passed and told, stopped=sample.finish == "stop",
        tokens=sample.tokens - sample.thought_tokens, reason=reason, unreadable=not told, extra=extra,
    )  # fmt: skip


def _choice(task: Task, subject: Subject) -> list[Item]:
    encoded: list[Encoded] = []
    owners: list[int] = []
    for number, row in enumerate(task.rows):
        for choice in row.meta["choices"]:
            encoded.append(fit(choice_tokens(subject.chat, subject.prompt(list(row.prompt)), choice, number), subject))
            owners.append(number)
    logps = np.array(score_sequences(encoded, subject))
    found = []
    for number, row in enumerate(task.rows):
        mine = np.flatnonzero(np.array(owners) == number)
        picked, score, passed = decide(logps[mine], row.meta["choices"], row.gold, task.meta.get("normalise", "none"))
        right = row.gold if isinstance(row.gold, list) else [int(i == row.gold) for i in range(len(mine))]
        found.append(
            Item(
                id=row.id,
                prompt=shown(row.prompt),
                response=row.meta["choices"][picked],
                reference=" | ".join(c for c, ok in zip(row.meta["choices"], right, strict=True) if ok),
                score=score,
                passed=passed,
                stopped=True,
                tokens=int(encoded[mine[picked]].trained.sum()),
                reason="log-likelihoods " + ", ".join(f"{v:.2f}" for v in logps[mine]),
            )
        )
    return found


def _text(task: Task, subject: Subject) -> list[Item]:
    """Log-likelihood of plain text: all its bytes, the first token being predicted from what begins a text."""
    tokenizer, begin = subject.chat.tokenizer, begin_of_text(subject.chat)
    encoded: list[Encoded] = []
    for number, row in enumerate(task.rows):
        ids = [*begin, *tokenizer(row.answer, add_special_tokens=False, verbose=False)["input_ids"]]
        encoded.extend(windows(ids, subject.window, number))
    totals, tokens = _per_row(encoded, subject, len(task.rows))
    return [
        Item(row.id, row.answer or "", "", "", score=float(logp), passed=True, stopped=True, tokens=int(n))
        for row, logp, n in zip(task.rows, totals, tokens, strict=True)
        if n
    ]


def _per_row(encoded: Sequence[Encoded], subject: Subject, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood in nats and number of scored tokens of each row, [rows] both, summed over its pieces."""
    totals, tokens = np.zeros(rows), np.zeros(rows, dtype=int)
    for piece, logp in zip(encoded, score_sequences(encoded, subject), strict=True):
        totals[piece.row] += logp
        tokens[piece.row] += int(piece.trained.sum())
    return totals, tokens


def _answers(task: Task, subject: Subject) -> list[Item]:
    """Log-likelihood of the rows' own answers: the very tokens that training would have as labels."""
    parts = [
        (number, asked(part, subject))
        for number, row in enumerate(task.rows)
        for part in subject.chat.unrolled(row.messages)
    ]
    both = subject.chat.encode_many([part for _, part in parts], [f"row {task.rows[number].id}" for number, _ in parts])
    encoded = [
        fit(Encoded(ids=np.asarray(ids, dtype=np.int32), trained=np.asarray(trained, dtype=bool), row=number), subject)
        for (number, _), (ids, trained) in zip(parts, both, strict=True)
    ]
    totals, tokens = _per_row(encoded, subject, len(task.rows))
    found = []
    for row, logp, n in zip(task.rows, totals, tokens, strict=True):
        answers = [m["content"] for m in row.messages if m["role"] == "assistant" and m.get("weight", 1) != 0]
        if n:
            found.append(
                Item(
                    row.id, shown(row.prompt), "", as_text(row.answer), score=float(logp), passed=True, stopped=True,
                    tokens=int(n), bytes=max(1, sum(len(text.encode("utf-8", "surrogatepass")) for text in answers)),
                )
            )  # fmt: skip
    return found


SCORED: dict[str, Callable[[Task, Subject], list[Item]]] = {
    "choice": _choice,
    "perplexity": _text,
    "held_out": _answers,
}
"""How tasks are measured that need no sampling."""
