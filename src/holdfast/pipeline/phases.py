"""The stages of a run: each takes what the one before left, writes its result at once, and is not done twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Draw, Engine, Request, Sample, SamplingParams
from holdfast.axes.judge import Answer, Judge, Verdict
from holdfast.axes.registry import find, name_of
from holdfast.core.events import RowsCurated, TaskMeasured
from holdfast.core.files import fresh_file, sha256_of
from holdfast.core.progress import Progress
from holdfast.data.row_shapes import rows_for
from holdfast.data.row_store import RowFile
from holdfast.data.rows import Row, RowMap, Rows, rows_fingerprint
from holdfast.errors import UserError
from holdfast.evaluation.measure import items_in, measure_all
from holdfast.evaluation.subject import Subject
from holdfast.evaluation.summary import score
from holdfast.evaluation.task import Item, Task
from holdfast.pipeline.curation_key import curation_key, curators_of
from holdfast.pipeline.curation_services import DropList, RunModelServices, listing_drops
from holdfast.pipeline.run_dir import Folder, free_name
from holdfast.pipeline.sources import Sources, makes_pairs, open_beside
from holdfast.recipe.data_entries import data_label
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.batching.tokenize import TableReport, TokenTable
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.tasks.probe import Reference
    from holdfast.generation.journal import Journal
    from holdfast.models.loading import Loaded

EXAMPLES = 12
"""Curated rows kept for the report."""
PLAIN = 3
"""Of them, those of an origin that are trained on as they came."""
TRIES = 3
"""Answers of the model kept with each of them."""
MANY = 50_000
"""Rows from which on their tokens are kept on disk, not in memory."""


@dataclass(slots=True)
class Work:
    """What the stages of one run share.

    Args:
        recipe, folder, ui: Of the run.
        base: The model before training.
        chat: Its template.
        sources: The rows.
        beside: The rows that curators mix in as they are.
        tasks: What is measured.
        journal: Where samples are kept.
    """

    recipe: Recipe
    folder: Folder
    ui: Progress
    base: Loaded
    chat: Chat
    sources: Sources
    beside: list[Rows]
    tasks: list[Task]
    journal: Journal
    reference: Reference | None = None
    """What the base did on the probe, once it is measured."""
    shown: dict[str, Any] = field(default_factory=dict)
    """Scores that stay on the live line."""


def curate(work: Work) -> Rows:
    """The rows to train on; taken from `curated.jsonl` when they were curated before."""
    folder, recipe = work.folder, work.recipe
    source = rows_fingerprint(work.sources.train)
    key, path = curation_key(work, source), folder.path / "curated.jsonl"
    if (kept := _curated(folder, key, work.ui)) is not None:
        work.ui.line(f"{path}: its {len(kept):,} rows are used again; nothing they depend on has changed")
        _tell(work, folder.read_json("data.json"))
        return kept
    notes: Counter[str] = Counter()
    with listing_drops(folder.path / "dropped.jsonl") as drops:
        rows = run_curators(work, work.sources.train, lambda name, n: notes.update({name: n}), drops)
    told = ", ".join(f"{name} {n}" for name, n in notes.items() if n)
    if not len(rows):
        why = "dropped.jsonl" if drops.count else "samples.jsonl"
        raise UserError(
            f"{data_label(recipe.data)}: the curators left no row to train on ({told or 'nothing was sampled'}); "
            f"look at {folder.path / why}"
        )
    counts = _write_rows(path, rows)
    about = {
        "key": key, "train": data_label(recipe.data),
        "rows": len(work.sources.train), "curated": len(rows),
        "test": len(work.sources.test),
        "fingerprint": source, "counts": dict(counts), "notes": dict(notes),
        "sampled_tokens": work.journal.sampled_tokens, "sha256": sha256_of(path),
    }  # fmt: skip
    folder.write_json("data.json", about)
    _tell(work, about)
    if told:
        listed = f" ({drops.count} left out are listed in {folder.path / 'dropped.jsonl'})" if drops.count else ""
        work.ui.line(f"{len(work.sources.train)} rows curated into {len(rows)}: {told}{listed}")
    return RowFile(path)


def _tell(work: Work, about: dict[str, Any]) -> None:
    """Say that the rows are there, by what is written down of them in `data.json`."""
    work.ui.emit(RowsCurated(**{key: about[key] for key in ("rows", "curated", "counts", "notes")}))


def _curated(folder: Folder, key: str, ui: Progress) -> RowFile | None:
    """The rows that were curated before, as they were written; one that was changed since is put aside."""
    known, path = folder.read_json("data.json"), folder.path / "curated.jsonl"
    if not path.exists() or not isinstance(known, dict) or known.get("key") != key:
        return None
    rows = RowFile(path)
    if known.get("sha256") == rows.fingerprint:
        return rows
    if "sha256" in known:
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


def run_curators(work: Work, rows: Rows, note: Callable[[str, int], Any], drops: DropList) -> Rows:
    """One curator after another."""
    for curator in curators_of(work.recipe):
        name = name_of(curator)
        context = CurationContext(
            curator=name,
            sample=_drawing(work, type(curator).__name__) if curator.samples else partial(_undeclared, name, "samples"),
            judge=judging(work.sources.judge, work) if work.sources.judge else partial(_undeclared, name, "judges"),
            sampling=sampling_params(work.recipe),
            seed=work.recipe.train.seed,
            load=partial(open_beside, work.recipe, say=work.ui.line),
            note=note,
            drop=partial(drops.add, name),
            models=RunModelServices(work, name),
        )
        rows = curator.curate(rows, context)
    return rows


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


def _undeclared(curator: str, flag: str, *args: Any, **kwargs: Any) -> Any:
    """What a curator gets that asks for what it does not say it needs, so that nothing was made ready for it."""
    what = "samples" if flag == "samples" else "verdicts"
    raise UserError(f"curator {curator} asks for {what}, but does not say so; its class needs {flag} = True")


def _drawing(work: Work, name: str) -> Draw:
    """The journal over the recipe's engine, showing progress."""
    draw = work.journal.draw(_engine(work, work.recipe.sampling.engine, work.base, work.recipe.sampling.model))

    def shown(requests: Sequence[Request], params: SamplingParams, on_sample: Any = None) -> dict[str, list[Sample]]:
        work.ui.phase(f"{name}: sample", len(requests) * params.n)
        return draw(requests, params, on_sample or (lambda sample: work.ui.advance()))

    return shown


