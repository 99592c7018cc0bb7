"""The retention probe: neutral prompts on which the base's own behaviour is the reference, for any model, offline.

The base answers every prompt greedily, and what it predicted at each token of its answers is kept: its likeliest tokens
with their log-probabilities, and all others as one event. A tuned model is shown the same tokens:

- KL(base || tuned) per token, in bits, over the kept events: a lower bound of the whole divergence;
- agreement: at which share of the tokens both have the same likeliest next token;
- the same answer: whether they have it at every token of an answer, which is when the tuned model answers the same.

It also answers the prompts itself, which shows whether it still ends its answers, and how long they are. Every figure
is the mean over prompts, each counting the same. Equal weights give exactly 0 bits and 100 %: what is compared is
computed by the same operations in batches of the same shape.

The prompts, and passages of text that are measured beside them in bits per byte, are in `probe_data/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdfast.axes.engine import Request, Sample
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.rows import Row
from holdfast.evaluation.subject import (
    EvaluatedModel,
    build_batch,
    build_sampling_params,
    context_of,
    format_prompt,
    measurement_fingerprint,
    require_part,
    run_groups,
)
from holdfast.evaluation.task import ItemResult, Task
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.methods.objectives.terms.top_k import logsumexp_of_rest

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.models.loading import Model

DATA = Path(__file__).parent / "probe_data"
SEED = 0
"""Of the order of prompts and passages."""
TOP = 64
"""Tokens whose log-probabilities are kept of every prediction of the base."""
LONGEST = 48
"""Most tokens of an answer."""
LIVE = 16
"""Prompts, and passages, of an evaluation during training."""
APART = 8
"""Prompts on which the base is computed a second time, each by itself, to see what arithmetic alone changes."""
NOISE = ("noise_kl", "noise_agreement")
"""What their items have of that, in `extra`."""
CPU_BUDGET, FEWEST = 16_000_000_000, 48
"""Without an accelerator: parameters times prompts, which bounds the minutes; and the least number of prompts."""


def prompt_limit(model: Model) -> int | None:
    """How many prompts, and passages, a model is asked: all (`None`) on an accelerator, fewer of a large one on a CPU.

    On a CPU `CPU_BUDGET` / parameters, but at least `FEWEST`: 119 of a model of 135 million parameters. The base is
    asked, and the number holds for base and tuned alike.
    """
    if model.device.type not in ("cpu", "meta"):
        return None
    return max(FEWEST, CPU_BUDGET // max(1, sum(p.numel() for p in model.parameters())))


def limit_probe_tasks(tasks: Sequence[Task], model: Model) -> list[Task]:
    """The tasks, those of the probe cut to `prompt_limit`."""
    limit = prompt_limit(model)
    return [
        task.limit_rows(limit) if limit is not None and task.meta.get("source") == "probe" else task for task in tasks
    ]


def build_probe_tasks(limit: int) -> list[Task]:
    """The task of the prompts and that of the text, at most `limit` rows each.

    A smaller limit gives the beginning of what a larger one gives.
    """
    return [
        Task("probe", "probe", probe_prompts()[:limit], max_tokens=LONGEST, meta={"source": "probe", "live": LIVE}),
        Task("probe-text", "perplexity", probe_passages()[:limit], meta={"source": "probe", "live": LIVE}),
    ]


@cache
def probe_prompts() -> list[Row]:
    """All prompts in the order in which they are used, with `kind` and `language` in `meta`."""
    rows = [
        Row(
            [{"role": "user", "content": record["prompt"]}],
            meta={name: record[name] for name in ("kind", "language")},
            id=record["id"],
        )
        for record in _read_records("prompts.jsonl")
    ]
    return _stratify_rows(rows, lambda row: (row.meta["kind"], row.meta["language"]))


@cache
def probe_passages() -> list[Row]:
    """All passages of text in the order in which they are used, as rows of plain text."""
    rows = [
        Row(
            [{"role": "assistant", "content": record["text"]}],
            meta={name: record[name] for name in ("register", "language")},
            id=record["id"],
        )
        for record in _read_records("text.jsonl")
    ]
    return _stratify_rows(rows, lambda row: (row.meta["register"], row.meta["language"]))


def _read_records(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def _stratify_rows(rows: Sequence[Row], stratum: Callable[[Row], tuple[str, ...]]) -> list[Row]:
    """The rows in a seeded order in which every beginning holds each stratum in about its share of the whole."""
    rng = np.random.default_rng(SEED)
    strata: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        strata.setdefault(stratum(row), []).append(row)
    by_place: list[tuple[float, Row]] = []
    for members in strata.values():
        # Evenly over [0, 1), each stratum from a start of its own, so that not all of them are due at once.
        places = (np.arange(len(members)) + rng.random()) / len(members)
        order = rng.permutation(len(members))
        by_place += [(float(place), members[number]) for place, number in zip(places, order, strict=True)]
    return [row for _, row in sorted(by_place, key=lambda pair: pair[0])]


# ---- the reference --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What the base predicted along its own answer to one prompt.

    Args:
        ids: int32 [n]: the prompt, the answer, and if the base ended the answer one more token, whatever it is: the
            place where the end is predicted.
        start: Where the answer begins; m = n - start predictions are compared.
        best: int64 [m]: the likeliest token.
        events: int64 [m, TOP]: tokens whose log-probabilities are kept.
        logps: fp32 [m, TOP + 1]: their log-probabilities, and that of all other tokens together.
    """

    ids: np.ndarray
    start: int
    best: Tensor
    events: Tensor
    logps: Tensor


