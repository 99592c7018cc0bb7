"""The fallback engine: `transformers`' own `generate`, for models that the native engine cannot batch.

Every causal language model has it, state-space and hybrid ones included. Prompts of one length go through it together,
which no architecture minds; prompts of different lengths are padded on the left only where the model was seen to give
the same logits then. Tokens are drawn as the native engine draws them: by (seed, request key, index, position) alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.axes.inference import LogitStep
from holdfast.data.pictures.processor import join_inputs
from holdfast.errors import UserError
from holdfast.generation.continuous_batch import PendingSample, build_sample, find_stop
from holdfast.generation.local import LocalEngine
from holdfast.generation.token_sampler import choose_tokens, compute_token_logps, uniform_numbers
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.eyes import PictureInputs
from holdfast.models.llama_family import outputs_agree
from holdfast.models.loading import has_adapter
from holdfast.models.placement import widest_dtype

if TYPE_CHECKING:
    from holdfast.data.rows import Message
    from holdfast.generation.joint_forward import LogitMixture
    from holdfast.models.loading import Model

WIDTH = {"cpu": 4096, "mps": 16384}
"""Tokens of a batch of prompts with the answers they may get, by device."""
WIDTH_OF_CARDS = 65536


class GenerateEngine(LocalEngine):
    """Samples from a model in this process with `model.generate`.

    Args:
        model: Any causal language model of `transformers`; its device is used as it is.
        chat: Renders prompts and knows what ends a turn.
        slots: Most sequences decoded together.
        fingerprint: Of the model's weights.
        progress: Called after every batch with the number of tokens it sampled.
        on_text: Called after every token with the text so far, while one sequence decodes alone.
        mixture: Models whose logits are read beside its own, and how they become one.

    Attributes:
        counts: Running totals: "tokens" sampled, "too long" prompts (they do not fit into the model's context and get
            an empty sample that finished by "length").
    Raises:
        UserError: If something other than tokens stands before its prompts (prefix tuning).
    """

    name = f"transformers:{version('transformers')}"
    _pads: bool | None = None

    def update_model(self, model: Model, fingerprint: str) -> None:
        super().update_model(model, fingerprint)
        causal: Any = model.get_base_model() if has_adapter(model) else model
        self.causal, self.eyes = causal, PictureInputs(causal)

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), a batch at a time."""
        sequences, over = self.queue_samples(requests, params)
        yield from over
        yield from self.sample_sequences(sequences, params)

    def sample_sequences(self, sequences: list[PendingSample], params: SamplingParams) -> Iterator[Sample]:
        """Yield the sample of each sequence, a batch at a time; of `params` only how tokens are drawn counts here."""
        for batch in self._form_batches(sequences):
            samples = self._generate_batch(batch, params)
            tokens = sum(sample.tokens for sample in samples)
            self.counts["tokens"] += tokens
            if self.progress:
                self.progress(tokens)
            yield from samples

    def _form_batches(self, sequences: list[PendingSample]) -> Iterator[list[PendingSample]]:
        """Sequences that decode together, the longest prompts first: those of one length, or padded where that works.

        Where the context cuts answers off, lengths are kept apart too: padding would move the shorter beyond its end.
        """
        longest_first = sorted(sequences, key=lambda s: (-len(s.prompt), s.prompt, s.key, s.index))
        limit = WIDTH.get(self.model.device.type, WIDTH_OF_CARDS)
        batch: list[PendingSample] = []
        for sequence in longest_first:
            if batch:
                width = len(batch[0].prompt) + batch[0].limit
                same = len(sequence.prompt) == len(batch[0].prompt)
                fits = len(batch) < min(self.slots, max(1, limit // width))
                if not fits or not (same or (sequence.limit == batch[0].limit and self._padding_is_harmless())):
                    yield batch
                    batch = []
            batch.append(sequence)
        if batch:
            yield batch

    def _padding_is_harmless(self) -> bool:
        """Whether a prompt padded on the left is answered as the prompt alone: tried on a few tokens, once."""
        if self._pads is None:
            prompt = [i % self.model.config.get_text_config().vocab_size for i in (5, 6, 7)]
            alone, with_padding = (self._probe_logits(ids) for ids in ([prompt], [prompt, [*prompt, *prompt]]))
            self._pads = outputs_agree(
                with_padding, alone, torch.float32
            )  # the same operations, whatever their precision
        return self._pads

    def _probe_logits(self, prompts: list[list[int]]) -> Tensor:
        """Logits [steps, V] of three tokens, the same whatever the model says, after the first of `prompts`."""
        keeper = _Keep([1, 2, 3])
        self._call_generate(prompts, 3, [keeper], [])
        return torch.stack(keeper.scores)

    def _generate_batch(self, batch: list[PendingSample], params: SamplingParams) -> list[Sample]:
        lines = _Lines(self, batch, params)
        prompts, pictures = [sequence.prompt for sequence in batch], [sequence.pictures for sequence in batch]
        self._call_generate(prompts, batch[0].limit, [_Chooser(lines)], [_Ends(lines)], pictures)
        return lines.samples

    @pause_compiled()
    def _call_generate(
        self,
        prompts: list[list[int]],
        limit: int,
        choosers: list[LogitsProcessor],
        ends: list[StoppingCriteria],
        pictures: Sequence[Sequence[Message]] = (),
    ) -> None:
        """`generate` on prompts padded to the left, with no setting of the model's own (penalties, beams)."""
        width, device = max(map(len, prompts)), self.model.device
        ids = torch.tensor([[self.chat.pad_id] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        inputs = self._read_pictures(ids, pictures)
        settings = GenerationConfig(
            max_new_tokens=limit, do_sample=False, pad_token_id=self.chat.pad_id, use_cache=True
        )
        if self.mixture:
            choosers = [_Mix(self.mixture, mask), *choosers]
        own, training = self.causal.generation_config, self.causal.training
        self.causal.generation_config = GenerationConfig()
        self.causal.eval()
        try:
            with torch.no_grad():
                (self.model if self.virtual else self.causal).generate(
                    input_ids=ids, attention_mask=mask, **inputs, generation_config=settings,
                    logits_processor=LogitsProcessorList(choosers), stopping_criteria=StoppingCriteriaList(ends),
                )  # fmt: skip
        finally:
            self.causal.generation_config = own
            self.causal.train(training)

    def _read_pictures(self, ids: Tensor, conversations: Sequence[Sequence[Message]]) -> dict[str, Tensor]:
        """What the model reads beside ids [rows, width] of the pictures of these prompts."""
        many = [self.chat.pictures.list_pictures(messages) for messages in conversations]
        arrays = join_inputs([pictures.read_inputs() for pictures in many if pictures])
        if not arrays:
            return {}
        if self.mixture:
            raise UserError(
                "these prompts have pictures, which an inference method that mixes models is not shown; take none"
            )
        inputs = {name: torch.from_numpy(array).to(ids.device) for name, array in arrays.items()}
        return self.eyes.arrange_inputs(inputs) | self.eyes.mark_pictures(ids)


class _Lines:
    """The sequences of a batch while they decode.

    Args:
        engine: Whose.
        batch: The sequences.
        params: How they are drawn.
    Attributes:
        samples: Those that are finished.
    """

    def __init__(self, engine: GenerateEngine, batch: list[PendingSample], params: SamplingParams) -> None:
        self.engine, self.batch, self.params = engine, batch, params
        self.seeds = np.array([s.seed for s in batch], dtype=np.uint64)
        self.ends = engine.stop_token_mask(params.stop) if any(params.stop) else None
        self.tokens: list[list[int]] = [[] for _ in batch]
        self.logps: list[list[float]] = [[] for _ in batch]
        self.is_over = [False] * len(batch)
        self.samples: list[Sample] = []
        self.num_tokens = 0

    def draw_tokens(self, scores: Tensor) -> Tensor:
        """The next token of each sequence [rows] by logits [rows, V]; what closes a thought goes before."""
        uniform = None
        if self.params.temperature:
            randoms = torch.from_numpy(
                uniform_numbers(self.seeds, np.full(len(self.seeds), self.num_tokens, dtype=np.int64))
            )
            uniform = randoms.to(widest_dtype(scores.device)).to(scores.device)
        tokens = choose_tokens(scores, uniform, self.params)
        if self.params.keep_ids:
            for row_logps, logp in zip(self.logps, compute_token_logps(scores, tokens).tolist(), strict=True):
                row_logps.append(logp)
        for row, sequence in enumerate(self.batch):
            if sequence.thought and sequence.thought.forced_ids and not self.is_over[row]:
                tokens[row], *rest = sequence.thought.forced_ids
                sequence.thought.forced_ids = tuple(rest)
        return tokens

    def append_tokens(self, tokens: list[int]) -> None:
        """Take note of what was drawn, and finish what it ends."""
        self.num_tokens += 1
        for row, token in enumerate(tokens):
            if not self.is_over[row]:
                self.tokens[row].append(token)
                self._append_token(row, token)

    def _append_token(self, row: int, token: int) -> None:
        sequence, at_stop = self.batch[row], token in self.engine.chat.stop_ids
        limit, text = sequence.limit, self._output_text(row, at_stop)
        if sequence.thought:
            if not at_stop and sequence.thought.thinking is not False:
                sequence.thought.follow_token(self.num_tokens, token, lambda: text)
            limit = sequence.thought.limit
        cut = -1
        if self.ends is not None and self.ends[token] and not at_stop:
            cut = find_stop(text, sequence, self.params.stop)
        if at_stop or cut >= 0 or self.num_tokens >= limit:
            self.is_over[row] = True
            answer = text[:cut] if cut >= 0 else text
            ids, logps = (self.tokens[row], self.logps[row][: self.num_tokens]) if self.params.keep_ids else ((), ())
            finish = "stop" if at_stop or cut >= 0 else "length"
            self.samples.append(build_sample(sequence, answer, finish, self.num_tokens, ids, logps))  # type: ignore[arg-type]

    def _output_text(self, row: int, at_stop: bool = False) -> str:
        return self.engine.chat.text_of(self.tokens[row][: -1 if at_stop else None])

    def show_text(self) -> None:
        """Let the caller see the text so far, where one sequence decodes alone."""
        if self.engine.on_text and len(self.batch) == 1 and not self.is_over[0]:
            self.engine.on_text(self.batch[0].opening + self._output_text(0))


class _Mix(LogitsProcessor):
    """Makes the mixture's logits of the model's own and those of the others.

    They read everything again at each step: what an architecture keeps of what it read differs, and `generate` shows
    only its own model's.

    Args:
        mask: [rows, width], 1 where the prompts have tokens.
    """

    def __init__(self, mixture: LogitMixture, mask: Tensor) -> None:
        self.mixture, self.mask = mixture, mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = self.mask.new_ones(len(self.mask), input_ids.shape[1] - self.mask.shape[1])
        mask = torch.cat([self.mask, new], 1)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)  # padding stands on the left, and at 0
        step = {"tuned": scores}
        for name, model in self.mixture.others.items():
            takes = "position_ids" in inspect.signature(model.forward).parameters
            extra = {"position_ids": positions} if takes else {}
            table = self.mixture.tables.get(name)
            ids = input_ids if table is None else table.read_ids(input_ids)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **extra).logits[:, -1].float()
            step[name] = logits if table is None else table.spread_logits(logits)
        return self.mixture.mix(LogitStep(step, torch.full_like(input_ids[:, 0], new.shape[1])))


class _Chooser(LogitsProcessor):
    """Draws the next token of every row and leaves nothing else to choose."""

    def __init__(self, lines: _Lines) -> None:
        self.lines = lines

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _mask_others(scores, self.lines.draw_tokens(scores))


class _Keep(LogitsProcessor):
    """Keeps the first row's logits, and chooses given tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.scores = tokens, list[Tensor]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores[0].detach().float())
        token = self.tokens[len(self.scores) - 1] % scores.shape[1]
        return _mask_others(scores, torch.full((len(scores),), token, device=scores.device))


def _mask_others(scores: Tensor, tokens: Tensor) -> Tensor:
    """Scores [rows, V] in which `tokens` [rows] are all there is."""
    return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)


class _Ends(StoppingCriteria):
    """Says which rows are finished."""

    def __init__(self, lines: _Lines) -> None:
        self.lines = lines

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.lines.append_tokens(input_ids[:, -1].tolist())
        self.lines.show_text()
        return torch.tensor(self.lines.is_over, device=input_ids.device)
