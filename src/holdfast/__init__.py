"""Holdfast: fine-tune language models and keep what they already knew.

    import holdfast
    run = holdfast.train(holdfast.Recipe(model="lab", method="s3ft", data={"train": "lab:story"}))
    print(run.report["gain"], run.report["loss"])

Everything is imported on first use, so `import holdfast` itself is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Recipe", "__version__", "check", "compare", "curate", "evaluate", "load", "train"]

if TYPE_CHECKING:
    from holdfast.pipeline.api import check, compare, curate, evaluate, load, train
    from holdfast.recipe.schema import Recipe

HOMES = {
    **dict.fromkeys(("check", "compare", "curate", "evaluate", "load", "train"), "pipeline.api"),
    "Recipe": "recipe.schema",
}
"""Public name to the module that defines it."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