@dataclass(frozen=True, slots=True)
class Reference:
    """What the base did on the probe.

    Args:
        base: Fingerprint of the measurement that made it.
        answers: By id of the prompt. Prompts that do not fit into the model's context are missing.
    """

    base: str
    answers: Mapping[str, AnswerRecord]

    def to_tensors(self) -> dict[str, Tensor]:
        """All of it in a few tensors to be stored beside the items, which name the prompts in the same order."""
        every = list(self.answers.values())
        return {
            "sizes": torch.tensor([[len(a.ids), a.start] for a in every], dtype=torch.int32).view(-1, 2),
            "ids": torch.cat([torch.from_numpy(a.ids) for a in every] or [torch.zeros(0, dtype=torch.int32)]),
            "best": _concatenate_or_empty([a.best.int() for a in every], torch.int32),
            "events": _concatenate_or_empty([a.events.int() for a in every], torch.int32, TOP),
            "logps": _concatenate_or_empty([a.logps for a in every], torch.float32, TOP + 1),
        }

    @classmethod
    def from_tensors(cls, base: str, items: Sequence[ItemResult], tensors: Mapping[str, Tensor]) -> Reference:
        """The inverse of `tensors`."""
        sizes = tensors["sizes"].long()  # [P, 2]
        lengths, answers = sizes[:, 0].tolist(), (sizes[:, 0] - sizes[:, 1]).tolist()
        parts = [tensors[name].split(answers) for name in ("best", "events", "logps")]
        return cls(
            base,
            {
                item.id: AnswerRecord(ids.numpy(), int(start), best.long(), events.long(), logps)
                for item, ids, start, best, events, logps in zip(
                    items, tensors["ids"].split(lengths), sizes[:, 1], *parts, strict=True
                )
            },
        )


def join_references(parts: Sequence[Reference], order: Sequence[str]) -> Reference:
    """One reference from those of parts of the prompts, in the order of the ids given."""
    answers = {id_: answer for part in parts for id_, answer in part.answers.items()}
    return Reference(parts[0].base, {id_: answers[id_] for id_ in order})


def keep_first_noise(items: Sequence[ItemResult]) -> list[ItemResult]:
    """The base's items without `NOISE`, but for the first, which alone have it where one process measures all."""
    for item in items[APART:]:
        item.extra = {name: value for name, value in item.extra.items() if name not in NOISE}
    return list(items)


