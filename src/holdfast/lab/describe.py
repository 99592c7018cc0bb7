"""`holdfast lab describe`: what a model knows of every skill, measured on fresh questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from holdfast.evaluation.tasks.skill import build_skill_task
from holdfast.skills import PICTURE_SKILLS, SKILL_VARIANTS, SKILLS, load_skill
from holdfast.skills.rows import FRESH

if TYPE_CHECKING:
    from holdfast.axes.engine import SampleFn
    from holdfast.axes.judge import Judge
    from holdfast.core.progress import Progress
    from holdfast.evaluation.task import Task


BETWEEN = (0.1, 0.9)
"""Solve rates of questions that a model is neither sure of nor lost at."""


def measure_skills(
    model: str = "lab",
    *,
    skills: Sequence[str] = (),
    items: int = 200,
    samples: int = 0,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Greedy accuracy on `items` fresh questions of every skill, and of facts by how often they were seen.

    Args:
        model: A laboratory model's name, or any model or run; one that sees is asked about pictures too.
        skills: Names of the skills to ask; default all, and facts by level.
        samples: Answers sampled at temperature 1 for each question besides, for the histogram of its solve rates.
    Returns:
        `{"model", "parameters", "skills": [{"name", "accuracy", "n", "threshold", "about"}]}`, accuracy in points;
        with samples also `solved` (questions by the number of right answers, 0 to `samples`) and `between` (points of
        the questions solved in 10 to 90 % of the samples).
    Raises:
        UserError: If a skill does not exist.
    """
    for name in skills:
        load_skill(name)
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.measure import count_items, measure_all
    from holdfast.evaluation.subject import EvaluatedModel
    from holdfast.generation.factory import build_local_engine, build_sample_fn
    from holdfast.models.eyes import has_eyes
    from holdfast.models.loading import load_model

    loaded_model = load_model(model)
    chat = Chat(loaded_model.tokenizer)
    engine = build_local_engine(loaded_model.model, chat, fingerprint=loaded_model.fingerprint)
    names = skills or [*SKILLS, *(PICTURE_SKILLS if has_eyes(loaded_model.model.config) else ())]
    tasks = [build_skill_task(name, items, seed=FRESH) for name in names]
    if not skills:
        tasks += fact_tasks(items)
    if ui:
        ui.start_phase("measure", count_items(tasks) * (1 + samples))
    results = measure_all(
        tasks,
        EvaluatedModel(loaded_model.fingerprint, chat, build_sample_fn(engine)),
        progress=(lambda n: ui.advance(n)) if ui else None,
    )
    rows = [_skill_row(task.name, [item.passed for item in results[task.name]]) for task in tasks]
    if samples:
        draw = build_sample_fn(engine)
        for task, row in zip(tasks, rows, strict=True):
            row |= count_solved(task, draw, samples)
            if ui:
                ui.advance(len(task.rows) * samples)
    return {"model": model, "parameters": sum(p.numel() for p in loaded_model.model.parameters()), "skills": rows}


def count_solved(task: Task, draw: SampleFn, samples: int) -> dict[str, Any]:
    """`{"solved": questions by how many of `samples` answers are right, "between": points of those in between}`."""
    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.axes.judge import JudgeRequest

    rows = list(task.rows)
    params = SamplingParams(n=samples, temperature=1.0, max_tokens=task.max_tokens)
    answers = draw([Request(row.id, row.prompt) for row in rows], params)
    right_counts = [0] * (samples + 1)
    for row in rows:
        requests = [JudgeRequest(row.prompt, sample.text, row.gold) for sample in answers[row.id]]
        right_counts[sum(verdict.passed for verdict in cast("Judge", task.judge).judge_all(requests))] += 1
    low, high = BETWEEN
    between = sum(count for right, count in enumerate(right_counts) if low <= right / samples <= high)
    return {"solved": right_counts, "between": 100 * between / len(rows)}


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
    known_skill = load_skill(name) if name in (*SKILLS, *PICTURE_SKILLS, *SKILL_VARIANTS) else None
    return {
        "name": name,
        "accuracy": 100 * sum(passes) / len(passes),
        "n": len(passes),
        "threshold": known_skill.threshold if known_skill else None,
        "about": (type(known_skill).__doc__ or "").splitlines()[0] if known_skill else "",
    }
