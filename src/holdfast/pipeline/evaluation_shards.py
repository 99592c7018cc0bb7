"""Measuring shared out: `eval --shard 3/64` asks every 64th question of each task, and `--join` makes the one report.

A shard measures into a directory of its own, `OUT/eval-shards/3-of-64`, and writes beside it what the measurement of
all questions would be called: so the joined items are those of a measurement by one process, and are found as such.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.registry import identity_of
from holdfast.core.files import read_json
from holdfast.data.rows import Row, fingerprint_rows
from holdfast.errors import UserError
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.subject import EvaluatedModel, measurement_fingerprint
from holdfast.evaluation.task import ItemResult, Task
from holdfast.models.loading import fingerprint_of, locate_model
from holdfast.pipeline.run_dir import replace_json
from holdfast.pipeline.shards import Shard, find_shards, refuse_missing
from holdfast.recipe.changes import shorten_differences

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.inference import Inference
    from holdfast.axes.judge import Judge

PLACE = "eval-shards"
MARK = "shard.json"
"""In a shard's directory, written last: its number, what was asked for, and what the whole measurements are called."""
TIMES = ("base", "tuned")
Measured = dict[str, list[ItemResult]]


@dataclass(slots=True)
class EvaluationShard:
    """One part of a measurement.

    Args:
        shard: Which of how many.
        directory: Where its items go.
        settings: What was asked for, by option.
    """

    shard: Shard
    directory: Path
    settings: dict[str, Any]
    weights: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the models, by when they are measured."""
    tasks: dict[str, list[Any]] = field(default_factory=dict)
    """How many questions each task has, and their fingerprint."""
    measurements: dict[str, dict[str, str]] = field(default_factory=lambda: {when: {} for when in TIMES})
    """Fingerprint of the measurement of each task's questions, all of them."""

    def take_part(self, tasks: Sequence[Task], subject: EvaluatedModel, when: str, weights: str) -> list[Task]:
        """The tasks with this shard's questions, those that have some; the whole is written down."""
        self.weights[when] = weights
        for task in tasks:
            who = subject.select_subject(task)
            if who.reference is not None and task.kind == "probe":
                who = replace(who, reference=replace(who.reference, base=self.measurements["base"][task.name]))
            self.measurements[when][task.name] = measurement_fingerprint(task, who)
            self.tasks[task.name] = [len(task.rows), fingerprint_rows(task.rows)]
        parts = [replace(task, rows=select_rows(task, place, self.shard)) for place, task in enumerate(tasks)]
        return [part for part in parts if len(part.rows)]

    def write_mark(self, items: Mapping[str, Measured]) -> dict[str, Any]:
        """Write down that all of it is measured; what it is."""
        state = {"shard": str(self.shard), "settings": self.settings, "weights": self.weights}
        replace_json(self.directory / MARK, state | {"tasks": self.tasks, "measurements": self.measurements})
        count = sum(len(each) for by_task in items.values() for each in by_task.values())
        return {"shard": str(self.shard), "items": count, "path": str(self.directory)}


def require_out(out: str | Path | None) -> Path:
    """The directory beneath which shards meet.

    Raises:
        UserError: If none is named.
    """
    if out is None:
        raise UserError("--out: the shards of a measurement meet beneath a directory; name it, the same for all")
    return Path(out)


def describe_settings(
    judge: Judge | None, inference: Inference | None, items: int, longest: Sequence[int]
) -> dict[str, Any]:
    """What a measurement depends on beside models and tasks, by option.

    Args:
        longest: Most tokens of an answer and of a thought.
    """
    methods = {"judge": judge, "inference": inference}
    return {
        **{name: identity_of(method) if method is not None else None for name, method in methods.items()},
        "items": items, "max_tokens": longest[0], "max_thinking_tokens": longest[1],
    }  # fmt: skip


def begin_shard(text: str, out: Path, settings: dict[str, Any]) -> EvaluationShard:
    """A part that is to be measured; until it is, it counts as missing."""
    shard = Shard.parse(text)
    directory = shard.directory_in(out / PLACE)
    (directory / MARK).unlink(missing_ok=True)
    return EvaluationShard(shard, directory, settings)


def select_rows(task: Task, place: int, shard: Shard) -> Sequence[Row]:
    """A shard's questions of the task at a place among all.

    Tasks of lm-eval go to one shard whole: their examples are drawn in the order of the questions.
    """
    rows = list(task.rows)
    if "lm_eval" in task.meta:
        return rows if place % shard.count == shard.number - 1 else []
    return rows[shard.number - 1 :: shard.count]


def select_measured_shards(out: Path, settings: dict[str, Any]) -> list[Path]:
    """The directories of all shards of this measurement, in the order of their numbers.

    Raises:
        UserError: If one is missing, is of another measurement, or measures what another does.
    """
    place = out / PLACE
    shards = find_shards(place, MARK)
    if not shards:
        raise UserError(
            f"{place}: there are no shards; run holdfast eval MODEL --out {out} --shard 1/2 and --shard 2/2, or as "
            "many as there are machines"
        )
    states = {path: read_json(path / MARK) for path in shards.values()}
    for shard, path in shards.items():
        state = states[path]
        if not isinstance(state, dict) or state.get("shard") != str(shard):
            was = state.get("shard") if isinstance(state, dict) else "not readable"
            raise UserError(f"{path / MARK}: is {was}, and its directory is that of {shard}; remove the directory")
        if changes := list_other_settings(settings, state["settings"]):
            raise refuse_foreign(path, shorten_differences(changes))
    refuse_missing(place, shards, lambda path: True, f"eval MODEL --out {out}")
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        one, other = (next(path for shard, path in shards.items() if shard.count == count) for count in counts[:2])
        raise UserError(f"{one} and {other}: measure the same questions; remove the shards of one number of parts")
    return list(shards.values())


