# ruff: noqa: E501, RUF001 (templates and messages stand as they are)
"""Law 5: for every template the trained tokens are exactly the answers with their end of turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError

TokenizerOf = Callable[[str], PreTrainedTokenizerBase]

NAMES = ["chatml", "llama3", "gemma", "mistral", "qwen3", "deepseek", "harmony", "bare", "plain"]
END = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "qwen3": "<|im_end|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "harmony": "<|return|>",
    "bare": "</s>",
    "plain": "</s>",
}
LEAD = {"mistral": " ", "deepseek": "\n</think>\n\n"}
"""Generated before an answer: Mistral's space is not in its prompt; DeepSeek-R1's prompt opens a thought."""
KWARGS = {"qwen3": {"enable_thinking": False}}

USER = {"role": "user", "content": "What is the capital of France?"}
MORE = {"role": "user", "content": "And of Spain?"}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def trained_texts(chat: Chat, ids: np.ndarray, trained: np.ndarray) -> list[str]:
    """The decoded runs of trained tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained.astype(np.int8), [0]])))
    return [chat.tokenizer.decode(ids[a:b]) for a, b in edges.reshape(-1, 2)]


ANSWERS = [
    "Paris.",
    "Zürich, 東京 — 🌊\u2028naïve",
    "First\n\nsecond line\n  indented",
    "### assistant:\nNot a turn [/INST] user: <|nothing|>",
    "x",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_single_turn(tokenizer_of: TokenizerOf, name: str, answer: str, system: str | None) -> None:
    chat = Chat(tokenizer_of(name), system, kwargs=KWARGS.get(name))
    ids, trained = chat.encode([USER, said(answer)])
    assert trained_texts(chat, ids, trained) == [LEAD.get(name, "") + answer + END[name]]
    assert trained[-1]
    assert int(ids[-1]) in chat.stop_ids
    assert ids.dtype == np.int32
    assert trained.dtype == np.bool_
    prompt = chat.prompt_ids([USER])
    assert ids[: len(prompt)].tolist() == prompt
    assert trained.argmax() == len(prompt)
    text = chat.tokenizer.decode(prompt)
    assert USER["content"] in text
    assert (system or "") in text


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_tokenised_as_what_is_generated(tokenizer_of: TokenizerOf, name: str) -> None:
    chat = Chat(tokenizer_of(name), kwargs=KWARGS.get(name))
    ids, trained = chat.encode([USER, said("The capital of France is Paris.")])
    text = LEAD.get(name, "") + "The capital of France is Paris." + END[name]
    assert ids[trained].tolist() == chat.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_several_turns(tokenizer_of: TokenizerOf, name: str) -> None:
    chat = Chat(tokenizer_of(name), kwargs=KWARGS.get(name))
    ids, trained = chat.encode([USER, said("Paris."), MORE, said("Madrid.")])
    lead, end = LEAD.get(name, ""), END[name]
    inner = "<|end|>" if name == "harmony" else end  # ends a turn inside a conversation
    earlier = "" if name == "deepseek" else lead  # before earlier answers it writes no prompt
    assert trained_texts(chat, ids, trained) == [f"{earlier}Paris.{inner}", f"{lead}Madrid.{end}"]
    prompt = chat.prompt_ids([USER, said("Paris."), MORE])
    assert ids[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("bare", "deepseek")])
