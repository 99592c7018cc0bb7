"""Where somebody's own code runs inside a model, nothing computes around it: training, measuring and sampling obey."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from holdfast.axes.engine import Request, SamplingParams
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.generation.fused_decode import PlainForward, build_forward
from holdfast.generation.native import NativeEngine
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.models.llama_family import supports_model
from holdfast.models.loading import is_hooked_or_patched
from holdfast.models.policy import Policy


def halved(module: Any, inputs: Any, output: Any) -> Any:
    return (output[0] * 0.5, *output[1:]) if isinstance(output, tuple) else output * 0.5


@contextmanager
def hook(module: Any) -> Iterator[None]:
    handle = module.register_forward_hook(halved)
    yield
    handle.remove()


@contextmanager
def pre_hook(module: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5, *inputs[1:]))
    yield
    handle.remove()


@contextmanager
def patched(place: Any) -> Iterator[None]:
    """Another `forward`, of an instance or of a class, that bears the name of the old one."""
    own, old = vars(place).get("forward"), place.forward

    @functools.wraps(old)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return halved(None, None, old(*args, **kwargs))

    place.forward = forward
    yield
    if own is None:
        del place.forward
    else:
        place.forward = own


@contextmanager
def on_logits(causal: Any) -> Iterator[None]:
    def turned(module: Any, inputs: Any, output: Any) -> Any:
        output.logits = output.logits.roll(1, -1)
        return output

    handle = causal.register_forward_hook(turned)
    yield
    handle.remove()


PLACES: dict[str, Callable[[Any], Any]] = {
    "a hook on an MLP": lambda m: hook(m.model.layers[1].mlp),
    "a hook on attention": lambda m: hook(m.model.layers[0].self_attn),
    "a hook on a norm": lambda m: hook(m.model.layers[0].post_attention_layernorm),
    "a hook before a projection": lambda m: pre_hook(m.model.layers[0].self_attn.q_proj),
    "a hook on the embeddings": lambda m: hook(m.model.embed_tokens),
    "a hook on the head": lambda m: hook(m.lm_head),
    "a hook on the logits": on_logits,
    "the forward of a layer": lambda m: patched(m.model.layers[1].mlp),
    "the forward of a class": lambda m: patched(type(m.model.layers[1].mlp)),
}


def own_logps(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Log-probabilities of every token but the first, by the model itself."""
    found = [model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for ids in rows]
    return torch.stack([a[i, ids[i + 1]] for a, ids in zip(found, rows, strict=True) for i in range(len(ids) - 1)])


@pytest.mark.parametrize("name", PLACES)
def test_hooks_and_patches_are_obeyed(tiny: Any, name: str) -> None:
    model, tokenizer = tiny("llama")
    chat, rows = Chat(tokenizer), [[11, 12, 13, 14, 15, 16], [17, 18, 19]]
    encoded = [
        EncodedSequence(
            ids=torch.tensor(ids, dtype=torch.int32).numpy(), label_mask=torch.arange(len(ids)).numpy() > 0, row=i
        )
        for i, ids in enumerate(rows)
    ]
    batch = collate_sequences(encoded, "padded", chat.pad_id)
    assert batch is not None
    policy, asked = Policy(model), Request("k", [{"role": "user", "content": "Add 12 and 30"}])
    assert supports_model(model)
    assert not is_hooked_or_patched(model)
    before = policy.token_logps(batch)
    with PLACES[name](model):
        assert is_hooked_or_patched(model)
        assert not policy.uses_fused_body
        assert isinstance(build_forward(model), PlainForward)
        wanted = own_logps(model, rows)
        assert not torch.allclose(before, wanted, atol=1e-2)
        torch.testing.assert_close(policy.token_logps(batch), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            Policy(model).weighted_nll(batch, torch.ones(len(wanted))), -wanted.sum(), atol=1e-4, rtol=0
        )
        (sample,) = NativeEngine(model, chat, fingerprint="x").sample([(asked, [0])], SamplingParams(max_tokens=5))
        ids = prompt_ids(chat, [asked])[0]
        start = len(ids)
        with torch.no_grad():
            while len(ids) < start + 5 and ids[-1] not in chat.stop_ids:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert sample.text == chat.text_of([i for i in ids[start:] if i not in chat.stop_ids])
    assert supports_model(model)
    torch.testing.assert_close(policy.token_logps(batch), before, atol=0, rtol=0)
