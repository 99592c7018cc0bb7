"""Models by their Hugging Face name: fetched, found in the cache, or a line that says why not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from holdfast.errors import UserError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FOLDERS = frozenset(
    ["runs", "run", "models", "model", "out", "output", "outputs", "checkpoints", "data", "saves", "tmp"]
)
"""First parts of a name that are no user of the hub, but a folder that is not there."""


def fetch_model(
    name: str, files: Sequence[str], *, subfolders: bool = False, bundled_models: Sequence[str] = ()
) -> Path:
    """The local copy of a hub model.

    Args:
        name: What is no path that exists.
        files: Patterns of the files wanted.
        subfolders: Whether those in its folders are too.
        bundled_models: Names of models that the package brings, one of which may be meant.
    Raises:
        UserError: If `name` cannot be a model of the hub, or it cannot be fetched and is not in the cache.
    """
    near = _suggest_model(name, bundled_models)
    if not HUB_NAME.fullmatch(name) or is_path(name):
        raise UserError(f"{name}: no such folder; give that of a model, or a name on the hub (OWNER/NAME){near}")
    cache = f"the cache {constants.HF_HUB_CACHE}"
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(files), ignore_patterns=None if subfolders else ["*/*"])
        )
    except GatedRepoError as error:
        raise UserError(
            f"{name}: its owner asks for consent first; give it on huggingface.co/{name}, then: hf auth login"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{name}: no such folder, and no such model on the hub{near}; if it is a private one: hf auth login"
        ) from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{name}: no such folder, and not in {cache}; the hub is not asked, because HF_HUB_OFFLINE is set{near}"
            ) from error
        raise UserError(
            f"{name}: no such folder, not in {cache}, and the hub cannot be reached ({_innermost_reason(error)})"
            f"{near or '; check the name, or copy the model here and give its folder'}"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise UserError(f"{name}: cannot be fetched from the hub: {_innermost_reason(error)}") from error


def is_path(name: str) -> bool:
    """Whether a name that fits the hub's form is meant for a folder here: its first part is one, or is called so."""
    first, slash, _ = name.partition("/")
    return bool(slash) and (first in FOLDERS or Path(first).is_dir())


def _suggest_model(name: str, bundled_models: Sequence[str]) -> str:
    """ "; did you mean X?" for a bundled model, or the folder beside the missing one, with the most similar name."""
    if close := difflib.get_close_matches(name, bundled_models, n=1, cutoff=0.7):
        return f"; did you mean {close[0]}?"
    folder = Path(name).expanduser().parent
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    close = difflib.get_close_matches(Path(name).name, names, n=1)
    return f"; did you mean {folder / close[0]}?" if close else ""


def _innermost_reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