def judging(judge: Judge, work: Work) -> Callable[[Sequence[Answer]], list[Verdict]]:
    """Verdicts in order, each remembered in the journal so that a killed run does not judge again."""
    ready = judge.with_engine(_judge_draw(judge, work)) if judge.needs_engine else judge
    name = [type(judge).__name__, judge.identity]

    def verdicts(answers: Sequence[Answer]) -> list[Verdict]:
        keys = [[name, answer.prompt, answer.response, answer.reference] for answer in answers]
        known = [_usable(work.journal.recall("verdict", key)) for key in keys]
        new = [i for i, verdict in enumerate(known) if verdict is None]
        found: list[Verdict | None] = [None if v is None else Verdict(*v[:5]) for v in known]
        for i, verdict in zip(new, ready.judge_all([answers[i] for i in new]), strict=True):
            found[i] = verdict
            if judge.needs_engine or hasattr(judge, "fingerprint"):  # the rest is quicker than reading it back
                work.journal.remember("verdict", keys[i], list(astuple(verdict)))
        return [v for v in found if v is not None]

    return verdicts


def _usable(value: Any) -> list[Any] | None:
    """A verdict from the journal; `None`, so that it is judged again, where a damaged line holds something else."""
    right = isinstance(value, list) and len(value) > 2 and isinstance(value[1], (int, float))
    return value if right and isinstance(value[2], str) else None


def _judge_draw(judge: Judge, work: Work) -> Draw:
    """What a judge that is itself a model samples from: by default the base, through the engine that samples."""
    from holdfast.models.loading import load

    kind, name = getattr(judge, "engine", None) or work.recipe.sampling.engine, getattr(judge, "model", None)
    base = load(name, device=work.base.device) if name and not kind.startswith("http") else work.base
    return work.journal.draw(_engine(work, kind, base, name or work.recipe.sampling.model, judges=True))


def _engine(work: Work, kind: str, base: Loaded, name: str | None, judges: bool = False) -> Engine:
    from holdfast.data.chat.settings import brief_chat
    from holdfast.generation.factory import make_engine

    # A judge answers with a word; a server's own way of asking its model is left as it is.
    chat = (None if kind.startswith("http") else brief_chat(base.tokenizer)) if judges else work.chat
    return make_engine(
        kind, model=base.model, chat=chat, fingerprint=base.fingerprint, path=base.path, name=name,
        slots=work.recipe.sampling.slots,
    )  # fmt: skip


LONGEST = 2048
"""Most tokens of a row where the recipe says nothing."""


def encode(
    recipe: Recipe, rows: Rows, chat: Chat, context: int | None, cache: Path | None = None
) -> tuple[TokenTable, TableReport]:
    """The rows tokenised as the recipe says, and what became of each; of many rows the tokens are kept in `cache`.

    Args:
        rows: As `trained` gives them.
        context: Most tokens the model can read, if there is a limit.
    """
    from holdfast.data.batching.tokenize import build_table

    return build_table(
        rows, chat,
        max_length=recipe.train.max_length or LONGEST, context=context, too_long=recipe.data.too_long,
        kind=recipe.objective.kind(), columns=recipe.objective.columns(), prompts=recipe.objective.prompts(),
        cache=cache if len(rows) > MANY else None,
    )  # fmt: skip


