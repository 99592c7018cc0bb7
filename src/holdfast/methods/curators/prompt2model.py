"""Rows for a task that is described in words."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Request
from holdfast.data.chat.prompts import text_of
from holdfast.data.rows import Row, Rows
from holdfast.methods.curators.generate import as_user
from holdfast.methods.curators.output_votes import count_votes, format_example, parse_example, vote_output
from holdfast.methods.curators.teacher import Account, TeacherCurator, make_row, select_fresh, whole_texts

FORMS = {0: (2, "Write one more example."), 1: (4, "Write one more example, unlike those in subject and length."),
         2: (3, "Write one more example on another subject.")}  # fmt: skip
"""By the number of rows there are modulo 3: examples that a request shows, and how it ends."""
REQUEST = (
    "A task and some examples of it.\n\nTask: {instruction}\n\n{examples}{ending} Reply with JSON only: "
    '{{"input": "...", "output": "..."}}'
)
BATCH = 5
"""Requests made at once, at one temperature."""
FAILURES = 3
"""Batches in a row without a new row after which it is given up."""


class Prompt2Model(TeacherCurator):
    """Rows for a described task, written by a model and agreed on by vote. [Viswanathan et al. 2023, 2308.12261]

    `inputs: written` has the model write input and output as JSON until there are `n` rows. A request shows the
    instruction, `examples` or the rows given as good ones and, as lesser ones, rows that were written before; its size
    is one of three in turn, and the temperature rises with what is there:

        T = temperature + (max_temperature - temperature) * written_rows / n

    `inputs: given` asks the questions of the rows given instead, `answers` times each: self-consistency [Wang et al.
    2022, 2203.11171]. Either way an input has the output that was given most often; of outputs given equally often the
    shortest, the first of equal ones. What counts as the same output: the last number in it where all of them hold
    numbers, else the words.

    Replies that are no such JSON are counted and left out; after three batches without a new row no more are asked for,
    so that a model which cannot write examples ends with what there is. Rows given stay in front. `holdfast build`
    makes a recipe with it.

    When it helps: a task without data, and a model that can do it. When it fails: tasks that model cannot do; rows
    teach its errors, though less so by vote.

    Columns: questions. Paper: Viswanathan et al. 2023, "Prompt2Model" (arXiv 2308.12261).
    """

    paper = "Viswanathan et al. 2023 (2308.12261); Wang et al. 2022 (2203.11171)"

    instruction: str = Field("", description="What the task is, in words.")
    examples: tuple[tuple[str, str], ...] = Field(
        (), description="Inputs with outputs that requests show as good, and nobody trains on; default: the rows."
    )
    inputs: Literal["written", "given"] = Field("written", description="Who writes inputs; given: the rows' questions.")
    n: int = Field(200, ge=1, description="Rows to write; of given inputs at most so many.")
    answers: int = Field(5, ge=1, description="Answers to a request, among which is voted.")
    temperature: float = Field(0.5, ge=0, description="Sampling temperature of the first request.")
    max_temperature: float = Field(1.7, ge=0, description="Sampling temperature of the last; for written inputs.")
    keep_given: bool = Field(True, description="Train on the rows that were given, too, where they have an answer.")

    def samples_per_row(self) -> int:
        return self.answers if self.inputs == "given" else 0

    def count_samples(self, rows: int) -> int:
        return self.answers * (min(rows, self.n) if self.inputs == "given" else self.most_requests())

    def answers_rows(self) -> bool:
        return self.inputs == "given"

    def most_requests(self) -> int:
        """Requests for written inputs after which no more are made."""
        return 2 * self.n + BATCH * FAILURES

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        fresh_rows = select_fresh(rows)
        if not fresh_rows:
            return rows
        account = Account(self, context)
        make = self.answer_given if self.inputs == "given" else self.write_inputs
        new_rows = make(fresh_rows, account, context)
        context.note("rows written", len(new_rows))
        return [*(row for row in rows if row.is_replayed or (self.keep_given and row.answer)), *new_rows]

    def answer_given(self, rows: Sequence[Row], account: Account, context: CurationContext) -> list[Row]:
        """The rows' questions with the answer that most samples give."""
        by_key = {f"{row.id}:vote": row for row in rows[: self.n]}
        requests = [Request(key, row.prompt) for key, row in by_key.items()]
        out = []
        for key, samples in account.ask_model(requests, self.build_params(context, self.answers)).items():
            texts, row = [text for _, text in whole_texts(samples)], by_key[key]
            if not texts:
                context.note("questions without a whole answer", 1)
                continue
            reason = f"{count_votes(texts)} of {len(texts)} answers agree"
            fields = {"reference": row.reference, "meta": {k: v for k, v in row.meta.items() if k != "trace"}}
            new = make_row("prompt2model", row, row.prompt, vote_output(texts), number="v", reason=reason, **fields)
            out.append(new)
        return out

    def write_inputs(self, rows: Sequence[Row], account: Account, context: CurationContext) -> list[Row]:
        """Inputs with outputs that the model wrote."""
        rng, outputs = random.Random(f"{context.seed}/examples"), dict[str, list[str]]()
        first, failures = 0, 0
        while len(outputs) < self.n and failures < FAILURES and first + BATCH <= self.most_requests():
            size = len(outputs)
            texts = [self.build_request(rows, outputs, size + i, rng) for i in range(BATCH)]
            requests = [Request(f"example:{first + i}", [as_user(text)]) for i, text in enumerate(texts)]
            params = self.build_params(context, self.answers, temperature=self.choose_temperature(size))
            first += BATCH
            for _, text in (
                pair for some in account.ask_model(requests, params).values() for pair in whole_texts(some)
            ):
                pair = parse_example(text)
                context.note("replies that are no example", int(pair is None))
                if pair is not None and (pair[0] in outputs or len(outputs) < self.n):
                    outputs.setdefault(pair[0], []).append(pair[1])
            failures = failures + 1 if len(outputs) == size else 0
        return [
            make_row(
                "prompt2model", rows[0], [as_user(text)], vote_output(texts), number=0,
                reason=f"written; {count_votes(texts)} of {len(texts)} outputs agree",
            )
            for text, texts in outputs.items()
        ]  # fmt: skip

    def choose_temperature(self, written_rows: int) -> float:
        """The temperature once so many rows are written."""
        return self.temperature + (self.max_temperature - self.temperature) * written_rows / self.n

    def build_request(
        self, rows: Sequence[Row], outputs: Mapping[str, Sequence[str]], number: int, rng: random.Random
    ) -> str:
        """A request for one more example; rows given are shown as good, written ones as lesser."""
        most, ending = FORMS[number % 3]
        given_pairs = [(text_of(row.prompt[-1]["content"]), row.answer) for row in rows if row.prompt and row.answer]
        good = list(self.examples) or given_pairs
        own = [
            (text, vote_output(texts)) for text, texts in rng.sample(sorted(outputs.items()), min(most, len(outputs)))
        ]
        parts = [f"Good example:\n{format_example(*one)}\n\n" for one in rng.sample(good, min(most, len(good)))]
        parts += [f"Example of lesser quality:\n{format_example(*one)}\n\n" for one in own]
        return REQUEST.format(instruction=self.instruction, examples="".join(parts), ending=ending)
