"""A skill of the laboratory as an evaluation task."""

from __future__ import annotations

from holdfast.evaluation.task import Task
from holdfast.skills import load_skill
from holdfast.skills.base import SkillJudge, Split
from holdfast.skills.rows import FRESH


def build_skill_task(name: str, items: int, split: Split = "test", seed: int = FRESH, role: str = "keep") -> Task:
    """A skill as an evaluation task: `items` fresh questions and its own judge."""
    chosen = load_skill(name)
    return Task(
        name=name,
        kind="generate",
        rows=chosen.generate_rows(items, split, seed, style="gold"),
        judge=SkillJudge(skill=name),
        role=role,  # type: ignore[arg-type]
        max_tokens=chosen.max_tokens,
    )
