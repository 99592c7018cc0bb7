"""What a recipe asks for, in steps and tokens: read from its rows and questions, without the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from holdfast.core.progress import Progress
from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.errors import UserError
from holdfast.evaluation.method_reach import SAMPLED
from holdfast.pipeline.estimate import count_rollout_turns, count_task_tokens, list_measurements
from holdfast.pipeline.row_encoding import LONGEST, encode_rows

if TYPE_CHECKING:
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Row, Rows
    from holdfast.evaluation.task import Task
    from holdfast.models.shape import ModelShape
    from holdfast.pipeline.sources import Sources
    from holdfast.recipe.loader import ResolvedRecipe
    from holdfast.recipe.schema import Recipe
    from holdfast.training.plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class AnswerWork:
    """Answers to be written, and texts to be read beside them.

    Args:
        answers: How many.
        prompt, answer: Tokens of each on average; of the answer the most there can be.
        read: Tokens that are read, those of the prompts among them.
        length: Of what is read, on average.
    """

    answers: int
    prompt: float
    answer: float
    read: float
    length: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run computes.

    Args:
        plan: Steps, and the size of each.
        tokens: Of a step, on average.
        length, longest: Tokens of a row of the batch, weighted by its tokens (as attention costs), and of the longest.
        reference_tokens: Read once by the model before training, for an objective that compares with it.
        curation, evaluation: Answers of both.
        warnings: One line each.
    """

    plan: TrainingPlan
    tokens: float
    length: float
    longest: int
    reference_tokens: int
    curation: AnswerWork
    evaluation: AnswerWork
    warnings: tuple[str, ...]


def measure_workload(resolved_recipe: ResolvedRecipe, shape: ModelShape, characters: float, ui: Progress) -> Workload:
    """Read a recipe's rows and questions, and count.

    Args:
        characters: Of a token, where nothing tokenises: without a tokenizer, and in questions.
    Raises:
        UserError: Whatever cannot be read.
    """
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.evaluation.tasks.probe import limit_probe_tasks
    from holdfast.pipeline.curation_key import open_replay_rows
    from holdfast.pipeline.live_evaluation import refuse_unmeasured
    from holdfast.pipeline.sources import read_sources

    recipe, warnings = resolved_recipe.recipe, list[str]()
    sources = read_sources(recipe, ui.write_line, warnings.append, resolved_recipe.sources)
    every = (sources.train, sources.test, *open_replay_rows(recipe, ui.write_line))
    chat = _make_chat(recipe, shape, every, warnings)
    tasks = build_tasks(recipe, sources.test, sources.judge, lab=shape.lab, say=ui.write_line)
    tasks = limit_probe_tasks(tasks, shape.model)
    refuse_unmeasured(recipe, tasks)
    table, plan = _build_table(resolved_recipe, shape, chat, sources, characters)
    thinks = chat is not None and chat.template.thoughts.allows_thought
    lengths = np.diff(table.starts).astype(np.float64)
    return Workload(
        plan=plan,
        tokens=plan.size.row_tokens * plan.size.rows,
        length=float((lengths**2).sum() / lengths.sum()),
        longest=int(lengths.max()),
        reference_tokens=int(lengths.sum()) if recipe.objective.needs_reference else 0,
        curation=_count_drawn_answers(recipe, table, len(sources.train), thinks),
        evaluation=_count_measured_answers(list_measurements(recipe, tasks, plan.steps), thinks, characters),
        warnings=(*warnings, *plan.warnings),
    )


def _make_chat(recipe: Recipe, shape: ModelShape, every: Sequence[Rows], warnings: list[str]) -> Chat | None:
    """The template; None without a tokenizer."""
    from holdfast.data.chat.settings import make_chat
    from holdfast.models.loading import count_embeddings

    if shape.tokenizer is None:
        if recipe.credit is not None:
            raise UserError(
                f"{recipe.model}: no tokenizer, which the rounds of online learning need; put the tokenizer's files "
                "beside config.json"
            )
        warnings.append(f"{recipe.model}: no tokenizer beside config.json, so tokens are counted by characters")
        return None
    chat = make_chat(recipe.data, shape.tokenizer, *every, warn=warnings.append)
    chat.limit_to(count_embeddings(shape.model))
    return chat


