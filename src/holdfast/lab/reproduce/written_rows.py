"""Rows that a model writes: Self-Instruct's filter, Prompt2Model's vote, a teacher's answers.

A laboratory model cannot write tasks. In its place stands a sampler of templates, which repeats itself and errs as
large models do; the curators are those that a run uses.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

from holdfast.axes.curator import CurationContext, Curator
from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.overlap.words import split_words
from holdfast.data.rows import Row
from holdfast.generation.journal import Journal
from holdfast.lab.reproduce.base import Claim, Figure, Study, gain_of, loss_of
from holdfast.lab.reproduce.rule import gains_more, quantity_above, quantity_below
from holdfast.methods.curators.prompt2model import Prompt2Model
from holdfast.methods.curators.self_instruct import SelfInstruct
from holdfast.methods.curators.task_writing import longest_alike
from holdfast.skills.lexicon import ANIMALS, COLORS, FOODS, TOOLS

ERRORS = 0.2
"""Share of outputs that are wrong."""
FORMS = (
    "Say what the {color} {noun} eats and when.", "Write a short letter to the owner of a {color} {noun}.",
    "Explain to a child why every {noun} is {color}.", "Name three things that go well with a {color} {noun}.",
    "Sort these words by length: {color}, {noun}, {other}.", "Describe the {noun} without the word {color}.",
    "Draw a picture of a {color} {noun}.", "What is the {noun} for?",
)  # fmt: skip
SEEDS = ("Tell a story about two friends.", "Which of these is a fruit: apple or stone?", "Correct the sentence below.")


class TemplateSampler:
    """A model that writes tasks of a few forms, and does sums of which some are wrong."""

    fingerprint = "template sampler"

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, sample index) asked for."""
        for request, indices in requests:
            for index in indices:
                rng = random.Random(json.dumps([request.key, request.messages, index, params.seed]))
                yield Sample(request.key, index, self.write_text(str(request.messages[-1]["content"]), rng), "stop", 9)

    def write_text(self, question: str, rng: random.Random) -> str:
        """What it says."""
        if question.startswith("Come up with a series of tasks"):
            return "\n".join(f"{number}. {self.write_task(rng)}" for number in range(9, 14))
        if question.endswith("Is it classification?"):
            return "No"
        if question.startswith("Come up with examples"):
            return f"Example 1\nInput: {rng.choice(FOODS)}\nOutput: {rng.choice(ANIMALS)}"
        a, b = (int(word.strip("?")) for word in question.split() if word.strip("?").isdigit())
        return str(a + b + (rng.choice((-10, -1, 1, 10)) if rng.random() < ERRORS else 0))

    def write_task(self, rng: random.Random) -> str:
        """A task of one of the forms; a third are the same old one, as large models repeat themselves."""
        if rng.random() < 1 / 3:
            return f"Tell a story about two {rng.choice(COLORS)} friends."
        nouns = rng.sample(ANIMALS + TOOLS + FOODS, 2)
        return rng.choice(FORMS).format(color=rng.choice(COLORS), noun=nouns[0], other=nouns[1])


