"""Tasks that a model comes up with from a few seeds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from typing import Any

from pydantic import Field

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Request
from holdfast.data.chat.prompts import fill_template, text_of
from holdfast.data.overlap.words import split_words
from holdfast.data.rows import Row, Rows, fingerprint_json
from holdfast.methods.curators import task_writing as writing
from holdfast.methods.curators.generate import as_user
from holdfast.methods.curators.teacher import Account, TeacherCurator, make_row, select_fresh

SHOWN_SEEDS, SHOWN_TASKS = 6, 2
"""Of the tasks that a request shows: those of the seeds, and those the model came up with."""
BATCH = 5
"""Requests made at once; the tasks of the next ones are drawn from what these gave."""
STOP = ("Example 6", "\nTask:")
"""Where a reply with examples goes on to what was not asked for."""


class SelfInstruct(TeacherCurator):
    """Tasks that a model comes up with from a few seeds, and carries out. [Wang et al. 2023, arXiv 2212.10560]

    The questions of the rows given are the seeds. Until there are `n` tasks, or `requests` were made:

        1. eight tasks are shown, 6 seeds and 2 of the model's own, and more are asked for
        2. left out: 3 words or fewer, more than 150; what asks for images, files and the like; "Write a program"; a
           mark or another script at the beginning; and what is too much like a task there is:
               max ROUGE-L(task, seeds and accepted) > rouge
        3. is it classification? Then examples are asked for label first, else input first, at most `instances`
        4. left out: empty outputs, an output that is its input, ends with a colon, and all examples of a task of which
           one input has two outputs

    Requests and heuristics are the paper's, the worked examples in them fewer (4 in place of 31, and a chat's turn in
    place of a bare completion). Its code also writes all but the first letter of a task in lower case, and a request's
    whole reply is thrown away if it is cut; here only what is cut off of it. Everything the model said is in the
    journal, so that the same tasks come out of a run that was killed.

    When it helps: a model that can write tasks (large, or one behind an address) and few rows. When it fails: a small
    one repeats its seeds, and hardly any task passes; the counts show it. The authors pairs fault with 46 % of 200
    tasks: `filter` after it. What is new is held against what is measured.

    Columns: questions. Paper: Wang et al. 2023, "Self-Instruct" (arXiv 2212.10560).
    """

    paper = "Wang et al. 2023 (2212.10560)"

    n: int = Field(200, ge=1, description="Tasks to come up with.")
    requests: int | None = Field(None, ge=1, description="Most requests for tasks; default: as many as tasks.")
    rouge: float = Field(0.7, ge=0, le=1, description="Largest ROUGE-L with another task; 1: only n is a limit.")
    instances: int = Field(5, ge=1, description="Most examples of a task.")
    top_p: float = Field(0.5, gt=0, le=1, description="Nucleus of the tasks' sampling; examples are greedy.")

    def samples_per_row(self) -> int:
        return 0

    def count_samples(self, rows: int) -> int:
        return (self.requests or self.n) + 2 * self.n

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        seeds = list({text_of(row.prompt[-1]["content"]): row for row in select_fresh(rows) if row.prompt}.items())
        if not seeds:
            return rows
        account = Account(self, context)
        tasks = self.write_tasks([task for task, _ in seeds], account, context)
        new_rows = self.write_rows(tasks, seeds[0][1], account, context)
        context.note("rows written", len(new_rows))
        return [*rows, *new_rows]

    def write_tasks(self, seeds: Sequence[str], account: Account, context: CurationContext) -> list[str]:
        """New tasks that pass the heuristics."""
        rng = random.Random(f"{context.seed}/tasks")
        tasks: list[str] = []
        known_words = [split_words(seed) for seed in seeds]
        params = self.build_params(context)
        for first in count(0, BATCH):
            number = min(BATCH, (self.requests or self.n) - first)
            if len(tasks) >= self.n or number < 1 or account.is_exhausted:
                break
            texts = [writing.ask_for_tasks(self._choose_shown(seeds, tasks, rng)) for _ in range(number)]
            requests = [Request(f"tasks:{first + i}", [as_user(text)]) for i, text in enumerate(texts)]
            samples = account.ask_model(requests, params)
            for sample in (sample for key in samples for sample in samples[key]):
                new_tasks = writing.parse_tasks(sample.text)
                for task in new_tasks[:-1] if sample.finish == "length" else new_tasks:
                    fault = writing.find_task_fault(task)
                    if fault is None and writing.longest_alike(task, known_words) > self.rouge:
                        fault = "too much like another"
                    if fault or len(tasks) >= self.n:
                        context.note(f"tasks: {fault or 'more than asked for'}", 1)
                        continue
                    tasks.append(task)
                    known_words.append(split_words(task))
        context.note("tasks", len(tasks))
        return tasks

    def _choose_shown(self, seeds: Sequence[str], tasks: Sequence[str], rng: random.Random) -> list[str]:
        own = rng.sample(tasks, min(SHOWN_TASKS, len(tasks)))
        choice = [*own, *rng.sample(seeds, min(SHOWN_SEEDS + SHOWN_TASKS - len(own), len(seeds)))]
        rng.shuffle(choice)
        return choice

    def write_rows(self, tasks: Sequence[str], source: Row, account: Account, context: CurationContext) -> list[Row]:
        """The examples of each task as rows."""
        rng = random.Random(f"{context.seed}/rows")
        greedy: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0}
        names = {f"{fingerprint_json(task)[:24]}": task for task in tasks}
        ask = [Request(f"kind:{n}", [as_user(fill_template(writing.CLASSIFICATION, task=t))]) for n, t in names.items()]
        kinds = account.ask_model(ask, self.build_params(context, **{**greedy, "max_tokens": 8}))
        classifies = {
            key.partition(":")[2]: some[0].text.strip().lower().startswith("yes") for key, some in kinds.items()
        }
        requests = []
        for name in classifies:
            form = writing.OUTPUT_FIRST if classifies[name] else writing.INPUT_FIRST
            requests.append(Request(f"examples:{name}", [as_user(fill_template(form, task=names[name]))]))
        samples = account.ask_model(requests, self.build_params(context, **greedy, stop=STOP))
        out = []
        for key, some in samples.items():
            name = key.partition(":")[2]
            pairs = writing.parse_instances(some[0].text, classifies[name])
            pairs = pairs[:-1] if some[0].finish == "length" else pairs
            good, fault = writing.select_instances(pairs, self.instances, rng)
            context.note(f"tasks: {fault}", int(fault is not None))
            for number, (task_input, output) in enumerate(good):
                prompt = [as_user(writing.join_task(names[name], task_input, rng))]
                reason = "classification, label first" if classifies[name] else "input first"
                out.append(make_row("self_instruct", source, prompt, output, number=number, reason=reason))
        return out
