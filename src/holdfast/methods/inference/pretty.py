"""PreTTY: a few task-related tokens at the beginning of an answer, in the place of training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from holdfast.axes.inference import Inference
from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.inference import LogitStep
    from holdfast.data.rows import Message

PIECE = re.compile(r"\s*(?:[^\W\d_一-鿿぀-ヿ가-힯]+|\d+|\S)")
"""A word, a number or a sign with the space before it; of scripts that are written without spaces, a character."""


class Pretty(Inference):
    """The first tokens of an answer are given, and the untuned model goes on. [Zhan et al. 2024, arXiv 2404.16766]

    What: the answer begins with `tokens` prior tokens and is continued by the model as it is; nothing is trained. Where
    they come from: `teacher`, a tuned model (a small one will do), which chooses the first tokens of each answer;
    `answers`, a file whose answers most often begin with them (those of a tuned model, or training rows), the same for
    every question; or `dictionary`, by which the first words of the question that it knows are translated (the pseudo
    prior). Tokens of a teacher are the model's, those of texts are words, or characters where words are not spaced.

    When it helps: translation and other work across languages with a model that was never tuned for it: one or two
    tokens say which language and which task, and fine-tuning changes little after them (up to 98 % of the tuned model's
    score, in the paper).

    When it fails: a wrong first token is kept and followed. A dictionary that is applied to the first words assumes
    that both languages begin with the same word. Likelihoods of given answers know a teacher's tokens, no texts.

    Columns needed: none.

    Paper: Zhan, Zhang, Chen, Wei, Huang, Chen, Wong 2024, "Prefix Text as a Yarn: Eliciting Non-English Alignment in
    Foundation Language Models", arXiv 2404.16766, ACL Findings 2024; one or two tokens, greedy decoding.
    """

    paper: ClassVar[str] = "Zhan et al. 2024, arXiv 2404.16766"
    needs_base: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, Any]] = {"tokens": 0}

    tokens: int = Field(2, ge=0, description="How many are given.")
    teacher: str | None = Field(None, description="A tuned model that chooses them: path, run directory or name.")
    answers: str | None = Field(None, description="A file of rows whose answers most often begin with them.")
    dictionary: str | None = Field(
        None, description="Words and their translations: a JSON object, or lines of WORD, tab, TRANSLATION."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Pretty:
        if sum(source is not None for source in (self.teacher, self.answers, self.dictionary)) != 1:
            raise ValueError("give one of teacher, answers and dictionary: where the first tokens come from")
        return self

    def list_changes(self) -> tuple[str, ...]:
        return ("prefix",) if self.teacher is None else ("logits",)

    def extra_models(self) -> Mapping[str, str]:
        return {} if self.teacher is None else {"teacher": self.teacher}

    def check_ready(self) -> None:
        if self.answers is not None:
            _find_frequent_beginning(*_stamp_file(self.answers), self.tokens)
        if self.dictionary is not None:
            _read_dictionary(*_stamp_file(self.dictionary))

    def with_portable_paths(self) -> Pretty:
        paths = {name: getattr(self, name) for name in ("answers", "dictionary")}
        changes = {name: str(Path(path).expanduser().resolve()) for name, path in paths.items() if path is not None}
        return self.model_copy(update=changes)

    def content_fingerprint(self) -> str:
        from holdfast.core.files import sha256_of

        path = self.answers or self.dictionary
        return "" if path is None else sha256_of(Path(path).expanduser())

    def logits(self, step: LogitStep) -> Tensor:
        import torch

        own: Tensor = step["tuned"]  # [n, V]
        if "teacher" not in step:
            return own
        return torch.where((step.places < self.tokens)[:, None], step["teacher"], own)

    def prefix(self, messages: list[Message]) -> str:
        if self.answers is not None:
            return _find_frequent_beginning(*_stamp_file(self.answers), self.tokens)
        if self.dictionary is None:
            return ""
        words = _read_dictionary(*_stamp_file(self.dictionary))
        question = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
        pieces = [piece.strip() for piece in PIECE.findall(question)]
        return " ".join([words[piece] for piece in pieces if piece in words][: self.tokens])


def _stamp_file(path: str) -> tuple[Path, int]:
    """A file and when it was changed."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"inference.pretty: {path}: there is no such file")
    return file, file.stat().st_mtime_ns


@lru_cache
def _find_frequent_beginning(file: Path, changed_at: int, tokens: int) -> str:
    """The first pieces that most answers of a file have in common; of equally frequent ones the first in the file."""
    from holdfast.data.reading.formats import open_rows

    answers = [row.answer for row in open_rows(file) if row.answer]
    if not answers:
        raise UserError(f"inference.pretty: {file}: no row has an answer")
    beginnings = Counter("".join(PIECE.findall(answer)[:tokens]) for answer in answers)
    return beginnings.most_common(1)[0][0]


@lru_cache
def _read_dictionary(file: Path, changed_at: int) -> dict[str, str]:
    """Words and their translations."""
    import json

    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text) if file.suffix == ".json" else None
    except ValueError as error:  # of UTF-8 or of JSON
        raise UserError(f"inference.pretty: {file}: cannot be read ({error}); mend it") from error
    if file.suffix == ".json":
        pairs = [(str(word), str(other)) for word, other in content.items()] if isinstance(content, dict) else []
    else:
        lines = [line.split("\t") for line in text.splitlines() if line.strip()]
        if wrong := next((number for number, line in enumerate(lines, 1) if len(line) != 2), 0):
            raise UserError(f"inference.pretty: {file}:{wrong}: must be WORD, tab, TRANSLATION")
        pairs = [(word.strip(), other.strip()) for word, other in lines]
    if not pairs:
        raise UserError(
            f"inference.pretty: {file}: holds no words; give a JSON object or lines of WORD, tab, TRANSLATION"
        )
    return dict(pairs)
