"""The stages of a run: each takes what the one before left, writes its result at once, and is not done twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.curator import CurationContext, Curator
from holdfast.axes.engine import Request, Sample, SampleFn, SamplingParams
from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.axes.registry import find_method, name_of
from holdfast.core.events import RowsCurated, TaskMeasured
from holdfast.core.files import fresh_file, sha256_of
from holdfast.core.progress import Progress
from holdfast.data.row_shapes import rows_for
from holdfast.data.row_store import RowFile
from holdfast.data.rows import Row, RowMap, Rows, fingerprint_rows
from holdfast.errors import UserError
from holdfast.evaluation.measure import count_items, measure_all
from holdfast.evaluation.subject import EvaluatedModel
from holdfast.evaluation.summary import compute_score
from holdfast.evaluation.task import ItemResult, Task
from holdfast.generation.factory import is_remote
from holdfast.pipeline.curation_key import compute_curation_key, is_decontaminated, list_curators
from holdfast.pipeline.curation_services import (
    DropList,
    RunModelServices,
    load_rows,
    open_drop_list,
    open_teacher,
)
from holdfast.pipeline.readiness import describe_weights_alone, open_draft
from holdfast.pipeline.row_encoding import MANY, encode_rows
from holdfast.pipeline.run_dir import RunDirectory, free_name
from holdfast.pipeline.sampling_pools import build_sampling_engine, closing_pools
from holdfast.pipeline.sources import Sources, makes_pairs
from holdfast.recipe.data_entries import data_label
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.tasks.probe import Reference
    from holdfast.generation.journal import Journal
    from holdfast.generation.pool.engine import Pool
    from holdfast.generation.speculative_batch import Draft
    from holdfast.models.loading import LoadedModel

EXAMPLES = 12
"""Curated rows kept for the report."""
PLAIN = 3
"""Of them, those of an origin that are trained on as they came."""
TRIES = 3
"""Answers of the model kept with each of them."""


@dataclass
class RunContext:
    """What the stages of one run share.

    Args:
        recipe, folder, ui: Of the run.
        base: The model before training.
        chat: Its template.
        sources: The rows.
        replay_rows: The rows that curators mix in as they are.
        tasks: What is measured.
        journal: Where samples are kept.
    """

    recipe: Recipe
    folder: RunDirectory
    ui: Progress
    base: LoadedModel
    chat: Chat
    sources: Sources
    replay_rows: list[Rows]
    tasks: list[Task]
    journal: Journal
    reference: Reference | None = None
    """What the base did on the probe, once it is measured."""
    sections: list[dict[str, Any]] = field(default_factory=list)
    """What the inference method adds to the report."""
    live_scores: dict[str, Any] = field(default_factory=dict)
    """Scores that stay on the live line."""
    pools: dict[str, Pool] = field(default_factory=dict)
    """Workers that sample, by the fingerprint of their engine."""

    @cached_property
    def draft(self) -> Draft | None:
        """Who proposes tokens where the base, or what it becomes, answers."""
        sampling = self.recipe.sampling
        return open_draft(sampling.draft, self.recipe.device, sampling.draft_tokens)


def curate_rows(work: RunContext) -> Rows:
    """The rows to train on; taken from `curated.jsonl` when they were curated before."""
    folder, recipe = work.folder, work.recipe
    source = fingerprint_rows(work.sources.train)
    key, path = compute_curation_key(work, source), folder.path / "curated.jsonl"
    if (curated_rows := _reuse_curated_rows(folder, key, work.ui)) is not None:
        work.ui.write_line(f"{path}: its {len(curated_rows):,} rows are used again; nothing they depend on has changed")
        _emit_rows_curated(work, folder.read_json("data.json"))
        return curated_rows
    notes: Counter[str] = Counter()
    with open_drop_list(folder.path / "dropped.jsonl") as drops, closing_pools(work):
        rows = run_curators(work, work.sources.train, lambda name, n: notes.update({name: n}), drops)
    note_text = ", ".join(f"{name} {n}" for name, n in notes.items() if n)
    if not len(rows):
        why = "dropped.jsonl" if drops.count else "samples.jsonl"
        mend = "; data.decontaminate: false trains on rows that are measured" if "overlaps" in note_text else ""
        raise UserError(
            f"{data_label(recipe.data)}: the curators left no row to train on ({note_text or 'nothing was sampled'}); "
            f"look at {folder.path / why}{mend}"
        )
    counts = _write_rows(path, rows)
    about = {
        "key": key, "train": data_label(recipe.data),
        "rows": len(work.sources.train), "curated": len(rows),
        "test": len(work.sources.test),
        "fingerprint": source, "counts": dict(counts), "notes": dict(notes), "dropped": drops.count_reasons(),
        "decontaminated": is_decontaminated(recipe),
        "sampled_tokens": work.journal.sampled_tokens, "sha256": sha256_of(path),
    }  # fmt: skip
    folder.write_json("data.json", about)
    _emit_rows_curated(work, about)
    if note_text:
        drop_note = f" ({drops.count} left out are listed in {folder.path / 'dropped.jsonl'})" if drops.count else ""
        work.ui.write_line(f"{len(work.sources.train)} rows curated into {len(rows)}: {note_text}{drop_note}")
    return RowFile(path)


def _emit_rows_curated(work: RunContext, about: dict[str, Any]) -> None:
    """Say that the rows are there, by what is written down of them in `data.json`."""
    work.ui.emit(RowsCurated(**{key: about[key] for key in ("rows", "curated", "counts", "notes")}))


def _reuse_curated_rows(folder: RunDirectory, key: str, ui: Progress) -> RowFile | None:
    """The rows that were curated before, as they were written; one that was changed since is put aside."""
    data_record, path = folder.read_json("data.json"), folder.path / "curated.jsonl"
    if not path.exists() or not isinstance(data_record, dict) or data_record.get("key") != key:
        return None
    rows = RowFile(path)
    if data_record.get("sha256") == sha256_of(path):
        return rows
    if "sha256" in data_record:
        aside = free_name(path)
        os.replace(path, aside)
        ui.warn(f"{path}: is not as it was written; the rows are curated again, and what was there is now {aside}")
    return None


def _write_rows(path: Path, rows: Rows) -> Counter[str]:
    """Write rows as JSON lines, whole or not at all, as they come; how many there are of each origin."""
    counts: Counter[str] = Counter()
    with fresh_file(path) as side, side.open("w", encoding="utf-8") as handle:
        for row in rows:
            counts[row.origin] += 1
            handle.write(row.to_line())
    return counts


def run_curators(work: RunContext, rows: Rows, note: Callable[[str, int], Any], drops: DropList) -> Rows:
    """One curator after another."""
    for curator in list_curators(work.recipe):
        rows = apply_curator(work, curator, rows, note, drops)
    return rows


def apply_curator(
    work: RunContext, curator: Curator, rows: Rows, note: Callable[[str, int], Any], drops: DropList
) -> Rows:
    """What one curator makes of rows."""
    name = name_of(curator)
    draw, thinks = (
        _build_draw(work, curator) if curator.samples else (partial(_refuse_undeclared, name, "samples"), False)
    )
    context = CurationContext(
        curator=name,
        sample=draw,
        judge=build_cached_judge(work.sources.judge, work)
        if work.sources.judge
        else partial(_refuse_undeclared, name, "judges"),
        sampling=sampling_params(work.recipe),
        seed=work.recipe.train.seed,
        load=partial(load_rows, work, curator, note, drops),
        note=note,
        drop=partial(drops.add, name),
        models=RunModelServices(work, name),
        evaluated={task.name: task.rows for task in work.tasks},
        thinks=thinks,
    )
    return curator.curate(rows, context)


def sampling_params(recipe: Recipe) -> SamplingParams:
    """The recipe's sampling settings as the engines take them."""
    s = recipe.sampling
    return SamplingParams(
        max_tokens=s.max_tokens,
        max_thinking_tokens=s.max_thinking_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        stop=s.stop,
        seed=recipe.train.seed,
    )


