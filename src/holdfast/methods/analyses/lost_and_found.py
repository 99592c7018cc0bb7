"""Lost and found: the answers that flipped, by what went wrong in them, with examples."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.analysis import (
    Analysis,
    AnalysisContext,
    AnalysisSection,
    AnswerExample,
    SectionFigure,
    Series,
    Table,
)
from holdfast.errors import UserError
from holdfast.methods.analyses.answer_causes import CAUSES, find_cause

if TYPE_CHECKING:
    from holdfast.axes.analysis import AnalysedTask, MeasuredAnswer

MOST = 20_000
"""Answers to one task beyond which the rest is left out."""


class LostAndFound(Analysis):
    """Which answers were lost and which won, and what is wrong in the wrong ones. [Yan et al. 2021, arXiv 2011.09161]

    What it does: takes the questions that one model got right and the other wrong, and sorts the wrong answers by what
    can be seen in them, the first that fits: it never stops (cut at the limit; what it repeats is named); says nothing;
    refuses; is in another language than the right one; has the right answer, but not in the form that the judge reads;
    has a wrong step (the first equation that does not hold, or the first step in which it leaves the right answer); is
    just another answer. Of each group the first answers are shown beside those of the other model.

    When it helps: to be read first. A form that was lost comes back with a few replayed rows or a longer limit of
    tokens; a wrong step is knowledge, and costs another method, a lower rate, or the dial.

    When it fails: the groups are rules on the text, and not an understanding of it: a question about sorrow may be
    taken for a refusal, and short answers say nothing about why. Languages of Latin letters are told by seven lists of
    function words, others by their script.

    Paper: lost answers are the negative flips of Yan et al. 2021, "Positive-Congruent Training: Towards Regression-Free
    Model Updates", arXiv 2011.09161; the causes are ours.
    """

    paper: ClassVar[str] = "Yan et al. 2021, arXiv 2011.09161"

    examples: int = Field(4, ge=0, description="How many answers of each group are shown.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        tasks = context.judged_tasks
        if not tasks:
            raise UserError("no task was judged, so that no answer could be lost: name some in evaluate.keep")
        counts: dict[tuple[str, bool, str], int] = Counter()
        examples_by_group: dict[tuple[bool, str], list[AnswerExample]] = {}
        for task in tasks:
            for wrong, right, is_won in list_flips(task):
                cause, note = find_cause(wrong, right)
                counts[task.name, is_won, cause] += 1
                group = examples_by_group.setdefault((is_won, cause), [])
                if len(group) < self.examples:
                    group.append(build_example(task, wrong, right, is_won, cause, note))
        flips = {is_won: sum_causes(counts, is_won) for is_won in (False, True)}
        order = sorted(examples_by_group, key=lambda key: (key[0], -flips[key[0]][key[1]]))
        rows = tuple(
            (task.name, task.role, "won" if is_won else "lost", cause, counts[task.name, is_won, cause])
            for task in tasks for is_won in (False, True) for cause in CAUSES if counts[task.name, is_won, cause]
        )  # fmt: skip
        n_asked = sum(len(task.pair_answers()) for task in tasks)
        table = Table(("Task", "Role", "Flip", "Cause", "Answers"), rows)
        examples = tuple(example for key in order for example in examples_by_group[key])
        sentence = describe_flips(flips, n_asked)
        return AnalysisSection("Lost and found answers", sentence, table, draw_causes(flips), examples)


def list_flips(task: AnalysedTask) -> list[tuple[MeasuredAnswer, MeasuredAnswer, bool]]:
    """Of each question that flipped the wrong answer, the right one, and whether that is the tuned model's."""
    return [
        (base, tuned, True) if tuned.passed else (tuned, base, False)
        for base, tuned in task.pair_answers()[:MOST]
        if base.passed != tuned.passed
    ]


def build_example(
    task: AnalysedTask, wrong: MeasuredAnswer, right: MeasuredAnswer, is_won: bool, cause: str, note: str
) -> AnswerExample:
    """A flipped answer as the page shows it."""
    base, tuned = (wrong, right) if is_won else (right, wrong)
    whose = "Won: the base's answer" if is_won else "Lost: the answer"
    group = f"{whose} {CAUSES[cause][0]}"
    text = f"{task.name}: {note}" if note else task.name
    return AnswerExample(group, wrong.id, wrong.prompt, wrong.reference, base.response, tuned.response, is_won, text)


def sum_causes(counts: dict[tuple[str, bool, str], int], is_won: bool) -> dict[str, int]:
    """How many answers of all tasks were lost, or won, by cause."""
    totals = dict.fromkeys(CAUSES, 0)
    for (_, was_won, cause), count in counts.items():
        if was_won == is_won:
            totals[cause] += count
    return totals


def describe_flips(flips: dict[bool, dict[str, int]], n_asked: int) -> str:
    """How many were lost and won, and the causes of the lost ones, most first."""
    n_lost, n_won = (sum(flips[is_won].values()) for is_won in (False, True))
    if not n_lost + n_won:
        return f"Of {n_asked:,} answers none flipped: whatever was right is right, and whatever was wrong is wrong."
    text = f"Of {n_asked:,} answers {n_lost:,} were lost and {n_won:,} won"
    if not n_lost:
        return f"{text}."
    causes = sorted(((n, cause) for cause, n in flips[False].items() if n), key=lambda one: -one[0])
    return f"{text}; of the lost ones " + ", ".join(f"{n:,} {CAUSES[cause][n > 1]}" for n, cause in causes) + "."


def draw_causes(flips: dict[bool, dict[str, int]]) -> tuple[SectionFigure, ...]:
    """Bars of the causes of lost and won answers; nothing where none flipped."""
    labels = [cause for cause in CAUSES if flips[False][cause] + flips[True][cause]]
    if not labels:
        return ()
    series = tuple(
        Series(name, tuple((float(place), float(flips[is_won][cause])) for place, cause in enumerate(labels)))
        for name, is_won in (("lost: what is wrong now", False), ("won: what was wrong before", True))
    )
    return (SectionFigure("what is wrong in the answer", "answers", series, "bars", labels=tuple(labels)),)
