"""Tasks by the names recipes use: `test`, a file, `text:FILE`, `probe`, `lab`, `lab:SKILL`, or a task of lm-eval."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from holdfast.axes.judge import Judge
from holdfast.axes.registry import name_of
from holdfast.data.reading.file_records import file_lines, kind_of
from holdfast.data.reading.formats import open_rows
from holdfast.data.reading.labels import without_bad_answers
from holdfast.data.reading.readers import SUFFIXES, open_source, part_of
from holdfast.data.rows import Row, Rows
from holdfast.errors import UserError
from holdfast.evaluation.task import Role, Task
from holdfast.evaluation.tasks.held_out import build_beside_tasks, build_free_text_task, build_ranked_pairs
from holdfast.evaluation.tasks.multiple_choice import is_choice, parse_choice_rows
from holdfast.evaluation.tasks.perplexity import build_text_rows
from holdfast.methods.judges.selection import guess_judge
from holdfast.recipe.task_entry import TaskEntry, parse_task, path_of_task

LAB, PROBE = "lab", "probe"
MOST_FILES = 1000
"""Files of a folder whose names are compared with a misspelt one."""
SEED = 0
"""Of the draw of questions. Not the run's seed: runs with different seeds answer the same questions."""


class EvaluateSettings(Protocol):
    """What is measured (`recipe.Evaluate`)."""

    @property
    def target(self) -> str | TaskEntry: ...
    @property
    def keep(self) -> Sequence[str | TaskEntry]: ...
    @property
    def items(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def max_thinking_tokens(self) -> int: ...


class HasRewardFlag(Protocol):
    """What this module reads of an objective."""

    @property
    def makes_reward_model(self) -> bool: ...


class HasEvaluate(Protocol):
    """What this module reads of a recipe."""

    @property
    def evaluate(self) -> EvaluateSettings: ...
    @property
    def objective(self) -> HasRewardFlag: ...


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What all tasks of a run share: how many questions, and the longest answer and thought."""

    items: int = 200
    max_tokens: int = 128
    max_thinking_tokens: int = 1024


def build_tasks(
    recipe: HasEvaluate,
    test: Rows | None = None,
    judge: Judge | None = None,
    *,
    lab: bool = False,
    say: Callable[[str], Any] | None = None,
) -> list[Task]:
    """The tasks of a run: the target first, then the loss of the held-out answers, then what is kept.

    Args:
        recipe: Of which `evaluate` is read.
        test: The held-out rows that `target: test` means; `None` or empty when there are none.
        judge: The recipe's judge, used for the target; guessed from the references when `None`, and where these are
            free text, the target is the loss of the held-out answers, or the order of held-out pairs.
        lab: Whether the model is a laboratory model, for which `keep: auto` is `lab`; for others it is `probe`.
        say: Called with one line for each file on how its columns were read, and for each task whose way of measuring
            was found from its rows.
    Raises:
        UserError: If a file is missing or unreadable, or a name is no task.
    """
    evaluate = recipe.evaluate
    settings = TaskSettings(evaluate.items, evaluate.max_tokens, evaluate.max_thinking_tokens)
    target: list[Task] = []
    held_out = sample_rows(test or [], settings.items)
    if path_of_task(evaluate.target) == "test":
        pairs = build_ranked_pairs(held_out) if recipe.objective.makes_reward_model else None
        target = [pairs or _build_test_task(test, settings, judge, evaluate.target)] if test else []
    elif evaluate.target != "none":
        target = build_named_tasks(evaluate.target, settings, role="target", judge=judge, say=say)
    target_skills = {row.meta["skill"] for task in target for row in task.rows if "skill" in row.meta}
    is_played = any(task.kind == "episodes" and task.meta["source"] == "test" for task in target)
    beside = build_beside_tasks(held_out, target) if not is_played else []
    kept_tasks: list[Task] = []
    auto = LAB if lab else PROBE
    sources: list[str | TaskEntry] = []
    for name in evaluate.keep:
        source = auto if name == "auto" else name
        if source != "none" and source not in sources:
            sources.append(source)
    for source in sources:
        if isinstance(source, TaskEntry) and source.path == "test":
            raise UserError("evaluate.keep: test is the held-out rows, which are the target; name a file")
        kept_tasks += build_named_tasks(source, settings, role="keep", without=target_skills, say=say)
    tasks = _disambiguate_names([*target, *beside, *kept_tasks])
    for task in tasks:
        if say and "why" in task.meta:
            say(task.meta["why"])
    return tasks


def _build_test_task(rows: Rows, settings: TaskSettings, judge: Judge | None, entry: str | TaskEntry) -> Task:
    """The held-out rows as the target, called by their skill when they are of one."""
    if isinstance(entry, TaskEntry) and entry.environment is not None:
        return _build_played_task(entry, rows, settings, "target")
    if isinstance(entry, TaskEntry):
        task = build_rows_task("test", rows, settings, role="target", judge=entry.judge or judge)
        return replace(task, name=entry.name or task.name)
    task = build_rows_task("test", rows, settings, role="target", judge=judge)
    if not task.judge:
        return task
    skills = {row.meta.get("skill") for row in task.rows}
    skill = skills.pop() if len(skills) == 1 else None
    return task if skill is None else replace(task, name=skill)


def _disambiguate_names(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks with the source added to names that occur twice (two files called test.jsonl)."""
    names = [task.name for task in tasks]
    return [
        task
        if names.count(task.name) == 1
        else replace(task, name=task.meta.get("source", f"{task.name} ({task.role})"))
        for task in tasks
    ]


def build_named_tasks(
    source: str | TaskEntry, settings: TaskSettings = TaskSettings(), *, role: Role = "keep",
    judge: Judge | None = None, without: set[str] = frozenset(),  # type: ignore[assignment]
    say: Callable[[str], Any] | None = None,
) -> list[Task]:  # fmt: skip
    """The tasks a name stands for: one, or all skills for `lab`.

    Args:
        source: A data file, `text:FILE`, `probe`, `lab`, `lab:SKILL`, or `NAME[:METRIC[,FILTER]]` (or a YAML file) of
            lm-eval; or an entry that says how it is measured, also as text: `{path: ..., environment: ...}`.
        judge: For a file's answers; guessed from its references when `None`. Skills and lm-eval bring their own.
        without: Skills that `lab` leaves out.
        say: Called with a line on how the columns of a file were read.
    """
    source = parse_task(source) if isinstance(source, str) else source
    if isinstance(source, TaskEntry):
        return _build_entry_tasks(source, settings, role, judge, say)
    if source == LAB or source.startswith("lab:"):
        return _build_lab_tasks(source, settings, role, without)
    if source == PROBE:
        return _build_probe_tasks(settings, role)
    if source.startswith("text:"):
        return [_build_text_task(source.removeprefix("text:"), settings, role, say)]
    if source.partition(":")[0].endswith((".yaml", ".yml")) or not _is_file(source):
        refuse_misspelt(source)
        from holdfast.evaluation.tasks.lm_eval_bridge import build_harness_task

        return [build_harness_task(source, items=settings.items, role=role, seed=SEED)]
    return [_build_file_task(source, settings, role, judge, say)]


def _build_entry_tasks(
    entry: TaskEntry, settings: TaskSettings, role: Role, judge: Judge | None, say: Callable[[str], Any] | None
) -> list[Task]:
    """The task of an entry, measured with its judge or in its environment."""
    if entry.environment is not None:
        from holdfast.skills.rows import FRESH, lab_rows

        path, is_lab = entry.path, entry.path == LAB or entry.path.startswith("lab:")
        if not is_lab and not _is_file(path):
            refuse_misspelt(path)
            raise UserError(f"evaluate: {path} is no file; an environment begins with rows of a file, or of lab:SKILL")
        rows = (
            lab_rows(path, "test", settings.items, FRESH)
            if is_lab
            else open_rows(path, own_answers=True, say=say or say_nothing)
        )  # a question is enough
        return [_build_played_task(entry, rows, settings, role)]
    if entry.judge is not None and not _is_file(entry.path):
        raise UserError(f"evaluate: {entry.path} is no file, and brings its own judge; leave judge out")
    tasks = build_named_tasks(entry.path, settings, role=role, judge=entry.judge or judge, say=say)
    if entry.name and len(tasks) > 1:
        raise UserError(f"evaluate: {entry.path} is {len(tasks)} tasks, which cannot all be called {entry.name}")
    return [replace(task, name=entry.name or task.name) for task in tasks]


def _build_played_task(entry: TaskEntry, rows: Rows, settings: TaskSettings, role: Role) -> Task:
    """Rows as the beginnings of episodes in the environment of an entry."""
    from holdfast.evaluation.tasks.episodes import build_episodes_task

    assert entry.environment is not None
    chosen = sample_rows(rows, settings.items)
    if not chosen:
        raise UserError(f"evaluate: {entry.path} holds no rows")
    skills = {row.meta.get("skill") for row in chosen}
    skill = skills.pop() if len(skills) == 1 else None
    game = name_of(entry.environment).rpartition(":")[2]
    stem = skill or Path(part_of(entry.path)[0]).stem
    name = entry.name or (f"{stem} played" if stem == game else f"{stem} played in {game}")
    return build_episodes_task(
        name, chosen, entry.environment, source=entry.path, role=role, max_tokens=settings.max_tokens,
        max_thinking_tokens=settings.max_thinking_tokens,
    )  # fmt: skip


def refuse_misspelt(source: str) -> None:
    """Refuse a name that is nearly one of ours, or of a file here, rather than look for it among lm-eval's tasks.

    Where lm-eval is not installed, every name that might be meant is told before the advice to install it.

    Raises:
        UserError: With the name that was probably meant.
    """
    name, message = source.strip(), f"evaluate: {source} is neither a file nor a task"
    has_lm_eval = importlib.util.find_spec("lm_eval") is not None
    meant = {other: other for other in (PROBE, LAB, "test", "none", "auto")}
    if not has_lm_eval:
        meant |= _list_known_names()
    close = difflib.get_close_matches(name, meant, n=1, cutoff=0.75) or difflib.get_close_matches(
        name.lower(), meant, n=1, cutoff=0.75
    )
    advice = "" if has_lm_eval else "; tasks of lm-eval need its package: pip install 'holdfast[lm-eval]'"
    if close and source != meant[close[0]]:
        raise UserError(f"{message}; did you mean {meant[close[0]]}?{advice.replace('; tasks', ' Tasks')}")
    if not has_lm_eval:
        raise UserError(f"{message} of ours ({PROBE}, {LAB}, {LAB}:SKILL, text:FILE){advice}")


def _list_known_names() -> dict[str, str]:
    """Skills, with and without `lab:`, and data files in this folder, with and without their ending, as written."""
    from holdfast.skills.rows import skill_names

    files = [path.name for path in sorted(Path().iterdir())[:MOST_FILES] if kind_of(path) in SUFFIXES]
    skills = {name: f"{LAB}:{name}" for name in skill_names()}
    return {
        **skills, **{name: name for name in skills.values()},
        **{Path(file).stem: file for file in files}, **{file: file for file in files},
    }  # fmt: skip


def _is_file(source: str) -> bool:
    """Whether a name means a file.

    Raises:
        UserError: If it means a file that does not exist.
    """
    path, _ = part_of(source)
    if path.is_file():
        return True
    if path.is_dir():
        raise UserError(f"evaluate: {source} is a directory; name a file in it")
    if kind_of(path) in SUFFIXES or os.sep in source or source.startswith("."):
        raise UserError(f"evaluate: {source} does not exist; correct the path")
    return False


def _build_lab_tasks(source: str, settings: TaskSettings, role: Role, without: set[str]) -> list[Task]:
    from holdfast.evaluation.tasks.skill import build_skill_task
    from holdfast.skills.rows import skill_names

    names = [source.removeprefix("lab:")] if source != LAB else [n for n in skill_names() if n not in without]
    tasks = [build_skill_task(name, settings.items, "test") for name in names]
    # One longest answer for all, so that they go to the engine together.
    return [
        replace(task, role=role, max_tokens=settings.max_tokens, meta={**task.meta, "source": source}) for task in tasks
    ]


def _build_probe_tasks(settings: TaskSettings, role: Role) -> list[Task]:
    from holdfast.evaluation.tasks.probe import build_probe_tasks

    if role == "target":
        raise UserError(
            "evaluate.target: the probe compares with the base and cannot be learned; put it in evaluate.keep"
        )
    return build_probe_tasks(settings.items)


def warn_of_nothing_kept(tasks: Sequence[Task], trains: bool = True) -> str | None:
    """A warning where no task shows what training loses, or where nothing is trained the inference method."""
    what = "training" if trains else "the inference method"
    text = f"nothing is kept: what {what} loses will not be measured; evaluate.keep: [probe] works for any model"
    return None if any(task.role == "keep" for task in tasks) else text


def _build_text_task(file: str, settings: TaskSettings, role: Role, say: Callable[[str], Any] | None) -> Task:
    """Perplexity on a plain text file, or on the `text` of each record of a data file."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"evaluate: text:{file} does not exist; correct the path")
    if kind_of(path) in SUFFIXES and kind_of(path) != ".txt":
        rows = build_text_rows([row.answer or "" for row in open_rows(file, "text", say=say or say_nothing)])
    else:
        rows = build_text_rows(["".join(line for _, line in file_lines(file, path))])
    if not rows:
        raise UserError(f"evaluate: text:{file} holds no text")
    return Task(path.stem, "perplexity", sample_rows(rows, settings.items), role=role, meta={"source": f"text:{file}"})


def say_nothing(text: str) -> None:
    """Say nothing."""


def _build_file_task(
    file: str, settings: TaskSettings, role: Role, judge: Judge | None, say: Callable[[str], Any] | None
) -> Task:
    """A data file: multiple choice if its first record has choices, else questions with answers, else plain text."""
    path, split = part_of(file)
    name = f"{path.stem}:{split}" if split else path.stem
    if kind_of(path) == ".txt":
        return _build_text_task(file, settings, role, say)
    source = open_source(file)
    first = next(source.records(), None)
    if first is not None and is_choice(first[1]):
        rows = parse_choice_rows((source.describe_place(number), record) for number, record in source.records())
        return Task(name, "choice", sample_rows(rows, settings.items), role=role, meta={"source": file})
    return build_rows_task(name, open_rows(file, say=say or say_nothing), settings, role=role, judge=judge, source=file)


def build_rows_task(
    name: str, rows: Rows, settings: TaskSettings, *, role: Role = "keep", judge: Judge | None = None, source: str = ""
) -> Task:
    """Rows as a task: questions whose answers are judged, or answers or text whose likelihood is measured.

    Text is where nothing is asked. The likelihood of answers is measured where they are free text and no judge is
    given.
    """
    chosen = sample_rows(without_bad_answers(rows), settings.items)
    meta = {"source": source or name}
    if not chosen and len(rows):
        raise UserError(f"evaluate: {source or name}: all answers are labelled false; there is none to compare with")
    if not chosen:
        raise UserError(f"evaluate: {source or name} holds no rows")
    if all(not row.prompt for row in chosen):
        return Task(
            name,
            "perplexity",
            sample_rows(build_text_rows([r.answer or "" for r in chosen]), settings.items),
            role=role,
            meta=meta,
        )
    for row in chosen:
        if not row.prompt or row.gold is None:
            lacks = "reference" if row.prompt else "question"
            raise UserError(f"evaluate: {source or name}: {row.describe_place(row.id)} has no {lacks}")
    if judge is None:
        judge, why = guess_judge(chosen)
        if judge is None:
            return build_free_text_task(name, chosen, role, meta, why)
        if role != "target" or meta["source"] != "test":
            meta["why"] = f"{meta['source']}: {why}"
    return Task(
        name, "generate", chosen, judge=judge, role=role, max_tokens=settings.max_tokens,
        max_thinking_tokens=settings.max_thinking_tokens, meta=meta,
    )  # fmt: skip


def sample_rows(rows: Rows, items: int, seed: int = SEED) -> list[Row]:
    """`items` of the rows in a seeded random order, each with an id of its own; equal rows are asked once.

    A smaller draw is the beginning of a larger one.
    """
    by_id: dict[str, Row] = {}
    for number in np.random.default_rng(seed).permutation(len(rows)).tolist():
        if len(by_id) == items:
            break
        for name, row in _assign_free_id(rows[number], by_id):
            by_id[name] = row
    return list(by_id.values())


def _assign_free_id(row: Row, by_id: dict[str, Row]) -> Iterator[tuple[str, Row]]:
    """The row under an id not taken yet; nothing when it is there already."""
    name, number = row.id, 1
    while name in by_id:
        if _question_content(by_id[name]) == _question_content(row):
            return
        number += 1
        name = f"{row.id}-{number}"
    yield name, replace(row, id=name)


def _question_content(row: Row) -> Any:
    return row.prompt, row.gold, row.meta.get("choices")