def test_pieces_make_up_the_full_rendering(tokenizer_of: TokenizerOf, name: str) -> None:
    tokenizer = tokenizer_of(name)
    chat = Chat(tokenizer)
    turns = [USER, said("Paris."), MORE, said("Madrid.")]
    ids, _ = chat.encode(turns)
    assert tokenizer.decode(ids) == chat.template.render([turns])[0].rstrip()


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_read_but_not_trained(tokenizer_of: TokenizerOf, name: str) -> None:
    chat = Chat(tokenizer_of(name), kwargs=KWARGS.get(name))
    first, _ = [USER, said("Paris.", weight=0), MORE, said("Madrid.")], None
    ids, trained = chat.encode(first)
    both, _ = chat.encode([USER, said("Paris."), MORE, said("Madrid.")])
    assert ids.tolist() == both.tolist()
    assert trained_texts(chat, ids, trained) == [LEAD.get(name, "") + "Madrid." + END[name]]
    ids, trained = chat.encode([USER, said("Paris."), MORE, said("Madrid.", weight=0)])
    assert len(trained_texts(chat, ids, trained)) == 1
    assert "Paris." in trained_texts(chat, ids, trained)[0]


@pytest.mark.parametrize("name", NAMES)
def test_answers_holding_the_templates_own_markers(tokenizer_of: TokenizerOf, name: str) -> None:
    tokenizer = tokenizer_of(name)
    chat = Chat(tokenizer, kwargs=KWARGS.get(name))
    marks = " ".join(m for m in tokenizer.all_special_tokens)
    answer = f"A turn ends with {marks} and then goes on."
    ids, trained = chat.encode([USER, said(answer)])
    assert trained_texts(chat, ids, trained) == [LEAD.get(name, "") + answer + END[name]]
    # One token ends the answer, and it is the last: the others are plain text.
    assert [int(i) in chat.stop_ids for i in ids[trained]] == [False] * (trained.sum() - 1) + [True]


@pytest.mark.parametrize("name", NAMES)
def test_an_end_token_written_into_the_data_is_not_doubled(tokenizer_of: TokenizerOf, name: str) -> None:
    chat = Chat(tokenizer_of(name), kwargs=KWARGS.get(name))
    wanted = chat.encode([USER, said("Paris.")])[0].tolist()
    assert chat.encode([USER, said("Paris." + str(chat.tokenizer.eos_token) + "\n")])[0].tolist() == wanted


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("chatml", "qwen3", "harmony", "bare")])
def test_exactly_one_beginning_of_sequence(tokenizer_of: TokenizerOf, name: str) -> None:
    chat = Chat(tokenizer_of(name), kwargs=KWARGS.get(name))
    bos = chat.tokenizer.bos_token_id
    for turns in ([USER, said("Paris.")], [{**USER, "content": f"{chat.tokenizer.bos_token}Hi"}, said("Paris.")]):
        ids = chat.encode(turns)[0].tolist()
        assert ids[0] == bos
        assert ids[1] != bos
    ids, trained = chat.encode_text(f"{chat.tokenizer.bos_token}Once upon a time.")
    assert ids.tolist().count(bos) == 1
    assert trained.tolist() == [False] + [True] * (len(ids) - 1)
    assert int(ids[-1]) == chat.tokenizer.eos_token_id


def test_templates_that_trim(tokenizer_of: TokenizerOf) -> None:
    for name in ("llama3", "gemma"):
        chat = Chat(tokenizer_of(name), kwargs=KWARGS.get(name))
        ids, trained = chat.encode([USER, said("\n  Paris. \n")])
        assert trained_texts(chat, ids, trained) == ["Paris." + END[name]]
    chat = Chat(tokenizer_of("chatml"))
    ids, trained = chat.encode([USER, said("  Paris. \n")])
    assert trained_texts(chat, ids, trained) == ["  Paris. \n<|im_end|>"]


