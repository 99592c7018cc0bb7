"""Rows of many tasks in measured shares."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from holdfast.axes.curator import CurationContext, Curator, Effect, RowSource
from holdfast.core.spelling import suggest_name
from holdfast.data.chat.prompts import fill_template
from holdfast.data.mixture import DrawnRows, allocate_draws, draw_rows
from holdfast.data.rows import Row, Rows
from holdfast.data.trace import record_decision
from holdfast.errors import UserError


class Flan(Curator):
    """Rows of many tasks in measured shares, under templates, some clusters held out. [Chung et al. 2022, 2210.11416]

    A row's task is what its column `by` says, its `task` or `skill`, or the file it comes from. Of N rows task t gets

        N * w_t / sum(w)      w_t = min(cap, n_t) ** (1 / temperature)      n_t: rows it has

    N is what the capped tasks have together, or `rows`. Temperature 1 is in proportion to examples, a large one (or a
    cap of 1) the same number of each. Rows are drawn with the run's seed; a task that must give more than it has gives
    some several times, each time perhaps under another template. With `cot_share` that share of the rows is of
    `cot_tasks`, those that show steps of reasoning (the paper: 3 %; without any, evaluations of reasoning get worse).
    Tasks of a held-out cluster are not trained on, whatever stands among the rows; they are what to measure.

    A template holds {question}, and perhaps {options}, the row's choices as a list; rows without choices get one that
    has none. One is drawn for each row; the answer stays as it is.

    When it helps: a model for tasks it was not trained on; most of the gain was there with 282 tasks. When it fails:
    where a single task counts. Put it before curators that sample.

    Columns: an answer. Paper: Chung et al. 2022, "Scaling Instruction-Finetuned Language Models" (arXiv 2210.11416);
    caps: Longpre et al. 2023 (2301.13688), 30,000 for most tasks; the mixing: Raffel et al. 2020 (1910.10683).
    """

    paper = "Chung et al. 2022 (2210.11416)"
    effect: ClassVar[Effect] = "draw"

    by: str | None = Field(None, description="Column that names a row's task; default: task, skill, or its file.")
    cap: int = Field(30_000, ge=1, description="Rows of a task beyond which more do not count.")
    temperature: float = Field(1.0, gt=0, description="1: in proportion to the rows, up to the cap; more: more even.")
    rows: int | None = Field(None, ge=1, description="Rows in all; default: as many as the capped tasks have.")
    cot_tasks: tuple[str, ...] = Field((), description="Tasks whose answers show steps of reasoning.")
    cot_share: float | None = Field(None, ge=0, le=1, description="Their share of all rows; default: as they weigh.")
    clusters: dict[str, tuple[str, ...]] = Field({}, description="Cluster to its tasks.")
    held_out: tuple[str, ...] = Field((), description="Clusters, or tasks, that are not trained on.")
    templates: tuple[str, ...] = Field((), description="Ways to ask; each holds {question}, some {options} too.")

    @field_validator("templates")
    @classmethod
    def _hold_questions(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if lacking := [template for template in templates if "{question}" not in template]:
            raise ValueError(f"lacks {{question}}: {lacking[0]!r}")
        if templates and all("{options}" in template for template in templates):
            raise ValueError("all hold {options}; rows without choices need one that does not")
        return templates

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        tasks = [None if row.is_replayed else self.name_task(row) for row in rows]
        by_task: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            if task is not None:
                by_task.setdefault(task, []).append(index)
        if not by_task:
            return rows
        held_out = self.list_held_out(by_task)
        counts = self.count_rows({task: len(some) for task, some in by_task.items() if task not in held_out})
        draws = [(index, 0) for index, task in enumerate(tasks) if task is None]
        for task, count in counts.items():
            draws += draw_rows(by_task[task], count, f"{context.seed}/{task}")
            context.note(f"rows of {task}", count)
        self._record_drops(rows, tasks, draws, held_out, context)
        # In the order of the rows; what stands several times, one after another.
        return DrawnRows(rows, sorted(draws), lambda row, copy: self.ask_anew(row, copy, context.seed))

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        sizes = Counter(self.name_task(row) for row in rows if not row.is_replayed)
        if sizes:
            held_out = self.list_held_out(dict.fromkeys(sizes, ()))
            self.count_rows({task: count for task, count in sizes.items() if task not in held_out})

    def name_task(self, row: Row) -> str:
        """The task of a row."""
        if self.by is not None:
            if self.by not in row.meta:
                raise UserError(f"{row.describe_row(1)}: has no {self.by}, by which flan tells tasks apart")
            return str(row.meta[self.by])
        return str(row.meta.get("task") or row.meta.get("skill") or row.place.rpartition(":")[0] or "rows")

    def list_held_out(self, by_task: Mapping[str, Sequence[int]]) -> set[str]:
        """The tasks that are not trained on."""
        known_names = {*by_task, *self.clusters, *(task for some in self.clusters.values() for task in some)}
        for name in (*self.held_out, *self.cot_tasks):
            if name not in known_names:
                raise UserError(
                    f"flan: {name} is neither a task of the rows nor a cluster{suggest_name(name, known_names)}"
                )
        out = {task for name in self.held_out for task in self.clusters.get(name, (name,))}
        if not set(by_task) - out:
            raise UserError(f"flan.held_out leaves no task to train on; the rows have {', '.join(sorted(by_task))}")
        return out

    def count_rows(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """How many rows each task gives, by how many it has."""
        import numpy as np

        names, cot_names = list(sizes), set(self.cot_tasks) & set(sizes)
        sizes_counted = np.array([min(self.cap, sizes[name]) for name in names], float)
        weights = sizes_counted ** (1 / self.temperature)
        is_cot = np.array([name in cot_names for name in names])
        if self.cot_share is not None:
            if not cot_names:
                raise UserError("flan.cot_share: none of the rows is of a task that cot_tasks names")
            for part, share in ((is_cot, self.cot_share), (~is_cot, 1 - self.cot_share)):
                weights[part] *= share / max(weights[part].sum(), 1e-300)
        return dict(zip(names, allocate_draws(weights, self.rows or int(sizes_counted.sum())), strict=True))

    def _record_drops(
        self, rows: Rows, tasks: Sequence[str | None], draws: Sequence[tuple[int, int]], held_out: set[str],
        context: CurationContext,
    ) -> None:  # fmt: skip
        drawn_rows = {index for index, _ in draws}
        counts: Counter[str] = Counter()
        for index, task in enumerate(tasks):
            if index not in drawn_rows:
                reason = "of a held-out cluster" if task in held_out else "beyond its task's share"
                counts[reason] += 1
                context.drop(rows[index], f"{reason}: {task}")
        for reason, count in counts.items():
            context.note(f"left out ({reason})", count)

    def ask_anew(self, row: Row, copy: int, seed: int) -> Row:
        """A row under one of the templates, the `copy`-th time it is taken."""
        if row.is_replayed:
            return row
        new = replace(row, id=f"{row.id}.{copy}") if copy else row
        choices = row.meta.get("choices")
        fitting = [template for template in self.templates if choices or "{options}" not in template]
        turn = next((i for i in range(len(row.prompt) - 1, -1, -1) if row.prompt[i]["role"] == "user"), None)
        if fitting and turn is not None:
            template = random.Random(f"{seed}/{row.id}/{copy}").choice(fitting)
            options = "\n".join(f"- {choice}" for choice in choices or ())
            text = fill_template(template, question=str(row.prompt[turn]["content"]), options=options)
            messages = [*row.messages[:turn], {**row.messages[turn], "content": text}, *row.messages[turn + 1 :]]
            new = replace(new, messages=messages)
        return record_decision(new, "flan", row)
