"""What a model says of rows: against transformers' own logits, autograd, and the whole gradients they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.chat.encoder import Chat
from holdfast.models.policy import Policy
from holdfast.models.row_features import label_logps, mean_states, project_gradients, projected_gradients

TALKS = [
    [{"role": "user", "content": f"Add {a} and {b}."}, {"role": "assistant", "content": f"The answer is {a + b}."}]
    for a, b in ((1, 2), (30, 12), (5, 5))
]
TALKS[1] = [*TALKS[1], {"role": "user", "content": "Again?"}, {"role": "assistant", "content": "42"}]


@pytest.fixture(params=["llama", "gpt2"])
def material(request, tiny):
    model, tokenizer = tiny(request.param)
    chat = Chat(tokenizer)
    return model, chat, chat.encode_many(TALKS)


def test_log_probabilities_are_those_of_transformers(material):
    model, chat, encoded = material
    found = label_logps(Policy(model), encoded, chat.pad_id)
    for (ids, trained), values in zip(encoded, found, strict=True):
        line = torch.from_numpy(ids).long()
        with torch.no_grad():
            whole = model(line[None]).logits[0].log_softmax(-1)
        own = whole[:-1].gather(1, line[1:, None])[:, 0][torch.from_numpy(trained[1:])]
        np.testing.assert_allclose(values, own.numpy(), atol=1e-4)
    assert len(found[1]) > len(found[0])  # both answers of the longer talk


def test_what_lies_beyond_the_context_is_left_out(tiny):
    model, tokenizer = tiny("gpt2", n_positions=24)
    chat = Chat(tokenizer)
    (whole,) = chat.encode_many([TALKS[0]])
    (values,) = label_logps(Policy(model), [whole], chat.pad_id)
    assert len(values) == whole[1][:24].sum()
    long = [[{"role": "user", "content": "word " * 90}, TALKS[0][1]]]
    assert len(label_logps(Policy(model), chat.encode_many(long), chat.pad_id)[0]) == 0


def test_states_are_averaged_over_the_text(material):
    model, chat, encoded = material
    found = mean_states(Policy(model), encoded, chat.pad_id)
    for (ids, _), mean in zip(encoded, found, strict=True):
        with torch.no_grad():
            states = model.base_model(torch.from_numpy(ids).long()[None]).last_hidden_state[0]
        np.testing.assert_allclose(mean, states.mean(0).numpy(), atol=1e-4)


def test_gradients_are_autograds_projected(material):
    model, chat, encoded = material
    model.requires_grad_(False)
    found = projected_gradients(Policy(model), encoded, chat.pad_id, size=64, seed=3)
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())
    weights = list(model.requires_grad_(True).parameters())
    whole = []
    for (ids, trained), values in zip(encoded, found, strict=True):
        line = torch.from_numpy(ids).long()
        logps = model(line[None]).logits[0].log_softmax(-1)[:-1].gather(1, line[1:, None])[:, 0]
        gradients = torch.autograd.grad(-logps[torch.from_numpy(trained[1:])].mean(), weights, allow_unused=True)
        np.testing.assert_allclose(values, project_gradients(gradients, 64, 3).numpy(), atol=1e-3)
        whole.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    # Wide enough, inner products are those of the whole gradients.
    wide = np.stack(projected_gradients(Policy(model), encoded, chat.pad_id, size=16384, seed=3))
    exact = torch.stack(whole) @ torch.stack(whole).T
    np.testing.assert_allclose(wide @ wide.T, exact.numpy(), atol=0.05 * exact.max().item())


def test_the_projection_is_without_bias():
    one, two = (torch.randn(300, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    parts = lambda v: [v[:100], None, v[100:]]  # noqa: E731
    products = [
        float(project_gradients(parts(one), 16, s) @ project_gradients(parts(two + one), 16, s)) for s in range(400)
    ]
    error = np.std(products) / 20
    assert abs(np.mean(products) - float(one @ (two + one))) < 4 * error
    assert error < 10


def test_a_row_without_a_label_has_no_gradient(material):
    model, chat, _ = material
    silent = [[TALKS[0][0], {**TALKS[0][1], "weight": 0}]]
    (found,) = projected_gradients(Policy(model), chat.encode_many(silent), chat.pad_id, size=8, seed=0)
    assert not found.any()
