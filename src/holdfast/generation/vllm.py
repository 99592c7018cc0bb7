"""vLLM in this process, where it is installed: for models and sample counts that want a GPU to themselves."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.pictures.references import pictures_of
from holdfast.data.thoughts import split_thought
from holdfast.errors import UserError
from holdfast.generation.journal import sample_seed
from holdfast.generation.prompt_ids import opening_of, prompt_ids
from holdfast.models.placement import choose_device, free_bytes, give_back_memory, memory_bytes

if TYPE_CHECKING:
    import torch

    from holdfast.data.chat.encoder import Chat

CHUNK = 512
"""Samples handed to vLLM at a time. Only whole chunks reach the journal, so a kill loses at most this many."""


def require_vllm() -> None:
    """See that vLLM is installed.

    Raises:
        UserError: If not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError("sampling.engine: vllm is not installed; pip install 'holdfast[vllm]', or use native")


def describe_vllm(fingerprint: str, chat: Chat) -> str:
    """The fingerprint of the engine.

    Args:
        fingerprint: Of the model's weights.
    """
    import vllm

    return f"vllm:{vllm.__version__}:{fingerprint}:{chat.fingerprint}"


def share_of_free_memory(device: torch.device) -> float:
    """The share of a card's memory that vLLM may take, which is checked against what is free: 0.9 of an empty card."""
    give_back_memory(device)
    free, memory = free_bytes(device), memory_bytes(device)
    return min(0.9, 0.95 * free / memory) if free and memory else 0.9


class VLLMEngine:
    """Samples with vLLM.

    The same seed gives the same sample as far as vLLM's kernels do not depend on the batch. Its prefix cache reads a
    prompt once for all its samples.

    Args:
        path: Model directory or hub name. vLLM loads its own copy of the model.
        chat: Renders prompts and knows what ends a turn.
        fingerprint: Of the model's weights.
        options: Handed to `vllm.LLM` as they are (`gpu_memory_utilization`, `tensor_parallel_size`, ...). By default it
            takes no more of the card than is free: the model of the run lives there too.
    Raises:
        UserError: If vLLM is not installed.
    """

    def __init__(self, path: str, chat: Chat, *, fingerprint: str, **options: Any) -> None:
        require_vllm()
        import torch
        import vllm

        if "gpu_memory_utilization" not in options and torch.accelerator.is_available():
            options["gpu_memory_utilization"] = share_of_free_memory(choose_device())
        self.chat = chat
        self.counts: Counter[str] = Counter()
        self._params = vllm.SamplingParams
        self._model = vllm.LLM(model=path, enable_prefix_caching=True, **options)
        self._context = int(self._model.llm_engine.model_config.max_model_len)
        self._fingerprint = describe_vllm(fingerprint, chat)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), a chunk at a time."""
        jobs = [(request, index) for request, indexes in requests for index in indexes]
        for start in range(0, len(jobs), CHUNK):
            yield from self._sample_chunk(jobs[start : start + CHUNK], params)

    def _sample_chunk(self, jobs: list[tuple[Request, int]], params: SamplingParams) -> Iterator[Sample]:
        if with_pictures := next((request.key for request, _ in jobs if pictures_of(request.messages)), None):
            raise UserError(
                f"{with_pictures}: its prompt has pictures, which vLLM is not shown here; set sampling.engine: native"
            )
        prompts = prompt_ids(self.chat, [request for request, _ in jobs])
        sequences = []
        for (request, index), ids in zip(jobs, prompts, strict=True):
            if self._context - len(ids) < 1:
                self.counts["too long"] += 1
                yield Sample(request.key, index, "", "length", 0)
                continue
            seed = sample_seed(params.seed, request.key, index)
            sequences.append(_PendingSequence(request, index, ids, seed, opening_of(self.chat, request)))
        if params.max_thinking_tokens is not None:
            self._generate_thoughts([one for one in sequences if one.opening], params, params.max_thinking_tokens)
        for one, output in self._generate_texts(
            [one for one in sequences if not one.is_over], params, params.max_tokens, {}
        ):
            one.text += output.text
            one.num_tokens += len(output.token_ids)
            one.ids = [*one.ids, *output.token_ids]
            one.finish = "length" if output.finish_reason == "length" else "stop"
        for one in sequences:
            self.counts["tokens"] += one.num_tokens
            text = one.opening + one.text
            drawn_ids = tuple(one.ids[len(one.ids) - one.num_tokens :]) if params.keep_ids else ()
            yield Sample(one.request.key, one.index, text, one.finish, one.num_tokens, one.thought, one.cut, drawn_ids)

    def _generate_thoughts(self, sequences: list[_PendingSequence], params: SamplingParams, most: int) -> None:
        """Let the thoughts that the prompts opened come to their end or budget; the answers then follow them."""
        marks = {"stop": [self.chat.template.thoughts.marks[1]], "include_stop_str_in_output": True}
        for one, output in self._generate_texts(sequences, params, most, marks):
            ids, text = list(output.token_ids), output.text
            over = split_thought(one.opening + text).has_ended
            one.is_over = (
                not over and output.finish_reason != "length"
            )  # it ended its turn in the middle of the thought
            one.cut = not over and not one.is_over
            if one.cut:
                ids, text = [*ids, *self.chat.ids_of(self.chat.closing)], text + self.chat.closing
            one.ids, one.text = [*one.ids, *ids], text
            one.num_tokens = one.thought = len(ids)

    def _generate_texts(
        self, sequences: list[_PendingSequence], params: SamplingParams, most: int, more: dict[str, Any]
    ) -> Iterator[tuple[_PendingSequence, Any]]:
        """Each sequence with what vLLM goes on with, where its context leaves room."""
        fits = [one for one in sequences if self._context > len(one.ids)]
        if not fits:
            return
        prompts = [{"prompt_token_ids": one.ids} for one in fits]
        rooms = [min(most, self._context - len(one.ids)) for one in fits]
        settings = [self._build_settings(params, room, one.seed, more) for one, room in zip(fits, rooms, strict=True)]
        for one, output in zip(fits, self._model.generate(prompts, settings, use_tqdm=False), strict=True):
            yield one, output.outputs[0]

    def _build_settings(self, params: SamplingParams, room: int, seed: int, more: dict[str, Any]) -> Any:
        return self._params(
            max_tokens=room,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            stop_token_ids=sorted(self.chat.stop_ids),
            seed=seed >> 1,  # 63 bits: a signed integer there
            skip_special_tokens=not self.chat.template.visible_tokens,
            **{"stop": list(params.stop) or None, **more},
        )


@dataclass(slots=True)
class _PendingSequence:
    """A sequence on its way.

    Args:
        ids: What vLLM goes on from: the prompt, later the thought too.
        opening: What the prompt opened of a thought.
        num_tokens, thought: Tokens sampled, and of these of the thought.
        cut: Whether the thought was closed by force.
        is_over: Whether nothing follows it.
    """

    request: Request
    index: int
    ids: list[int]
    seed: int
    opening: str
    text: str = ""
    num_tokens: int = 0
    thought: int = 0
    cut: bool = False
    is_over: bool = False
    finish: Literal["stop", "length"] = "stop"