def _refuse_undeclared(curator: str, flag: str, *args: Any, **kwargs: Any) -> Any:
    """What a curator gets that asks for what it does not say it needs, so that nothing was made ready for it."""
    what = "samples" if flag == "samples" else "verdicts"
    raise UserError(f"curator {curator} asks for {what}, but does not say so; its class needs {flag} = True")


def _build_draw(work: RunContext, curator: Curator) -> tuple[SampleFn, bool]:
    """The journal over the recipe's engine, or the curator's own, showing progress; and whether that one thinks."""
    engine, model = curator.teacher_engine()
    kind, base, chat = engine or work.recipe.sampling.engine, work.base, work.chat
    if model and not is_remote(kind):
        base, chat = open_teacher(work, name_of(curator), model)
    draw = work.journal.build_sample_fn(
        build_sampling_engine(work, kind, base, model or work.recipe.sampling.model, chat)
    )
    name = type(curator).__name__

    def draw_with_progress(
        requests: Sequence[Request], params: SamplingParams, on_sample: Any = None
    ) -> dict[str, list[Sample]]:
        work.ui.start_phase(f"{name}: sample", len(requests) * params.n)
        return draw(requests, params, on_sample or (lambda sample: work.ui.advance()))

    return draw_with_progress, chat.template.thoughts.allows_thought


