"""Measure a model on tasks: base and tuned go through this one path, with the same items, template and stop tokens."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from holdfast.data.batches import Encoded, collate
from holdfast.data.rows import Message, Row, fingerprint, rows_fingerprint
from holdfast.errors import RunError, UserError
from holdfast.evaluation.base import Item, Task
from holdfast.evaluation.choices import continuation, decide
from holdfast.evaluation.perplexity import windows
from holdfast.evaluation.store import Store
from holdfast.evaluation.thought_counts import THOUGHT, UNENDED, UNFIT, thought_extra
from holdfast.judges.base import Answer, Judge, Verdict
from holdfast.models import evaluating
from holdfast.registry import name_of
from holdfast.sampling.base import Draw, Request, Sample, SamplingParams

if TYPE_CHECKING:
    from holdfast.data.batches import Batch
    from holdfast.data.chat import Chat
    from holdfast.evaluation.probe import Reference
    from holdfast.models import Model
    from holdfast.policy import Policy

T = TypeVar("T")
JUDGES = 2
"""Part of the fingerprint of every judged measurement; raised when judges read answers differently."""
VERSION = 1
"""Part of every measurement's fingerprint; raised when the way of measuring changes."""


def judge_with_itself(judge: Judge, answers: Sequence[Answer]) -> list[Verdict]:
    """Verdicts of a judge that needs no engine."""
    return judge.judge_all(answers)


@dataclass(slots=True)
class Subject:
    """A model under measurement.

    Args:
        model: Fingerprint of its weights (`models.Loaded.fingerprint`); measurements are stored under it.
        chat: Its tokenizer and template.
        draw: Answers prompts (`drawing(engine)`, or a journal's `draw`, which survives a kill); `None` when no task
            samples.
        policy: Its log-probabilities; `None` when all tasks are "generate".
        judge: Called as `judge(task.judge, answers)`; replace it to give judges an engine, or to remember verdicts.
        width: Most tokens of a perplexity window; the model's context if that is shorter.
        micro_tokens: Tokens of one forward pass, padding included.
    """

    model: str
    chat: Chat
    draw: Draw | None = None
    policy: Policy | None = None
    judge: Callable[[Judge, Sequence[Answer]], list[Verdict]] = judge_with_itself
    width: int = 1024
    micro_tokens: int = 8192
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else the figures depend on (precision, adapter state); part of the fingerprint."""
    reference: Reference | None = None
    """What the base did on the probe; `None` for the base itself."""
    recorded: Reference | None = None
    """What `measure_all` learned of a base on the probe: the reference of those it is compared with."""

    @property
    def window(self) -> int:
        """Tokens of a perplexity window for this model."""
        return min(self.width, context_of(self) or self.width)


def precision_of(model: Model) -> dict[str, Any]:
    """What `Subject.extra` says of a model's precision: nothing for fp32."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {} if dtype == "float32" else {"dtype": dtype}


def need(part: T | None, name: str) -> T:
    """The part of a subject, or an error that it is missing."""
    if part is None:
        raise RunError(f"this task cannot be measured without a {name}")
    return part


def measurement(task: Task, subject: Subject) -> str:
    """Fingerprint of everything the items depend on: weights, template, questions, judge, settings."""
    how: Any = None
    if task.kind == "perplexity":
        how = [subject.window, "every byte"]
    elif task.kind == "generate":
        how = task.max_tokens if task.max_thinking_tokens is None else [task.max_tokens, task.max_thinking_tokens]
    elif task.kind == "probe":
        how = [task.max_tokens, subject.reference.base if subject.reference else "itself"]
    meta = {name: task.meta.get(name) for name in ("stop", "normalise", "lm_eval", "metric")}
    settings = [VERSION, task.kind, how, meta, _identity(task.judge), subject.extra]
    return fingerprint([subject.model, subject.chat.fingerprint, rows_fingerprint(task.rows), settings])


def _identity(judge: Judge | None) -> Any:
    """A judge by name and settings, and by the content of the user's own file where it runs one."""
    if judge is None:
        return None
    file = Path(str(getattr(judge, "function", "")).rpartition(":")[0])
    own = hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix == ".py" and file.is_file() else None
    return [name_of(judge), JUDGES, judge.identity, own]


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
            from holdfast.evaluation.probe import Reference

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
            from holdfast.evaluation.lm_eval_bridge import measure_harness

            yield task, measure_harness(task, subject)
            tick(len(task.rows))
        elif task.kind == "probe":
            from holdfast.evaluation.probe import measure_probe

            yield task, measure_probe(task, subject, tick)
        elif task.kind == "generate":
            by_settings.setdefault(sampling_of(task).model_dump_json(), []).append(task)
        else:
            yield task, SCORED[task.kind](task, subject)
            tick(len(task.rows))
    for group in by_settings.values():
        yield from _generate(group, subject, tick)