def _concatenate_or_empty(parts: Sequence[Tensor], dtype: torch.dtype, *width: int) -> Tensor:
    return torch.cat(list(parts)).contiguous() if parts else torch.zeros(0, *width, dtype=dtype)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure_probe(task: Task, subject: EvaluatedModel, tick: Callable[[int], Any]) -> list[ItemResult]:
    """The items of the probe: of the base itself if the subject has no reference, which it then becomes
    (`own_reference`).

    `ItemResult.score` is the agreement with the base (0 to 1), `passed` whether the whole answer is the same,
    `response` and `tokens` are the model's own answer and its length; `extra` holds `kl` (bits per token), kind and
    language, and of some of the base's items what the arithmetic of other batch shapes changes (`noise_kl`,
    `noise_agreement`).
    """
    rows = [row for row in task.rows if subject.reference is None or row.id in subject.reference.answers]
    requests = [Request(f"eval/{task.name}/{row.id}", row.prompt) for row in rows]
    samples_by_key = require_part(subject.draw, "sampling engine")(
        requests, build_sampling_params(task), lambda sample: tick(1)
    )
    samples = {row.id: samples_by_key[request.key][0] for row, request in zip(rows, requests, strict=True)}
    tick(len(task.rows) - len(rows))
    if subject.reference is not None:
        comparisons = compare_answers([subject.reference.answers[row.id] for row in rows], subject)
        return [_build_item(row, samples[row.id], *figures) for row, figures in zip(rows, comparisons, strict=True)]
    subject.own_reference = reference = record_reference(task, samples, subject)
    rows = [row for row in rows if row.id in reference.answers]
    items = [_build_item(row, samples[row.id], 0.0, 1.0, True) for row in rows]
    for item in items[:APART]:
        ((kl, agreement, _),) = compare_answers([reference.answers[item.id]], subject)
        item.extra |= dict(zip(NOISE, (kl, agreement), strict=True))
    return items


def _build_item(row: Row, sample: Sample, kl: float, agreement: float, same: bool) -> ItemResult:
    return ItemResult(
        id=row.id, prompt=format_prompt(row.prompt), response=sample.text, reference="",
        score=agreement, passed=same, stopped=sample.finish == "stop", tokens=sample.tokens,
        extra={"kl": kl, **row.meta},
    )  # fmt: skip


def record_reference(task: Task, samples: Mapping[str, Sample], subject: EvaluatedModel) -> Reference:
    """What the base predicts along its answers."""
    rows = task.rows
    # A character of several tokens may be cut off at the longest answer; what is left of it is no text.
    texts = {row.id: samples[row.id].text.rstrip("\ufffd") for row in rows}
    prompts = {row.id: subject.prompt(list(row.prompt)) for row in rows}
    whole = prompt_ids(subject.chat, [Request(row.id, prompts[row.id], prefill=texts[row.id]) for row in rows])
    before = prompt_ids(subject.chat, [Request(row.id, prompts[row.id]) for row in rows])
    limit, end = context_of(subject), min(subject.chat.stop_ids or {subject.chat.pad_id})
    sequences: list[EncodedSequence] = []
    names: list[str] = []
    for row, ids, prompt in zip(rows, whole, before, strict=True):
        if samples[row.id].finish == "stop":
            ids = [*ids, end]
        ids = ids[:limit]
        if len(ids) > len(prompt):
            sequences.append(_encode_answer(ids, len(prompt), len(names)))
            names.append(row.id)
    predictions = _score_along(sequences, subject, lambda numbers: _keep_top)
    return Reference(
        measurement_fingerprint(task, subject),
        {
            name: AnswerRecord(
                ids=sequence.ids,
                start=int(np.argmax(sequence.label_mask)),
                best=values[:, -1].long(),
                events=values[:, TOP + 1 : -1].long(),
                logps=values[:, : TOP + 1].contiguous(),
            )
            for name, sequence, values in zip(names, sequences, predictions, strict=True)
        },
    )


