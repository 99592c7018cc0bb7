"""The run directory: found again by a repeated command, refused when it holds another run, never half written."""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.events import Event
from holdfast.core.files import append_line, read_json, read_json_lines, remove_path, replace_file
from holdfast.core.in_memory import keep_copies
from holdfast.data.rows import fingerprint_json
from holdfast.errors import RunError, UserError
from holdfast.pipeline.damage import describe_repair, find_damage, refuse_link
from holdfast.pipeline.method_sources import STATE_KEY, find_source_changes, hash_own_sources
from holdfast.recipe.changes import list_differences, result_settings, shorten_differences
from holdfast.recipe.data_entries import train_files
from holdfast.recipe.loader import ResolvedRecipe, format_resolved_yaml, read_recipe
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    import torch

MARK = "run.json"
"""Whose run a directory holds: fingerprint of the recipe, seconds spent, whether it is finished."""

SHARDS = "shards"
"""Folder of a run in which processes that share out its curation have theirs."""

STOP_KEY = "stopped_at"
"""Key of `run.json`: the share of its steps after which a run with steps to come was measured and reported."""


def replace_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file, whole or not at all."""
    replace_file(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def short_name(source: str) -> str:
    """A data or model source as a part of a file name."""
    stem = source.removeprefix("lab:") if source.startswith("lab") else Path(source).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem) or "data"


def data_name(recipe: Recipe) -> str:
    """The training data as a part of a file name: its first files, and how many more."""
    names = [short_name(file.path) for file in train_files(recipe.data)]
    return "-".join(names[:3]) + (f"-and-{len(names) - 3}-more" if len(names) > 3 else "")


def recipe_key(recipe: Recipe) -> str:
    """What makes two runs the same: every setting that changes the result."""
    return fingerprint_json(result_settings(recipe))


@dataclass(slots=True)
class RunDirectory:
    """A run directory in use.

    Args:
        path: The directory.
        state: Content of `run.json`.
        notes: What became of a run that was there before, one line each.
    """

    path: Path
    state: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, resolved_recipe: ResolvedRecipe, *, restart: bool = False) -> RunDirectory:
        """The directory of this recipe: an unfinished or finished run of the same recipe is found again.

        A run of another recipe that has trained nothing, or that diverged, gives way to this one. What it measured and
        sampled stays: each of these is kept under what it depends on, and used where that is the same.

        Args:
            restart: Begin anew, and keep the run that is there under another name.
        Raises:
            UserError: If the output holds another run or other files, or cannot be written.
        """
        recipe, key = resolved_recipe.recipe, recipe_key(resolved_recipe.recipe)
        path = output_directory(recipe) if restart else _choose_directory(recipe, key)
        state, notes = _read_mark(path), []
        try:
            if state is not None and restart:
                notes.append(f"{path}: begun anew; the run that was there is now {move_aside(path)}")
                state = None
            elif state is not None and _is_same_run(path, state, recipe):
                state.pop("diverged", None)
                state["finished"] &= not _stops_later(state, recipe)
                notes.append(describe_repair(path, state))
            elif state is not None:
                state, note = _replace_run(path, state, recipe)
                notes.append(note)
            if state is None:
                _refuse_foreign(path)
            if state is None or not state["finished"]:
                refuse_link(path / "model")
            folder = cls(path, state or _new_state(recipe, {}))
            folder.notes = tuple(note for note in notes if note)
            path.mkdir(parents=True, exist_ok=True)
            keep_copies(path, recipe.model_dump(mode="json"))
            folder.save_state()
            if not folder.is_complete:
                folder.write_resolved(resolved_recipe, {})
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); set another output") from error
        return folder

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end, and what it left is there and whole."""
        return bool(self.state["finished"]) and not find_damage(self.path)

    def write_resolved(self, resolved_recipe: ResolvedRecipe, sources: dict[str, str]) -> None:
        """Write `resolved.yaml`, with other words for where some settings came from."""
        full_recipe = replace(resolved_recipe, sources={**resolved_recipe.sources, **sources})
        replace_file(self.path / "resolved.yaml", format_resolved_yaml(full_recipe))

    def save_state(self) -> None:
        """Write `run.json`."""
        self.write_json(MARK, self.state)

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file of the directory, whole or not at all."""
        replace_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """A JSON file of the directory, or `None`: a damaged one is made again like one that is not there."""
        return read_json(self.path / name)

    @contextlib.contextmanager
    def time_phase(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to the run's cost, earlier sessions included."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.state["seconds"]
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - began
            if (self.path / MARK).exists():  # else the error that it was removed would be lost to one from here
                self.save_state()

    def append_log(self, entry: dict[str, Any]) -> None:
        """One line of `log.jsonl`.

        Raises:
            RunError: If the directory was removed while the run was at work in it.
        """
        self._append_entry("log.jsonl", entry)

    def append_event(self, event: Event) -> None:
        """One line of `events.jsonl`; raises as `append_log`."""
        self._append_entry("events.jsonl", event.to_json())

    def _append_entry(self, name: str, entry: dict[str, Any]) -> None:
        if not (self.path / MARK).exists():
            raise RunError(f"{self.path}: was removed while the run worked in it; the same command begins anew")
        append_line(self.path / name, entry)

    def read_log(self) -> list[dict[str, Any]]:
        """`log.jsonl` by step: what each step logged and what was measured after it; of a step run twice the later."""
        path = self.path / "log.jsonl"
        if not path.exists():
            return []
        steps: dict[int, dict[str, Any]] = {}
        for entry in read_json_lines(path):
            if isinstance(step := entry.get("step"), int):
                steps[step] = {**steps.get(step, {}), **entry}
        return [steps[step] for step in sorted(steps)]


def _new_state(recipe: Recipe, seconds: dict[str, float]) -> dict[str, Any]:
    """`run.json` of a run that begins."""
    own = {STATE_KEY: sources} if (sources := hash_own_sources(recipe)) else {}
    return {"recipe": recipe_key(recipe), "finished": False, "seconds": seconds, "created": _current_time(), **own}


def _current_time() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _choose_directory(recipe: Recipe, key: str) -> Path:
    """The directory `output` stands for: with `{time}` in it, that of an unfinished run of the same recipe, if any."""
    for candidate in find_output_directories(recipe) if "{time}" in recipe.output else ():
        state = _read_mark(candidate)
        if state and state["recipe"] == key and not state["finished"] and not find_source_changes(state, recipe):
            return candidate
    return output_directory(recipe)


def output_directory(recipe: Recipe, method: str = "") -> Path:
    """The directory that `output` names now.

    Args:
        method: What stands for {method}; default: the recipe's.
    """
    time = datetime.now().strftime("%m%d-%H%M%S")
    return Path(recipe.output.format(**_output_fields(recipe, method), time=time)).expanduser()


def find_output_directories(recipe: Recipe, method: str = "") -> list[Path]:
    """What is there of the directories that `output` names at one time or another, the newest first."""
    parts = {key: glob.escape(str(value)) for key, value in _output_fields(recipe, method).items()}
    return sorted(map(Path, glob.glob(recipe.output.format(**parts, time="*"))), reverse=True)


def _output_fields(recipe: Recipe, method: str) -> dict[str, Any]:
    """What stands in the braces of `output`, but for the time."""
    return {
        "method": method or short_name(recipe.label.replace("+", "-")),
        "data": data_name(recipe),
        "model": short_name(recipe.model),
        "seed": recipe.train.seed,
    }


def is_finished(path: Path, recipe: Recipe) -> bool:
    """Whether a directory holds the finished run of this recipe."""
    state = _read_mark(path)
    if state is None or not state["finished"] or _stops_later(state, recipe):
        return False
    return _is_same_run(path, state, recipe) and not find_damage(path)


def _stops_later(state: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the recipe goes on where the run in a directory stopped because of its `train.stop_at`."""
    return float(state.get(STOP_KEY, 1.0)) < recipe.train.stop_at