def curate_alone(curator: Curator, rows: list[Row], seed: int) -> tuple[list[Row], Counter[str]]:
    """The rows of a curator that only samples, and what it counted."""
    notes: Counter[str] = Counter()

    def refuse_request(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("there is only a sampler here")

    with Journal(None) as journal:
        context = CurationContext(
            curator="study", sample=journal.build_sample_fn(TemplateSampler()), judge=refuse_request,
            sampling=SamplingParams(), seed=seed, load=refuse_request, drop=refuse_request,
            note=lambda name, amount: notes.update({name: amount}),
        )  # fmt: skip
        return list(curator.curate(rows, context)), notes


def as_rows(questions: Sequence[str]) -> list[Row]:
    """Questions as rows."""
    return [Row([{"role": "user", "content": text}, {"role": "assistant", "content": "-"}]) for text in questions]


def measure_filter(seed: int) -> dict[str, float]:
    """How alike tasks are with the filter and without, and which share passes."""
    out = {}
    for name, rouge in (("filtered", 0.7), ("unfiltered", 1.0)):
        curator = SelfInstruct(n=60, requests=40, rouge=rouge)
        rows, notes = curate_alone(curator, as_rows(SEEDS), seed)
        tasks = list(dict.fromkeys(row.id.partition(".")[0] for row in rows[len(SEEDS) :]))
        texts = [str(row.prompt[0]["content"]) for row in rows[len(SEEDS) :]]
        words = [split_words(text) for text in texts]
        alike = [longest_alike(text, words[:i] + words[i + 1 :]) for i, text in enumerate(texts)]
        out[f"{name} alike"] = sum(alike) / max(1, len(alike))
        out[f"{name} share"] = notes["tasks"] / max(1, sum(n for key, n in notes.items() if key.startswith("tasks")))
        out[f"{name} tasks"] = float(len(tasks))
    return out


def measure_vote(seed: int) -> dict[str, float]:
    """The share of right outputs with one answer a question and with five that vote."""
    pairs = random.Random(seed).sample(list(combinations(range(10, 60), 2)), 300)
    rows = as_rows([f"What is {a} plus {b}?" for a, b in pairs])
    out = {}
    for answers in (1, 5):
        curator = Prompt2Model(inputs="given", n=len(rows), answers=answers, keep_given=False)
        voted_rows, _ = curate_alone(curator, rows, seed)
        right = [row.answer == str(a + b) for row, (a, b) in zip(voted_rows, pairs, strict=True)]
        out[f"{answers} answers"] = 100 * sum(right) / len(right)
    return out


def describe_means(template: str) -> Callable[[Any], str]:
    """A sentence with the mean of each quantity."""
    return lambda values: template.format(**{k.replace(" ", "_"): sum(v) / len(v) for k, v in values.items()})


SELF_INSTRUCT = Study(
    claim="Leaving out what is too much like another task keeps the tasks that a model writes diverse.",
    paper="Wang et al. 2023, arXiv 2212.10560",
    measure=measure_filter,
    figures=(
        ("ROUGE-L with the nearest other task, filter at 0.7", "mostly below 0.6", "filtered alike"),
        ("ROUGE-L with the nearest other task, no filter", "not given", "unfiltered alike"),
        ("share of the tasks that passes", "not given", "filtered share"),
    ),
    expects=(quantity_below("filtered alike", "unfiltered alike", "filtered tasks are less alike", by=0.05),),
    verdict=describe_means(
        "The nearest other task has ROUGE-L {filtered_alike:.2f} with the filter and {unfiltered_alike:.2f} without; a "
        "sampler of templates stands for the model."
    ),
)

PROMPT2MODEL = Study(
    claim="The output that most of several samples give is right more often than a single one.",
    paper="Viswanathan et al. 2023, arXiv 2308.12261",
    measure=measure_vote,
    figures=(
        ("right outputs, one answer", "not given alone", "1 answers"),
        ("right outputs, vote of five", "not given alone", "5 answers"),
    ),
    expects=(quantity_above("5 answers", "1 answers", "a vote of five is right more often", by=2.0),),
    verdict=describe_means("{1_answers:.1f} % of single answers are right, of votes {5_answers:.1f} %."),
)

GENERATE = Claim(
    claim="A student trained on a larger model's answers gains from them.",
    paper="Kim and Rush 2016, arXiv 1606.07947",
    arms={
        "gold": ["method=sft"],
        "teacher": ["method=generate", "curate={model: lab, temperature: 0, max_tokens: 80, keep_given: false}"],
    },
    figures=(
        Figure("target, gold answers", "17.7 BLEU (En-De, word level)", gain_of("gold")),
        Figure("target, the teacher's answers", "19.1 BLEU with a beam of 1", gain_of("teacher")),
        Figure("lost elsewhere, gold answers", "not measured", loss_of("gold")),
        Figure("lost elsewhere, the teacher's answers", "not measured", loss_of("teacher")),
    ),
    expects=(gains_more("teacher"),),
    common={"model": "lab-small", "data": {"limit": 600}, "train": {"max_steps": 240}},
)
