"""Episodes as a task: the model plays in an environment, and what is measured is how often it succeeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.axes.engine import Request, Sample
from holdfast.axes.environment import Environment, Episode, begin_or_refuse, play_episodes
from holdfast.data.rows import Row
from holdfast.errors import RunError
from holdfast.evaluation.subject import (
    EvaluatedModel,
    as_text,
    build_sampling_params,
    format_prompt,
    require_part,
)
from holdfast.evaluation.task import ItemResult, Role, Task
from holdfast.evaluation.thought_counts import BROKEN, UNFIT

SEED = 0
"""Of what environments draw. Not the run's: all runs and both models play the same episodes."""


def build_episodes_task(
    name: str,
    rows: Sequence[Row],
    environment: Environment,
    *,
    source: str,
    role: Role = "keep",
    max_tokens: int = 128,
    max_thinking_tokens: int | None = None,
) -> Task:
    """A task of one episode for each row.

    Raises:
        UserError: If the environment cannot work here, or does not take a row, which is named.
    """
    environment.check_ready()
    for number, row in enumerate(rows, 1):
        begin_or_refuse(environment, row, SEED, f"evaluate: {source}: {row.describe_place(number)}")
    return Task(
        name, "episodes", rows, role=role, max_tokens=max_tokens, max_thinking_tokens=max_thinking_tokens,
        environment=environment, meta={"source": source},
    )  # fmt: skip


def start_prompts(task: Task) -> list[list[Any]]:
    """The conversations that the episodes of a task begin with.

    Raises:
        UserError: If the environment breaks on a row, which is named.
    """
    environment = require_part(task.environment, "environment")
    return [
        begin_or_refuse(environment, row, SEED, f"{task.name}: {row.describe_place(number)}")
        for number, row in enumerate(task.rows, 1)
    ]


def measure_episodes(task: Task, subject: EvaluatedModel, tick: Callable[[int], Any]) -> list[ItemResult]:
    """Play one greedy episode from every row.

    The score is 1 for an episode that succeeded. One on which the environment itself broke says nothing of the model:
    it is left out of all figures. One whose conversation outgrew the model's context has not succeeded.
    """
    draw, params = require_part(subject.draw, "sampling engine"), build_sampling_params(task)
    samples: dict[str, Sample] = {}

    def answer_episodes(episodes: list[Episode]) -> list[str]:
        requests = [Request(f"eval/{task.name}/{episode.turn_key}", episode.messages) for episode in episodes]
        drawn_samples = draw(requests, params, None)
        samples.update({request.key: drawn_samples[request.key][0] for request in requests})
        return [e.take_answer(samples[request.key]) for e, request in zip(episodes, requests, strict=True)]

    episodes = play_episodes(require_part(task.environment, "environment"), task.rows, answer_episodes, seed=SEED)
    if len({episode.key for episode in episodes}) != len(episodes):
        raise RunError("two questions of one task have the same id; build tasks with evaluation.tasks")
    tick(len(episodes))
    return [
        _build_item(
            row, episode, [samples[f"eval/{task.name}/{episode.name_turn(t)}"] for t in range(len(episode.turns))]
        )
        for row, episode in zip(task.rows, episodes, strict=True)
    ]


def _build_item(row: Row, episode: Episode, samples: Sequence[Sample]) -> ItemResult:
    turns = episode.turns
    reason = turns[-1].note if turns else ""
    extra: dict[str, Any] = {
        "turns": len(turns), "return": float(sum(episode.rewards)), "first": episode.passed and len(turns) == 1,
    }  # fmt: skip
    if episode.failure:
        extra, reason = extra | {BROKEN: True}, f"the environment broke: {episode.failure} ({episode.place})"
    elif episode.outgrown and not turns:
        extra, reason = extra | {UNFIT: True}, "the prompt does not fit into the model's context"
    elif episode.outgrown:
        reason = f"the conversation outgrew the model's context at turn {len(turns) + 1}"
    elif episode.truncated and not episode.passed:
        reason = f"no end after {len(turns)} turns" + (f"; {reason}" if reason else "")
    return ItemResult(
        id=row.id, prompt=format_prompt(turns[0].prompt if turns else row.prompt), response=format_turns(episode),
        reference=as_text(row.gold) if row.gold is not None else "", score=float(episode.passed),
        passed=episode.passed, stopped=not episode.outgrown and all(one.finish == "stop" for one in samples),
        tokens=sum(sample.tokens - sample.thought_tokens for sample in samples), reason=reason, extra=extra,
    )  # fmt: skip


def format_turns(episode: Episode) -> str:
    """What the model said turn by turn, each with its reward and what it was told."""
    if len(episode.turns) == 1:
        return episode.turns[0].answer
    return "\n".join(
        f"{number}: {turn.answer} [{turn.reward:g}{f', {turn.note}' if turn.note else ''}]"
        for number, turn in enumerate(episode.turns, 1)
    )