def build_cached_judge(judge: Judge, work: RunContext) -> Callable[[Sequence[JudgeRequest]], list[Verdict]]:
    """Verdicts in order, each remembered in the journal so that a killed run does not judge again."""
    ready = judge.with_engine(_build_judge_draw(judge, work)) if judge.needs_engine else judge
    name = [type(judge).__name__, judge.identity]

    def judge_answers(answers: Sequence[JudgeRequest]) -> list[Verdict]:
        keys = [[name, answer.prompt, answer.response, answer.reference] for answer in answers]
        cached_values = [_parse_verdict(work.journal.recall_fact("verdict", key)) for key in keys]
        new = [i for i, verdict in enumerate(cached_values) if verdict is None]
        results: list[Verdict | None] = [None if v is None else Verdict(*v[:5]) for v in cached_values]
        for i, verdict in zip(new, ready.judge_all([answers[i] for i in new]), strict=True):
            results[i] = verdict
            if judge.needs_engine or hasattr(judge, "fingerprint"):  # the rest is quicker than reading it back
                work.journal.record_fact("verdict", keys[i], list(astuple(verdict)))
        return [v for v in results if v is not None]

    return judge_answers


def _parse_verdict(value: Any) -> list[Any] | None:
    """A verdict from the journal; `None`, so that it is judged again, where a damaged line holds something else."""
    right = isinstance(value, list) and len(value) > 2 and isinstance(value[1], (int, float))
    return value if right and isinstance(value[2], str) else None


def _build_judge_draw(judge: Judge, work: RunContext) -> SampleFn:
    """What a judge that is itself a model samples from: by default the base, through the engine that samples."""
    from holdfast.data.chat.settings import brief_chat
    from holdfast.models.loading import load_model

    kind, name = getattr(judge, "engine", None) or work.recipe.sampling.engine, getattr(judge, "model", None)
    base = work.base
    if name and not is_remote(kind):
        base = load_model(name, device=work.base.device)
        if line := describe_weights_alone("judge", base.path):
            work.ui.write_once(line)
    # A judge answers with a word; a server's own way of asking its model is left as it is.
    chat = None if is_remote(kind) else brief_chat(base.tokenizer)
    return work.journal.build_sample_fn(
        build_sampling_engine(work, kind, base, name or work.recipe.sampling.model, chat)
    )


def check_row_lengths(recipe: Recipe, sources: Sources, chat: Chat, context: int | None) -> list[str]:
    """Look at the rows' lengths before anything is measured or sampled, as far as they are known then; the warnings.

    Of many rows, as many are looked at as are kept in memory, spread evenly. Curators may still change the answers.

    Raises:
        UserError: If no row can be trained on, or one is too long and must not be.
    """
    _, report = encode_rows(*sample_rows_for_objective(recipe, sources.train), chat, context)
    return report.warning_lines()


