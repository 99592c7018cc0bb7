"""What curators are tried on: rows of sums, a scripted model behind a real journal, and everything they may ask for."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from holdfast.axes.curator import AnswerScore, CurationContext, Curator
from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.axes.registry import name_of
from holdfast.data.rows import Message, Row, Rows, fingerprint_rows
from holdfast.generation.journal import Journal
from holdfast.methods.judges.number import Number

QUESTIONS = 12


def sum_rows(count: int = QUESTIONS) -> list[Row]:
    """Addition rows in the gold hand, from a file of that name; the last is equal to the first."""
    rows: list[Row] = []
    for i in range(count):
        a, b = i, i % 5 + 1
        messages = [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": f"What is {a} plus {b}?"},
            {"role": "assistant", "content": f"{a} + {b} = {a + b}\n#### {a + b}"},
        ]
        rows.append(Row(messages, meta={"skill": "sums"}, place=f"sums.jsonl:{len(rows) + 1}"))
    return [*rows, replace(rows[0], place=f"sums.jsonl:{count + 1}")]


def general_rows() -> list[Row]:
    """What `context.load` finds, whatever it is asked for."""
    texts = [str(number) for number in range(40)]
    return [
        Row(
            [{"role": "user", "content": f"Say {text}"}, {"role": "assistant", "content": text}],
            place=f"general.jsonl:{number}",
        )
        for number, text in enumerate(texts, 1)
    ]


def scripted_answer(request: Request, index: int, seed: int, temperature: float) -> tuple[str, bool]:
    """What the scripted model says, and whether it is cut: a pure function of all it is given.

    Asked plainly it is right on half of the rows, cut off on a few; asked to paraphrase it is right on most.
    """
    question = request.messages[-1]["content"]
    words = question.replace("\n", " ").split()
    numbers = [int(word.strip("?.\n")) for word in words if word.strip("?.").isdigit()][:2]
    total = sum(numbers)
    rng = random.Random(json.dumps([request.messages, index if temperature else 0, seed if temperature else 0]))
    if (text := write_example(question, rng)) is not None:
        return text, rng.random() < 0.1
    if question.startswith("Question: "):
        right, text = rng.random() < 0.8, f"Put otherwise, {numbers[0]} + {numbers[1]} = {{}}. The answer is {{}}."
    else:
        pair = " + ".join(map(str, numbers)) or "0"
        right, text = rng.random() < 0.5, rng.choice(["{}", "It makes {}.", f"{pair} = {{}}"])
    answer = total if right else total + 1
    return text.format(*[answer] * text.count("{}")), rng.random() < 0.1


def write_example(question: str, rng: random.Random) -> str | None:
    """What it says where it is asked to write tasks or examples; `None` where it is asked something else."""
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    if question.startswith("Come up with a series of tasks"):
        nouns = rng.sample(("bread", "coal", "ships", "music", "rain", "glass", "wool", "salt", "birds", "clocks"), 3)
        return f"Compare {nouns[0]} with {nouns[1]}, number {a}.\n10. List {b} uses that {nouns[2]} has at home."
    if question.endswith("Is it classification?"):
        return rng.choice((" Yes", " No"))
    if question.startswith("Given a classification task"):
        return f"Class label: odd\n{a}\nClass label: even\n{b}"
    if question.startswith("Come up with examples"):
        return f"Example 1\nInput: {a}, {b}\nOutput: {a + b}"
    if "Reply with JSON only" in question:
        return json.dumps({"input": f"What is {a} plus {b}?", "output": str(a + b)})
    return None


class EngineKilled(Exception):
    """The end of a run in the middle of its sampling."""


class ScriptedEngine:
    """An engine without a model, which may be killed.

    Attributes:
        drawn: Name of every sample it made.
        questions: Last message of every request.
        by_chance: Whether any of them was drawn at a temperature.
        die_after: Samples after which it raises `EngineKilled`; `None`: never.
    """

    fingerprint = "scripted"

    def __init__(self, die_after: int | None = None) -> None:
        self.drawn: list[str] = []
        self.questions: list[str] = []
        self.by_chance, self.die_after = False, die_after

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index)."""
        self.by_chance |= params.temperature > 0
        for request, indexes in requests:
            self.questions.append(request.messages[-1]["content"])
            for index in indexes:
                if self.die_after is not None and len(self.drawn) >= self.die_after:
                    raise EngineKilled
                self.drawn.append(json.dumps([request.key, request.messages, index, params.model_dump(exclude={"n"})]))
                text, is_cut = scripted_answer(request, index, params.seed, params.temperature)
                yield Sample(request.key, index, text, "length" if is_cut else "stop", len(text))


