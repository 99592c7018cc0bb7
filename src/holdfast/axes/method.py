"""`Method`: the pydantic base of everything that can be chosen by name on an axis."""

from __future__ import annotations

import inspect
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Method(BaseModel):
    """A published method: its fields are the knobs (defaults: the paper's), its docstring the reference page.

    The docstring's first line is the one-line description shown by `holdfast list`; it ends with the paper in brackets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    paper: ClassVar[str] = ""
    """Authors, year, arXiv number."""

    variant: ClassVar[str] = ""
    """The name of the field that stands for this class, where that is another class with some knobs set."""

    from_path: ClassVar[str] = ""
    """Where this class stands for one of another library: the path that a recipe names."""

    @classmethod
    def reference_page(cls) -> str:
        """The reference page: the cleaned docstring."""
        return inspect.getdoc(cls) or ""

    @classmethod
    def summary_line(cls) -> str:
        """First line of the page."""
        return cls.reference_page().splitlines()[0]
