"""Retrieval against training the same documents in, and a graph entered through a hypothesis against retrieval."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.data.rows import Row
from holdfast.lab.reproduce.base import Claim, Figure, gain_of, loss_of, write_records, write_rows
from holdfast.lab.reproduce.distribution import DOCUMENT_FACTS, write_question_files
from holdfast.lab.reproduce.rule import gains_as_much, gains_more, loses_no_more
from holdfast.skills.graph import BRIDGES, EATS, ORIGIN, REGION, TOOL, build_further_facts, build_graph_facts

_READ = "curate={name: 'holdfast.lab.reproduce.distribution:Read'}"


def write_documents(directory: Path) -> dict[str, Any]:
    """The questions of `prompt_distillation`'s claim, and their documents as a file to retrieve from."""
    from holdfast.skills.facts import exposure_level, fact_object
    from holdfast.skills.lexicon import SUBJECTS
    from holdfast.skills.reading import KINDS

    settings = write_question_files(directory)
    documents = [
        {"name": f"{subject}, {' and '.join(document)}", "text": " ".join(
            KINDS[relation][0].format(p=subject, o=fact_object(subject, relation)) for relation in document
        )}
        for subject in SUBJECTS if exposure_level(subject) == 0 for document in DOCUMENT_FACTS
    ]  # fmt: skip
    write_records(directory / "documents.jsonl", documents)
    return settings


_SHOWN = (
    'inference={name: rag, documents: ["{files}/documents.jsonl"], top: %d, '
    'template: "Text: {documents}\\n{question}", passage: "{text}", between: " "}'
)

RAG = Claim(
    claim="Retrieved documents answer questions on new facts without training; prompt distillation comes near that "
    "without reading them.",
    paper="Lewis et al. 2020, arXiv 2005.11401; Kujanpaa et al. 2024, arXiv 2412.14964",
    arms={
        "rag": ["method=rag", "train.max_steps=0", _SHOWN % 2],
        "prompt distillation": ["method=prompt_distillation", _READ],
    },
    figures=(
        Figure("new facts, retrieval", "the level that prompt distillation reaches", gain_of("rag")),
        Figure("new facts, prompt distillation", "as good as retrieval", gain_of("prompt distillation")),
        Figure("lost elsewhere, retrieval", "not measured", loss_of("rag")),
        Figure("lost elsewhere, prompt distillation", "not measured", loss_of("prompt distillation")),
    ),
    expects=(
        gains_more("rag"),
        gains_as_much("rag", "prompt distillation"),
        loses_no_more("rag", "prompt distillation"),
    ),
    common={"data": {"limit": None}, "judge": {"name": "lab", "skill": "reading"}},
    files=write_documents,
)


ASKED = {
    "pet": "What does the pet of {s} eat?", "home": "In which region is the home of {s}?",
    "job": "Which tool is for the job of {s}?", "food": "From which town is the food of {s}?",
}  # fmt: skip
SAID = {"pet": "The pet is the {o}.", "home": "The home is {o}.", "job": "The job is {o}.", "food": "The food is {o}."}
PHRASES = {
    "pet": "{s} has a {o}.", "home": "{s} lives in {o}.", "job": "{s} is a {o}.", "food": "{s} eats {o}.",
    "color": "{s} likes {o}.", EATS: "The {s} eats {o}.", REGION: "{s} is in the {o}.", TOOL: "The {s} has a {o}.",
    ORIGIN: "{s} is from {o}.",
}  # fmt: skip


def list_known_subjects() -> list[str]:
    """The people whose facts the base was shown often enough to know them."""
    from holdfast.skills.facts import exposure_level
    from holdfast.skills.lexicon import SUBJECTS

    return [subject for subject in SUBJECTS if exposure_level(subject) >= 32]


def build_two_step_rows(subjects: list[str], seed: int) -> Iterator[Row]:
    """What trains reading and supposing: the answer from facts among others, and the first fact as a hypothesis."""
    from holdfast.skills.facts import fact_object

    further, rng = build_further_facts(), random.Random(seed)
    for subject in subjects:
        for relation, second in BRIDGES.items():
            bridge, question = fact_object(subject, relation), ASKED[relation].format(s=subject)
            facts = rng.sample([fact for fact in further if fact[0] != bridge], 3)
            texts = [PHRASES[r].format(s=name, o=further[name, r]) for name, r in [*facts, (bridge, second)]]
            texts += [PHRASES[relation].format(s=subject, o=bridge)] if rng.random() < 0.5 else []
            rng.shuffle(texts)
            guess = SAID[relation].format(o=bridge)
            for text, answer in (
                (f"Text: {' '.join(texts)}\n{question}", further[bridge, second]),
                (f"Think: {question}", guess),
            ):
                messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
                yield Row(messages, reference=answer)


def write_graph(directory: Path) -> dict[str, Any]:
    """Rows, questions and the graph, whose lines hold each fact as a sentence too; what of the recipe follows."""
    from holdfast.skills.facts import fact_object

    subjects, further = list_known_subjects(), build_further_facts()
    train_subjects, test_subjects = subjects[::2], subjects[1::2]
    questions = []
    for subject in test_subjects:
        for relation, second in BRIDGES.items():
            answer = further[fact_object(subject, relation), second]
            messages = [{"role": "user", "content": ASKED[relation].format(s=subject)},
                        {"role": "assistant", "content": answer}]  # fmt: skip
            questions.append(Row(messages, reference=answer))
    facts = [{"s": s, "p": r, "o": o, "text": PHRASES[r].format(s=s, o=o)} for s, r, o in build_graph_facts()]
    write_records(directory / "graph.jsonl", facts)
    rows = [row for seed in range(6) for row in build_two_step_rows(train_subjects, seed)]
    return {"data": {"train": write_rows(directory / "train.jsonl", rows),
                     "test": write_rows(directory / "test.jsonl", questions)}}  # fmt: skip


_PATHS = (
    'inference={name: hykge, graph: ["{files}/graph.jsonl"], top: 4, rerank: words, unit: words, fragment: 6, '
    'overlap: 2, hypothesis: "Think: {question}", hypothesis_tokens: 20, '
    'template: "Text: {paths}\\n{question}", between: " ", '
    "phrases: " + json.dumps(PHRASES) + "}"
)

HYKGE = Claim(
    claim="Where a question leaves out the link to what it asks, a graph entered through the model's own hypothesis "
    "gives the answer more often than retrieval by the question's words.",
    paper="Jiang et al. 2023, arXiv 2312.15883",
    arms={
        "hykge": ["method=sft", _PATHS],
        "by the question alone": ["method=sft", _PATHS.replace("hypothesis_tokens: 20", "hypothesis_tokens: 0")],
        "rag": ["method=sft", (_SHOWN % 4).replace("documents.jsonl", "graph.jsonl")],
        "closed book": ["method=sft"],
    },
    figures=(
        Figure("answers with paths by the hypothesis", "above retrieval (medical questions)", gain_of("hykge")),
        Figure("with paths by the question alone", "below", gain_of("by the question alone")),
        Figure("with facts retrieved by words", "below", gain_of("rag")),
        Figure("without anything", "lowest", gain_of("closed book")),
    ),
    expects=(gains_more("hykge", "rag"), gains_more("hykge", "by the question alone")),
    common={
        "data": {"limit": None}, "train": {"max_steps": 60},
        "judge": {"name": "exact"}, "evaluate": {"keep": ["none"], "max_tokens": 12},
    },
    files=write_graph,
)  # fmt: skip
