"""Proxy tuning against the same in float64, its limits, and decoding with three caches against reading all again."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.inference import LogitStep
from holdfast.axes.registry import find_method
from holdfast.data.batching.batches import collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.generation.decoder import Decoder, build_decoder, check_models
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.methods.inference.proxy import Proxy
from holdfast.models.loading import LoadedModel, load_model
from holdfast.models.vocabulary_table import VocabularyTable

N, V = 7, 50


def draw_step(seed: int = 0, is_drawn: bool = True) -> LogitStep:
    generator = torch.Generator().manual_seed(seed)
    names = ("tuned", "expert", "antiexpert")
    return LogitStep({name: 3 * torch.randn(N, V, generator=generator) for name in names}, torch.zeros(N), is_drawn)


def probabilities(step: LogitStep, **knobs: Any) -> torch.Tensor:
    return Proxy(antiexpert="x", expert="y", **knobs).logits(step).double().softmax(-1)


def test_the_distribution_is_that_of_a_plain_float64_computation() -> None:
    """p ~ p_base * (p_expert / p_antiexpert)^alpha, and no constant in any logits changes it."""
    for alpha in (1.0, 0.3, -0.5, 2.0):
        step = draw_step()
        p = {name: z.double().softmax(-1) for name, z in step.items()}
        expected = p["tuned"] * (p["expert"] / p["antiexpert"]) ** alpha
        expected /= expected.sum(-1, keepdim=True)
        torch.testing.assert_close(probabilities(step, alpha=alpha), expected, atol=2e-6, rtol=1e-4)
        moved = LogitStep({name: z + 7.0 * k for k, (name, z) in enumerate(step.items(), 1)}, step.places)
        torch.testing.assert_close(probabilities(moved, alpha=alpha), expected, atol=1e-5, rtol=1e-3)


def test_limits_are_exact() -> None:
    step = draw_step()
    own, expert = step["tuned"].clone(), step["expert"].clone()
    assert torch.equal(Proxy(antiexpert="x", alpha=0).logits(step), own)
    equal = LogitStep({"tuned": own, "expert": expert, "antiexpert": expert.clone()}, step.places)
    assert torch.equal(Proxy(antiexpert="x", expert="y", alpha=1.7).logits(equal), own)
    same_base = LogitStep({"tuned": own, "expert": expert, "antiexpert": own.clone()}, step.places)
    torch.testing.assert_close(probabilities(same_base), expert.double().softmax(-1), atol=1e-6, rtol=1e-5)


def test_contrastive_decoding_is_the_difference_where_the_model_finds_it_plausible() -> None:
    """log p - log p_amateur over tokens with p >= 0.1 max p; the others never drawn, and when scored behind all."""
    contrastive: Any = find_method("inference", "contrastive")(antiexpert="x")
    for is_drawn in (True, False):
        step = draw_step(3, is_drawn)
        p, q = step["tuned"].double().softmax(-1), step["antiexpert"].double().softmax(-1)
        is_in = p >= 0.1 * p.amax(-1, keepdim=True)
        assert 0 < int((~is_in).sum()) < N * V
        scores = contrastive.logits(LogitStep({k: step[k] for k in ("tuned", "antiexpert")}, step.places, is_drawn))
        for row in range(N):
            expected = (p[row].log() - q[row].log())[is_in[row]]
            torch.testing.assert_close(
                (scores[row, is_in[row]] - scores[row, is_in[row]].max()).double(), expected - expected.max(),
                atol=1e-5, rtol=0,
            )  # fmt: skip
            assert scores[row, is_in[row]].min() > scores[row, ~is_in[row]].max()
        assert bool(torch.isneginf(scores[~is_in]).all()) is is_drawn
        assert bool(torch.isfinite(scores).all()) is not is_drawn
    dexperts: Any = find_method("inference", "dexperts")
    assert (dexperts(antiexpert="x").alpha, contrastive.alpha, contrastive.weight) == (2.0, 1.0, 0.0)


@pytest.fixture
def family(tiny_dir: Any) -> tuple[LoadedModel, LoadedModel, LoadedModel]:
    """A large model, and a small one after its training and before it: other depth, same tokens."""
    small = {"num_hidden_layers": 1}
    return (
        load_model(tiny_dir("llama", seed=0)),
        load_model(tiny_dir("qwen2", seed=1, **small)),
        load_model(tiny_dir("qwen2", seed=2, **small)),
    )


def build(family: tuple[LoadedModel, ...], **knobs: Any) -> Decoder:
    large, expert, antiexpert = family
    method = Proxy(**{"expert": str(expert.path), "antiexpert": str(antiexpert.path), **knobs})
    return build_decoder(method, None, large.model, str(large.path))


@torch.no_grad()
@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_three_caches_give_what_reading_all_again_gives(
    engine: str, family: tuple[LoadedModel, ...], make_rows: Any
) -> None:
    chat, questions = Chat(family[0].tokenizer), ["Add 1 and 2", "Add 12 and 7 please", "Reverse lamp"]
    decoder = build(family, alpha=1.3)
    requests = [(Request(q, [{"role": "user", "content": q}]), [0]) for q in questions]
    drawn = {
        s.key: s.text
        for s in decoder.build_engine(chat, engine, slots=2, fingerprint="x").sample(
            requests, SamplingParams(max_tokens=8)
        )
    }
    for request, _ in requests:
        ids = list(prompt_ids(chat, [request])[0])
        start = len(ids)
        while len(ids) < start + 8 and ids[-1] not in chat.stop_ids:
            z, e, a = (m.model.double()(input_ids=torch.tensor([ids])).logits[0, -1] for m in family)
            ids.append(int((z + 1.3 * (e - a)).argmax()))
        [m.model.float() for m in family]
        assert drawn[request.key] == chat.text_of([i for i in ids[start:] if i not in chat.stop_ids])
    batch = collate_sequences(make_rows(6), "padded", 0)
    equal = build(family, expert=str(family[2].path), alpha=1.3)
    plain = Decoder(family[0].model)
    assert torch.equal(equal.build_policy().token_logps(batch), plain.build_policy().token_logps(batch).detach())
    warm = SamplingParams(max_tokens=6, temperature=1.0, seed=4)
    texts = [
        {s.key: s.text for s in d.build_engine(chat, engine, fingerprint="x").sample(requests, warm)}
        for d in (equal, plain)
    ]
    assert texts[0] == texts[1]


def test_what_cannot_be_a_proxy_is_refused(family: tuple[LoadedModel, ...], tiny_dir: Any, tmp_path: Path) -> None:
    large = str(family[0].path)
    setup = {"inference": {"name": "dial"}, "changes": ["logits"]}
    with pytest.raises(UserError, match=r"proxy: antiexpert .* has another tokenizer than") as alone:
        check_models(Proxy(antiexpert="lab-small"), large)
    assert "vocabulary" not in str(alone.value)  # which without an expert is refused, too
    with pytest.raises(UserError, match=r"or say vocabulary: shared, by which tokens of the same text"):
        check_models(Proxy(antiexpert="lab-small", expert="lab-small"), large)
    check_models(Proxy(antiexpert="lab-small", expert="lab-small", vocabulary="shared"), large)
    (family[1].path / "inference.json").write_text(json.dumps(setup))
    try:
        with pytest.raises(UserError, match="log-probabilities would be those of the weights alone"):
            check_models(Proxy(antiexpert=str(family[1].path)), large)
    finally:
        (family[1].path / "inference.json").unlink()
    with pytest.raises(ValidationError, match="antiexpert"):
        Proxy()
    assert math.isclose(Proxy(antiexpert="x").alpha, 1.0)
    assert not Proxy.needs_training()


@torch.no_grad()
def test_experts_with_other_tokens_go_by_those_of_the_same_text(
    family: tuple[LoadedModel, ...], tiny_dir: Any, tmp_path: Path, make_rows: Any
) -> None:
    """The same tokens in another order are the same proxy; of tokens they do not have, experts say nothing."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = family[0].tokenizer
    vocabulary = tokenizer.get_vocab()
    size = max(vocabulary.values()) + 1
    order = torch.randperm(size, generator=torch.Generator().manual_seed(5))  # old id -> new id
    lacks = sorted(vocabulary.values())[-3:]
    paths = []
    for number, model in enumerate(family[1:]):
        moved = copy.deepcopy(model.model)
        for matrix in (moved.get_input_embeddings(), moved.get_output_embeddings()):
            matrix.weight[order] = matrix.weight[:size].clone()
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["model"]["vocab"] = {text: int(order[i]) for text, i in state["model"]["vocab"].items()}
        for token in state["added_tokens"]:
            token["id"] = int(order[token["id"]])
        path = tmp_path / f"moved-{number}"
        moved.save_pretrained(path)
        file = tmp_path / "tokenizer.json"
        file.write_text(json.dumps(state))
        PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=tokenizer.eos_token).save_pretrained(path)
        paths.append(str(path))
    same = build(family, alpha=1.3)
    moved_proxy = build(family, expert=paths[0], antiexpert=paths[1], alpha=1.3, vocabulary="shared")
    assert moved_proxy.sources["expert"].shared == 1.0
    assert "which has 100.0% of the tokens" in moved_proxy.describe_answers()
    batch, chat = collate_sequences(make_rows(6), "padded", 0), Chat(tokenizer)
    torch.testing.assert_close(
        moved_proxy.build_policy().token_logps(batch), same.build_policy().token_logps(batch), atol=1e-4, rtol=1e-4
    )
    requests = [(Request(q, [{"role": "user", "content": q}]), [0]) for q in ("Add 1 and 2", "Reverse lamp")]
    for engine in ("native", "transformers"):
        texts = [
            {
                s.key: s.text
                for s in d.build_engine(chat, engine, fingerprint="x").sample(requests, SamplingParams(max_tokens=6))
            }
            for d in (same, moved_proxy)
        ]
        assert texts[0] == texts[1]
    table = VocabularyTable(torch.arange(size), torch.tensor([-1 if i in lacks else i for i in range(size)]), 0.9)
    one, other = (table.spread_logits(torch.randn(2, size)) for _ in range(2))
    assert torch.equal(one[:, lacks], other[:, lacks])
    torch.testing.assert_close(one[:, 0] - one[:, 1], (one - 5.0)[:, 0] - (one - 5.0)[:, 1])
    with pytest.raises(ValidationError, match="vocabulary shared needs an expert"):
        Proxy(antiexpert="x", vocabulary="shared")
