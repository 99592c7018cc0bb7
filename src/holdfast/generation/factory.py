"""Engines by the name a recipe gives them, and the prompt they share.

`native` and `transformers` sample from the model in this process, `vllm` loads its own copy of it, and an address is
that of a server. Where the native engine cannot run a model, `native` means transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.axes.engine import Engine, Request, Sample, SampleFn, SamplingParams
from holdfast.errors import UserError
from holdfast.generation.supported_models import native_lacks

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.generation.joint_forward import LogitMixture
    from holdfast.generation.speculative_batch import Draft
    from holdfast.models.loading import Model

HERE = ("native", "transformers")
"""Engines that use the model in this process."""
NAMES = (*HERE, "vllm")
EngineSpec = str | tuple[str, ...]
"""What a recipe names an engine by: a name, an address, or several addresses."""


def is_remote(spec: EngineSpec) -> bool:
    """Whether an engine is a server, or several."""
    return not isinstance(spec, str) or spec.startswith(("http://", "https://"))


def build_engine(
    spec: EngineSpec,
    *,
    model: Model | None = None,
    chat: Chat | None = None,
    fingerprint: str = "",
    path: str | Path | None = None,
    name: str | None = None,
    slots: int = 128,
    concurrency: int = 16,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> Engine:
    """The engine `spec` names.

    Args:
        spec: "native" or "transformers" (need `model`, `chat`, `fingerprint`), "vllm" (needs `path`, `chat`,
            `fingerprint`), or the http(s) address of an OpenAI-compatible server (`name`: the model there; default
            its first), or several.
        model: The model in this process.
        chat: Its chat; of it a server is told the system message and what its template is to be given.
        fingerprint: Of its weights.
        path: Directory of its weights.
        slots: Sequences the native engine decodes together.
        concurrency: Requests in flight at a server.
        progress: Called by the native engine with the number of tokens of each step.
        options: Of engines in this process: `say`, `draft`.
    Raises:
        UserError: If there is no such engine, or it cannot be started here.
    """
    if not isinstance(spec, str):
        from holdfast.generation.pool.endpoints import open_endpoints

        return open_endpoints(spec, name, concurrency=concurrency, chat=chat, say=options.get("say", len))
    if is_remote(spec):
        from holdfast.generation.openai_endpoint import EndpointEngine

        return EndpointEngine(spec, name, chat=chat, concurrency=concurrency)
    if spec in HERE:
        if model is None or chat is None:
            raise ValueError("an engine in this process needs a model and its chat")
        return build_local_engine(model, chat, spec, slots=slots, fingerprint=fingerprint, progress=progress, **options)
    if spec == "vllm":
        if path is None or chat is None:
            raise ValueError("vLLM needs the directory of a model, and its chat")
        from holdfast.generation.vllm import VLLMEngine

        return VLLMEngine(str(path), chat, fingerprint=fingerprint)
    raise UserError(
        f"sampling.engine: {spec} is not {', '.join(NAMES)} or an address starting with http:// or https://"
    )


def build_local_engine(
    model: Model,
    chat: Chat,
    spec: EngineSpec = "native",
    *,
    mixture: LogitMixture | None = None,
    draft: Draft | None = None,
    **options: Any,
) -> Engine:
    """The engine that samples from a model in this process.

    Args:
        spec: "native", which is transformers' `generate` for a model that the native engine cannot run, or
            "transformers".
        mixture: Models whose logits are read beside its own, and how they become one.
        draft: A small model that proposes tokens to the native engine; `generate` does without.
        options: Of both engines: `fingerprint`, `slots`, `progress`, `on_text`, `say`.
    """
    others = mixture.others.values() if mixture else ()
    if spec == "transformers" or any(native_lacks(each) for each in (model, *others)):
        from holdfast.generation.transformers_generate import GenerateEngine

        if draft and "say" in options:
            options["say"]("decoding without a draft: this model is run by transformers' generate")
        return GenerateEngine(model, chat, mixture=mixture, **options)
    from holdfast.generation.native import NativeEngine

    return NativeEngine(model, chat, mixture=mixture, draft=draft, **options)


def build_model_sample_fn(model: Model, chat: Chat) -> SampleFn:
    """`SampleFn` of a model in this process, of whose answers nothing is kept."""
    return build_sample_fn(build_local_engine(model, chat, fingerprint=""))


def build_sample_fn(engine: Engine) -> SampleFn:
    """`SampleFn` straight from an engine, without a journal."""

    def draw_samples(
        requests: Sequence[Request], params: SamplingParams, on_sample: Callable[[Sample], Any] | None = None
    ) -> dict[str, list[Sample]]:
        by_key: dict[str, list[Sample]] = {request.key: [] for request in requests}
        for sample in engine.sample([(request, range(params.n)) for request in requests], params):
            by_key[sample.key].append(sample)
            if on_sample:
                on_sample(sample)
        return {key: sorted(samples, key=lambda s: s.index) for key, samples in by_key.items()}

    return draw_samples
