"""HyKGE: a hypothesis first, then paths of a knowledge graph between what it and the question name."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator, model_validator

from holdfast.axes.inference import Draw, Inference, Step, TextEmbedder
from holdfast.data.chat.prompts import fill_template, require_slots
from holdfast.data.rows import fingerprint_json
from holdfast.data.thoughts import final_answer
from holdfast.errors import UserError
from holdfast.methods.inference.retrieval.conversation import find_question, rewrite_question
from holdfast.methods.inference.retrieval.encoder import choose_embedder
from holdfast.methods.inference.retrieval.fragments import Unit, cut_fragments
from holdfast.methods.inference.retrieval.graph import find_portable_name
from holdfast.methods.inference.retrieval.knowledge import Knowledge, open_knowledge
from holdfast.methods.inference.retrieval.rerank import Rerank, choose_paths, score_paths
from holdfast.recipe.data_section import Texts

if TYPE_CHECKING:
    from typing_extensions import Self

    from holdfast.axes.engine import Request, Sample

SETTING = "inference.hykge.graph"
HYPOTHESIS = "Think step by step and answer as fully as you can.\n\n{question}"
TEMPLATE = (
    "Background knowledge:\n{paths}\n\nA first answer, which may be wrong: {hypothesis}\n\nCorrect it with the "
    "background knowledge as far as that has to do with the question, and answer.\n\n{question}"
)


class HyKGE(Inference):
    """Answer with paths of a knowledge graph, found by a hypothesis. [Jiang et al. 2023, arXiv 2312.15883]

    What it does: the model first answers from what it knows (the hypothesis). The entities that question and hypothesis
    name are looked up in the `graph`; paths of up to `hops` facts between them, and the facts about each, are
    candidates. The hypothesis is cut into fragments that overlap, and a path scores as its best match among question,
    fragments and hypothesis; the `top` paths stand before the question when it is asked again. The trace keeps
    hypothesis, entities, and paths with the fragment that each was chosen by.

    When it helps: questions that leave out the link between what they ask and the facts (the hypothesis often names it,
    and be the answer wrong), and facts that must be joined. When it fails: a model whose hypotheses name nothing in the
    graph; then only the question's entities lead into it. Names in the graph must be those that texts use. Two answers
    for one.

    Facts are edge lists (JSON lines with s, p, o; CSV or TSV of three columns) or GraphML. Entities are found by their
    names, longest first, whole words, in any case; the paper has a recogniser of entities and links them by embedding.
    `rerank: embedding` compares by the model's own hidden states or an `encoder`; the paper has a reranker for that.
    Without a known entity, or a graph, the question is asked as it is. Likelihoods know nothing of it.

    Formula: score(p) = max over d in {question, fragments, hypothesis} of cos(p, d); the `top` highest.

    Paper: Jiang et al. 2023, "HyKGE: A Hypothesis Knowledge Graph Enhanced Framework for Accurate and Reliable Medical
    LLMs Responses" (arXiv 2312.15883, ACL 2025): hypothesis of 500 tokens, fragments of 35 characters that overlap by
    15, 11 paths. Errors of its code that are not made here are named where they would be, in `retrieval/`.
    """

    paper: ClassVar[str] = "Jiang et al. 2023, arXiv 2312.15883"
    neutral: ClassVar[Mapping[str, Any]] = {"graph": ()}

    graph: Texts | None = Field(
        None, description="Files or folders of facts (.jsonl, .csv, .tsv, .txt, .graphml), or lab:graph; [] = none."
    )
    hops: int = Field(2, ge=1, le=3, description="Facts of a path between two entities, at most.")
    top: int = Field(11, ge=1, description="Paths put before the question, at most.")
    unit: Unit = Field("characters", description="What fragments are counted in.")
    fragment: int = Field(35, ge=1, description="Units of a fragment of the hypothesis; 0 overlap cuts it in pieces.")
    overlap: int = Field(15, ge=0, description="Of these, units it has in common with the fragment before.")
    rerank: Rerank = Field("embedding", description="What paths and fragments are compared by.")
    encoder: str | None = Field(
        None, description="Sentence encoder for rerank: embedding (extra `embed`); default: the model itself."
    )
    hypothesis: str = Field(HYPOTHESIS, description="How the hypothesis is asked for, with {question} in it.")
    hypothesis_tokens: int = Field(500, ge=0, description="Longest hypothesis; 0 = none, the question alone is used.")
    template: str = Field(
        TEMPLATE, description="What is asked then: {paths}, {hypothesis} and {question} may stand in it."
    )
    between: str = Field("\n", description="What stands between two paths.")
    phrases: dict[str, str] = Field(
        {}, description="By relation a sentence with {s} and {o}; paths whose relations all have one are shown as such."
    )
    most: int = Field(2000, ge=1, description="Paths that are compared, at most; the shorter go before.")

    _embedder: TextEmbedder | None = PrivateAttr(None)
    _knowledge: Knowledge | None = PrivateAttr(None)

    @field_validator("template")
    @classmethod
    def _require_slots(cls, template: str) -> str:
        return require_slots(template, "paths", "question")

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap >= self.fragment:
            raise ValueError(f"overlap {self.overlap} must be less than fragment {self.fragment}")
        return self

    def check_ready(self) -> None:
        if self.graph is None:
            raise UserError(f"{SETTING}: says nothing; name files or folders of facts ([] answers without any)")
        self.open_graph()

    def content_fingerprint(self) -> str:
        knowledge = self.open_graph()
        return fingerprint_json(sorted(map(list, knowledge.graph.edges(keys=True)))) if self.graph else ""

    def with_embedder(self, embedder: TextEmbedder) -> HyKGE:
        copy = self.model_copy()
        copy._embedder = choose_embedder(self.encoder, embedder, "inference.hykge.encoder")
        return copy

    def with_portable_paths(self) -> HyKGE:
        names = None if self.graph is None else tuple(map(find_portable_name, self.graph))
        return self.model_copy(update={"graph": names})

    def open_graph(self) -> Knowledge:
        """The facts, read once."""
        if self._knowledge is None:
            self._knowledge = open_knowledge(self.graph or (), SETTING)
        return self._knowledge

    def attempts(self, request: Request) -> Generator[Sequence[Step], Sequence[Any], Sample]:
        if not self.graph:
            return (yield [request])[0]
        question, hypothesis = find_question(request.messages), ""
        if self.hypothesis_tokens:
            ask = rewrite_question(request.messages, lambda text: fill_template(self.hypothesis, question=text))
            (guess,) = yield [Draw(replace(request, messages=ask), {"max_tokens": self.hypothesis_tokens})]
            hypothesis = final_answer(guess.text).strip()
        found_in = self.open_graph().find_entities(question, hypothesis)
        paths = self.rank_paths(question, hypothesis, list(found_in))
        trace: dict[str, Any] = {"hypothesis": hypothesis, "entities": found_in, "paths": paths}
        messages = request.messages
        if paths:
            path_text = self.between.join(path["text"] for path in paths)
            values = {"paths": path_text, "hypothesis": hypothesis}
            messages = rewrite_question(messages, lambda text: fill_template(self.template, question=text, **values))
        (sample,) = yield [replace(request, messages=messages)]
        return replace(sample, trace={**trace, **({"beside": {"hypothesis": hypothesis}} if hypothesis else {})})

    def rank_paths(self, question: str, hypothesis: str, entities: Sequence[str]) -> list[dict[str, Any]]:
        """The paths that are shown, the best first: their text, score, and the text that each was chosen by."""
        candidates = self.open_graph().find_paths(entities, self.hops, self.most)
        if not candidates:
            return []
        fragments = cut_fragments(hypothesis, self.unit, self.fragment, self.overlap)
        texts = list(dict.fromkeys(text for text in (question, *fragments, hypothesis) if text.strip()))
        path_texts = [path.render_text(self.phrases) for path in candidates]
        scores = score_paths(path_texts, texts, self.rerank, self._embedder)
        return [
            {"text": path_texts[number], "score": score, "by": texts[text]}
            for number, score, text in choose_paths(scores, self.top)
        ]