class ScriptedModels:
    """Log-probabilities, embeddings and gradients without a model: numbers drawn from the content they are of."""

    def compute_logps(self, conversations: Sequence[Sequence[Message]], model: str | None = None) -> list[np.ndarray]:
        """As `CurationContext.compute_logps`: one number for each word of the answer, and one for its end."""
        lengths = [len(str(one[-1]["content"]).split()) + 1 for one in conversations]
        texts = [json.dumps([list(one), model]) for one in conversations]
        return [
            -_random_of(text).exponential(size=n).astype(np.float32) for text, n in zip(texts, lengths, strict=True)
        ]

    def embed(self, texts: Sequence[str], encoder: str | None = None) -> np.ndarray:
        """As `CurationContext.embed`."""
        vectors = [_random_of(json.dumps([text, encoder])).normal(size=16) for text in texts]
        return np.array([v / np.linalg.norm(v) for v in vectors], np.float32).reshape(len(texts), 16)

    def compute_gradients(self, rows: Rows, projection: int, model: str | None = None) -> np.ndarray:
        """As `CurationContext.compute_gradients`."""
        vectors = [_random_of(json.dumps([row.messages, model])).normal(size=projection) for row in rows]
        return np.array(vectors, np.float32).reshape(len(rows), projection)

    def score_in_context(self, rows: Rows, examples: Rows, score: AnswerScore) -> np.ndarray:
        """As `CurationContext.score_in_context`: the score of an example's turns before the row's."""
        scores = [
            [score(self.compute_logps([[*example.messages, *row.messages]])[0]) for example in examples] for row in rows
        ]
        return np.array(scores, np.float32).reshape(len(rows), len(examples))

    def train_reference(self, rows: Rows, epochs: float) -> str:
        """As `CurationContext.train_reference`: a name for what would be trained."""
        return f"trained on {fingerprint_rows(rows)} for {epochs:g}"


def _random_of(text: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()[:8]))


@dataclass
class CurationWorld:
    """One curation: the engine behind its journal, and what the curator reported.

    Args:
        engine: The scripted model.
        notes: Counters it noted.
        dropped: Rows it left out, each with its reason.
        judged: Answers it had judged.
    """

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    notes: Counter[str] = field(default_factory=Counter)
    dropped: list[tuple[Row, str]] = field(default_factory=list)
    judged: list[JudgeRequest] = field(default_factory=list)

    def build_context(self, method: Curator, journal: Journal, seed: int = 0) -> CurationContext:
        """What the curator is given."""
        return CurationContext(
            curator=name_of(method),
            sample=journal.build_sample_fn(self.engine),
            judge=self.judge_answers,
            sampling=SamplingParams(seed=seed),
            seed=seed,
            load=lambda *args, **kwargs: general_rows(),
            note=lambda name, amount: self.notes.update({name: amount}),
            drop=lambda row, reason: self.dropped.append((row, reason)),
            models=ScriptedModels(),
            evaluated={"test": sum_rows()[3:4]},
        )

    def judge_answers(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        """Verdicts by the final number."""
        self.judged += answers
        return Number(math_verify=False).judge_all(answers)

    def curate_rows(
        self, method: Curator, rows: Rows | None = None, journal: str | Path | None = None, seed: int = 0
    ) -> list[Row]:
        """The rows a curator makes of the sums, or of others.

        Args:
            journal: Its file; default: one that ends with the call.
        """
        with Journal(journal) as record:
            input_rows = sum_rows() if rows is None else rows
            return list(method.curate(input_rows, self.build_context(method, record, seed)))
