"""The native engine: continuous batching over any `transformers` causal language model, on CPU or GPU.

A fixed number of slots decode together. A finished sequence leaves its slot at once and a waiting one enters; a prompt
is read once however many samples it gets. Waiting prompts are read in batches of like length, all but their last
token, which becomes the sequence's first decoding step, so that sampling happens in one place only.

The random numbers of a sample depend on (seed, request key, index, position) alone. What else is in the batch can
change the logits in their last bits (matrix products round differently for different shapes); where a draw falls within
that distance of the border between two tokens, or two logits tie, a sample can differ between batches. Greedy answers
of fp32 models equal those of `transformers.generate` but for such ties.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from holdfast.errors import UserError
from holdfast.sampling.base import Request, Sample, SamplingParams
from holdfast.sampling.cache import GROWTH, Prefilled, SlotCache
from holdfast.sampling.engines import prompt_ids
from holdfast.sampling.forward import forward_of
from holdfast.sampling.journal import sample_seed

if TYPE_CHECKING:
    from holdfast.data.chat import Chat
    from holdfast.models import Model

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
REFILL = 8
"""Free slots are filled (dropped, where nothing waits) once one in this many is free: one by one would cost more."""
SHARED = 8
"""Least number of tokens that all prompts begin with for them to be read apart."""
PREFILL_TOKENS = {"cpu": 768, "cuda": 16384}
"""Prompt tokens (with padding) read in one forward pass, by device: on a CPU, activations should stay in its cache."""


@dataclass(slots=True)
class Pending:
    """One sample on its way: `limit` is the most tokens it may get, by `max_tokens` and the model's context."""

    key: str
    index: int
    prompt: list[int]
    limit: int
    seed: int


