"""Files of a finished run that are gone or damaged: said by name, and made again from what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from holdfast.core.files import describe_truncation, read_json
from holdfast.errors import UserError
from holdfast.report.schema import VERSION, CompareReport, RunOutline, RunReport


def find_damage(path: Path) -> str:
    """What a finished run no longer has whole, and why: its report or weights; "" for nothing."""
    if not isinstance(read_json(path / "report.json"), dict):
        return f"{path / 'report.json'} is {'damaged' if (path / 'report.json').exists() else 'missing'}"
    if not (path / "model").exists() and not any(path.glob("checkpoints/step-*")):
        return ""  # somebody has made room; the report stands
    return find_weight_damage(path / "model")


def find_weight_damage(directory: Path) -> str:
    """What is wrong with the weights in a model's directory: none are there, or a file is cut; "" for nothing."""
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        return f"{directory} has no weights"
    return next((f"{file}: {what}" for file in weights if (what := describe_truncation(file))), "")


def describe_repair(path: Path, state: dict[str, Any]) -> str:
    """What is said of a finished run that is no longer whole; "" of others.

    Raises:
        UserError: If nothing is left to make it from.
    """
    what = find_damage(path) if state["finished"] else ""
    if what and not (path / "stages").exists() and not any(path.glob("checkpoints/step-*")):
        raise UserError(f"{what}, and no checkpoint is left to make it again from; add --restart to train anew")
    return what and f"{what}; it is made again from what the run has kept"


def refuse_link(path: Path) -> None:
    """The model of a run is replaced as a whole, which a link in its place would make a question of what is replaced.

    Raises:
        UserError: If `path` is a link.
    """
    if path.is_symlink():
        raise UserError(f"{path}: is a link, and a run replaces its model as a whole; remove it, or set another output")


def read_report(path: Path) -> dict[str, Any]:
    """The content of a `report.json` or `compare.json` that is there.

    Raises:
        UserError: If it is damaged.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise _damaged_report(path)
    kind = CompareReport if path.name == "compare.json" else RunReport
    try:
        return kind.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _foreign_report(path, error) from error


def read_outline(path: Path) -> dict[str, Any]:
    """What a list of many runs shows of a `report.json`.

    Raises:
        UserError: If that is damaged; what the list does not show may be so unseen.
    """
    try:
        return RunOutline.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)
    except OSError as error:
        raise _damaged_report(path) from error
    except ValidationError as error:
        raise _foreign_report(path, error) if error.errors()[0]["loc"] else _damaged_report(path) from error


def _damaged_report(path: Path) -> UserError:
    """A report that is no JSON, or no longer there."""
    verb = "compare" if path.name == "compare.json" else "train"
    return UserError(f"{path}: damaged; the holdfast {verb} command of {path.parent} makes it again")


def _foreign_report(path: Path, error: ValidationError) -> UserError:
    """A report in which something is not as this version writes it."""
    place = ".".join(map(str, error.errors()[0]["loc"]))
    return UserError(
        f"{path}: {place} is not as this version of holdfast writes it (a report of version {VERSION}); read it "
        "with the version that made it, or remove the file and give the command once more"
    )
