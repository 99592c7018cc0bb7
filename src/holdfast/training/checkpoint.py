"""Checkpoints: complete or absent. Safetensors and JSON, written to a side name, synced, hashed, renamed.

checkpoints/step-000400/
  model.safetensors      the trained weights (adapter.safetensors when an adapter is trained)
  optimizer.safetensors  its state, flat names starting with the parameter's
  rng.safetensors        states of the random generators as byte tensors
  state.json             step, counters, metrics, what made it, the SHA-256 of each file beside it and of all this
checkpoints/best-000300/ the trained weights alone, of the best step so far (`train.keep: best`)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.core.files import read_json, remove_path, sha256_of
from holdfast.errors import RunError, UserError
from holdfast.models.saving import give_rights

COMPLETE = re.compile(r"step-(\d{6,})")
BEST = re.compile(r"best-(\d{6,})")
PARTIAL = ".partial"
STATE = "state.json"
DIGEST = "sha256"
"""Key under which the rest of `state.json` is hashed."""


@dataclass(slots=True)
class Checkpoint:
    """One checkpoint in memory.

    Args:
        step: Steps done.
        tensors: File stem ("model" or "adapter", "optimizer", "rng") to flat tensors on the CPU.
        made_by: The settings that shape training, flat; a run with other ones refuses it.
        state: Anything else in JSON: counters, metrics, micro-batch size.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    made_by: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `checkpoint` under `root` and, once it is complete, remove all but the newest `keep`.

    Raises:
        RunError: If it cannot be written; what was there before is intact.
    """
    final = step_path(root, checkpoint.step)
    _write_checkpoint(final, checkpoint)
    for old in list_checkpoints(root)[:-keep]:
        _remove_checkpoint(old)
    return final


def step_path(root: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return root / f"step-{step:06d}"


def best_path(root: Path, step: int) -> Path:
    """Where the weights of a step are that was the best when it was measured."""
    return root / f"best-{step:06d}"


def save_best(root: Path, checkpoint: Checkpoint) -> Path:
    """Write the weights of a step that is the best so far, beside those of earlier best steps (`remove_other_best`).

    Raises:
        RunError: If they cannot be written.
    """
    final = best_path(root, checkpoint.step)
    remove_path(final)  # of a run that was killed after it
    _write_checkpoint(final, checkpoint)
    return final


def remove_other_best(root: Path, keep: int | None) -> None:
    """Remove the weights of all best steps but `keep`; to be called once a checkpoint on disk knows of that one."""
    for path in root.glob("best-*"):
        if (match := BEST.fullmatch(path.name)) and int(match[1]) != keep:
            _remove_checkpoint(path)


def _write_checkpoint(final: Path, checkpoint: Checkpoint) -> None:
    side = final.with_name(final.name + PARTIAL)
    try:
        if not (final / STATE).is_file():
            remove_path(final)
            remove_path(side)
            side.mkdir(parents=True)
            _fill_directory(side, checkpoint)
            os.rename(side, final)
            _sync_to_disk(final.parent)
    except (OSError, SafetensorError) as error:
        size = sum(t.numel() * t.element_size() for group in checkpoint.tensors.values() for t in group.values())
        raise RunError(
            f"{final}: cannot be written: {_error_reason(error)} (it needs {size / 2**30:.2g} GiB); free space or mend "
            "the directory, then run the same command again: earlier checkpoints are intact"
        ) from error


def check_room(root: Path, size: int) -> None:
    """Find out before the first step, not at the first checkpoint, that `size` bytes cannot be written under `root`.

    Raises:
        RunError: If the directory cannot be written to, or the disk is too full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        trial = root / f"trial{PARTIAL}"
        trial.mkdir(exist_ok=True)
        trial.rmdir()
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise RunError(f"{root}: cannot be written: {_error_reason(error)}; choose another output") from error
    if free < size:
        raise RunError(
            f"{root}: a checkpoint needs {size / 2**30:.2g} GiB and the disk has {free / 2**30:.2g} GiB left; free "
            "some space, choose another output, or train an adapter (tuner: lora)"
        )


