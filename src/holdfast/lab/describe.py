"""`holdfast lab describe`: what a model knows of every skill, measured on fresh questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.evaluation.tasks.skill import skill_task
from holdfast.skills import SKILLS, skill
from holdfast.skills.rows import FRESH

if TYPE_CHECKING:
    from holdfast.core.progress import Progress


def describe(model: str = "lab", *, items: int = 200, ui: Progress | None = None) -> dict[str, Any]:
    """Greedy accuracy on `items` fresh questions of every skill, and of facts by how often they were seen.

    Args:
        model: `lab`, `lab-small`, or any model or run.
    Returns:
        `{"model", "parameters", "skills": [{"name", "accuracy", "n", "threshold", "about"}]}`, accuracy in points.
    """
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.measure import items_in, measure_all
    from holdfast.evaluation.subject import Subject
    from holdfast.generation.factory import drawing
    from holdfast.generation.native import NativeEngine
    from holdfast.models.loading import load

    loaded = load(model)
    chat = Chat(loaded.tokenizer)
    engine = NativeEngine(loaded.model, chat, fingerprint=loaded.fingerprint)
    tasks = [skill_task(name, items, seed=FRESH) for name in SKILLS] + fact_tasks(items)
    if ui:
        ui.phase("measure", items_in(tasks))
    found = measure_all(
        tasks, Subject(loaded.fingerprint, chat, drawing(engine)), progress=(lambda n: ui.advance(n)) if ui else None
    )
    rows = [_row(task.name, [item.passed for item in found[task.name]]) for task in tasks]
    return {"model": model, "parameters": sum(p.numel() for p in loaded.model.parameters()), "skills": rows}


def fact_tasks(items: int) -> list[Any]:
    """Facts by the number of times they were seen in pre-training."""
    from holdfast.evaluation.task import Task
    from holdfast.skills.base import SkillJudge
    from holdfast.skills.facts import LEVELS, Facts

    tasks = []
    for seen in LEVELS:
        level = Facts(levels=(seen,))
        rows = level.rows(items, "test", FRESH)
        tasks.append(
            Task(
                f"facts seen {seen} times",
                "generate",
                rows,
                judge=SkillJudge(skill="facts"),
                max_tokens=level.max_tokens,
            )
        )
    return tasks


def _row(name: str, passed: list[bool]) -> dict[str, Any]:
    known = skill(name) if name in SKILLS else None
    return {
        "name": name,
        "accuracy": 100 * sum(passed) / len(passed),
        "n": len(passed),
        "threshold": known.threshold if known else None,
        "about": (type(known).__doc__ or "").splitlines()[0] if known else "",
    }
