"""What the protocol's requests mean, what of a growing answer may be shown, and tokens as text and bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.serving.failures import ApiError
from holdfast.serving.protocol import ChatBody, CompletionBody, parse_body, parse_json
from holdfast.serving.token_pieces import read_token
from holdfast.serving.visible_text import hold_back, split_growing, split_whole

ASKED = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def refusal(kind: Any, **more: Any) -> tuple[str | None, str, str]:
    with pytest.raises(ApiError) as caught:
        parse_body(kind, ({"model": "m", "prompt": "x"} if kind is CompletionBody else ASKED) | more)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    return caught.value.param, str(caught.value.code), caught.value.message


def test_what_is_not_done_is_refused_by_name() -> None:
    unsupported = {
        "presence_penalty": 0.5, "logit_bias": {"5": -100}, "response_format": {"type": "json_object"}, "best_of": 2,
        "tools": [{"type": "function", "function": {"name": "f"}}], "echo": True, "suffix": "x", "prompt": "x",
        "reasoning_effort": "high", "guided_json": {},
    }  # fmt: skip
    for name, value in unsupported.items():
        param, code, message = refusal(ChatBody, **{name: value})
        assert (param, code) == (name, "unsupported_parameter")
        assert message.startswith(f"{name}: ")
    assert refusal(ChatBody, temprature=1)[:2] == ("temprature", "unknown_parameter")
    assert "did you mean temperature?" in refusal(ChatBody, temprature=1)[2]
    assert refusal(CompletionBody, messages=[])[:2] == ("messages", "unsupported_parameter")


def test_what_asks_for_nothing_is_taken() -> None:
    usual = {
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": None, "response_format": {"type": "text"},
        "tools": None, "tool_choice": "none", "user": "me", "metadata": {"a": "b"}, "store": False, "n": None,
        "stop": None, "stream_options": None,
    }  # fmt: skip
    params = parse_body(ChatBody, ASKED | usual).build_params(7, 5)
    assert (params.temperature, params.top_p, params.top_k, params.n, params.stop) == (1.0, 1.0, 0, 1, ())
    assert (params.max_tokens, params.seed) == (7, 5)


def test_values_are_checked() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"temperature": -1}, "temperature"), ({"temperature": "0"}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"), ({"n": 10**6}, "n"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": [""]}, "stop"), ({"stop": ["x"] * 17}, "stop"), ({"stop": [1]}, "stop.0"), ({"seed": 2**70}, "seed"),
        ({"stream": "yes"}, "stream"), ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"logprobs": 2}, "logprobs"),
        ({"messages": []}, "messages"), ({"messages": "x"}, "messages"), ({"model": None}, "model"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "weight": 0}]}, "messages.0.weight"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ]  # fmt: skip
    for more, param in wrong:
        assert refusal(ChatBody, **more)[:2] == (param, "invalid_value"), more
    with pytest.raises(ApiError, match="messages: Field required"):
        parse_body(ChatBody, {"model": "m"})
    for prompt in (5, [1.5], [[-1]], {"a": 1}):
        assert str(refusal(CompletionBody, prompt=prompt)[0]).startswith("prompt")


def test_bodies_that_are_no_json_objects() -> None:
    for data in (b"", b"{", b"[1]", b"\xff", b'{"temperature": NaN}', b"[" * 10**5, b'{"x": "\\ud800"}'):
        with pytest.raises(ApiError, match="the body is not"):
            parse_json(data)


def test_messages_become_the_templates() -> None:
    talk = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
        {"role": "assistant", "content": "It is"},
    ]  # fmt: skip
    body = parse_body(
        ChatBody, {"model": "m", "messages": talk, "continue_final_message": True, "add_generation_prompt": False}
    )
    messages, prefill = body.read_conversation()
    assert prefill == "It is"
    assert messages[0] == {"role": "system", "content": "be brief"}
    assert messages[2]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert messages[3] == {"role": "tool", "content": "2", "tool_call_id": "c"}


def test_what_is_shown_stays() -> None:
    texts = [
        ("plain words, and more", ()), ("  \n indented", ()), ("up to the END of it", ("END",)),
        ("<think>\nfirst this, then </th that\n</think>\n\nThe answer END", ("END",)),
        ("<think>\n\n</think>\n\n<think>again</think>  yes", ()), ("<think>never ends", ()), ("<thin air", ()),
        ("[THINK]a[/THINK]b", ()), ("a stray </think> mark", ()), ("ababababab", ("abc",)),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>so", ()),
    ]  # fmt: skip
    for text, stop in texts:
        place = min((p for end in stop if (p := text.find(end)) >= 0), default=len(text))
        whole = split_whole(text[:place])
        shown = split_growing("", stop)
        for length in range(len(text) + 1):
            now = split_growing(text[:length], stop)
            assert now.thought.startswith(shown.thought), text[:length]
            assert now.answer.startswith(shown.answer), text[:length]
            shown = now
        assert whole.thought.startswith(shown.thought)
        assert whole.answer.startswith(shown.answer)
    assert split_growing("<think>\nlong enough thought", ()).thought == "long enough thought"
    assert split_growing("said at once", ("xyz",)).answer == "said at once"
    assert hold_back("abcab", ("abd", "bx")) == "abc"


def test_tokens_as_text_and_bytes(tokenizer: Any) -> None:
    ids = tokenizer.encode(" é東", add_special_tokens=False)
    pieces = [read_token(tokenizer, token) for token in ids]
    assert bytes(byte for _, encoded in pieces for byte in encoded).decode() == " é東"
    assert any("\ufffd" in text for text, _ in pieces)
    assert json.dumps(pieces)

    class Fallback:
        def decode(self, ids: list[int], **_: Any) -> str:
            return {1: "Hello", 2: "\ufffd"}[ids[0]]

        def convert_ids_to_tokens(self, token: int) -> str:
            return {1: "\u2581Hello", 2: "<0xE6>"}[token]

    fallback: Any = Fallback()
    assert read_token(fallback, 1) == (" Hello", list(b" Hello"))
    assert read_token(fallback, 2) == ("\ufffd", [0xE6])