def _encode_answer(ids: Sequence[int] | np.ndarray, start: int, row: int) -> EncodedSequence:
    return EncodedSequence(ids=np.asarray(ids, dtype=np.int32), label_mask=np.arange(len(ids)) >= start, row=row)


def _keep_top(logits: Tensor, part: slice) -> Tensor:
    """What is kept of logits [m, V]: [m, 2 TOP + 2], log-probabilities of TOP tokens and of all others, ids, the best.

    Of a vocabulary of TOP tokens or fewer all but one are kept; the places left over hold an event that never happens.
    """
    logps = logits.log_softmax(-1)
    top = min(TOP, logits.shape[-1] - 1)
    top_logps, ids = logps.topk(top, -1)
    rest, best = (
        logsumexp_of_rest(logps, ids),
        logits.argmax(-1, keepdim=True),
    )  # not ids[:, 0]: of equal ones another may be first
    top_logps = torch.nn.functional.pad(top_logps, (0, TOP - top), value=-math.inf)
    ids = torch.cat([ids, ids[:, :1].expand(-1, TOP - top)], -1)
    return torch.cat(
        [top_logps, rest, ids.to(top_logps.dtype), best.to(top_logps.dtype)], -1
    )  # ids to 16 million are exact in fp32


def compare_answers(answers: Sequence[AnswerRecord], subject: EvaluatedModel) -> list[tuple[float, float, bool]]:
    """Of each of the base's answers: KL(base || model) in bits per token, agreement (0 to 1), whether it is whole."""
    sequences = [_encode_answer(answer.ids, answer.start, number) for number, answer in enumerate(answers)]

    def build_scorer(numbers: Sequence[int]) -> Callable[[Tensor, slice], Tensor]:
        some = [answers[number] for number in numbers]
        base = torch.cat([a.logps for a in some])  # [N, TOP + 1]
        events, best = torch.cat([a.events for a in some]), torch.cat([a.best for a in some])

        def score_logits(logits: Tensor, part: slice) -> Tensor:
            """Bits, and 1 where the likeliest token is the base's, [m, 2]."""
            p, ids = base[part].to(logits.device), events[part].to(logits.device)
            logps = logits.log_softmax(-1)
            q = torch.cat([logps.gather(-1, ids), logsumexp_of_rest(logps, ids)], -1)
            # Exactly 0 for equal logits, as q is then bit for bit p; what never happens counts nothing.
            bits = torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum(-1).clamp_min(0) / math.log(2)
            return torch.stack([bits, (logits.argmax(-1) == best[part].to(logits.device)).to(bits.dtype)], -1)

        return score_logits

    return [
        (float(values[:, 0].double().mean()), float(values[:, 1].double().mean()), bool(values[:, 1].all()))
        for values in _score_along(sequences, subject, build_scorer)
    ]


def _score_along(
    sequences: Sequence[EncodedSequence],
    subject: EvaluatedModel,
    scoring: Callable[[list[int]], Callable[[Tensor, slice], Tensor]],
) -> list[Tensor]:
    """What a function makes of the logits of each sequence's predictions, fp32 on the CPU, [m, ...] each.

    Args:
        scoring: From the numbers of the sequences of a batch to the function, as `Policy.over_vocabulary` takes it.
    """
    policy = require_part(subject.policy, "policy")
    values_by_number: dict[int, Tensor] = {}

    def score_group(numbers: list[int]) -> None:
        batch = build_batch([sequences[i] for i in numbers], subject)
        values = policy.over_vocabulary(batch, scoring(numbers)).float().cpu()
        counts = torch.bincount(batch.sequence, minlength=len(numbers)).tolist()
        values_by_number.update(zip(numbers, values.split(counts), strict=True))

    run_groups(sequences, subject, score_group)
    return [values_by_number[number] for number in range(len(sequences))]