class NativeEngine:
    """Samples from a model in this process.

    Args:
        model: Any causal language model of `transformers` whose layers are all attention; its device is used as it is.
        chat: Renders prompts and knows what ends a turn.
        slots: Sequences decoded together. More is faster, until the processor is busy or its memory full.
        fingerprint: Of the model's weights.
        progress: Called after every step with the number of tokens it sampled.

    Attributes:
        counts: Running totals: "prompt tokens" read, "tokens" sampled, "steps" taken, "too long" prompts (they do not
            fit into the model's context and get an empty sample that finished by "length").
    Raises:
        UserError: If the model has layers that are no attention (state-space or linear ones), or a soft prompt.
    """

    def __init__(
        self,
        model: Model,
        chat: Chat,
        *,
        slots: int = 64,
        fingerprint: str,
        progress: Callable[[int], Any] | None = None,
    ) -> None:
        config = model.config.get_text_config()
        odd = set(getattr(config, "layer_types", None) or ()) - ATTENTION
        if odd:
            raise UserError(
                f"sampling.engine: native cannot run {config.model_type} ({', '.join(sorted(odd))}); use vllm"
            )
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UserError("sampling.engine: native cannot sample through a soft prompt; merge or remove the adapter")
        self.model, self.chat, self.slots, self.progress = model, chat, slots, progress
        self.counts: Counter[str] = Counter()
        self._enders: dict[tuple[str, ...], np.ndarray] = {}
        self._fingerprint = f"native:{fingerprint}:{chat.fingerprint}"
        self._context: int | None = getattr(config, "max_position_embeddings", None)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as soon as it is finished."""
        sequences: list[Pending] = []
        for request, indexes in requests:
            prompt = prompt_ids(self.chat, request)
            room = params.max_tokens if self._context is None else min(params.max_tokens, self._context - len(prompt))
            for index in indexes:
                if room < 1:
                    self.counts["too long"] += 1
                    yield Sample(request.key, index, "", "length", 0)
                else:
                    seed = sample_seed(params.seed, request.key, index)
                    sequences.append(Pending(request.key, index, prompt, room, seed))
        if not sequences:
            return
        training = self.model.training
        self.model.eval()
        try:
            # The generator is suspended between steps, so nothing here may hold a context manager such as no_grad.
            batch = _Batch(self, sequences, params)
            while batch.busy:
                yield from batch.step()
        finally:
            self.model.train(training)

    def enders(self, stop: tuple[str, ...]) -> np.ndarray:
        """Which tokens can complete one of the stop strings, bool [vocabulary]: those with the last character of one.

        Only sequences that just got such a token are decoded and searched. Tokens that are no whole characters count.
        """
        if stop not in self._enders:
            last = {text[-1] for text in stop if text}
            found = np.ones(max(len(self.chat.tokenizer), self.model.config.get_text_config().vocab_size), dtype=bool)
            if not any(map(str.isspace, last)):  # some tokenizers decode a lone token without its spaces
                for token in range(len(self.chat.tokenizer)):
                    piece = _decoded(self.chat.tokenizer, [token])
                    found[token] = "\ufffd" in piece or not last.isdisjoint(piece)
            self._enders[stop] = found
        return self._enders[stop]


class _Batch:
    """The state of one `sample` call: what waits, what decodes, and the arrays that describe the slots.

    Slot arrays are NumPy, one entry a slot; a slot without a sequence has `past` 0 and computes a value nobody reads.
    """

    def __init__(self, engine: NativeEngine, sequences: list[Pending], params: SamplingParams) -> None:
        self.engine, self.params = engine, params
        self.forward = forward_of(engine.model)
        self.device = engine.model.device
        # Longest first: neighbours are of like length, and a prompt never is longer than what already decodes.
        sequences = sorted(sequences, key=lambda s: (-len(s.prompt), s.prompt))
        self.waiting = deque(sequences)
        self.shared = self._share()
        self.ready: deque[tuple[Pending, Prefilled, int]] = deque()
        rows = min(engine.slots, len(sequences))
        longest = len(sequences[0].prompt) - 1
        self.cache = SlotCache(rows, longest + GROWTH, engine.model.config.get_text_config().num_hidden_layers)
        self.cache.cursor = longest
        self.occupant: list[Pending | None] = [None] * rows
        self.past = np.zeros(rows, dtype=np.int64)
        self.current = np.zeros(rows, dtype=np.int64)
        self.made = np.zeros(rows, dtype=np.int64)
        self.limit = np.ones(rows, dtype=np.int64)
        self.seeds = np.zeros(rows, dtype=np.uint64)
        self.live = np.zeros(rows, dtype=bool)
        self.tokens = np.zeros((rows, max(s.limit for s in sequences)), dtype=np.int32)
        self.stops = np.array(sorted(engine.chat.stop_ids), dtype=np.int64)
        self.ends = engine.enders(params.stop) if any(params.stop) else None

    @property
    def busy(self) -> bool:
        return bool(self.live.any() or self.waiting or self.ready)

    @torch.no_grad()
    def step(self) -> list[Sample]:
        """Fill free slots if there are enough of them, decode one token in each; returns what finished."""
        free = len(self.live) - int(self.live.sum())
        if self.waiting or self.ready:
            if free >= max(1, len(self.live) // REFILL):
                self._admit(free)
        elif free * REFILL >= len(self.live):
            self._shrink()
        tokens = self._decode()
        rows = np.flatnonzero(self.live)
        self.tokens[rows, self.made[rows]] = tokens[rows]
        self.made += self.live
        self.past += self.live
        self.current = tokens
        self.cache.cursor += 1
        self.engine.counts.update({"tokens": len(rows), "steps": 1})
        if self.engine.progress:
            self.engine.progress(len(rows))
        return self._finished(rows, tokens)

    def _decode(self) -> np.ndarray:
        """One forward pass over all slots: the next token of each, [slots]."""
        cache, past = self.cache, int(self.past.max())
        if cache.cursor == cache.columns:
            cache.make_room(past)
        cache.past = past
        mask = np.arange(past + 1) >= past - self.past[:, None]  # [slots, columns in use]
        ids, positions = self._tensor(self.current[:, None]), self._tensor(self.past[:, None])
        logits = self.forward.decode(ids, positions, self._tensor(mask), cache)
        uniform = self._tensor(uniforms(self.seeds, self.made)) if self.params.temperature else None
        return choose(logits, uniform, self.params).cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _admit(self, free: int) -> None:
        """Put waiting sequences into the free slots, reading their prompts first where that has not happened."""
        while len(self.ready) < free and self.waiting:
            self._prefill()
        rows = np.flatnonzero(~self.live)[: len(self.ready)].tolist()
        entering = [self.ready.popleft() for _ in rows]
        longest = max(len(s.prompt) - 1 for s, _, _ in entering)
        if longest > self.cache.cursor:
            self.cache.make_room(int(self.past.max()), left=longest)
        batches: dict[int, list[tuple[int, int, int, Prefilled]]] = {}
        for row, (sequence, source, prompt) in zip(rows, entering, strict=True):
            self._seat(row, sequence)
            if len(sequence.prompt) > 1:
                batches.setdefault(id(source), []).append((prompt, row, len(sequence.prompt) - 1, source))
        for batch in batches.values():
            prompts, slots, lengths, sources = zip(*batch, strict=True)
            self.cache.insert(sources[0], prompts, slots, lengths)

    def _seat(self, row: int, sequence: Pending) -> None:
        self.occupant[row] = sequence
        self.live[row] = True
        self.past[row] = len(sequence.prompt) - 1
        self.current[row] = sequence.prompt[-1]
        self.made[row] = 0
        self.limit[row] = sequence.limit
        self.seeds[row] = sequence.seed

    def _share(self) -> Prefilled | None:
        """What all prompts begin with (a system prompt, worked examples), read once; `None` if that is little."""
        prompts = [s.prompt for s in self.waiting]
        first, last = min(prompts), max(prompts)  # all share what these two share
        if first == last:
            return None
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        length = min(common, min(map(len, prompts)) - 1)
        return self._read([first[: length + 1]], None) if length >= SHARED else None

    def _prefill(self) -> None:
        """Read the next prompts, without their last tokens, in one batch padded right (no mask is needed then)."""
        width = max(1, len(self.waiting[0].prompt) - 1)
        most = max(1, PREFILL_TOKENS.get(self.device.type, PREFILL_TOKENS["cpu"]) // width)
        prompts: list[list[int]] = []
        taken: list[tuple[Pending, int]] = []
        while self.waiting:
            if not prompts or self.waiting[0].prompt != prompts[-1]:
                if len(prompts) == most:
                    break
                prompts.append(self.waiting[0].prompt)
            taken.append((self.waiting.popleft(), len(prompts) - 1))
        source = self._read(prompts, self.shared)
        self.ready.extend((sequence, source, prompt) for sequence, prompt in taken)

    @torch.no_grad()
    def _read(self, prompts: list[list[int]], before: Prefilled | None) -> Prefilled:
        """Keys and values of prompts without their last tokens; of what they share, `before` holds them already."""
        cache = DynamicCache() if before is None else before.cache(len(prompts))
        start, end = cache.get_seq_length(), max(map(len, prompts)) - 1
        if end > start:
            ids = np.empty((len(prompts), end - start), dtype=np.int64)
            for line, prompt in zip(ids, prompts, strict=True):
                line[:] = prompt[0]  # what stands in the padding changes nothing, but a pad token would draw a warning
                line[: len(prompt) - 1 - start] = prompt[start:-1]
            self.engine.counts["prompt tokens"] += sum(len(prompt) - 1 - start for prompt in prompts)
            positions = torch.arange(start, end, device=self.device).expand(len(prompts), -1)
            self.forward.read(self._tensor(ids), positions, cache)
        return Prefilled.of(cache)

    def _shrink(self) -> None:
        """Drop the empty slots once nothing waits for them; the last sequences move into the gaps."""
        count = int(self.live.sum())
        holes, movers = np.flatnonzero(~self.live[:count]), count + np.flatnonzero(self.live[count:])
        self.cache.keep(count, torch.from_numpy(movers), torch.from_numpy(holes), int(self.past.max()))
        for hole, mover in zip(holes, movers, strict=True):
            self.occupant[hole] = self.occupant[mover]
        del self.occupant[count:]
        for name in ("past", "current", "made", "limit", "seeds", "live", "tokens"):
            array = getattr(self, name)
            array[holes] = array[movers]
            setattr(self, name, array[:count])

    def _finished(self, rows: np.ndarray, tokens: np.ndarray) -> list[Sample]:
        """Samples that the tokens just drawn have ended; their slots become free."""
        stopped = np.isin(tokens, self.stops) & self.live
        done = stopped | (self.live & (self.made >= self.limit))
        cut: dict[int, str] = {}
        if self.ends is not None:
            for row in rows[self.ends[tokens[rows]] & ~stopped[rows]].tolist():
                text = self._text(row, self.made[row])
                place = min((text.find(stop) for stop in self.params.stop if stop and stop in text), default=-1)
                if place >= 0:
                    cut[row] = text[:place]
                    done[row] = True
        samples = []
        for row in np.flatnonzero(done).tolist():
            sequence, made = self.occupant[row], int(self.made[row])
            assert sequence is not None
            text = cut[row] if row in cut else self._text(row, made - int(stopped[row]))
            finish: Literal["stop", "length"] = "stop" if stopped[row] or row in cut else "length"
            samples.append(Sample(sequence.key, sequence.index, text, finish, made))
            self.occupant[row] = None
        self.live &= ~done
        self.past[done] = 0
        return samples

    def _text(self, row: int, length: int) -> str:
        return _decoded(self.engine.chat.tokenizer, self.tokens[row, :length].tolist())


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Random numbers in [0, 1) by counter: the `positions`-th of each of `seeds` (uint64), both [n]; SplitMix64."""
    z = seeds + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(logits: Tensor, uniform: Tensor | None, params: SamplingParams) -> Tensor:
    """The next token of each sequence, int64 [n].

    Args:
        logits: [n, vocabulary].
        uniform: One number in [0, 1) a sequence, fp64 [n]; not needed when greedy.
        params: `temperature` first, then `top_k`, then `top_p`; tokens as likely as the last one kept are kept too.
    """
    if params.temperature == 0 or uniform is None:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() / params.temperature, -1)
    if 0 < params.top_k < chances.shape[-1]:
        least = chances.topk(params.top_k).values[:, -1:]
        chances = chances.where(chances >= least, 0.0)
        chances = chances / chances.sum(-1, keepdim=True)
    if params.top_p < 1:
        ordered = chances.sort(-1, descending=True).values
        needed = ordered.cumsum(-1) - ordered < params.top_p  # the mass before it is still too little
        least = ordered.gather(-1, needed.sum(-1, keepdim=True) - 1)
        chances = chances.where(chances >= least, 0.0)
    mass = chances.cumsum(-1, dtype=torch.float64)
    total = mass[:, -1:]
    target = (uniform.to(mass.dtype)[:, None] * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True)[:, 0]
