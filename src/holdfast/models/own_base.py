"""The model that a run or an adapter started from."""

from __future__ import annotations

from pathlib import Path

from holdfast.models.files import is_adapter
from holdfast.models.loading import adapter_base, locate_model


def find_own_base(model: str) -> str | None:
    """The name of the model that a run or an adapter started from, which need not be there; `None` for any other.

    Args:
        model: A name as in a recipe.
    """
    if (Path(model).expanduser() / "report.json").exists():
        from holdfast.recipe.loader import read_recipe

        return read_recipe(Path(model).expanduser()).recipe.model
    path = locate_model(model)
    return str(adapter_base(path)) if is_adapter(path) else None