def _build_table(
    resolved_recipe: ResolvedRecipe, shape: ModelShape, chat: Chat | None, sources: Sources, characters: float
) -> tuple[TokenTable, TrainingPlan]:
    """The rows in tokens, and the plan of their training."""
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.models.loading import tuned_context_length
    from holdfast.pipeline.online import choose_environment, plan_rounds, select_playable_rows
    from holdfast.pipeline.phases import match_recipe_and_rows, rows_for_objective
    from holdfast.pipeline.rounds_check import imagine_answers
    from holdfast.training.plan import plan_training

    recipe, where = resolved_recipe.recipe, resolved_recipe.sources
    context = tuned_context_length(shape.model.config, recipe.tuner)
    if recipe.credit is not None and chat is not None:
        environment = choose_environment(recipe, sources.judge)
        rows, _ = select_playable_rows(sources.train, environment, chat, context, recipe.sampling.max_tokens)
        table = TokenTable.from_sequences(imagine_answers(rows, environment, chat, recipe), fingerprint="plan")
        return table, plan_rounds(recipe, shape.model, len(rows), where)
    as_read, rows = match_recipe_and_rows(recipe, sources.train)
    report: TableReport
    if chat is not None:
        table, report = encode_rows(as_read, rows_for_objective(as_read, rows), chat, context)
    else:
        most = min(filter(None, (as_read.train.max_length or LONGEST, context)))
        table = TokenTable.from_sequences(imagine_rows(rows, characters, most), fingerprint="plan")
        report = TableReport(rows=len(rows), context=context, max_length=most)
    return table, plan_training(as_read, shape.model, table, report, where)


def imagine_rows(rows: Rows, characters: float, most: int) -> list[EncodedSequence]:
    """Rows as sequences of nothing, as long as their characters say: each answer behind its prompt."""
    sequences = []
    for number, row in enumerate(rows):
        prompt = _count_characters(row)
        for role, answer in enumerate(_list_answers(row)):
            tokens = min(most, max(1, round((prompt + len(answer)) / characters)))
            label_mask = np.arange(tokens) >= round(prompt / characters)
            sequences.append(EncodedSequence(np.zeros(tokens, np.int32), label_mask, number, role))
    return sequences


def _count_characters(row: Row) -> int:
    return sum(len(str(message["content"])) for message in row.prompt)


def _list_answers(row: Row) -> list[str]:
    """The answers of a row that are trained on, or one that is nothing."""
    answers = [text for text in (row.chosen, row.rejected) if text is not None]
    return answers or [row.answer or (row.reference if isinstance(row.reference, str) else "")]


def _count_drawn_answers(recipe: Recipe, table: TokenTable, rows: int, thinks: bool) -> AnswerWork:
    """What curators and rounds sample, each answer as long as its limit allows."""
    draws = sum(curator.count_samples(rows) for curator in recipe.curate) + count_rollout_turns(recipe)
    prompt = float((~table.label_mask).sum()) / max(1, len(table.starts) - 1)
    answer = recipe.sampling.max_tokens + (recipe.sampling.max_thinking_tokens if thinks else 0)
    return AnswerWork(draws, prompt, answer, prompt * min(draws, rows) if draws else 0.0, prompt)


def _count_measured_answers(tasks: Sequence[Task], thinks: bool, characters: float) -> AnswerWork:
    """What measuring samples and reads."""
    answered_tasks = [task for task in tasks if task.kind in SAMPLED]
    answers = sum(len(task.rows) * (task.environment.turns if task.environment else 1) for task in answered_tasks)
    rows = sum(len(task.rows) for task in tasks)
    answer_tokens, read = count_task_tokens(tasks, thinks, characters)
    length = read / rows if rows else 0.0
    return AnswerWork(answers, length, answer_tokens / answers if answers else 0.0, read, length)
