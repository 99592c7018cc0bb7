"""What curators of a run may ask for beyond samples and verdicts, and where what they leave out is listed."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from holdfast.axes.curator import AnswerScore, Curator
from holdfast.axes.registry import name_of
from holdfast.core.array_store import ArrayStore
from holdfast.core.files import fresh_file
from holdfast.data.chat.encoder import Chat
from holdfast.data.row_store import RowView
from holdfast.data.rows import Message, Row, Rows, fingerprint_json
from holdfast.errors import UserError
from holdfast.methods.curators.decontaminate import Decontaminate
from holdfast.pipeline.compiled_passes import compile_passes
from holdfast.pipeline.context_table import ContextTable
from holdfast.pipeline.readiness import describe_weights_alone
from holdfast.pipeline.reference_training import train_reference
from holdfast.pipeline.sources import open_extra_rows

if TYPE_CHECKING:
    from holdfast.models.loading import LoadedModel
    from holdfast.models.policy import Policy
    from holdfast.pipeline.phases import RunContext

VERSION = 1
"""Part of every key; raised when any of it is computed differently."""
ENCODER_TEXTS = 32
"""Texts that a sentence encoder is given at a time."""


class RunModelServices:
    """`ModelServices` of a run: its base model and others, their answers kept in the run's cache.

    Args:
        work: The run.
        curator: Who asks, for progress and errors.
    """

    def __init__(self, work: RunContext, curator: str) -> None:
        self.work, self.curator = work, curator
        self._other: tuple[str, LoadedModel, Chat] | None = None  # one at a time: they are as large as the base

    def compute_logps(self, conversations: Sequence[Sequence[Message]], model: str | None = None) -> list[np.ndarray]:
        """Log-probabilities in nats, fp32 [labels], of each conversation's trained tokens."""
        from holdfast.models.row_features import group_into_stretches, label_logps

        loaded_model, chat = self._load_model(model)
        policy = self._build_compiled_policy(loaded_model)
        keys = [self._cache_key("logps", _model_identity(loaded_model, chat), list(one)) for one in conversations]

        def compute_missing(indices: list[int]) -> Iterator[dict[int, np.ndarray]]:
            self.work.ui.start_phase(f"{self.curator}: log-probabilities", len(indices))
            sequences = chat.encode_many(
                [conversations[i] for i in indices], [f"conversation {i + 1}" for i in indices]
            )
            for group in group_into_stretches(policy, sequences):
                values = label_logps(policy, [sequences[n] for n in group], chat.pad_id)
                self.work.ui.advance(len(group))
                yield {indices[n]: value for n, value in zip(group, values, strict=True)}

        return self._open_store("logps").get_or_compute(keys, compute_missing)

    def embed(self, texts: Sequence[str], encoder: str | None = None) -> np.ndarray:
        """Unit embeddings, fp32 [texts, D]."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        return self._embed_with_base(texts) if encoder is None else self._embed_with_encoder(texts, encoder)

    def _embed_with_base(self, texts: Sequence[str]) -> np.ndarray:
        from holdfast.models.row_features import group_into_stretches, mean_states

        loaded_model, chat = self._load_model(None)
        policy = self._build_compiled_policy(loaded_model)

        def compute_missing(indices: list[int]) -> Iterator[dict[int, np.ndarray]]:
            self.work.ui.start_phase(f"{self.curator}: embeddings", len(indices))
            sequences = [chat.encode_text(texts[i]) for i in indices]
            for group in group_into_stretches(policy, sequences):
                values = mean_states(policy, [sequences[n] for n in group], chat.pad_id)
                self.work.ui.advance(len(group))
                yield {indices[n]: value for n, value in zip(group, values, strict=True)}

        keys = [self._cache_key("states", _model_identity(loaded_model, chat), text) for text in texts]
        states = np.stack(self._open_store("embeddings").get_or_compute(keys, compute_missing))  # [texts, D]
        apart = states - states.mean(0)
        lengths = np.linalg.norm(apart, axis=1, keepdims=True)
        # Of one text, or of texts that are all alike, nothing is left but rounding errors: these have no direction.
        return apart / np.maximum(lengths, 1e-3 * np.linalg.norm(states.mean(0)) + np.finfo(np.float32).tiny)

    def _embed_with_encoder(self, texts: Sequence[str], encoder: str) -> np.ndarray:
        from holdfast.models.embeddings import SentenceEncoder

        sentences = SentenceEncoder(encoder, self.work.base.device, f"curator {self.curator}")

        def compute_missing(indices: list[int]) -> Iterator[dict[int, np.ndarray]]:
            self.work.ui.start_phase(f"{self.curator}: embeddings", len(indices))
            order = sorted(indices, key=lambda i: -len(texts[i]))  # like lengths together, as the encoder itself does
            for start in range(0, len(order), ENCODER_TEXTS):
                group = order[start : start + ENCODER_TEXTS]
                values = sentences.encode([texts[i] for i in group]).float().cpu().numpy()
                self.work.ui.advance(len(group))
                yield dict(zip(group, values, strict=True))

        keys = [self._cache_key("sentence", sentences.fingerprint, text) for text in texts]
        return np.stack(self._open_store("embeddings").get_or_compute(keys, compute_missing))

    def compute_gradients(self, rows: Rows, projection: int, model: str | None = None) -> np.ndarray:
        """Each row's gradient projected at random, fp32 [rows, projection]."""
        from holdfast.models.row_features import projected_gradients

        loaded_model, chat = self._load_model(model)
        policy, seed = _build_policy(loaded_model), self.work.recipe.train.seed
        who = [_model_identity(loaded_model, chat), projection, seed, loaded_model.device.type]
        messages, names = [], []
        for number, row in enumerate(rows, 1):
            messages.append(row.messages)
            names.append(row.describe_place(number))
            if row.answer is None:
                raise UserError(
                    f"{row.describe_row(number)}: has no answer, of which curator {self.curator} takes gradients"
                )

        def compute_missing(indices: list[int]) -> Iterator[dict[int, np.ndarray]]:
            self.work.ui.start_phase(f"{self.curator}: gradients", len(indices))
            sequences = chat.encode_many([messages[i] for i in indices], [names[i] for i in indices])
            for i, sequence in zip(indices, sequences, strict=True):
                (value,) = projected_gradients(policy, [sequence], chat.pad_id, projection, seed)
                self.work.ui.advance()
                yield {i: value}

        keys = [self._cache_key("gradient", who, one) for one in messages]
        row_gradients = self._open_store("gradients").get_or_compute(keys, compute_missing)
        return np.stack(row_gradients) if row_gradients else np.zeros((0, projection), np.float32)

    def score_in_context(self, rows: Rows, examples: Rows, score: AnswerScore) -> np.ndarray:
        """The score of each row's last answer behind each example, fp32 [rows, examples]; NaN where there is no room.

        Kept are the scores of a few rows behind one example.
        """
        loaded_model, chat = self._load_model(None)
        table = ContextTable(_build_policy(loaded_model), chat, rows, examples, score)
        identity = [_model_identity(loaded_model, chat), inspect.getsource(score)]
        keys = [self._cache_key("in context", identity, *table.describe_cell(cell)) for cell in table.cells]

        def compute_missing(indices: list[int]) -> Iterator[dict[int, np.ndarray]]:
            pairs = sum(len(table.blocks[table.cells[i].block].rows) for i in indices)
            self.work.ui.start_phase(f"{self.curator}: rows behind examples", pairs)
            for i in indices:
                scores = table.score_cell(table.cells[i])
                self.work.ui.advance(len(scores))
                yield {i: scores}

        return table.fill_scores(self._open_store("in_context").get_or_compute(keys, compute_missing))

    def train_reference(self, rows: Rows, epochs: float) -> str:
        """Fine-tune the base on rows, once; the directory of the result."""
        return str(train_reference(self.work, self.curator, rows, epochs))

    def _load_model(self, name: str | None) -> tuple[LoadedModel, Chat]:
        """The base, or another model, with its chat."""
        if name is None:
            return self.work.base, self.work.chat
        if self._other is None or self._other[0] != name:
            self._other = None  # freed before the next is loaded
            self._other = name, *open_teacher(self.work, self.curator, name)
        return self._other[1:]

    def _build_compiled_policy(self, loaded_model: LoadedModel) -> Policy:
        """For forward passes; gradients of single rows are not worth compiling for."""
        return compile_passes(_build_policy(loaded_model), self.work.recipe.train.compile, self.work.ui.write_once)

    def _open_store(self, kind: str) -> ArrayStore:
        return ArrayStore(self.work.folder.path / "cache" / kind / "arrays.bin")

    def _cache_key(self, *parts: object) -> str:
        return fingerprint_json([VERSION, *parts])


