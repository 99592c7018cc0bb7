"""vLLM in this process, where it is installed: for models and sample counts that want a GPU to themselves."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import UserError
from holdfast.placement import choose_device, free_bytes, give_back_memory, memory_bytes
from holdfast.sampling.base import Request, Sample, SamplingParams
from holdfast.sampling.engines import prompt_ids
from holdfast.sampling.journal import sample_seed

if TYPE_CHECKING:
    import torch

    from holdfast.data.chat import Chat

CHUNK = 512
"""Samples handed to vLLM at a time. Only whole chunks reach the journal, so a kill loses at most this many."""


def need_vllm() -> None:
    """See that vLLM is installed.

    Raises:
        UserError: If not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError("sampling.engine: vllm is not installed; pip install 'holdfast[vllm]', or use native")


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
        need_vllm()
        import torch
        import vllm

        if "gpu_memory_utilization" not in options and torch.accelerator.is_available():
            options["gpu_memory_utilization"] = share_of_free_memory(choose_device())
        self.chat = chat
        self.counts: Counter[str] = Counter()
        self._params = vllm.SamplingParams
        self._model = vllm.LLM(model=path, enable_prefix_caching=True, **options)
        self._context = int(self._model.llm_engine.model_config.max_model_len)
        self._fingerprint = f"vllm:{vllm.__version__}:{fingerprint}:{chat.fingerprint}"

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), a chunk at a time."""
        jobs = [(request, index) for request, indexes in requests for index in indexes]
        for start in range(0, len(jobs), CHUNK):
            yield from self._chunk(jobs[start : start + CHUNK], params)

    def _chunk(self, jobs: list[tuple[Request, int]], params: SamplingParams) -> Iterator[Sample]:
        prompts, settings, asked = [], [], []
        found = prompt_ids(self.chat, [request for request, _ in jobs])
        for (request, index), ids in zip(jobs, found, strict=True):
            room = min(params.max_tokens, self._context - len(ids))
            if room < 1:
                self.counts["too long"] += 1
                yield Sample(request.key, index, "", "length", 0)
                continue
            prompts.append({"prompt_token_ids": ids})
            settings.append(self._settings(params, room, sample_seed(params.seed, request.key, index)))
            asked.append((request, index))
        if not prompts:
            return
        for (request, index), output in zip(
            asked, self._model.generate(prompts, settings, use_tqdm=False), strict=True
        ):
            answer = output.outputs[0]
            self.counts["tokens"] += len(answer.token_ids)
            finish: Literal["stop", "length"] = "length" if answer.finish_reason == "length" else "stop"
            yield Sample(request.key, index, answer.text, finish, len(answer.token_ids))

    def _settings(self, params: SamplingParams, room: int, seed: int) -> Any:
        return self._params(
            max_tokens=room,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            stop=list(params.stop) or None,
            stop_token_ids=sorted(self.chat.stop_ids),
            seed=seed >> 1,  # 63 bits: a signed integer there
        )