def sampling_of(task: Task) -> SamplingParams:
    """Greedy, as far as the task allows."""
    return SamplingParams(
        max_tokens=task.max_tokens,
        max_thinking_tokens=task.max_thinking_tokens,
        stop=tuple(task.meta.get("stop", ())),
    )


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


def shown(prompt: Sequence[Message]) -> str:
    """A prompt as one text for reports: the question alone, or the turns with their roles."""
    if len(prompt) == 1:
        return as_text(prompt[0]["content"])
    return "\n".join(f"{m['role']}: {as_text(m['content'])}" for m in prompt)


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _choice(task: Task, subject: Subject) -> list[Item]:
    encoded: list[Encoded] = []
    owners: list[int] = []
    for number, row in enumerate(task.rows):
        for choice in row.meta["choices"]:
            encoded.append(fit(choice_tokens(subject.chat, row.prompt, choice, number), subject))
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


def choice_tokens(chat: Chat, prompt: Sequence[Message], choice: str, row: int) -> Encoded:
    """The conversation that ends in `choice`; its tokens are scored, no marks before or after them."""
    ids, trained = chat.masking().encode(continuation(prompt, choice))
    scored = np.asarray(trained, dtype=bool).copy()
    last = int(np.flatnonzero(scored)[-1])
    if int(ids[last]) in chat.stop_ids and scored.sum() > 1:
        scored[last] = False
    return Encoded(ids=np.asarray(ids, dtype=np.int32), trained=scored, row=row)


def fit(sequence: Encoded, subject: Subject) -> Encoded:
    """The sequence with its beginning cut off where it is longer than the model's context."""
    limit = context_of(subject)
    if limit is None or len(sequence.ids) <= limit:
        return sequence
    trained = sequence.trained[-limit:].copy()
    trained[0] = False
    return Encoded(ids=sequence.ids[-limit:], trained=trained, row=sequence.row)


def context_of(subject: Subject) -> int | None:
    """Tokens that fit into the model; `None` where it has no limit."""
    config = need(subject.policy, "policy").config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


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


def begin_of_text(chat: Chat) -> list[int]:
    """What stands before a text: the begin token, or for want of one what ends the text before it."""
    begin, end = chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id
    return [begin if begin is not None else end if end is not None else min(chat.stop_ids)]


def _per_row(encoded: Sequence[Encoded], subject: Subject, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood in nats and number of scored tokens of each row, [rows] both, summed over its pieces."""
    totals, tokens = np.zeros(rows), np.zeros(rows, dtype=int)
    for piece, logp in zip(encoded, score_sequences(encoded, subject), strict=True):
        totals[piece.row] += logp
        tokens[piece.row] += int(piece.trained.sum())
    return totals, tokens


def _answers(task: Task, subject: Subject) -> list[Item]:
    """Log-likelihood of the rows' own answers: the very tokens that training would have as labels."""
    parts = [(number, part) for number, row in enumerate(task.rows) for part in subject.chat.unrolled(row.messages)]
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


def score_sequences(encoded: Sequence[Encoded], subject: Subject) -> list[float]:
    """Log-likelihood in nats of the `trained` tokens of each sequence, in the order given."""
    policy = need(subject.policy, "policy")
    found = [0.0] * len(encoded)
    with evaluating(policy.model):
        for sequence in encoded:
            subject.chat.refuse_unknown(sequence.ids)
        for numbers in by_area(encoded, subject.micro_tokens):
            batch = batch_of([encoded[i] for i in numbers], subject)
            logps = policy.token_logps(batch).cpu().double().numpy()  # [N]
            sums = np.bincount(batch.sequence.cpu().numpy(), weights=logps, minlength=len(numbers))
            for i, value in zip(numbers, sums, strict=True):
                found[i] = float(value)
    return found


def by_area(encoded: Sequence[Encoded], micro_tokens: int) -> Iterator[list[int]]:
    """Numbers of sequences of like length, longest first, whose padded area stays within `micro_tokens`."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    start = 0
    while start < len(order):
        size = max(1, micro_tokens // len(encoded[order[start]].ids))
        yield order[start : start + size]
        start += size


def batch_of(encoded: Sequence[Encoded], subject: Subject) -> Batch:
    """Sequences as one batch padded on the right, on the model's device."""
    policy, pad = need(subject.policy, "policy"), subject.chat.pad_id
    batch = collate(list(encoded), "padded", pad)
    assert batch is not None  # only nothing makes none
    return batch.to(next(policy.model.parameters()).device)