def look_at_lengths(recipe: Recipe, sources: Sources, chat: Chat, context: int | None) -> list[str]:
    """Look at the rows' lengths before anything is measured or sampled, as far as they are known then; the warnings.

    Of many rows, as many are looked at as are kept in memory, spread evenly. Curators may still change the answers.

    Raises:
        UserError: If no row can be trained on, or one is too long and must not be.
    """
    as_read, rows = before_curation(recipe, sources.train)
    _, report = encode(as_read, trained(as_read, rows[:: max(1, -(-len(rows) // MANY))]), chat, context)
    return report.warnings()


def beyond_context(recipe: Recipe, context: int | None) -> list[str]:
    """A line when the recipe asks for longer rows than the model can read."""
    asked = recipe.train.max_length
    if asked is None or context is None or asked <= context:
        return []
    return [f"train.max_length {asked:,} is more than the model's context: the limit is {context:,} tokens"]


def trained(recipe: Recipe, rows: Rows) -> Rows:
    """The rows as the recipe's objective takes them.

    Raises:
        UserError: If it would not be what its name says with them.
    """
    rows = rows_for(recipe.objective.kind(), recipe.objective.columns(), rows)
    if text := recipe.objective.objection_to(rows):
        raise UserError(f"{data_label(recipe.data)} {text}")
    return rows


def before_curation(recipe: Recipe, rows: Rows) -> tuple[Recipe, Rows]:
    """The recipe and its rows as they fit each other before curators run.

    With objective sft where they make pairs; with the reference where they sample an answer that is not there yet.
    """
    if makes_pairs(recipe):
        recipe = recipe.model_copy(update={"objective": find("objectives", "sft")()})
    if any(curator.samples for curator in recipe.curate):
        rows = RowMap(rows, lambda row: row if row.answer is not None else row.with_answer(str(row.reference), "gold"))
    return recipe, rows


def measured(
    work: Work, phase: str, tasks: list[Task], subject: Subject, when: str, shared: bool = False
) -> dict[str, list[Item]]:
    """Items of every task, from `eval/<when>` when they are there."""
    from holdfast.evaluation.results_store import Store, shared_store

    work.ui.phase(phase, items_in(tasks))
    store = Store(work.folder.path / "eval" / when)
    items = measure_all(
        tasks, subject, store=store, shared=shared_store() if shared else None, progress=lambda n: work.ui.advance(n)
    )
    for task in tasks:
        answers = items[task.name]
        work.ui.emit(
            TaskMeasured(
                when=when, task=task.name, role=task.role, unit=task.info.unit.name, items=len(answers),
                figure=score(task, answers) if answers else None,
            )
        )  # fmt: skip
    return items


def preview(rows: Rows) -> list[dict[str, Any]]:
    """A few curated rows of every origin, with what the model was asked, answered and was told before.

    Of rows that are as they came there is little to see, so there are no more than `PLAIN` of them.
    """
    by_origin: dict[str, list[Row]] = {}
    for row in rows:
        group = by_origin.setdefault(row.origin, [])
        if len(group) < (EXAMPLES if _attempts(row) else PLAIN):
            group.append(row)
    each = max(1, EXAMPLES // max(1, len(by_origin)))
    return [
        {
            "prompt": row.prompt[-1]["content"] if row.prompt else "",
            "answer": row.chosen or row.answer or "",
            "rejected": row.rejected,
            "gold": _first_gold(row),
            "origin": row.origin,
            "reason": _reason(row),
            "attempts": _attempts(row),
        }
        for group in by_origin.values()
        for row in group[:each]
    ]


def _attempts(row: Row) -> list[dict[str, Any]]:
    """What the model answered when the row was curated, with the judge's verdicts; the last few of many."""
    tries = [attempt for entry in row.meta.get("trace") or [] for attempt in entry.get("attempts") or []]
    return [{key: attempt.get(key) for key in ("kind", "response", "passed", "reason")} for attempt in tries[-TRIES:]]


def _first_gold(row: Row) -> str:
    """The answer the row came with, by the trace its curator left."""
    trace = row.meta.get("trace") or []
    return str(trace[0].get("gold") or "") if trace else ""


def _reason(row: Row) -> str:
    """What the judge said last of this row."""
    trace = row.meta.get("trace") or []
    return str(trace[-1].get("reason", "")) if trace else ""
