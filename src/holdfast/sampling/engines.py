"""Engines by the name a recipe gives them, and the prompt they share.

`native` and `transformers` sample from the model in this process, `vllm` loads its own copy of it, and an address is
that of a server. Where the native engine cannot run a model, `native` means transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError
from holdfast.sampling.base import Draw, Engine, Request, Sample, SamplingParams

if TYPE_CHECKING:
    from holdfast.data.chat import Chat
    from holdfast.models import Model

HERE = ("native", "transformers")
"""Engines that use the model in this process."""
NAMES = (*HERE, "vllm")
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layers that keep keys and values of the tokens they saw, and nothing else."""


def make_engine(
    spec: str,
    *,
    model: Model | None = None,
    chat: Chat | None = None,
    fingerprint: str = "",
    path: str | Path | None = None,
    name: str | None = None,
    slots: int = 128,
    progress: Callable[[int], Any] | None = None,
) -> Engine:
    """The engine `spec` names.

    Args:
        spec: "native" or "transformers" (need `model`, `chat`, `fingerprint`), "vllm" (needs `path`, `chat`,
            `fingerprint`), or the http(s) address of an OpenAI-compatible server (`name`: the model there; default
            its first).
        model: The model in this process.
        chat: Its chat; of it a server is told the system message and what its template is to be given.
        fingerprint: Of its weights.
        path: Directory of its weights.
        slots: Sequences the native engine decodes together.
        progress: Called by the native engine with the number of tokens of each step.
    Raises:
        UserError: If there is no such engine, or it cannot be started here.
    """
    if spec.startswith(("http://", "https://")):
        from holdfast.sampling.endpoint import EndpointEngine

        return EndpointEngine(spec, name, chat=chat)
    if spec in HERE:
        if model is None or chat is None:
            raise ValueError("an engine in this process needs a model and its chat")
        return local_engine(model, chat, spec, slots=slots, fingerprint=fingerprint, progress=progress)
    if spec == "vllm":
        if path is None or chat is None:
            raise ValueError("vLLM needs the directory of a model, and its chat")
        from holdfast.sampling.vllm import VLLMEngine

        return VLLMEngine(str(path), chat, fingerprint=fingerprint)
    raise UserError(
        f"sampling.engine: {spec} is not {', '.join(NAMES)} or an address starting with http:// or https://"
    )


def local_engine(model: Model, chat: Chat, spec: str = "native", **options: Any) -> Engine:
    """The engine that samples from a model in this process.

    Args:
        spec: "native", which is transformers' `generate` for a model that the native engine cannot run, or
            "transformers".
        options: Of both engines: `fingerprint`, `slots`, `progress`, `on_text`.
    """
    if spec == "transformers" or native_lacks(model):
        from holdfast.sampling.generate import GenerateEngine

        return GenerateEngine(model, chat, **options)
    from holdfast.sampling.native import NativeEngine

    return NativeEngine(model, chat, **options)


def native_lacks(model: Model) -> str:
    """What the native engine lacks for a model: what it keeps of a prompt beside keys and values; "" for nothing."""
    import torch
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from holdfast.models import evaluating

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION
    if kinds:
        return f"layers of {', '.join(sorted(kinds))}"
    with evaluating(model):
        output = model(input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=True)
    layers = getattr(getattr(output, "past_key_values", None), "layers", ())
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.keys is not None for layer in layers)
    return "" if layers and plain else "the state it keeps"


def prompt_ids(chat: Chat, requests: Sequence[Request]) -> list[list[int]]:
    """Token ids that an engine continues: the rendered messages, then the request's prefill.

    Raises:
        UserError: If there is nothing in them.
    """
    found = chat.prompt_ids_many([request.messages for request in requests])
    for request, ids in zip(requests, found, strict=True):
        if prefill := behind_opening(chat, request.prefill):
            # A line break before it keeps some tokenizers from writing a space before the first word.
            before, both = (chat.tokenizer.encode(text, add_special_tokens=False) for text in ("\n", "\n" + prefill))
            apart = both[: len(before)] == before
            ids += both[len(before) :] if apart else chat.tokenizer.encode(prefill, add_special_tokens=False)
        if not ids:
            raise UserError(f"{request.key}: the prompt is empty; give it at least one token")
    return found


def behind_opening(chat: Chat, prefill: str) -> str:
    """A prefill as it goes on from a prompt that opens a thought: as the thought, if it begins with what opens it;
    else as the answer, the thought being closed before it."""
    if not prefill or not chat.opening:
        return prefill
    return prefill.removeprefix(chat.opening) if prefill.startswith(chat.opening) else chat.closing + prefill


def opening_of(chat: Chat, request: Request) -> str:
    """What the prompt of a request has opened of a thought when the model begins to write."""
    return "" if request.prefill else chat.opening


def drawing(engine: Engine) -> Draw:
    """`Draw` straight from an engine, without a journal."""

    def draw(
        requests: Sequence[Request], params: SamplingParams, on_sample: Callable[[Sample], Any] | None = None
    ) -> dict[str, list[Sample]]:
        found: dict[str, list[Sample]] = {request.key: [] for request in requests}
        for sample in engine.sample([(request, range(params.n)) for request in requests], params):
            found[sample.key].append(sample)
            if on_sample:
                on_sample(sample)
        return {key: sorted(samples, key=lambda s: s.index) for key, samples in found.items()}

    return draw