def _fill_directory(side: Path, checkpoint: Checkpoint) -> None:
    hashes = {}
    for stem, tensors in checkpoint.tensors.items():
        path = side / f"{stem}.safetensors"
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
        _sync_to_disk(path)
        hashes[path.name] = sha256_of(path)
    state = {"step": checkpoint.step, "made_by": checkpoint.made_by, "files": hashes, **checkpoint.state}
    state = json.loads(json.dumps(state))  # as it is read back
    state[DIGEST] = _hash_state(state)
    with (side / STATE).open("w", encoding="utf-8") as handle:
        json.dump(state, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    give_rights(side)
    _sync_to_disk(side)


def list_checkpoints(root: Path) -> list[Path]:
    """The complete checkpoints under `root`, oldest first."""
    checkpoints = [
        (int(m[1]), p) for p in root.glob("step-*") if (m := COMPLETE.fullmatch(p.name)) and (p / STATE).is_file()
    ]
    return [path for _, path in sorted(checkpoints)]


def find_newest(root: Path) -> Path | None:
    """The newest complete checkpoint, or `None`."""
    checkpoints = list_checkpoints(root)
    return checkpoints[-1] if checkpoints else None


def remove_partial(root: Path) -> None:
    """Remove what a killed writer left half done."""
    for path in root.glob(f"*{PARTIAL}"):
        remove_path(path)


def load_checkpoint(path: Path, made_by: dict[str, Any], defaults: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU, checking every hash.

    Args:
        defaults: What settings that it does not know were when it was made.
    Raises:
        UserError: If it was made with other settings (they are named), or a file is damaged.
    """
    state = _read_state(path)
    _check_settings(path, {**(defaults or {}), **state["made_by"]}, made_by)
    tensors = {}
    for name, digest in state["files"].items():
        file = path / name
        if not file.is_file() or sha256_of(file) != digest:
            raise _damage_error(path, file)
        tensors[file.stem] = load_file(file)
    rest = {k: v for k, v in state.items() if k not in ("step", "made_by", "files")}
    return Checkpoint(state["step"], tensors, state["made_by"], rest)


def _read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint; one that does not fit its own hash is no better than none."""
    state = read_json(path / STATE)
    kinds = {"step": int, "made_by": dict, "files": dict}
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in kinds.items()):
        raise _damage_error(path, path / STATE)
    if state.pop(DIGEST, None) not in (None, _hash_state(state)):  # older versions wrote none
        raise _damage_error(path, path / STATE)
    return state


def _hash_state(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _damage_error(path: Path, file: Path) -> UserError:
    return UserError(f"{file}: missing or damaged; remove {path} to go on from the checkpoint before it, if any")


def refuse_other_base(root: Path, model: str, base: str) -> None:
    """See that what was trained under `root` began at the weights a model has now, before anything else is done.

    Args:
        model: Its name.
        base: The fingerprint of its weights.
    Raises:
        UserError: If its weights have changed since.
    """
    last = find_newest(root) if root.is_dir() else None
    there = _read_state(last)["made_by"].get("model weights", base) if last else base
    if there != base:
        raise UserError(
            f"model: the weights of {model} are not those that {last} began at (fingerprint {there[:12]} there, "
            f"{base[:12]} here); put the old ones back to go on, or begin anew with --restart"
        )


def _check_settings(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    here, there = json.loads(json.dumps(here)), json.loads(json.dumps(there, default=str))
    here_keys = here.keys() if "model weights" in there else here.keys() - {"model weights"}  # older ones do not say
    differences = [key for key in sorted(there.keys() | here_keys) if there.get(key) != here.get(key)]
    if differences:
        text = "; ".join(f"{k}: {there.get(k)} there, {here.get(k)} here" for k in differences[:3])
        raise UserError(
            f"{path} was made with other settings ({text}); set them back to resume, choose another output, or remove "
            f"{path.parent} to start anew"
        )


def _remove_checkpoint(path: Path) -> None:
    """Renamed first, so that a kill in the middle leaves no half checkpoint under a complete one's name."""
    side = path.with_name(path.name + PARTIAL)
    os.rename(path, side)
    remove_path(side)


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _error_reason(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
