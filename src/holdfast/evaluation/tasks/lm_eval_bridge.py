"""Tasks of lm-evaluation-harness (an extra), answered through the same subject as every other task.

Its prompts are rendered by the model's own chat template, few-shot examples as turns, as with the harness's own
`--apply_chat_template`; tokenizers without one get the plain template that training uses. So base and tuned model see
the same text, and figures may differ from a harness run without a template.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.axes.analysis import OPTIONS
from holdfast.axes.engine import Request, SamplingParams
from holdfast.core.spelling import suggest_name
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.rows import Message, Row, fingerprint_json
from holdfast.data.thoughts import final_answer
from holdfast.errors import UserError, first_line
from holdfast.evaluation.subject import (
    EvaluatedModel,
    as_text,
    begin_of_text,
    build_batch,
    cut_to_context,
    format_prompt,
    require_part,
    run_groups,
    score_sequences,
)
from holdfast.evaluation.task import ItemResult, Task
from holdfast.evaluation.tasks.multiple_choice import encode_choice, normalise_logps
from holdfast.evaluation.tasks.perplexity import cut_windows

try:
    from lm_eval import evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager
except ImportError as missing:
    raise UserError("tasks of lm-eval need its package: pip install 'holdfast[lm-eval]'") from missing

KINDS = {
    "generate_until": "generate",
    "multiple_choice": "choice",
    "loglikelihood": "choice",
    "loglikelihood_rolling": "perplexity",
}
THINKING = 1024
"""Longest thought before an answer, which the harness is given without it."""
FEWSHOT_SEED = 1234
"""As in `lm_eval`: which examples are shown."""


def build_harness_task(spec: str, *, items: int, role: str, seed: int = 0) -> Task:
    """A task, group or tag of lm-eval as a `Task`.

    Args:
        spec: `NAME`, or `NAME:METRIC` or `NAME:METRIC,FILTER` where a task has several (default: its first); NAME may
            be the path of a task's YAML file.
        items: Questions, spread evenly over the tasks of a group; drawn with `seed`.
        role: "target" or "keep".
    Raises:
        UserError: If there is no such task, or its data cannot be loaded.
    """
    name, _, metric = spec.partition(":")
    parts = _load_harness_tasks(name)
    kinds = {KINDS[task.OUTPUT_TYPE] for task in parts.values()}
    if len(kinds) > 1:
        raise UserError(f"{name}: a group that mixes {' and '.join(sorted(kinds))} tasks; name its tasks one by one")
    share = -(-items // len(parts))
    rows = [row for part, task in parts.items() for row in _draw_rows(part, task, share, seed)]
    kind = kinds.pop()
    return Task(name=spec, kind=kind, rows=rows, role=role, meta={"lm_eval": name, "metric": metric})  # type: ignore[arg-type]


def _load_harness_tasks(name: str) -> dict[str, Any]:
    """The harness's task objects by name, set up as its own command line would."""
    is_file = name.endswith((".yaml", ".yml"))
    manager = TaskManager(include_defaults=not is_file)
    if not is_file and name not in manager.all_tasks:
        raise UserError(f"{name} is neither a file nor a task of lm-eval{suggest_name(name, manager.all_tasks)}")
    try:
        tasks = manager.load([name])["tasks"]
    except (OSError, ValueError, KeyError, ConnectionError) as error:
        raise UserError(f"{name}: lm-eval cannot load it: {first_line(error)}") from error
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _draw_rows(part: str, task: Any, items: int, seed: int) -> list[Row]:
    """Stand-ins for the drawn questions: the harness makes the prompts, these name them and hold a hash of each."""
    docs = task.eval_docs
    chosen = np.random.default_rng(seed).permutation(len(docs))[:items].tolist()
    return [
        Row(
            messages=[{"role": "user", "content": f"{part}/{number}"}], id=f"{part}/{number}",
            meta={"part": part, "doc": number, "content": fingerprint_json(docs[number])},
        )
        for number in chosen
    ]  # fmt: skip


