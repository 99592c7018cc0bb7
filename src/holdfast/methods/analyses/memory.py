"""Memory: what became of the answers that the base knew well, hardly, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.analysis import (
    AnalysedTask,
    Analysis,
    AnalysisContext,
    AnalysisSection,
    SectionFigure,
    Series,
    Table,
)
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError
from holdfast.generation.memory_probe import LEVELS, TEMPLATES, MemoryProbe, Templates, find_level

if TYPE_CHECKING:
    from holdfast.data.rows import Row
    from holdfast.models.policy import Policy

LONGEST_ANSWER = 8
"""Words of an answer beyond which it is said in too many ways to be looked for in a text."""
NAMES = ("level 0 (unknown)", *(f"level {level}" for level in range(1, LEVELS)))


class Memory(Analysis):
    """What became of answers, by how well the base knew them. [Ye et al. 2024, arXiv 2409.15825]

    What it does: asks the base every question of the target (or of the `tasks` that are named) in every template,
    `draws` times at temperature 0.7. With R the share of the texts in which the answer stands, a question is of level 0
    where R = 0 and of level i where (i - 1)/4 < R <= i/4. The tuned model is asked in the same way. Per level of the
    base: how many questions were answered right before training and after it, and where their level went. The mean over
    levels, each counting alike, is the paper's score.

    When it helps: to see whether training opened what the base knew (levels 2 to 4 rise), or taught what it did not
    (level 0), which in the paper costs most of what was known; `memory_levels` chooses rows by the same levels.

    When it fails: answers that may be said in many ways are taken for unknown: give `aliases`. Levels of few questions
    scatter. It asks templates x draws times as often as the evaluation did.

    Paper: Ye et al. 2024, "Empirical Insights on Fine-Tuning Large Language Models for Question-Answering"
    (arXiv 2409.15825).
    """

    paper: ClassVar[str] = "Ye et al. 2024, arXiv 2409.15825"

    templates: Templates = Field(TEMPLATES, min_length=1, description="Ways to ask; see `memory_levels`.")
    draws: int = Field(10, ge=1, description="Answers drawn for each template.")
    temperature: float = Field(0.7, gt=0, description="Sampling temperature.")
    max_tokens: int = Field(32, ge=1, description="Longest answer that is drawn.")
    tasks: tuple[str, ...] = Field((), description="Tasks that are looked at; default: the target.")
    items: int = Field(100, ge=1, description="Most questions of each task.")
    aliases: dict[str, tuple[str, ...]] = Field({}, description="Other names of answers: {USA: [United States]}.")

    def measure(self, context: AnalysisContext) -> AnalysisSection:
        tasks = self.choose_tasks(context)
        rows: list[Row] = []
        passes: list[tuple[bool, bool]] = []
        for task in tasks:
            for before, after in task.pair_answers()[: self.items]:
                if before.id in task.rows_by_id:
                    rows.append(task.rows_by_id[before.id])
                    passes.append((before.passed, after.passed))
        if not rows:
            raise UserError("the questions of its tasks are not there any more")
        levels, later_levels = (self.find_levels(policy, rows, context) for policy in (context.base, context.tuned))
        return build_section(levels, later_levels, passes)

    def choose_tasks(self, context: AnalysisContext) -> list[AnalysedTask]:
        """The tasks that are looked at.

        Raises:
            UserError: If there is none of a name, or none whose right answers are short enough to be looked for.
        """
        by_name = {task.name: task for task in context.judged_tasks if task.kind != "episodes"}
        for name in self.tasks:
            if name not in by_name:
                raise UserError(f"{name} is not a task with judged answers{suggest_name(name, by_name)}")
        chosen = [
            task for task in by_name.values() if task.name in self.tasks or (not self.tasks and task.role == "target")
        ]
        if not (short := [task for task in chosen if has_short_answers(task)]):
            what = ", ".join(task.name for task in chosen) or "no target"
            raise UserError(
                f"{what}: has no answers of at most {LONGEST_ANSWER} words, which could be looked for in a text; name "
                'other tasks: "{name: memory, tasks: [...]}"'
            )
        return short

    def find_levels(self, policy: Policy, rows: Sequence[Row], context: AnalysisContext) -> list[int]:
        """How well a model knows the answer of each row."""
        from holdfast.axes.engine import SamplingParams
        from holdfast.generation.factory import build_model_sample_fn

        probe = MemoryProbe(self.templates, self.draws, self.temperature, self.max_tokens, self.aliases, "memory")
        hits, tries = probe.count_hits(rows, build_model_sample_fn(policy.causal, context.chat), SamplingParams())
        return [find_level(h, t) for h, t in zip(hits, tries, strict=True)]


def has_short_answers(task: AnalysedTask) -> bool:
    """Whether most right answers of a task have few words, so that they can be looked for in a text."""
    lengths = [len(str(row.gold or "").split()) for row in task.rows_by_id.values()]
    return 2 * sum(0 < length <= LONGEST_ANSWER for length in lengths) > len(lengths)


def build_section(
    levels: Sequence[int], later_levels: Sequence[int], passes: Sequence[tuple[bool, bool]]
) -> AnalysisSection:
    """The section of questions with their levels before and after, and whether either answer was right."""
    moves = Counter(zip(levels, later_levels, strict=True))
    lines: list[tuple[str | int | float, ...]] = []
    shares: list[tuple[int, float, float]] = []
    for level in sorted(set(levels)):
        own = [pair for pair, at in zip(passes, levels, strict=True) if at == level]
        before, after = (100 * sum(pair[i] for pair in own) / len(own) for i in (0, 1))
        shares.append((level, before, after))
        lines.append(
            (NAMES[level], len(own), before, after, after - before, *(moves[level, later] for later in range(LEVELS)))
        )
    means = [sum(share[i] for share in shares) / len(shares) for i in (1, 2)]
    total = [sum(moves[level, later] for level in range(LEVELS)) for later in range(LEVELS)]
    lines.append(("mean over levels", len(levels), *means, means[1] - means[0], *total))
    columns = ("Known to the base", "Questions", "Right before, %", "Right after, %", "Change",
               *(f"Then level {later}" for later in range(LEVELS)))  # fmt: skip
    bars = SectionFigure(
        "known to the base", "right, %",
        (Series("before", tuple((float(i), share[1]) for i, share in enumerate(shares))),
         Series("after", tuple((float(i), share[2]) for i, share in enumerate(shares)))),
        "bars", labels=tuple(NAMES[level] for level, _, _ in shares),
    )  # fmt: skip
    heat = SectionFigure(
        "level after training", "questions",
        tuple(Series(NAMES[level], tuple((float(later), float(moves[level, later])) for later in range(LEVELS)))
              for level, _, _ in shares),
        "heat", "Where each level went", tuple(map(str, range(LEVELS))),
    )  # fmt: skip
    return AnalysisSection(
        "What was known", describe_levels(shares, levels), Table(columns, tuple(lines)), (bars, heat)
    )


def describe_levels(shares: Sequence[tuple[int, float, float]], levels: Sequence[int]) -> str:
    """How many the base knew not at all and what became of them, and of those it knew best."""
    first, last = shares[0], shares[-1]
    n_unknown = levels.count(0)
    text = f"Of {len(levels):,} questions the base knew {n_unknown:,} not at all"
    text += f", of which {first[1]:.0f} % were right before training and {first[2]:.0f} % are now" if n_unknown else ""
    best = f"of those it knew best ({NAMES[last[0]]}) {last[1]:.0f} % were right and {last[2]:.0f} % are"
    return f"{text}; {best}."