def open_teacher(work: RunContext, curator: str, name: str) -> tuple[LoadedModel, Chat]:
    """Another model than the base, with its chat.

    Args:
        curator: Who asks it, for messages.
        name: As in `model:`.
    """
    from holdfast.data.chat.settings import make_chat
    from holdfast.models.loading import count_embeddings, load_model

    loaded_model = load_model(name, device=work.base.device)
    if line := describe_weights_alone(f"curator {curator}", loaded_model.path):
        work.ui.write_once(line)
    chat = make_chat(work.recipe.data, loaded_model.tokenizer, work.sources.train)
    chat.limit_to(count_embeddings(loaded_model.model))
    return loaded_model, chat


def _model_identity(loaded_model: LoadedModel, chat: Chat) -> list[str]:
    """What the figures of a model depend on: weights, their precision, template and tokenizer."""
    return [loaded_model.fingerprint, str(loaded_model.model.dtype), chat.fingerprint]


def _build_policy(loaded_model: LoadedModel) -> Policy:
    from holdfast.models.policy import Policy

    return Policy(loaded_model.model)


class DropList:
    """Rows that curators left out, with who did and why, a line each; the file is there when there are any."""

    def __init__(self, handle: IO[str]) -> None:
        self.handle, self.count = handle, 0
        self.reasons: Counter[tuple[str, str]] = Counter()

    def add(self, curator: str, row: Row, reason: str) -> None:
        """List one."""
        self.count += 1
        self.reasons[curator, reason.partition(":")[0]] += 1
        line = json.loads(row.to_line())  # as it is written elsewhere, numbers that are none included
        self.handle.write(json.dumps({"curator": curator, "reason": reason, "row": line}, ensure_ascii=False) + "\n")

    def count_reasons(self) -> list[dict[str, Any]]:
        """`{curator, reason, rows}` by curator, the commonest reason first; reasons up to their first colon."""
        entries = [{"curator": curator, "reason": why, "rows": n} for (curator, why), n in self.reasons.most_common()]
        order = list(dict.fromkeys(curator for curator, _ in self.reasons))
        return sorted(entries, key=lambda entry: order.index(str(entry["curator"])))