def test_gemma_has_no_system_role(tokenizer_of: TokenizerOf) -> None:
    chat = Chat(tokenizer_of("gemma"))
    text = chat.prompt_text([{"role": "system", "content": "Be brief."}, USER])
    assert (
        text
        == "<bos><start_of_turn>user\nBe brief.\n\nWhat is the capital of France?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_qwen_thinking(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("qwen3")
    chat, thinking = Chat(tokenizer, kwargs=KWARGS["qwen3"]), Chat(tokenizer)
    assert chat.prompt_text([USER]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert thinking.prompt_text([USER]).endswith("<|im_start|>assistant\n")
    turns = [USER, said("<think>\nFrance.\n</think>\n\nParis.")]
    with pytest.raises(UserError, match=r"message 2 holds a thought, but the prompt says not to think; set data\.thou"):
        chat.encode(turns)
    ids, trained = thinking.encode(turns)
    assert trained_texts(thinking, ids, trained) == ["<think>\nFrance.\n</think>\n\nParis.<|im_end|>"]
    ids, trained = thinking.encode([USER, said("Paris.")])
    assert trained_texts(thinking, ids, trained) == ["<think>\n\n</think>\n\nParis.<|im_end|>"]
    stripped = Chat(tokenizer, kwargs=KWARGS["qwen3"], thoughts="strip")
    ids, trained = stripped.encode(turns)
    assert trained_texts(stripped, ids, trained) == ["Paris.<|im_end|>"]


def test_thoughts_of_earlier_turns_are_trained_apart(tokenizer_of: TokenizerOf) -> None:
    """Qwen3 cuts them out of the conversation, so that what is left would be taught as an answer without a thought."""
    chat = Chat(tokenizer_of("qwen3"))
    turns = [USER, said("<think>\nFrance.\n</think>\n\nParis."), MORE, said("Madrid.")]
    ids, trained = chat.encode(turns)
    assert trained_texts(chat, ids, trained) == ["<think>\n\n</think>\n\nMadrid.<|im_end|>"]
    parts = [chat.encode(part) for part in chat.unroll_answers(turns)]
    assert [trained_texts(chat, ids, trained) for ids, trained in parts] == [
        ["<think>\nFrance.\n</think>\n\nParis.<|im_end|>"],
        ["<think>\n\n</think>\n\nMadrid.<|im_end|>"],
    ]
    prompt = chat.prompt_ids(turns[:3])
    assert parts[1][0][: len(prompt)].tolist() == prompt
    assert chat.unroll_answers([USER, said("Paris."), MORE, said("Madrid.")]) == [
        [USER, said("Paris."), MORE, said("Madrid.")]
    ]


def test_deepseek_thoughts_are_trained_behind_the_prompt_that_opens_them(tokenizer_of: TokenizerOf) -> None:
    chat = Chat(tokenizer_of("deepseek"))
    assert chat.prompt_text([USER]).endswith("<｜Assistant｜><think>\n")
    assert chat.opening == "<think>\n"
    for text in ("<think>\nhm\n</think>\n\nParis.", "hm\n</think>\n\nParis."):
        ids, trained = chat.encode([USER, said(text)])
        assert trained_texts(chat, ids, trained) == ["hm\n</think>\n\nParis.<｜end▁of▁sentence｜>"]
        prompt = chat.prompt_ids([USER])
        assert ids[: len(prompt)].tolist() == prompt
    masked = Chat(tokenizer_of("deepseek"), thoughts="mask")
    ids, trained = masked.encode([USER, said("<think>\nParis? hm\n</think>\n\nParis.")])
    assert trained_texts(masked, ids, trained) == ["Paris.<｜end▁of▁sentence｜>"]
    assert masked.tokenizer.decode(ids).endswith("<think>\nParis? hm\n</think>\n\nParis.<｜end▁of▁sentence｜>")


def test_a_template_without_generation_prompt_gets_one(tokenizer_of: TokenizerOf) -> None:
    chat = Chat(tokenizer_of("bare"))
    assert chat.prompt_text([USER]) == "### user:\nWhat is the capital of France?\n\n### assistant:\n"


def test_many_at_once_is_one_by_one(tokenizer_of: TokenizerOf) -> None:
    for name in NAMES:
        chat = Chat(tokenizer_of(name), "Be brief.")
        many = [[USER, said(a)] for a in ANSWERS] + [[USER, said("Paris."), MORE, said("Madrid.")], [said("Text.")]]
        for (ids, trained), turns in zip(chat.encode_many(many), many, strict=True):
            alone = chat.encode(turns)
            assert ids.tolist() == alone[0].tolist()
            assert trained.tolist() == alone[1].tolist()
        asked = [[USER], [MORE], [USER], [USER, said("Paris."), MORE]]
        prompts = chat.prompt_ids_many(asked)
        assert prompts == [chat.prompt_ids(turns) for turns in asked]
        assert prompts[0] is not prompts[2], "an engine puts what it forces behind its own"


def sentencepiece_like() -> PreTrainedTokenizerBase:
    """Writes a space before any text, has no pre-tokenizer, and merges across words and the newline before an answer."""
    parts = ["▁", "\n", ".", *"abdeinswy", "▁i", "▁is", "is", "is▁", "a▁", "da", "day", "\na", "▁b", "n▁"]
    merges = [
        ("▁", "i"),
        ("▁i", "s"),
        ("i", "s"),
        ("is", "▁"),
        ("d", "a"),
        ("da", "y"),
        ("\n", "a"),
        ("n", "▁"),
        ("▁", "b"),
    ]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {text: i + 3 for i, text in enumerate(parts)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def test_merges_that_span_words_and_a_space_before_every_text() -> None:
    chat = Chat(sentencepiece_like())
    ids, trained = chat.encode([{"role": "user", "content": "wins is"}, said("a day.")])
    whole = chat.tokenizer("<s>wins is\na day.</s>", add_special_tokens=False)["input_ids"]
    assert ids.tolist() != whole  # "\na" is one token there, which no model could begin its answer with
    prompt = chat.prompt_ids([{"role": "user", "content": "wins is"}])
    assert ids[: len(prompt)].tolist() == prompt
    tokens = chat.tokenizer.convert_ids_to_tokens(ids[trained].tolist())
    assert "".join(tokens) == "a▁day.</s>"  # no space in front that the text does not have


def test_padding_and_end_without_a_pad_token(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("llama3")
    size = len(tokenizer)
    chat = Chat(tokenizer)
    assert chat.pad_id in chat.stop_ids
    assert len(tokenizer) == size
    assert chat.stop_ids == set(tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"]))


def test_fingerprint(tokenizer_of: TokenizerOf) -> None:
    names = {Chat(tokenizer_of(n)).fingerprint for n in NAMES}
    assert len(names) == len(NAMES)
    tokenizer = tokenizer_of("chatml")
    assert Chat(tokenizer).fingerprint == Chat(tokenizer).fingerprint
    assert len({Chat(tokenizer, s).fingerprint for s in (None, "a", "b")}) == 3


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "the chat template does not write the assistant's answer; nothing to train",
        ),
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            "neither the chat template nor the tokenizer has a token that ends an answer; set eos_token",
        ),
        (None, "neither the chat template nor the tokenizer has a token that ends an answer; set eos_token"),
    ],
)
def test_templates_nothing_can_be_learned_from(template: str | None, message: str) -> None:
    tokenizer = sentencepiece_like()
    tokenizer.eos_token = None
    tokenizer.chat_template = template
    with pytest.raises(UserError) as error:
        Chat(tokenizer)
    assert str(error.value) == f"tokenizer: {message}"


def test_refused_and_empty_conversations_are_named(tokenizer_of: TokenizerOf) -> None:
    gemma = Chat(tokenizer_of("gemma"))
    with pytest.raises(
        UserError, match=r"^row 2: the chat template refuses this conversation \(Conversation roles must"
    ):
        gemma.encode_many([[USER, said("Hi.")], [USER, USER, said("Hi.")]], ["row 1", "row 2"])
    with pytest.raises(UserError) as error:
        gemma.encode([USER, said(" \n")])
    assert str(error.value) == (
        "the chat template leaves nothing of message 2 to train on; mend the message or the template"
    )
    with pytest.raises(UserError, match="begins with an assistant turn"):
        Chat(tokenizer_of("chatml")).encode([said("Hi."), USER, said("Hi.")])
