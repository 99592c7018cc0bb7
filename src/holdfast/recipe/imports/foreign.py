"""What another tool was told, whatever kind of file it was told in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of another tool's and where it stands: "sft.yaml:7", "notebook.ipynb: cell 4, line 12"."""

    value: Any
    source: str


@dataclass(slots=True)
class ForeignRecipe:
    """The settings of another tool, by its own names.

    Args:
        tool: Whose: LLaMA-Factory, Axolotl, TRL, Unsloth or transformers.
        settings: By name, `-` written as `_`.
        method: What its command or its trainer's class does, where no setting says it: `sft`, `dpo`, `grpo`, ...
        unread: What cannot be taken over from where it stands, each with its place and the reason.
    """

    tool: str
    settings: dict[str, Setting] = field(default_factory=dict)
    method: str | None = None
    unread: list[str] = field(default_factory=list)

    def value_of(self, name: str) -> Any:
        """The value of a setting; None where it is not given."""
        setting = self.settings.get(name)
        return None if setting is None else setting.value