@contextlib.contextmanager
def open_drop_list(path: Path) -> Iterator[DropList]:
    """The list of what is left out inside, at `path` after it; none is there if nothing was, or anything failed."""
    with fresh_file(path) as side, side.open("w", encoding="utf-8") as handle:
        drops = DropList(handle)
        yield drops
    if not drops.count:
        path.unlink()


def load_rows(
    work: RunContext, curator: Curator, note: Callable[[str, int], Any], drops: DropList, source: str,
    columns: dict[str, int | str] | None = None, ignore: Sequence[str] = (),
) -> Rows:  # fmt: skip
    """Rows that a curator asks for beside the recipe's own.

    Those that it mixes in, to be trained on, are without those that overlap with what is measured.

    Args:
        curator: Who asks.
        source: Where they are, as in a recipe.
        columns, ignore: Its columns, and which of them are not used.
    """
    rows = open_extra_rows(work.recipe, source, columns, ignore, work.ui.write_once)
    if curator.effect != "mix" or not work.recipe.data.decontaminate:
        return rows
    reasons = Decontaminate().find_reasons(rows, {task.name: task.rows for task in work.tasks})
    for index, reason in reasons.items():
        drops.add(name_of(curator), rows[index], reason)
    if reasons:
        note(f"of {source} overlaps with what is measured", len(reasons))
    return RowView(rows, np.array([i for i in range(len(rows)) if i not in reasons])) if reasons else rows
