"""Landscape: how questions lie in the layers, before training, with examples in the prompt, and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.analysis import Analysis, AnalysisContext, AnalysisSection, SectionFigure, Series, Table
from holdfast.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from holdfast.data.rows import Message, Row
    from holdfast.models.policy import Policy

COLUMNS = (
    "Model", "Layer", "Points", "Dimension", "Clusters", "ARI with tasks", "ARI with answers",
    "Neighbours of the same task, %", "Neighbours of the same answer, %", "Core, %",
)  # fmt: skip
FEWEST_PER_ANSWER = 4
"""Questions an answer has in the mean, below which answers are no classes."""


class Landscape(Analysis):
    """How questions lie in the layers: dimension, density peaks, classes. [Doimo et al. 2024, arXiv 2409.03662]

    What it does: takes the state of every layer at the last token of every question, of the base, of the base with
    `shots` trained rows before the question, and of the tuned model. Per layer: the intrinsic dimension of that cloud
    (Gride between the k-th and the 2k-th neighbour), its density peaks (k neighbours, those that stand out by `z` times
    their error), the core (points denser than every border of their peak), the adjusted Rand index of the peaks with
    the tasks and with the right answers, and how many of a question's neighbours are of its task and have its answer.
    Questions with equal states count once.

    When it helps: in the paper, few-shot prompts order early layers by subject, and fine-tuning late layers by answer,
    with a sharp turn in the middle: it says where in the model the two do their work.

    When it fails: with few questions (4 k at least are needed) and few layers; and answers must be classes: tasks
    of free text count for the tasks' columns alone.

    Paper: Doimo, Serra, Ansuini, Cazzaniga 2024, "The representation landscape of few-shot learning and fine-tuning in
    large language models", arXiv 2409.03662; k = 16 and z = 1.6 are theirs.
    """

    paper: ClassVar[str] = "Doimo et al. 2024, arXiv 2409.03662"

    items: int = Field(200, ge=1, description="Most questions of each task.")
    k: int = Field(16, ge=2, description="Neighbours of the density, a power of two for the dimension's scale.")
    z: float = Field(1.6, gt=0, description="By how many errors a density peak stands out.")
    shots: int = Field(4, ge=0, description="Trained rows before a question; 0 leaves this out.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        rows, tasks = [], []
        for task in context.judged_tasks:
            some = list(task.rows_by_id.values())[: self.items]
            rows += some
            tasks += [task.name] * len(some)
        if len(rows) < 4 * self.k:
            raise UserError(
                f"has {len(rows):,} questions and needs {4 * self.k:,} (4 k): raise evaluate.items, or lower k"
            )
        answers, groups = label_answers(rows, tasks), label_tasks(tasks)
        arms: list[tuple[str, Policy, list[Message]]] = [("base", context.base, []), ("tuned", context.tuned, [])]
        if self.shots and (examples := write_examples(context.rows, self.shots)):
            arms.insert(1, (f"base, {self.shots} shots", context.base, examples))
        lines: list[tuple[Any, ...]] = []
        for name, policy, examples in arms:
            states = read_states(policy, context, rows, examples)
            lines += [self.measure_layer(name, layer, x, groups, answers) for layer, x in enumerate(states)]
        return AnalysisSection(
            "How questions lie in the layers", describe_lines(lines), Table(COLUMNS, tuple(lines)), draw_lines(lines)
        )

    def measure_layer(
        self, name: str, layer: int, points: np.ndarray, tasks: Sequence[str | None], answers: Sequence[str | None]
    ) -> tuple[Any, ...]:
        """A line of the table; what too few different points cannot tell is left open."""
        from holdfast.methods.analyses.manifold import (
            Neighbours,
            compute_adjusted_rand,
            compute_label_overlap,
            drop_duplicates,
            estimate_dimension,
            estimate_log_density,
            find_clusters,
        )

        chosen = drop_duplicates(points)
        if len(chosen) < 4 * self.k:
            return (name, layer, len(chosen), *[None] * 7)
        neighbours = Neighbours.from_points(points[chosen])
        dimension = estimate_dimension(neighbours, self.k)
        clusters = find_clusters(neighbours, estimate_log_density(neighbours, self.k, dimension), self.k, self.z)
        rand, near = [], []
        for labels in ([own[i] for i in chosen] for own in (tasks, answers)):
            places = [place for place, label in enumerate(labels) if label is not None]
            numbers = clusters.numbers[places].tolist()
            rand.append(compute_adjusted_rand(numbers, [labels[i] for i in places]) if places else None)
            near.append(100 * compute_label_overlap(neighbours, labels) if places else None)
        core = 100 * float(clusters.is_core.mean())
        return (name, layer, len(chosen), dimension, clusters.count, *rand, *near, core)


def label_tasks(tasks: Sequence[str]) -> list[str | None]:
    """The tasks as classes; `None` where there is one, from which nothing is to be told apart."""
    return list(tasks) if len(set(tasks)) > 1 else [None] * len(tasks)


def label_answers(rows: Sequence[Row], tasks: Sequence[str]) -> list[str | None]:
    """The right answers as classes of their tasks; `None` where they are none, since nearly each is its own."""
    answers = [str(row.gold).strip() for row in rows]
    classes = {}
    for task in set(tasks):
        own = [answer for answer, of in zip(answers, tasks, strict=True) if of == task]
        classes[task] = 1 < len(set(own)) <= len(own) / FEWEST_PER_ANSWER
    return [f"{task}: {answer}" if classes[task] else None for answer, task in zip(answers, tasks, strict=True)]


def write_examples(rows: Sequence[Row], count: int) -> list[Message]:
    """The turns of some trained rows, spread evenly over all; without system messages."""
    places = range(0, len(rows), max(1, len(rows) // count)) if len(rows) else range(0)
    return [message for i in list(places)[:count] for message in rows[i].messages if message["role"] != "system"]


def read_states(
    policy: Policy, context: AnalysisContext, rows: Sequence[Row], examples: Sequence[Message]
) -> np.ndarray:
    """States [layers + 1, N, D] at the last token of each question."""
    import numpy as np

    from holdfast.data.batching.batches import EncodedSequence
    from holdfast.models.layer_states import collect_layer_states

    asked_rows = [[*row.prompt[:-1], *examples, row.prompt[-1]] for row in rows]
    sequences = []
    for number, ids in enumerate(context.chat.prompt_ids_many(asked_rows)):
        # A token behind the question stands for its answer: the state before it is the one that is read.
        mask = np.zeros(len(ids) + 1, dtype=bool)
        mask[-1] = True
        sequences.append(EncodedSequence(np.asarray([*ids, context.chat.pad_id], dtype=np.int32), mask, number))
    return collect_layer_states(policy, sequences, context.chat.pad_id).numpy()


def describe_lines(lines: Sequence[tuple[Any, ...]]) -> str:
    """Where tasks, and where answers, are told apart best, before and after."""
    known_dimensions = [line for line in lines if line[3] is not None]
    if not known_dimensions:
        return "Too few questions differ in their states for a shape."
    last = known_dimensions[-1]
    clusters = "1 cluster" if last[4] == 1 else f"{last[4]} clusters"
    parts = [f"At the last layer the questions lie in {last[3]:.1f} dimensions and {clusters} ({last[0]})"]
    for column, what in ((7, "task"), (8, "answer")):
        places = []
        for name in dict.fromkeys(line[0] for line in lines):
            some = [line for line in lines if line[0] == name and line[column] is not None]
            if some:
                best = max(some, key=lambda line: line[column])
                places.append(f"{best[column]:.0f} % at layer {best[1]} ({name})")
        if places:
            parts.append(f"of a question's nearest ones those with its {what} are at most {', '.join(places)}")
    return f"{'; '.join(parts)}."


def draw_lines(lines: Sequence[tuple[Any, ...]]) -> tuple[SectionFigure, ...]:
    """Curves over the layers, a line for each model: dimension, and agreement of the peaks with tasks and answers."""
    figures = []
    for column, y in ((3, "intrinsic dimension"), (5, "ARI with tasks"), (6, "ARI with answers")):
        series = []
        for name in dict.fromkeys(line[0] for line in lines):
            points = tuple(
                (float(line[1]), float(line[column])) for line in lines if line[0] == name and line[column] is not None
            )
            if points:
                series.append(Series(name, points))
        if series:
            figures.append(SectionFigure("layer (0: embeddings)", y, tuple(series), title=y[0].upper() + y[1:]))
    return tuple(figures)
