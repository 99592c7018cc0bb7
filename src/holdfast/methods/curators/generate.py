"""Rows that a teacher writes beside those there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from holdfast.axes.curator import CurationContext
from holdfast.axes.engine import Request
from holdfast.data.chat.prompts import fill_template, text_of
from holdfast.data.overlap.words import split_words
from holdfast.data.rows import Message, Row, Rows, fingerprint_json
from holdfast.errors import UserError
from holdfast.methods.curators.teacher import Account, TeacherCurator, make_row, select_fresh, whole_texts

EVOLVE = (
    "Rewrite the task below into a new task that is a little harder but still answerable: {how}. Keep its language. "
    "Reply with the new task only.\n\nTask:\n{question}"
)
WAYS = (
    "add one more condition", "ask for one step more of reasoning", "replace a general notion by a more specific one",
    "ask for something deeper about the same matter", "ask for something else of the same kind",
)  # fmt: skip
"""How tasks evolve: the first four in depth, the last in breadth [Xu et al. 2023]."""
BACK = (
    "Below is a text that answers a question or carries out a task. Write that question or task. Reply with it only."
    "\n\nText:\n{answer}"
)
REFUSALS = ("sorry", "as an ai", "i cannot", "i can't")
"""How an answer begins that is none."""
WORDS_OF_PROMPT = ("new task", "rewritten task", "given task")
"""What a new task says that only the request could have put there."""


class Generate(TeacherCurator):
    """Rows that another model writes: answers, harder questions, or questions to answers. [Xu et al. 2023, 2304.12244]

    `write` says what:

        answers     n answers to each question: y ~ T(. | x). A student trained on them imitates the teacher
                    [sequence-level distillation: Kim and Rush 2016, 1606.07947]
        questions   n harder or wider questions x' ~ T(evolve(x)), each answered, y' ~ T(. | x') [Evol-Instruct: Xu et
                    al. 2023, 2304.12244]
        prompts     n questions to each answer, x' ~ T(back(y)); the answer stays as it is, the person's or the page's
                    [instruction back-translation: Li et al. 2023, 2308.06259]

    Texts that were cut, are empty, refuse, repeat the question or the words of the request are left out, counted.
    T is the base, another model (`model`), or one behind an address (`engine: https://...`), which alone is sent
    anything. Tokens are counted, with `price` costs too; `budget` and `max_cost` are never passed. Every text is in the
    journal: a run killed and repeated pays for nothing twice.

    When it helps: few rows, and a teacher that is better than the student. When it fails: the teacher's errors are
    taught; let `filter` with a judge follow, or `dedup`. New questions are held against what is measured.

    Columns: questions; answers for `prompts`.

    Papers: Xu et al. 2023, "WizardLM" (arXiv 2304.12244), whose rounds are several of these in a row; Li et al. 2023
    (arXiv 2308.06259), whose scoring is `filter` with `judge: llm`.
    """

    paper = "Xu et al. 2023 (2304.12244); Li et al. 2023 (2308.06259); Kim and Rush 2016 (1606.07947)"

    write: Literal["answers", "questions", "prompts"] = Field("answers", description="What the teacher writes.")
    n: int = Field(1, ge=1, description="Rows written for each row; above 1 needs a temperature.")
    template: str | None = Field(
        None, description="Request; {question}, {answer} and {how} are replaced. Default: the question, or our wording."
    )
    keep_given: bool = Field(True, description="Train on the rows that were given, too, where they have an answer.")

    @model_validator(mode="after")
    def _has_slots(self) -> Generate:
        slot = "{answer}" if self.write == "prompts" else "{question}"
        if self.template is not None and slot not in self.template:
            raise ValueError(f"template lacks {slot}")
        return self

    def samples_per_row(self) -> int:
        return self.n * (2 if self.write == "questions" else 1)

    def samples_by_row(self) -> bool:
        return self.budget is None and self.max_cost is None  # which all rows have in common

    def answers_rows(self) -> bool:
        return self.write == "answers"

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        sources = list({row.id: row for row in select_fresh(rows)}.values())
        account = Account(self, context)
        texts = self._ask_teacher(sources, account, context)
        new_rows = self._answer_questions(texts, account, context) if self.write == "questions" else texts
        context.note("rows written", len(new_rows))
        given_rows = [row for row in rows if row.is_replayed or (self.keep_given and (row.answer or row.chosen))]
        return [*given_rows, *new_rows]

    def _ask_teacher(self, sources: Sequence[Row], account: Account, context: CurationContext) -> list[Row]:
        """What is written of each row: the row that it makes, of a new question without an answer yet."""
        requests, params = {}, self.build_params(context, self.n)
        for number, row in enumerate(sources, 1):
            messages = self.build_request(row, number)
            requests[f"{row.id}:{self.write}:{fingerprint_json(messages)[:16]}"] = (row, messages)
        samples = account.ask_model([Request(key, messages) for key, (_, messages) in requests.items()], params)
        out = []
        for key, some in samples.items():
            row, good = requests[key][0], 0
            for sample, text in whole_texts(some):
                if self._is_empty_talk(text, row):
                    continue
                good += 1
                prompt, answer = (row.prompt, text) if self.write == "answers" else ([as_user(text)], "")
                fields = {"reference": row.reference} if self.write == "answers" else {}
                if self.write == "prompts":
                    answer, fields = str(row.answer), {"origin": "gold", "reference": row.reference}
                reason = f"{self.write} by the teacher"
                new = make_row("generate", row, prompt, answer, number=sample.index, reason=reason, **fields)
                out.append(new)
            context.note("texts refused", len(some) - good)
        return out

    def build_request(self, row: Row, number: int) -> list[Message]:
        """What the teacher is shown for a row, the `number`-th."""
        question = text_of(row.prompt[-1]["content"]) if row.prompt else ""
        if self.write == "prompts" and not row.answer:
            raise UserError(f"{row.describe_row(number)}: has no answer to which a question could be written")
        if self.write == "answers" and self.template is None:
            return row.prompt
        template = self.template or (BACK if self.write == "prompts" else EVOLVE)
        how = WAYS[int(fingerprint_json(row.id)[:8], 16) % len(WAYS)]
        return [as_user(fill_template(template, question=question, answer=text_of(row.answer or ""), how=how))]

    def _answer_questions(self, texts: Sequence[Row], account: Account, context: CurationContext) -> list[Row]:
        """The new questions, each with an answer of the teacher; those without one are left out."""
        by_key = {f"{row.id}:answer": row for row in texts}
        requests = [Request(key, row.prompt) for key, row in by_key.items()]
        samples = account.ask_model(requests, self.build_params(context))
        out = []
        for key, some in samples.items():
            row = by_key[key]
            for sample, text in whole_texts(some):
                reason = "new question and answer by the teacher"
                out.append(make_row("generate", row, row.prompt, text, number=sample.index, reason=reason))
        context.note("texts refused", len(samples) - len(out))
        return out

    def _is_empty_talk(self, text: str, row: Row) -> bool:
        low = text.lower()
        if low.startswith(REFUSALS):
            return True
        question = text_of(row.prompt[-1]["content"]) if row.prompt else ""
        repeats = self.write != "answers" and split_words(text) == split_words(question)
        return repeats or (self.write == "questions" and any(words in low for words in WORDS_OF_PROMPT))


def as_user(text: str) -> Message:
    """A user's turn."""
    return {"role": "user", "content": text}