def is_curated(recipe: Recipe) -> bool:
    """Whether there is a run of this recipe that has its rows, so that nothing is sampled any more."""
    path = _choose_directory(recipe, recipe_key(recipe))
    state = _read_mark(path)
    return state is not None and _is_same_run(path, state, recipe) and (path / "data.json").exists()


def _is_same_run(path: Path, state: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a run is one of this recipe; one of an older version, by all the settings it had."""
    if find_source_changes(state, recipe):
        return False
    if state["recipe"] == recipe_key(recipe):
        return True
    old = _read_recipe(path)
    return old is not None and not list_differences(recipe, old)


def _read_recipe(path: Path) -> Recipe | None:
    """The recipe of a run directory, or `None` if it cannot be read: an older version may have known other settings."""
    try:
        return read_recipe(path).recipe
    except UserError:
        return None


def _replace_run(path: Path, state: dict[str, Any], recipe: Recipe) -> tuple[dict[str, Any], str]:
    """Make room for another recipe in a run that has nothing which only its own can use: the new state, what to say.

    Raises:
        UserError: If the run has something worth keeping.
    """
    changes = _describe_changes(path, state, recipe)
    what = _describe_worth_keeping(path, state, bool(recipe.stages))
    if what:
        raise UserError(
            f"{path}: holds another run, {what}{changes}; set another output, or add --restart, which keeps the old "
            f"run as {free_name(path)}"
        )
    _refuse_in_use(path)
    note = (
        f"{path}: takes the place of a run that had trained nothing yet{changes}" if _has_reusable_results(path) else ""
    )
    if state.get("diverged"):
        aside = _set_aside(path)
        note = f"{path}: takes the place of a run that diverged{changes}; what it had trained is now in {aside}"
    for old_result in [*(path / name for name in TRAINING_OUTPUTS), *path.glob("eval/step-*"), path / "eval" / "final"]:
        remove_path(old_result)
    seconds = {phase: duration for phase, duration in state["seconds"].items() if phase != "train"}
    return _new_state(recipe, seconds), note


def describe_other_run(path: Path, recipe: Recipe) -> str:
    """What run of another recipe a directory holds that does not give way, and how it differs; "" for none."""
    state = _read_mark(path)
    if state is None or _is_same_run(path, state, recipe):
        return ""
    what = _describe_worth_keeping(path, state, bool(recipe.stages))
    return what and f"{what}{_describe_changes(path, state, recipe)}"


def _describe_changes(path: Path, state: dict[str, Any], recipe: Recipe) -> str:
    """ ": train.seed is 1 here and 0 there", of the run in a directory; "" where its recipe cannot be read."""
    old = _read_recipe(path)
    changes = [*find_source_changes(state, recipe), *(list_differences(recipe, old) if old else ())]
    return f": {shorten_differences(changes)}" if changes else ""


def _set_aside(path: Path) -> Path:
    """Put what a diverged run had trained, and the recipe it had, into a directory of its own; which one."""
    aside = free_name(path / "diverged")
    aside.mkdir()
    shutil.copyfile(path / "resolved.yaml", aside / "resolved.yaml")
    for name in TRAINING_OUTPUTS:
        if (path / name).exists():
            os.replace(path / name, aside / name)
    return aside


TRAINING_OUTPUTS = ("checkpoints", "events.jsonl", "log.jsonl", "model", "tensorboard")
"""What training leaves in a run directory."""


def _describe_worth_keeping(path: Path, state: dict[str, Any], has_stages: bool) -> str:
    """What of a run is lost if a run of another recipe takes its place; "" for nothing.

    Stages are kept for a recipe that has stages too; each is a run, and lets no other take its own place.
    """
    from holdfast.training.checkpoint import find_newest

    if state["finished"]:
        return "a finished one"
    if (path / "stages").exists():
        return "" if has_stages else "one of several stages"
    if state.get("diverged"):
        return ""
    last = find_newest(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    if last is not None:
        return f"unfinished, trained as far as {last.name}"
    return "trained and not yet measured" if (path / "model").exists() else ""


def _has_reusable_results(path: Path) -> bool:
    """Whether a run left anything that may be used again."""
    samples = path / "samples.jsonl"
    return (path / "eval").exists() or (samples.exists() and samples.stat().st_size > 0)


def check_output(recipe: Recipe) -> str:
    """See, without writing anything, that a run can have the directory that `output` names.

    Returns:
        What to warn of: a run of another recipe that is there and stays; "" for none.
    Raises:
        UserError: If there is something else in it, or it cannot be written.
    """
    path = _choose_directory(recipe, recipe_key(recipe))
    if _read_mark(path) is not None:
        other = describe_other_run(path, recipe)
        return other and f"{path}: holds another run, {other}; training needs another output, or --restart"
    _refuse_foreign(path)
    place = next(above for above in (path, *path.absolute().parents) if above.exists())
    if not place.is_dir():
        raise UserError(f"{path}: cannot be written ({place} is a file); set another output")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written (no right to write in {place}); set another output")
    return ""


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, and a run needs a directory; set another output, or move the file away")
    if (path / "compare.json").exists():
        raise UserError(f"{path}: holds a comparison; set another output")
    if path.exists() and any(entry.name != SHARDS for entry in path.iterdir()):
        raise UserError(f"{path}: is not empty and not a run of holdfast; set another output")


def _refuse_in_use(path: Path) -> None:
    """Stop before the directory of a run that is at work in another process is touched."""
    from holdfast.generation.journal import Journal

    for pattern in ("samples.jsonl", "stages/*/samples.jsonl", f"{SHARDS}/*/samples.jsonl"):
        for journal in path.glob(pattern):
            Journal(journal).close()


def move_aside(path: Path) -> Path:
    """Rename a run directory to the first free of `NAME.old-1`, `NAME.old-2`, ...; the new name.

    Raises:
        UserError: If another process is at work in it.
    """
    _refuse_in_use(path)
    aside = free_name(path)
    os.replace(path, aside)
    return aside


def free_name(path: Path) -> Path:
    """The first of `NAME.old-1`, `NAME.old-2`, ... that is not taken."""
    return next(p for n in itertools.count(1) if not (p := path.with_name(f"{path.name}.old-{n}")).exists())


def _read_mark(path: Path) -> dict[str, Any] | None:
    mark = path / MARK
    if not mark.is_file():
        return None
    state = read_json(mark)
    kinds = {"recipe": str, "finished": bool, "seconds": dict, "created": str}
    whole = isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in kinds.items())
    if not whole or not all(isinstance(duration, (int, float)) for duration in state["seconds"].values()):
        raise UserError(f"{mark}: damaged; set another output, or remove the directory")
    return state


@functools.cache
def dependency_versions() -> dict[str, str]:
    """Versions of what a result depends on; to be read only."""
    from importlib.metadata import version

    names = ("holdfast", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Content of `env.json`: versions, and the machine with the device that models live on."""
    import torch

    from holdfast.models.placement import describe_device

    return {
        "versions": dependency_versions(),
        "platform": platform.platform(),
        "device": describe_device(device),
        "place": str(device),
        "threads": torch.get_num_threads(),
    }
