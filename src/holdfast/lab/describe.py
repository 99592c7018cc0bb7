"""`holdfast lab describe`: what a model knows of every skill, measured on fresh questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.evaluation.tasks.skill import build_skill_task
from holdfast.skills import PICTURE_SKILLS, SKILLS, load_skill
from holdfast.skills.rows import FRESH

if TYPE_CHECKING:
    from holdfast.core.progress import Progress


def measure_skills(model: str = "lab", *, items: int = 200, ui: Progress | None = None) -> dict[str, Any]:
    """Greedy accuracy on `items` fresh questions of every skill, and of facts by how often they were seen.

    Args:
        model: `lab`, `lab-small`, `lab-vl`, or any model or run; one that sees is asked about pictures too.
    Returns:
        `{"model", "parameters", "skills": [{"name", "accuracy", "n", "threshold", "about"}]}`, accuracy in points.
    """
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.measure import count_items, measure_all
    from holdfast.evaluation.subject import EvaluatedModel
    from holdfast.generation.factory import build_local_engine, build_sample_fn
    from holdfast.models.eyes import has_eyes
    from holdfast.models.loading import load_model

    loaded_model = load_model(model)
    chat = Chat(loaded_model.tokenizer)
    engine = build_local_engine(loaded_model.model, chat, fingerprint=loaded_model.fingerprint)
    names = [*SKILLS, *(PICTURE_SKILLS if has_eyes(loaded_model.model.config) else ())]
    tasks = [build_skill_task(name, items, seed=FRESH) for name in names] + fact_tasks(items)
    if ui:
        ui.start_phase("measure", count_items(tasks))
    results = measure_all(
        tasks,
        EvaluatedModel(loaded_model.fingerprint, chat, build_sample_fn(engine)),
        progress=(lambda n: ui.advance(n)) if ui else None,
    )
    rows = [_skill_row(task.name, [item.passed for item in results[task.name]]) for task in tasks]
    return {"model": model, "parameters": sum(p.numel() for p in loaded_model.model.parameters()), "skills": rows}


def fact_tasks(items: int) -> list[Any]:
    """Facts by the number of times they were seen in pre-training."""
    from holdfast.evaluation.task import Task
    from holdfast.skills.base import SkillJudge
    from holdfast.skills.facts import LEVELS, Facts

    tasks = []
    for times in LEVELS:
        level = Facts(levels=(times,))
        rows = level.generate_rows(items, "test", FRESH)
        tasks.append(
            Task(
                f"facts seen {times} times",
                "generate",
                rows,
                judge=SkillJudge(skill="facts"),
                max_tokens=level.max_tokens,
            )
        )
    return tasks


def _skill_row(name: str, passes: list[bool]) -> dict[str, Any]:
    known_skill = load_skill(name) if name in (*SKILLS, *PICTURE_SKILLS) else None
    return {
        "name": name,
        "accuracy": 100 * sum(passes) / len(passes),
        "n": len(passes),
        "threshold": known_skill.threshold if known_skill else None,
        "about": (type(known_skill).__doc__ or "").splitlines()[0] if known_skill else "",
    }