def sample_rows_for_objective(recipe: Recipe, rows: Rows) -> tuple[Recipe, Rows]:
    """Rows spread evenly over all, as many as are kept in memory, as the objective takes them before curators run.

    Raises:
        UserError: If the objective would not be what its name says with them.
    """
    as_read, rows = match_recipe_and_rows(recipe, rows)
    return as_read, rows_for_objective(as_read, rows[:: max(1, -(-len(rows) // MANY))])


def describe_context_limit(recipe: Recipe, context: int | None) -> list[str]:
    """A line when the recipe asks for longer rows than the model can read."""
    max_length = recipe.train.max_length
    if max_length is None or context is None or max_length <= context:
        return []
    return [f"train.max_length {max_length:,} is more than the model's context: the limit is {context:,} tokens"]


def rows_for_objective(recipe: Recipe, rows: Rows) -> Rows:
    """The rows as the recipe's objective takes them.

    Raises:
        UserError: If it would not be what its name says with them.
    """
    rows = rows_for(recipe.row_shape(), recipe.objective.value_columns(), rows)
    if text := recipe.objective.find_rows_problem(rows):
        raise UserError(f"{data_label(recipe.data)} {text}")
    return rows


def match_recipe_and_rows(recipe: Recipe, rows: Rows) -> tuple[Recipe, Rows]:
    """The recipe and its rows as they fit each other before curators run.

    With objective sft where they make pairs; with the reference where they sample an answer that is not there yet.
    """
    if makes_pairs(recipe):
        recipe = recipe.model_copy(update={"objective": find_method("objectives", "sft")()})
    if any(curator.samples for curator in recipe.curate):
        rows = RowMap(rows, lambda row: row if row.answer is not None else row.with_answer(str(row.reference), "gold"))
    return recipe, rows


def measure_tasks(
    work: RunContext, phase: str, tasks: list[Task], subject: EvaluatedModel, when: str, use_shared_store: bool = False
) -> dict[str, list[ItemResult]]:
    """Items of every task, from `eval/<when>` when they are there."""
    from holdfast.evaluation.results_store import ResultsStore, shared_store

    work.ui.start_phase(phase, count_items(tasks))
    store = ResultsStore(work.folder.path / "eval" / when)
    items = measure_all(
        tasks,
        subject,
        store=store,
        baselines=shared_store() if use_shared_store else None,
        progress=lambda n: work.ui.advance(n),
    )
    for task in tasks:
        answers = items[task.name]
        work.ui.emit(
            TaskMeasured(
                when=when, task=task.name, role=task.role, unit=task.info.unit.name, items=len(answers),
                figure=compute_score(task, answers) if answers else None,
            )
        )  # fmt: skip
    return items


def preview_rows(rows: Rows) -> list[dict[str, Any]]:
    """A few curated rows of every origin, with what the model was asked, answered and was told before.

    Of rows that are as they came there is little to see, so there are no more than `PLAIN` of them.
    """
    by_origin: dict[str, list[Row]] = {}
    for row in rows:
        group = by_origin.setdefault(row.origin, [])
        if len(group) < (EXAMPLES if _list_attempts(row) else PLAIN):
            group.append(row)
    each = max(1, EXAMPLES // max(1, len(by_origin)))
    return [
        {
            "prompt": row.prompt[-1]["content"] if row.prompt else "",
            "answer": row.chosen or row.answer or "",
            "rejected": row.rejected,
            "gold": _first_gold(row),
            "origin": row.origin,
            "reason": _last_reason(row),
            "attempts": _list_attempts(row),
        }
        for group in by_origin.values()
        for row in group[:each]
    ]


def _list_attempts(row: Row) -> list[dict[str, Any]]:
    """What the model answered when the row was curated, with the judge's verdicts; the last few of many."""
    tries = [attempt for entry in row.meta.get("trace") or [] for attempt in entry.get("attempts") or []]
    return [{key: attempt.get(key) for key in ("kind", "response", "passed", "reason")} for attempt in tries[-TRIES:]]


def _first_gold(row: Row) -> str:
    """The answer the row came with, by the trace its curator left."""
    trace = row.meta.get("trace") or []
    return str(trace[0].get("gold") or "") if trace else ""


def _last_reason(row: Row) -> str:
    """What the judge said last of this row."""
    trace = row.meta.get("trace") or []
    return str(trace[-1].get("reason", "")) if trace else ""
