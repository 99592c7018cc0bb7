"""The native engine: greedy answers equal `generate`'s, samples do not depend on the batch, and all that ends one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.data.thoughts import split_thought
from holdfast.errors import UserError
from holdfast.generation.continuous_batch import PendingSample, find_stop
from holdfast.generation.factory import build_local_engine
from holdfast.generation.native import NativeEngine
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.generation.speculative_batch import Draft
from holdfast.generation.thought_budget import ThoughtBudget, ThoughtState
from holdfast.generation.token_sampler import choose_tokens, uniform_numbers
from native_engine import THOUGHT, collect, engine_of, requests

SYSTEM = "answer the question of the user in order: sort the letters of the word"


def generated(engine: NativeEngine, request: Request, tokens: int) -> tuple[str, int, str]:
    """Text, tokens and finish of `transformers.generate` on the request alone."""
    chat = engine.chat
    ids = torch.tensor(prompt_ids(chat, [request]))
    output = engine.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=sorted(chat.stop_ids),
    )[0, ids.shape[1] :].tolist()
    stopped = output[-1] in chat.stop_ids
    text = chat.tokenizer.decode(output[:-1] if stopped else output, skip_special_tokens=True)
    return text, len(output), "stop" if stopped else "length"


@pytest.mark.parametrize("system", [None, SYSTEM], ids=["", "shared-prefix"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma2", "mistral"])
def test_greedy_answers_equal_those_of_generate(tiny: Any, kind: str, system: str | None) -> None:
    model, tokenizer = tiny(kind, **({"sliding_window": 16} if kind == "mistral" else {}))
    engine = engine_of(model, tokenizer, slots=7)
    asked = requests(30, system=system)
    found = collect(engine, asked, SamplingParams(max_tokens=30))
    for request in asked[::3]:  # in every place of a batch, and such as took the place of one that had ended
        sample = found[request.key, 0]
        assert (sample.text, sample.tokens, sample.finish) == generated(engine, request, 30)
    assert len({s.tokens for s in found.values()}) > 1 or kind == "gemma2"


def test_eager_attention_is_served_as_well(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    model.set_attn_implementation("eager")
    engine = engine_of(model, tokenizer, slots=3)
    asked = requests(8)
    found = collect(engine, asked, SamplingParams(max_tokens=12))
    assert all((s.text, s.tokens, s.finish) == generated(engine, r, 12) for r in asked for s in [found[r.key, 0]])


def test_long_answers_outgrow_the_first_storage(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = engine_of(model, tokenizer, slots=4)
    engine.chat.stop_ids = {tokenizer.eos_token_id, 5}
    asked = requests(9)
    found = collect(engine, asked, SamplingParams(max_tokens=150))
    assert max(s.tokens for s in found.values()) == 150
    whole = [r for r in asked if found[r.key, 0].tokens == 150]
    assert all((s.text, s.tokens, s.finish) == generated(engine, r, 150) for r in whole[:3] for s in [found[r.key, 0]])


def test_a_sample_does_not_depend_on_the_batch(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    params = SamplingParams(max_tokens=20, temperature=1.0, n=3, seed=5)
    asked = requests(12)
    alone = collect(engine_of(model, tokenizer, slots=1), asked, params)
    assert collect(engine_of(model, tokenizer, slots=5), asked[::-1], params) == alone
    assert collect(engine_of(model, tokenizer, slots=64), asked[4:7], params).items() <= alone.items()
    assert collect(engine_of(model, tokenizer), asked, params.model_copy(update={"seed": 6})) != alone
    texts = {key: sample.text for key, sample in alone.items()}
    assert len(set(texts.values())) > 30, "samples of one prompt must differ"


def test_samples_of_a_prompt_share_its_reading(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    asked = requests(5)
    totals = []
    for n in (1, 6):
        engine = engine_of(model, tokenizer, slots=4)
        collect(engine, asked, SamplingParams(max_tokens=5, temperature=1.0, n=n))
        totals.append(engine.counts["prompt tokens"])
    assert totals[0] == totals[1] > 0


def test_what_all_prompts_begin_with_is_read_once(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = engine_of(model, tokenizer)
    asked = requests(10, system=SYSTEM)
    collect(engine, asked, SamplingParams(max_tokens=2))
    shared = len(tokenizer.encode(SYSTEM))
    lengths = list(map(len, prompt_ids(engine.chat, asked)))
    assert engine.counts["prompt tokens"] <= sum(lengths) - 9 * shared


def test_a_stop_string_ends_and_is_cut(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = engine_of(model, tokenizer, stops=False)
    asked = requests(20)
    free = collect(engine, asked, SamplingParams(max_tokens=40, temperature=1.0))
    text = free["q3", 0].text
    stops = (text[9:12], "\ufffdnever")
    stopped = collect(engine, asked, SamplingParams(max_tokens=40, temperature=1.0, stop=stops))
    for key, sample in free.items():
        place = sample.text.find(stops[0])
        if place < 0:
            assert stopped[key] == sample
        else:
            assert (stopped[key].text, stopped[key].finish) == (sample.text[:place], "stop")
            assert stopped[key].tokens < sample.tokens
    assert stopped["q3", 0].text == text[: text.find(stops[0])]


def test_prefill_is_put_after_the_prompt_and_not_repeated(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = engine_of(model, tokenizer)
    request = Request("q", [{"role": "user", "content": "sort"}], prefill="The answer")
    plain = prompt_ids(engine.chat, [Request("q", request.messages)])[0]
    assert prompt_ids(engine.chat, [request])[0] == plain + tokenizer.encode("The answer", add_special_tokens=False)
    sample = collect(engine, [request], SamplingParams(max_tokens=10))["q", 0]
    assert (sample.text, sample.tokens, sample.finish) == generated(engine, request, 10)


def test_the_context_limits_answers_and_refuses_long_prompts(tiny: Any) -> None:
    model, tokenizer = tiny("gpt2", n_positions=48)
    engine = engine_of(model, tokenizer, stops=False)
    engine.chat.stop_ids = set()
    asked = [*requests(8, most=6), Request("long", [{"role": "user", "content": "France " * 60}])]
    found = collect(engine, asked, SamplingParams(max_tokens=500))
    assert found["long", 0] == Sample("long", 0, "", "length", 0)
    assert engine.counts["too long"] == 1
    for request in asked[:-1]:
        assert found[request.key, 0].tokens == 48 - len(prompt_ids(engine.chat, [request])[0])


def test_a_prompt_of_one_token(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = engine_of(model, tokenizer, slots=2)
    engine.chat.prompt_ids_many = lambda many: [[30 + len(m[0]["content"])] for m in many]  # type: ignore[method-assign]
    asked = [Request(str(i), [{"role": "user", "content": "a" * i}]) for i in range(5)]
    found = collect(engine, asked, SamplingParams(max_tokens=9))
    assert all((s.text, s.tokens, s.finish) == generated(engine, r, 9) for r in asked for s in [found[r.key, 0]])


def test_the_mode_of_the_model_is_left_as_it_was(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    model.train()
    stream = engine_of(model, tokenizer, slots=2).sample([(r, [0]) for r in requests(6)], SamplingParams(max_tokens=3))
    next(stream)
    assert torch.is_grad_enabled(), "gradients must not be off for the caller between samples"
    stream.close()
    assert model.training


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_batches_side_by_side_give_the_same_samples(tiny: Any, two_cores: None) -> None:
    model, tokenizer = tiny("llama")
    asked = requests(40, system=SYSTEM)
    params = SamplingParams(max_tokens=12, temperature=1.0, n=3, stop=("capital",))
    together = engine_of(model, tokenizer, slots=10)
    found = collect(together, asked, params)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = engine_of(model, tokenizer, slots=10)
    assert collect(alone, asked, params) == found
    assert together.counts["tokens"] == alone.counts["tokens"]
    assert together.counts["prompt tokens"] == alone.counts["prompt tokens"]
    assert together.counts["steps"] > alone.counts["steps"], "there was only one batch"


def test_a_failure_in_one_batch_ends_all_and_is_raised(
    tiny: Any, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny("llama")
    threads = threading.active_count()
    engine, params = engine_of(model, tokenizer, slots=4), SamplingParams(max_tokens=20)
    collect(engine, requests(60), params)
    whole = engine.counts.pop("steps")
    decode, calls = tokenizer.decode, iter(range(100))

    def fails(*args: Any, **options: Any) -> str:
        if next(calls) == 5:
            raise ValueError("no such token")
        return decode(*args, **options)

    monkeypatch.setattr(tokenizer, "decode", fails)
    with pytest.raises(ValueError, match="no such token"):
        collect(engine, requests(60), params)
    assert engine.counts["steps"] < whole / 3, "the other batch went on"
    assert (threading.active_count(), torch.get_num_threads()) == (threads, 2)


def test_progress_and_counts(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    steps: list[int] = []
    engine = engine_of(model, tokenizer, slots=3, progress=steps.append)
    found = collect(engine, requests(7), SamplingParams(max_tokens=8))
    assert sum(steps) == engine.counts["tokens"] == sum(s.tokens for s in found.values())
    assert list(engine.sample([], SamplingParams())) == []


def test_models_it_cannot_run_are_refused(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(UserError, match="linear_attention"):
        engine_of(model, tokenizer)


def test_the_fingerprint_names_weights_template_and_engine(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    chat = Chat(tokenizer)
    names = {
        NativeEngine(model, chat, fingerprint="a").fingerprint,
        NativeEngine(model, chat, fingerprint="b").fingerprint,
        NativeEngine(model, Chat(tokenizer, system="Be brief."), fingerprint="a").fingerprint,
    }
    assert len(names) == 3


def test_uniforms_are_splitmix64() -> None:
    # The generator's published first outputs for the seed 0.
    golden = np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F], dtype=np.uint64)
    found = uniform_numbers(np.zeros(3, dtype=np.uint64), np.arange(3))
    assert (found == (golden >> np.uint64(11)).astype(np.float64) * 2.0**-53).all()


def shares(params: SamplingParams, chances: list[float], points: int = 1000) -> list[float]:
    """How often `choose` takes each token over an even grid of uniform numbers."""
    grid = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    logits = torch.tensor(chances).log().expand(points, -1)
    return (torch.bincount(choose_tokens(logits, grid, params), minlength=len(chances)) / points).tolist()


def test_choose_follows_the_distribution() -> None:
    chances = [0.1, 0.4, 0.05, 0.3, 0.15]
    near = lambda found, wanted: found == pytest.approx(wanted, abs=2e-3)  # noqa: E731
    assert near(shares(SamplingParams(temperature=1), chances), chances)
    squared = [c * c for c in chances]
    assert near(shares(SamplingParams(temperature=0.5), chances), [c / sum(squared) for c in squared])
    assert near(shares(SamplingParams(temperature=1, top_k=2), chances), [0, 4 / 7, 0, 3 / 7, 0])
    assert near(shares(SamplingParams(temperature=1, top_p=0.75), chances), [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85])
    assert near(shares(SamplingParams(temperature=1, top_p=0.01), chances), [0, 1, 0, 0, 0])
    # top_p counts the mass left by top_k: 4/7 alone is enough for 0.5.
    assert near(shares(SamplingParams(temperature=1, top_k=2, top_p=0.5), chances), [0, 1, 0, 0, 0])
    assert shares(SamplingParams(), chances, 1) == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("engine", ["native", "native with a draft", "transformers"])
def test_kept_log_probabilities_are_the_models_own_before_temperature_and_cuts(tiny: Any, engine: str) -> None:
    model, tokenizer = tiny("llama")
    chat = Chat(tokenizer)
    params = SamplingParams(max_tokens=9, temperature=0.7, top_p=0.8, top_k=50, n=3, keep_ids=True)
    asked = [(request, range(3)) for request in requests(4)]
    messages = {request.key: request.messages for request, _ in asked}
    draft = Draft(tiny("llama", seed=1)[0], 3) if "draft" in engine else None
    spec = engine.removesuffix(" with a draft")
    for sample in build_local_engine(model, chat, spec, slots=5, fingerprint="w", draft=draft).sample(asked, params):
        prompt = chat.prompt_ids(messages[sample.key])
        with torch.no_grad():
            logps = model(torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = logps.gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()
        assert sample.logps == pytest.approx(own, abs=3e-5)
        assert len(sample.logps) == sample.tokens


def test_choose_never_takes_a_token_that_was_cut() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    for edge in (0.0, 1 - 2**-53):
        assert choose_tokens(logits, torch.tensor([edge], dtype=torch.float64), SamplingParams(temperature=1)) < 2


def test_the_text_so_far_grows_into_the_answer(tiny: Any) -> None:
    seen: list[str] = []
    engine = engine_of(*tiny(), slots=1, stops=False, on_text=seen.append)
    (sample,) = engine.sample([(requests(1)[0], [0])], SamplingParams(max_tokens=8, temperature=1.0))
    whole = [text for text in seen if text]
    assert len(whole) >= 3, "one text a step, but for the last"
    assert all(sample.text.startswith(text.rstrip("\ufffd")) for text in whole)
    assert [len(text) for text in whole] == sorted(len(text) for text in whole)


def test_thoughts_have_a_budget_of_their_own(tiny: Any) -> None:
    """A random model never ends a thought: it is closed by force, counted, and the answer has its own tokens."""
    model, tokenizer = tiny("llama")
    chat = Chat(tokenizer, source=THOUGHT)
    assert chat.opening == "<think>\n"
    chat.stop_ids = set()
    engine = NativeEngine(model, chat, slots=3, fingerprint="weights")
    closing = len(chat.ids_of("\n</think>\n\n"))
    params = SamplingParams(max_tokens=7, max_thinking_tokens=11)
    found = collect(engine, requests(5), params)
    for sample in found.values():
        reply = split_thought(sample.text)
        assert sample.text.startswith("<think>\n")
        assert (reply.has_ended, sample.thought_cut, sample.finish) == (True, True, "length")
        assert (sample.tokens, sample.thought_tokens) == (11 + closing + 7, 11 + closing)
    request = requests(5)[2]
    thought = collect(engine, [request], SamplingParams(max_tokens=11))[request.key, 0].text
    assert found[request.key, 0].text.startswith(f"{thought}\n</think>\n\n")
    # Without a budget the thought counts as a part of the answer, and never ends here.
    plain = collect(engine, [request], SamplingParams(max_tokens=7))[request.key, 0]
    assert (plain.tokens, plain.thought_tokens, split_thought(plain.text).has_ended) == (7, 0, False)


def test_a_thought_ends_by_itself_and_stop_strings_are_for_answers(tiny: Any) -> None:
    state = ThoughtState(
        ThoughtBudget(Chat(tiny("llama")[1]), thinking=10, answer=3, closers=lambda: np.ones(9, bool)), "", 30
    )
    texts = ["<th", "<think>", "<think>a", "<think>ab", "<think>ab</think>"]
    for made, text in enumerate(texts, start=1):
        state.follow_token(made, 0, lambda text=text: text)
        assert state.thinking is (None if made < 3 else made < 5)
    assert (state.tokens, state.limit, state.cut) == (5, 8, False)
    sequence = PendingSample("a", 0, [1, 2], 4, 0, opening="<think>\n")
    assert find_stop("STOP and on", sequence, ("STOP",)) == -1
    assert find_stop("STOP</think>a STOP", sequence, ("STOP",)) == len("STOP</think>a ")


def test_a_prefill_closes_the_thought_that_the_prompt_opens(tiny: Any) -> None:
    tokenizer = tiny("llama")[1]
    chat = Chat(tokenizer, source=THOUGHT)
    user = requests(1)[0].messages
    text = tokenizer.decode(prompt_ids(chat, [Request("a", user, prefill="the answer")])[0])
    assert text.endswith("assistant\n<think>\n\n</think>\n\nthe answer")
    text = tokenizer.decode(prompt_ids(chat, [Request("a", user, prefill="<think>\nsort")])[0])
    assert text.endswith("assistant\n<think>\nsort")
