"""Retrieval: passages of the user's documents are put before the question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator, model_validator

from holdfast.axes.inference import Inference, TextEmbedder
from holdfast.data.chat.prompts import fill_template, require_slots
from holdfast.data.rows import Message, fingerprint_json
from holdfast.errors import UserError
from holdfast.methods.inference.retrieval.conversation import find_question, rewrite_question
from holdfast.methods.inference.retrieval.documents import (
    RECORDS,
    TEXTS,
    Passage,
    cut_passages,
    find_unread_files,
    read_documents,
)
from holdfast.methods.inference.retrieval.encoder import choose_embedder
from holdfast.methods.inference.retrieval.index import By, TextIndex
from holdfast.recipe.data_section import Texts

if TYPE_CHECKING:
    from typing_extensions import Self

SETTING = "inference.rag.documents"
TEMPLATE = "Use these passages as far as they help to answer.\n\n{documents}\n\nQuestion: {question}"


class RAG(Inference):
    """Passages of your documents, looked up for each question, stand before it. [Lewis et al. 2020, arXiv 2005.11401]

    What it does: `documents` (text, Markdown, JSON lines, CSV; files or folders) are cut into passages of `chunk`
    words. For each question the `top` passages are found by their words (BM25), by `embedding` (the model's own last
    hidden states, averaged and centred, or a sentence encoder's), or by `both` rankings joined; they are put before the
    question. The answer's sources stand beside it in results, reports and traces. Questions for which nothing is found,
    and all where there are no documents, are asked as they are.

    When it helps: facts that the model never saw or that change; answers that must name their source. No training, and
    what the model knew stays untouched. When it fails: words of question and document differ and the model's embeddings
    are poor (then name an `encoder`); facts that must be joined over several documents (`hykge`); small models that do
    not read what stands before them; prompts that no longer fit into the context. Each answer costs the reading of its
    passages; `prompt_distillation` trains the same documents into the weights instead, and `compare` holds both
    against each other: `--methods rag,prompt_distillation`.

    Works wherever a question is asked, multiple choice and the likelihood of answers included; plain text has none.

    Formula: BM25(q, d) = sum_w idf(w) tf / (tf + k1 (1 - b + b |d| / mean)), idf = log(1 + (N - n + .5) / (n + .5)), k1
    = 1.5, b = 0.75; embeddings: cosine of h - mean(h), h the mean of the last hidden states [D]; both: sum of 1 / (60 +
    rank).

    Paper: Lewis et al. 2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks" (arXiv 2005.11401), who
    also train retriever and generator; passages of 100 words, 5 of them. Here nothing is trained.
    """

    paper: ClassVar[str] = "Lewis et al. 2020, arXiv 2005.11401"
    neutral: ClassVar[Mapping[str, Any]] = {"documents": ()}

    documents: Texts | None = Field(
        None, description="Files or folders: .txt, .md, .jsonl, .json, .csv, .tsv; [] = none."
    )
    top: int = Field(5, ge=1, description="Passages put before the question, at most.")
    by: By = Field("bm25", description="How they are found.")
    chunk: int = Field(200, ge=1, description="Words of a passage.")
    overlap: int = Field(40, ge=0, description="Of these, words it has in common with the passage before.")
    encoder: str | None = Field(
        None, description="Sentence encoder for by: embedding or both (extra `embed`); default: the model itself."
    )
    template: str = Field(TEMPLATE, description="What is asked: {documents} and {question} stand in it.")
    passage: str = Field("[{number}] {name}\n{text}", description="How a passage is shown.")
    between: str = Field("\n\n", description="What stands between two passages.")

    _embedder: TextEmbedder | None = PrivateAttr(None)
    _passages: list[Passage] | None = PrivateAttr(None)
    _index: TextIndex | None = PrivateAttr(None)

    @field_validator("template")
    @classmethod
    def _require_slots(cls, template: str) -> str:
        return require_slots(template, "documents", "question")

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap >= self.chunk:
            raise ValueError(f"overlap {self.overlap} must be less than chunk {self.chunk}")
        return self

    def check_ready(self) -> None:
        if self.documents is None:
            raise UserError(f"{SETTING}: says nothing; name files or folders ([] answers without any)")
        self.open_passages()

    def list_notes(self) -> list[str]:
        unread = [file for name in self.documents or () for file in find_unread_files(name, (*TEXTS, *RECORDS))]
        more = f" and {len(unread) - 3:,} more" if len(unread) > 3 else ""
        return [f"{SETTING}: not read, being no text: {', '.join(unread[:3])}{more}"] if unread else []

    def content_fingerprint(self) -> str:
        passages = self.open_passages()
        return fingerprint_json([[p.name, p.text] for p in passages]) if passages else ""

    def with_embedder(self, embedder: TextEmbedder) -> RAG:
        copy = self.model_copy()
        copy._embedder, copy._passages, copy._index = embedder, self._passages, None
        return copy

    def with_portable_paths(self) -> RAG:
        names = None if self.documents is None else tuple(str(Path(n).expanduser().resolve()) for n in self.documents)
        return self.model_copy(update={"documents": names})

    def open_passages(self) -> list[Passage]:
        """The passages of all documents, read once."""
        if self._passages is None:
            documents = read_documents(self.documents or (), SETTING)
            self._passages = cut_passages(documents, self.chunk, self.overlap)
        return self._passages

    def find_passages(self, question: str) -> list[tuple[Passage, float]]:
        """What is put before a question, the best first, with its score."""
        passages = self.open_passages()
        if not passages:
            return []
        if self._index is None:
            embedder = (
                None if self.by == "bm25" else choose_embedder(self.encoder, self._embedder, "inference.rag.encoder")
            )
            self._index = TextIndex([passage.text for passage in passages], self.by, embedder)
        return [(passages[number], score) for number, score in self._index.find_texts(question, self.top)]

    def prompt(self, messages: list[Message]) -> list[Message]:
        entries = self.find_passages(find_question(messages))
        if not entries:
            return messages
        passage_texts = self.between.join(
            fill_template(self.passage, number=str(number), name=passage.name, text=passage.text)
            for number, (passage, _) in enumerate(entries, 1)
        )
        return rewrite_question(
            messages, lambda text: fill_template(self.template, documents=passage_texts, question=text)
        )

    def describe_sources(self, messages: list[Message]) -> Mapping[str, Any]:
        entries = self.find_passages(find_question(messages))
        sources = [
            {"name": passage.name, "number": passage.number, "score": score, "text": passage.text}
            for passage, score in entries
        ]
        return {"sources": sources} if sources else {}