def measure_harness(task: Task, subject: EvaluatedModel) -> list[ItemResult]:
    """Items of a task of lm-eval, in the order of its rows.

    Raises:
        UserError: If the metric is not a score per question with higher being better.
    """
    docs_by_task: dict[str, list[int]] = defaultdict(list)
    for row in task.rows:
        docs_by_task[row.meta["part"]].append(row.meta["doc"])
    harness_tasks = {
        name: part for name, part in _load_harness_tasks(task.meta["lm_eval"]).items() if name in docs_by_task
    }
    results = evaluate(
        lm=HarnessModel(subject),
        task_dict={"tasks": harness_tasks, "groups": {}, "group_map": {}},
        samples={
            name: sorted(docs) for name, docs in docs_by_task.items()
        },  # unsorted, the harness mixes up their numbers
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    items: dict[str, ItemResult] = {}
    for name, samples in results["samples"].items():
        metric, chosen = _choose_metric(task, harness_tasks[name], samples)
        for sample in samples:
            if sample["filter"] == chosen:
                items[f"{name}/{sample['doc_id']}"] = _build_item(f"{name}/{sample['doc_id']}", sample, metric, task)
    return [items[row.id] for row in task.rows]


def _choose_metric(task: Task, part: Any, samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The metric and filter that are reported."""
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    metric, _, chosen = task.meta["metric"].partition(",")
    metrics = samples[0]["metrics"]
    metric = metric or ("byte_perplexity" if task.kind == "perplexity" else metrics[0])
    if metric not in metrics:
        raise UserError(f"{task.name}: no metric {metric}{suggest_name(metric, metrics)}")
    if chosen and chosen not in filters:
        raise UserError(f"{task.name}: no filter {chosen}{suggest_name(chosen, filters)}")
    plain = isinstance(samples[0][metric], int | float | np.number)
    if task.kind != "perplexity" and (not plain or part.higher_is_better().get(metric) is False):
        raise UserError(
            f"{task.name}: {metric} is not a score per question with higher being better; choose another metric"
        )
    return metric, chosen or filters[0]


def _build_item(name: str, sample: Mapping[str, Any], metric: str, task: Task) -> ItemResult:
    first = sample["arguments"][0]
    if task.kind == "perplexity":
        logp, size = sample[metric]
        bytes_ = int(size) if metric == "byte_perplexity" else 0  # the harness may count the text before its clean-up
        return ItemResult(
            name, first[0], "", "", float(logp), passed=True, stopped=True, tokens=int(size), bytes=bytes_
        )
    messages, extra = read_context(first[0])[0], dict[str, Any]()
    if task.kind == "generate":
        response, reason = as_text(sample["resps"][0][0]), f"{metric} of {as_text(sample['filtered_resps'][0])}"
    else:
        logps = [answer[0][0] for answer in sample["resps"]]
        response, reason = sample["arguments"][int(np.argmax(logps))][1].strip(), f"{metric}; log-likelihoods {logps}"
        is_weighed = len(logps) > 1 and all(context for context, *_ in sample["arguments"])
        extra = {OPTIONS: normalise_logps(np.array(logps))} if is_weighed else {}
    return ItemResult(
        name, format_prompt(messages), response, as_text(sample["target"]), float(sample[metric]),
        passed=float(sample[metric]) > 0.5, stopped=True, tokens=len(response.split()), reason=reason[:200],
        extra=extra,
    )  # fmt: skip


def read_context(context: str) -> tuple[list[Message], str]:
    """The conversation and forced beginning of the answer in a context made by `HarnessModel.apply_chat_template`."""
    if not context:
        return [], ""
    messages = json.loads(context)
    return (messages[:-1], messages[-1]["content"]) if messages[-1]["role"] == "assistant" else (messages, "")


class HarnessModel(LM):
    """A subject as the harness sees a model.

    The harness passes prompts around as strings; here such a string is the conversation as JSON, so that `Chat` renders
    it, once, like every other prompt.
    """

    def __init__(self, subject: EvaluatedModel) -> None:
        super().__init__()
        self.subject = subject

    @property
    def tokenizer_name(self) -> str:
        return self.subject.chat.fingerprint

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON; without generation prompt its last turn is the forced beginning of the answer."""
        return json.dumps(chat_history)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """`(log-likelihood in nats, whether greedy decoding would say it)` of each continuation."""
        sequences = [
            cut_to_context(self._encode_request(number, *request.args), self.subject)
            for number, request in enumerate(requests)
        ]
        return list(zip(score_sequences(sequences, self.subject), self._match_greedy(sequences), strict=True))

    def _encode_request(self, number: int, context: str, continuation: str) -> EncodedSequence:
        chat = self.subject.chat
        messages, begin = read_context(context)
        messages = self.subject.prompt(messages) if messages else messages
        if messages and not begin:
            return encode_choice(chat, messages, continuation, number)
        before = list(chat.prompt_ids(messages)) + self._tokenize_text(begin) if messages else begin_of_text(chat)
        after = self._tokenize_text(continuation)
        label_mask = np.arange(len(before) + len(after)) >= len(before)
        return EncodedSequence(ids=np.asarray(before + after, dtype=np.int32), label_mask=label_mask, row=number)

    def _tokenize_text(self, text: str) -> list[int]:
        return self.subject.chat.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _match_greedy(self, sequences: Sequence[EncodedSequence]) -> list[bool]:
        matches = [True] * len(sequences)
        policy = require_part(self.subject.policy, "policy")

        def match_group(numbers: list[int]) -> None:
            batch = build_batch([sequences[i] for i in numbers], self.subject)
            wrong = policy.greedy_tokens(batch, batch.label_positions) != batch.labels
            for sequence in batch.sequence[wrong].unique().tolist():
                matches[numbers[sequence]] = False

        run_groups(sequences, self.subject, match_group)
        return matches

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood in nats of whole texts, every token scored once."""
        begin = begin_of_text(self.subject.chat)
        sequences = [
            window
            for number, request in enumerate(requests)
            for window in cut_windows(begin + self._tokenize_text(request.args[0]), self.subject.window, number)
        ]
        totals = [0.0] * len(requests)
        for window, logp in zip(sequences, score_sequences(sequences, self.subject), strict=True):
            totals[window.row] += logp
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, drawn by the subject's engine; repeats of a question are its samples 0, 1, ..."""
        groups: dict[SamplingParams, dict[str, Request]] = defaultdict(dict)
        places: list[tuple[SamplingParams, str, int]] = []
        counts: dict[str, int] = defaultdict(int)
        for request in requests:
            context, options = request.args[:2]
            key = f"eval/{request.task_name}/{request.doc_id}/{fingerprint_json([context, options])[:16]}"
            messages, begin = read_context(context)
            params = _build_sampling_params(options, request.repeats)
            groups[params][key] = Request(key, messages, prefill=begin)
            places.append((params, key, counts[key]))
            counts[key] += 1
        draw = require_part(self.subject.draw, "sampling engine")
        samples = {params: draw(list(group.values()), params) for params, group in groups.items()}
        return [final_answer(samples[params][key][index].text) for params, key, index in places]


def _build_sampling_params(options: Mapping[str, Any], n: int) -> SamplingParams:
    until = options.get("until") or []
    warm = options.get("do_sample", False)
    return SamplingParams(
        max_tokens=options.get("max_gen_toks", 256),
        max_thinking_tokens=THINKING,
        temperature=options.get("temperature", 1.0) if warm else 0.0,
        top_p=options.get("top_p", 1.0) if warm else 1.0,
        top_k=options.get("top_k", 0) if warm else 0,
        stop=(until,) if isinstance(until, str) else tuple(until),
        n=n,
    )
