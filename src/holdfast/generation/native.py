"""The native engine: continuous batching over any `transformers` causal language model, on CPU or GPU.

On a CPU the sequences of a small model are dealt to several batches (`sampling.batch`), one a core, that decode side by
side: its matrix products are too small to be split between cores without loss.

The random numbers of a sample depend on (seed, request key, index, position) alone. What else is in the batch can
change the logits in their last bits (matrix products round differently for different shapes); where a draw falls within
that distance of the border between two tokens, or two logits tie, a sample can differ between batches. Greedy answers
of fp32 models equal those of `transformers.generate` but for such ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, takewhile
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.core import threads
from holdfast.errors import UserError
from holdfast.generation.continuous_batch import ContinuousBatch, DecodeJob, PendingSample, Step, read_prompts
from holdfast.generation.fused_decode import Forward, FusedForward, build_forward
from holdfast.generation.growing_batch import GrowingBatch
from holdfast.generation.joint_forward import JointForward, TranslatedForward
from holdfast.generation.kept_graphs import KeptGraphs, describe_step
from holdfast.generation.kv_cache import PrefilledPrompts
from holdfast.generation.local import LocalEngine
from holdfast.generation.packed_prefill import PackedReader, describe_padding, find_packed_reader
from holdfast.generation.speculative_batch import (
    DRAFT,
    MODEL,
    Draft,
    SpeculativeBatch,
    draft_lacks,
    refuse_mixing,
)
from holdfast.generation.static_batch import STEPS, StaticBatch, plan_static_batch
from holdfast.generation.static_forward import (
    StaticForward,
    build_static_forward,
    describe_decline,
    prove_static_forward,
    static_lacks,
)
from holdfast.generation.supported_models import native_lacks
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.loading import context_length

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import Model

SHARED = 8
"""Least number of tokens that all prompts begin with for them to be read apart."""
FEWEST = 8
"""Sequences a batch of its own should have."""


class NativeEngine(LocalEngine):
    """Samples from a model in this process.

    Args:
        model: Any causal language model of `transformers` whose layers are all attention; its device is used as it is.
        chat: Renders prompts and knows what ends a turn.
        slots: Sequences decoded together. More is faster, until the processor is busy or its memory full.
        fingerprint: Of the model's weights.
        progress: Called after every step with the number of tokens it sampled.
        on_text: Called after every step with the text so far of the first sequence, while one batch decodes alone:
            with one request its answer as it grows (stop strings are not cut from it yet).
        mixture: Models whose logits are read beside its own, and how they become one.
        draft: A small model that proposes tokens, by which the same answers take fewer passes of the model itself.

    On a CUDA device the slots are fixed tensors and the decoding step a CUDA graph (`generation.static_batch`), where
    the model and what is asked allow it; `say` is told in a line where they do not.

    Attributes:
        static_devices: Types of devices on which this is so.
        counts: Running totals: "prompt tokens" read, "tokens" sampled, "steps" taken, "too long" prompts (they do not
            fit into the model's context and get an empty sample that finished by "length").
    Raises:
        UserError: If the model has layers that are no attention (state-space or linear ones), or virtual tokens.
    """

    _reader_of: Model | None = None
    _reader: PackedReader | None = None

    name = "native"
    static_devices = frozenset({"cuda"})

    def __init__(self, model: Model, chat: Chat, *, draft: Draft | None = None, **options: Any) -> None:
        self.draft, self._fuses_draft = draft, False
        if draft:
            self.refuse_unsupported(draft.model)
        super().__init__(model, chat, **options)

    def refuse_unsupported(self, model: Model) -> None:
        if lacks := native_lacks(model):
            kind = model.config.model_type
            raise UserError(f"sampling.engine: native cannot run {kind} ({lacks}); use transformers or vllm")

    def update_model(self, model: Model, fingerprint: str) -> None:
        if model is not getattr(self, "model", None):
            self._kept = KeptGraphs()  # else its key sees what changed
            # Of models whose joined weights gave their own logits; how a model is built is looked at for every call.
            self._fuses: set[str] = set()
        super().update_model(model, fingerprint)
        self._proofs: dict[type, str] = {}  # of static forward passes: why they are not the model's; "" if they are

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as soon as it is finished."""
        sequences, over = self.queue_samples(requests, params)
        yield from over
        if not sequences:
            return
        training = self.model.training
        self.model.eval()
        try:
            batches = self._form_batches(sequences, params)
            yield from self._decode_serially(batches[0]) if len(batches) == 1 else self._decode_in_threads(batches)
            for batch in batches:
                if isinstance(batch, StaticBatch):
                    self._kept.hand_back(batch.step_key, batch.runner)
        finally:
            self.model.train(training)

    @pause_compiled()
    def _form_batches(self, sequences: list[PendingSample], params: SamplingParams) -> list[ContinuousBatch]:
        """The sequences, dealt to as many batches as can decode side by side; samples of one prompt stay together."""
        drafts = self._choose_draft(sequences)
        forward = self.build_drafted_pass(drafts) if drafts else self.build_forward_pass()
        # Longest first: neighbours are of like length, and a prompt never is longer than what already decodes.
        sequences = sorted(sequences, key=lambda s: (-len(s.prompt), s.prompt))
        ends = self.stop_token_mask(params.stop) if any(params.stop) else None
        before = self._read_shared_prefix(forward, sequences)
        job = DecodeJob(self.model, self.chat, forward, params, ends, before, self.choose_reader())
        if (
            not drafts
            and self.model.device.type in self.static_devices
            and (batch := self._form_static_batch(job, sequences))
        ):
            return [batch]
        sides = torch.get_num_threads() if forward.concurrent and self.model.device.type == "cpu" else 1
        sides = max(1, min(sides, self.slots, len(sequences) // FEWEST))
        hands: list[list[PendingSample]] = [[] for _ in range(sides)]
        for number, (_, samples) in enumerate(groupby(sequences, key=lambda s: s.prompt)):
            hands[number % sides].extend(samples)
        most = -(-self.slots // sides)
        if drafts:
            return [SpeculativeBatch(job, hand, most, drafts) for hand in hands if hand]
        return [GrowingBatch(job, hand, most) for hand in hands if hand]

    def _choose_draft(self, sequences: list[PendingSample]) -> Draft | None:
        """Who proposes tokens for some sequences; nobody, with a line that says why, where that cannot be."""
        return self.choose_draft(
            max(len(sequence.prompt) + sequence.limit for sequence in sequences),
            any(sequence.pictures for sequence in sequences),
        )

    def choose_draft(self, longest: int | None, has_pictures: bool = False) -> Draft | None:
        """Who proposes tokens; nobody, with a line that says why, where that cannot be.

        Args:
            longest: Tokens of the longest sequence; `None` where nothing limits it.
            has_pictures: Whether prompts show some.
        """
        if self.draft is None:
            return None
        models = (self.model, self.draft.model, *(self.mixture.others.values() if self.mixture else ()))
        reason = next(filter(None, map(draft_lacks, models)), "")
        context = context_length(self.draft.model.config)
        if context is not None and (longest is None or longest > context):
            reason = f"the draft's context of {context:,} tokens is too short"
        if has_pictures:
            reason = "prompts show pictures"
        if reason:
            self.say(f"decoding without a draft: {reason}")
        return None if reason else self.draft

    def build_drafted_pass(self, draft: Draft) -> JointForward:
        """The forward passes of the model and of who proposes tokens to it, over one cache."""
        draft_forward = build_forward(draft.model, self._fuses_draft)
        self._fuses_draft = isinstance(draft_forward, FusedForward)
        return JointForward({MODEL: self.build_forward_pass(), DRAFT: draft_forward}, refuse_mixing)

    def _form_static_batch(self, job: DecodeJob, sequences: list[PendingSample]) -> ContinuousBatch | None:
        """All sequences as one batch over fixed tensors; `None`, with a line that says why, where that cannot be."""
        static_forward, reason = self._choose_static_forward()
        if static_forward is None:
            self.say(describe_decline(reason))
            return None
        key = describe_step(self.model, job.params, self.chat.stop_ids, type(static_forward))
        batch, line = plan_static_batch(
            job, sequences, self.slots, static_forward, partial(self._kept.take_runner, key),
            captures=self.model.device.type == "cuda", steps=1 if self.on_text else STEPS, say=self.say,
        )  # fmt: skip
        if line:
            self.say(line)
        if batch is not None:
            batch.step_key = key
        return batch

    def choose_reader(self) -> PackedReader | None:
        """What reads prompts by their lengths; `None`, with a line that says why where there is a kernel for it."""
        if self.mixture or self.draft:
            return None
        if self._reader_of is not self.model:  # attention does not change with weights
            self._reader_of, (self._reader, reason) = self.model, find_packed_reader(self.model)
            if reason:
                self.say(describe_padding(reason))
        return self._reader

    def _choose_static_forward(self) -> tuple[StaticForward | None, str]:
        """The static forward pass, or why there is none for this call."""
        if self.mixture:
            return None, "the logits of several models are mixed"
        if reason := static_lacks(self.model):
            return None, reason
        forward = build_static_forward(self.model)
        if type(forward) not in self._proofs:
            self._proofs[type(forward)] = prove_static_forward(forward, self.model)
        reason = self._proofs[type(forward)]
        return (None if reason else forward), reason

    def build_forward_pass(self) -> Forward:
        """The forward pass, of all models whose logits count; which of them are fused was seen at their first call."""
        others = self.mixture.others if self.mixture else {}
        forwards = {
            name: build_forward(model, is_verified=name in self._fuses)
            for name, model in {"tuned": self.model, **others}.items()
        }
        self._fuses = {name for name, forward in forwards.items() if isinstance(forward, FusedForward)}
        if not self.mixture:
            return forwards["tuned"]
        tables = self.mixture.tables
        in_our_tokens: dict[str, Forward] = {
            name: TranslatedForward(forward, tables[name]) if name in tables else forward
            for name, forward in forwards.items()
        }
        return JointForward(in_our_tokens, self.mixture.mix)

    def _read_shared_prefix(self, forward: Forward, sequences: list[PendingSample]) -> PrefilledPrompts | None:
        """What all prompts begin with (a system prompt, worked examples), read once; `None` if that is little."""
        prompts = [s.prompt for s in sequences]
        first, last = min(prompts), max(prompts)  # all share what these two share
        if first == last:
            return None
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        length = min(common, min(map(len, prompts)) - 1)
        if length < SHARED:
            return None
        self.counts["prompt tokens"] += length
        return read_prompts(forward, self.model.device, [first[: length + 1]])

    def _decode_serially(self, batch: ContinuousBatch) -> Iterator[Sample]:
        # The generator is suspended between steps, so nothing here may hold a context manager such as no_grad.
        while batch.busy:
            step = batch.decode_step()
            if self.on_text:
                self.on_text(batch.partial_text(0))
            yield from self._count_step(step)

    def _decode_in_threads(self, batches: list[ContinuousBatch]) -> Iterator[Sample]:
        """Each batch in a thread of its own, on one core; PyTorch holds no lock while it computes."""
        steps: SimpleQueue[Step | None] = SimpleQueue()
        stop = Event()

        def run_batch(batch: ContinuousBatch) -> None:
            try:
                while batch.busy and not stop.is_set():
                    steps.put(batch.decode_step())
            except BaseException:
                stop.set()
                raise
            finally:
                steps.put(None)

        with threads.one_core_threads(len(batches)) as pool:
            try:
                running = [pool.submit(run_batch, batch) for batch in batches]
                for _ in batches:
                    for step in iter(steps.get, None):
                        yield from self._count_step(step)
                for future in running:
                    future.result()
            finally:
                stop.set()

    def _count_step(self, step: Step) -> list[Sample]:
        samples, counts = step
        self.counts.update(counts)
        if self.progress:
            self.progress(counts["tokens"])
        return samples
