"""The contract of a curator: rows in, rows out, every decision recorded; and what it may ask for while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from holdfast.axes.engine import SampleFn, SamplingParams
from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.axes.method import Method
from holdfast.data.rows import Message, Row, RowMap, Rows, RowSelection
from holdfast.data.trace import record_decision
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Effect = Literal["rewrite", "select", "add", "pair", "mix", "draw", "generate"]
"""What a curator does to the rows:

    rewrite  each row stays in its place; its answer may become another
    select   rows are left out; those that stay are as they were
    add      rows with other answers stand beside each row
    pair     a row becomes a pair of answers to its question (chosen, rejected), or is left out
    mix      rows from elsewhere come between the rows, which stay as they were
    draw     rows are drawn anew, some not at all and some several times; their questions may be put in other words
    generate rows with new questions, which a model wrote, stand behind the rows, which stay as they were
"""


AnswerScore = Callable[["np.ndarray"], float]
"""From the log-probabilities of an answer's tokens, fp32 [labels], to a number; its source names what is cached."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows beside the training rows that a curator reads.

    Args:
        path: A file or `lab:SKILL`, as in `data.train`.
        columns, ignore: Which of its columns is what, and which are not used, as in `data`.
    """

    path: str
    columns: dict[str, int | str] | None = None
    ignore: tuple[str, ...] = ()


class ModelServices(Protocol):
    """What models say of rows, cached on disk by content and model: nothing is computed twice, killed or repeated."""

    def compute_logps(self, conversations: Sequence[Sequence[Message]], model: str | None = None) -> list[np.ndarray]:
        """As `CurationContext.compute_logps`."""

    def embed(self, texts: Sequence[str], encoder: str | None = None) -> np.ndarray:
        """As `CurationContext.embed`."""

    def compute_gradients(self, rows: Rows, projection: int, model: str | None = None) -> np.ndarray:
        """As `CurationContext.compute_gradients`."""

    def score_in_context(self, rows: Rows, examples: Rows, score: AnswerScore) -> np.ndarray:
        """As `CurationContext.score_in_context`."""

    def train_reference(self, rows: Rows, epochs: float) -> str:
        """As `CurationContext.train_reference`."""


@dataclass(frozen=True, slots=True)
class CurationContext:
    """What a curator may ask for; everything is resumable and seeded.

    Args:
        curator: The name it goes by in traces and errors.
        sample: Samples from the base model through the journal: nothing is drawn twice, nothing lost.
        judge: Verdicts on answers, in order.
        sampling: The recipe's sampling settings (temperature, tokens), to be adapted with `model_copy(update=...)`.
        seed: The run's seed.
        load: Opens another data file by the recipe's names, and which of its columns is what (for `replay`).
        note: Called with a counter name and amount for the report's curation table.
        drop: Called with a row that is left out and why; `dropped.jsonl` in the run's directory lists them. What is
            counted in the report is the reason up to its first colon: "near duplicate: 0.93 of rows.jsonl:17".
        models: Log-probabilities, embeddings and gradients; `None` where there is no model to ask.
        evaluated: Task to the rows it measures on, none of which should be trained on.
        thinks: Whether what `sample` asks may think, for as many tokens as `sampling` says, before it answers.
    """

    curator: str
    sample: SampleFn
    judge: Callable[[Sequence[JudgeRequest]], list[Verdict]]
    sampling: SamplingParams
    seed: int
    load: Callable[..., Rows]
    note: Callable[[str, int], Any]
    drop: Callable[[Row, str], Any]
    models: ModelServices | None = None
    evaluated: Mapping[str, Rows] = field(default_factory=dict)
    thinks: bool = True

    def compute_logps(self, conversations: Sequence[Sequence[Message]], model: str | None = None) -> list[np.ndarray]:
        """Log-probabilities in nats, fp32 [labels], of each conversation's trained tokens, in their order.

        Trained are the answers (of weight other than 0) with their ends of turn; what lies beyond the model's context
        is left out, down to an empty array.

        Args:
            model: A model directory, a run directory or a name, as in `model:`; default: the run's base model.
        """
        return self._require_models().compute_logps(conversations, model)

    def embed(self, texts: Sequence[str], encoder: str | None = None) -> np.ndarray:
        """Unit embeddings, fp32 [texts, D], whose inner products are cosines.

        Args:
            encoder: A sentence-transformers model (extra `embed`). Default: the base model's final hidden states
                averaged over the text, less the mean of all `texts`, as all of them point much the same way.
        """
        return self._require_models().embed(texts, encoder)

    def compute_gradients(self, rows: Rows, projection: int, model: str | None = None) -> np.ndarray:
        """The gradient of each row's mean loss in the model's weights, projected at random: fp32 [rows, projection].

        Inner products of these are unbiased estimates of those of the whole gradients, with a relative error of
        about projection ** -0.5 [count sketch: Charikar et al. 2002]; LESS takes 8192 [Xia et al. 2024, 2402.04333].
        The projection is the same for all rows of a run, and depends on its seed.

        Args:
            model: As in `compute_logps`.
        """
        return self._require_models().compute_gradients(rows, projection, model)

    def score_in_context(self, rows: Rows, examples: Rows, score: AnswerScore) -> np.ndarray:
        """The score of each row's last answer behind each example, fp32 [rows, examples].

        The example, without its system message, stands as earlier turns between the row's system message and its
        question. Where the two together are longer than the model's context there is no number (NaN).
        """
        return self._require_models().score_in_context(rows, examples, score)

    def train_reference(self, rows: Rows, epochs: float) -> str:
        """Fine-tune the base on the answers of `rows` as the recipe trains; the directory of the result.

        It is a training of its own in the run's cache, with the recipe's tuner, optimizer and steps of like size:
        killed it goes on, and of the same rows and settings it is not repeated.
        """
        return self._require_models().train_reference(rows, epochs)

    def load_rows(self, source: RowSource) -> Rows:
        """The rows of a source."""
        return self.load(source.path, source.columns, source.ignore)

    def _require_models(self) -> ModelServices:
        if self.models is None:
            raise UserError(
                f"curator {self.curator} asks for what a model says of the rows, but there is no model here"
            )
        return self.models

    def keep(self, rows: Rows, chosen: Sequence[bool] | np.ndarray, reason: str) -> Rows:
        """The rows for which `chosen` [rows] is true, in order; the others are recorded as left out.

        Rows that an earlier curator replayed stay, whatever `chosen` says of them. The decision is in the trace of
        those that stay. None is held in memory.

        Args:
            reason: Why the others are left out, in a few words: "longer than 200 words".
        """
        if len(chosen) != len(rows):
            raise UserError(f"curator {self.curator} chooses among {len(chosen)} rows, but there are {len(rows)}")
        stay = []
        for index, row in enumerate(rows):
            if row.is_replayed or chosen[index]:
                stay.append(index)
            else:
                self.drop(row, reason)
        self.note(f"left out ({reason})", len(rows) - len(stay))
        return RowSelection(rows, stay, self._record_stay)

    def leave_out(self, rows: Rows, reasons: Mapping[int, str], trace: bool = True) -> Rows:
        """The rows, in order, without those that have a reason; these are recorded as left out. None is held in memory.

        Rows that an earlier curator replayed stay, whatever reason they have.

        Args:
            reasons: Index of a row to why it is left out, each for itself; `keep` is for one reason common to all.
            trace: Whether those that stay have the decision in their trace.
        """
        stay = []
        for index, row in enumerate(rows) if reasons else ():
            if row.is_replayed or index not in reasons:
                stay.append(index)
            else:
                self.drop(row, reasons[index])
        if not reasons:
            return RowMap(rows, self._record_stay) if trace else rows
        return RowSelection(rows, stay, self._record_stay if trace else _pass_row)

    def _record_stay(self, row: Row) -> Row:
        return row if row.is_replayed else record_decision(row, self.curator, row)


def _pass_row(row: Row) -> Row:
    return row


class Curator(Method):
    """Which rows are trained on, and who wrote them."""

    effect: ClassVar[Effect] = "rewrite"
    """What it does to the rows; what a recipe may combine it with, and what tests demand of it, follow from that."""

    samples: ClassVar[bool] = False
    """Whether it needs the base model to answer."""

    judges: ClassVar[bool] = False
    """Whether it needs a judge."""

    def uses_judge(self) -> bool:
        """Whether it needs one with the knobs it has."""
        return self.judges

    def samples_per_row(self) -> int:
        """Most answers it samples for a row, by which `check` estimates the time that takes."""
        return 0

    def samples_by_row(self) -> bool:
        """Whether what it samples for a row depends on that row alone, so that machines can share the rows out."""
        return self.samples and self.effect in ("rewrite", "add", "pair")

    def count_samples(self, rows: int) -> int:
        """Most answers it samples for so many rows."""
        return rows * self.samples_per_row()

    def answers_rows(self) -> bool:
        """Whether the answers it samples are to the questions of the rows it is given."""
        return self.samples and self.effect in ("rewrite", "add")

    def reads_answers(self) -> bool:
        """Whether the answers of the rows it is given come to anything in what it makes of them."""
        return True

    def teacher_engine(self) -> tuple[str | None, str | None]:
        """Engine and model that it samples from; `None`: the recipe's engine, the base model."""
        return None, None

    def own_file(self) -> Path | None:
        """A file of the user's own that it runs, if any: rows are curated anew once that changes."""
        return None

    def keeps_shape(self, kind: str) -> bool:
        """Whether rows of a shape that holds more than an answer (`data.row_shapes`) are still of it afterwards."""
        return self.effect == "rewrite" and kind == "triple"  # the gold answer of a triple is the row's answer

    def row_sources(self) -> tuple[RowSource, ...]:
        """The rows it reads beside those it is given: what it makes depends on them too."""
        return ()

    def named_models(self) -> tuple[str, ...]:
        """Models of the user's that it asks beside the base: what it makes depends on their weights too."""
        return self.compared_models()

    def compared_models(self) -> tuple[str, ...]:
        """Those whose log-probabilities it compares with the base's: their tokenizer must be its."""
        return ()

    def check_ready(self) -> None:
        """See that what it needs is here, before anything is measured.

        Raises:
            UserError: If a package or a model is missing.
        """

    def check_rows(self, rows: Rows, load: Callable[[RowSource], Rows]) -> None:
        """See that it can work with these rows: asked before a run begins, of what no other curator changes before.

        Args:
            load: Gives the rows of a source.
        Raises:
            UserError: If it would refuse them in `curate`.
        """

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        """The rows to train on, each with its `origin` and, in `meta`, the trace of the decision.

        `rows` may be on disk; a curator that decides on each by itself returns a `RowMap` (or `context.keep`), and
        memory holds none.
        """
        raise NotImplementedError