def refuse_foreign(path: Path, difference: str) -> UserError:
    """The error of a shard that does not belong to the others, or to what is asked for."""
    return UserError(f"{path}: is a shard of another measurement: {difference}; run it again, or remove it")


def list_other_settings(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """ "items is 200 here and 100 there", one for each option that differs."""
    names = [name for name in here if here[name] != there.get(name)]
    return [f"{name} is {here[name]} here and {there.get(name)} there" for name in names]


def join_measurements(
    out: Path, paths: Sequence[Path], tasks: Sequence[Task], models: Mapping[str, str | None]
) -> tuple[list[Task], dict[str, Measured]]:
    """The tasks as they were measured, and the items of all shards as those of one process, which are written, too.

    Args:
        paths: As `select_measured_shards` gives them.
        tasks: As the same command has them without shards.
        models: Their names, by when they are measured.
    Raises:
        UserError: If a shard measured other weights or questions, computed in another way, or is damaged.
    """
    states = [read_json(path / MARK) for path in paths]
    _refuse_other_weights(paths, states, models)
    for path, state in zip(paths, states, strict=True):
        if other := set(state["tasks"]) ^ {task.name for task in tasks}:
            raise refuse_foreign(
                path, f"task {min(other)} is only {'there' if min(other) in state['tasks'] else 'here'}"
            )
    tasks = [_cut_as_measured(task, paths, states) for task in tasks]
    items: dict[str, Measured] = {when: {} for when in TIMES}
    writes: list[Callable[[], None]] = []
    for when in TIMES:
        for place, task in enumerate(tasks):
            keys = [state["measurements"][when].get(task.name) for state in states]
            for path, key in zip(paths, keys, strict=True):
                if key != keys[0]:
                    raise refuse_foreign(path, f"{task.name} was computed in another way than in {paths[0]}")
            if keys[0] is not None:
                task_items, tensors = _join_task(task, place, paths, when)
                store = ResultsStore(out / "eval" / when)
                writes.append(partial(store.write_items, task, keys[0], task_items, tensors))
                items[when][task.name] = task_items
    for write in writes:  # not before all are known to be right
        write()
    return tasks, items


def _refuse_other_weights(
    paths: Sequence[Path], states: Sequence[dict[str, Any]], models: Mapping[str, str | None]
) -> None:
    for when, name in models.items():
        here = fingerprint_of(locate_model(name)) if name is not None else None
        for path, state in zip(paths, states, strict=True):
            if state["weights"].get(when) != here:
                raise refuse_foreign(path, f"the weights of {name or 'what it was compared with'} are others here")


def _cut_as_measured(task: Task, paths: Sequence[Path], states: Sequence[dict[str, Any]]) -> Task:
    """The task with as many questions as the shards have of it: of the probe the device says how many."""
    count = states[0]["tasks"][task.name][0]
    cut = task.limit_rows(count) if count < len(task.rows) else task
    here = [len(cut.rows), fingerprint_rows(cut.rows)]
    for path, state in zip(paths, states, strict=True):
        if state["tasks"][task.name] != here:
            raise refuse_foreign(path, f"the questions of {task.name} are others here")
    return cut


def _join_task(
    task: Task, place: int, paths: Sequence[Path], when: str
) -> tuple[list[ItemResult], dict[str, Tensor] | None]:
    """The items of a task in the order of its questions, and what is kept beside those of a base on the probe."""
    from holdfast.evaluation.tasks.probe import Reference, join_references, keep_first_noise

    shards = [Shard(number, len(paths)) for number in range(1, len(paths) + 1)]
    stores = [ResultsStore(path / "eval" / when) for path in paths]
    parts = [replace(task, rows=select_rows(task, place, shard)) for shard in shards]
    part_items = [store.read_items(part) if len(part.rows) else [] for store, part in zip(stores, parts, strict=True)]
    waiting = [deque(items or ()) for items in part_items]
    whole_items: list[ItemResult] = []
    for number, row in enumerate(task.rows):
        queue = waiting[(place if "lm_eval" in task.meta else number) % len(paths)]
        if queue and queue[0].id == row.id:  # what could not be measured has no item
            whole_items.append(queue.popleft())
    references: list[Reference] = []
    for shard, store, part, items, rest in zip(shards, stores, parts, part_items, waiting, strict=True):
        is_base, tensors = task.kind == "probe" and when == "base" and len(part.rows), None
        if items is None or rest or (is_base and (tensors := store.read_tensors(part)) is None):
            raise UserError(
                f"{store.items_path(task.name)}: is missing or damaged; measure it again with --shard {shard}, then "
                "--join again"
            )
        if tensors is not None:
            references.append(Reference.from_tensors("", items, tensors))
    if not references:
        return whole_items, None
    whole_items = keep_first_noise(whole_items)
    return whole_items, join_references(references, [item.id for item in whole_items]).to_tensors()
