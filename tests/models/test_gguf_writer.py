"""GGUF: what is written is read back by transformers' own reader, weights and tokens; what cannot be is one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.models.gguf_writer import (
    SPLITS,
    check_gguf,
    find_tokenizer_kind,
    interleave_halves,
    round_weights,
    write_gguf,
)
from holdfast.pipeline.ollama import TurnTexts, build_modelfile

pytest.importorskip("gguf")

SIZES = {"vocab_size": 330, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
GEMMA = {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}
CASES: list[tuple[Any, Any, dict[str, Any]]] = [
    (LlamaForCausalLM, LlamaConfig, {}),
    (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    (Qwen2ForCausalLM, Qwen2Config, {}),
    (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
    (Gemma3ForCausalLM, Gemma3TextConfig, {**GEMMA, "num_hidden_layers": 6}),
    (LlamaForCausalLM, LlamaConfig, {"attention_bias": True}),
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(cutting: Any = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cutting or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_end|>", "<|im_start|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["hello world, this is 12 + 34!\n"] * 9, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    wrapped.chat_template = CHATML
    return wrapped


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.mark.parametrize(("model_class", "config_class", "more"), CASES)
def test_transformers_reads_the_same_model(model_class, config_class, more, tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = model_class(config_class(**{**SIZES, **more})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 320, (2, 12))
    for dtype in ("f32", "f16", "bf16", "q8_0"):
        write_gguf(tmp_path / "m.gguf", model, tokenizer, dtype=dtype, template=CHATML, end_id=1)
        again = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file="m.gguf", dtype=torch.float32, config=model.config
        )
        with torch.no_grad():
            model_as_written = copy.deepcopy(model)
            round_weights(model_as_written, dtype)
            exact, one, other = (each(ids).logits.log_softmax(-1) for each in (model, model_as_written, again))
        assert float((one - other).abs().max()) < 1e-5, dtype
        assert float((exact - other).abs().max()) < 0.05 * model.config.num_hidden_layers, dtype


@pytest.mark.parametrize(("model_class", "config_class", "more"), CASES)
def test_llama_cpp_says_the_same(model_class, config_class, more, tokenizer, tmp_path: Path, monkeypatch) -> None:
    """Where llama.cpp is installed (`pip install xllamacpp`); real models are compared by benchmarks/llamacpp.py."""
    pytest.importorskip("xllamacpp")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from llamacpp import LlamaCpp, compare_answer

    torch.manual_seed(0)
    model = model_class(config_class(**{**SIZES, **more})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():  # only whole characters are said
        model.get_output_embeddings().weight[[i for word, i in tokenizer.get_vocab().items() if not word.isascii()]] = 0
    text = "<|im_start|>user\nnaïve 12345 hello world<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text)["input_ids"]
    for dtype, bound in (("f32", 1e-4), ("f16", 1e-2), ("bf16", 0.1), ("q8_0", 0.1)):
        write_gguf(tmp_path / f"{dtype}.gguf", model, tokenizer, dtype=dtype, template=CHATML, end_id=1)
        as_written = copy.deepcopy(model)
        round_weights(as_written, dtype)
        llama = LlamaCpp(tmp_path / f"{dtype}.gguf", context=64)
        assert llama.read_tokens(text) == ids
        assert llama.render([{"role": "user", "content": "naïve 12345 hello world"}]) == text
        answer = llama.answer(ids, 8, SIZES["vocab_size"])
        worst, gap = compare_answer(as_written, ids, answer, {1})
        assert sum(map(len, answer.logps)) == SIZES["vocab_size"] * len(answer.ids) > 0
        # llama.cpp looks Gemma's activation up in a table of half precision.
        assert worst < max(bound, 1e-2 * (model_class is Gemma3ForCausalLM)), dtype
        assert gap < bound, dtype


def test_transformers_reads_the_same_tokens_template_and_end(tokenizer, tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    write_gguf(tmp_path / "m.gguf", model, tokenizer, dtype="f16", template=CHATML, end_id=1)
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("hello world 3456!\n\n x", "<|im_start|>hello<|im_end|>", "naïve 日本 🙂\t y"):
        assert tokenizer(text)["input_ids"] == again(text, add_special_tokens=False)["input_ids"]
    assert (again.eos_token, again.chat_template) == ("<|im_end|>", CHATML)


def test_pairs_that_turn_together_stand_together() -> None:
    rows = torch.arange(8.0)[:, None]
    assert interleave_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_cuttings_have_names() -> None:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for pattern, name in SPLITS.items():
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        assert find_tokenizer_kind(build_tokenizer(pre_tokenizers.Sequence([split, level]))) == ("gpt2", name)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert find_tokenizer_kind(build_tokenizer(digits)) == ("gpt2", "smollm")
    assert find_tokenizer_kind(build_tokenizer()) == ("gpt2", "gpt-2")
    own = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\\d"), "isolated"), level])
    with pytest.raises(UserError, match=r"cuts text in a way that llama\.cpp has no name for"):
        find_tokenizer_kind(build_tokenizer(own))


def test_what_llama_cpp_has_not_is_one_line(tokenizer) -> None:
    with pytest.raises(UserError, match="GPT2LMHeadModel is not written as GGUF here"):
        check_gguf(GPT2LMHeadModel(GPT2Config(vocab_size=330, n_embd=32, n_layer=1, n_head=2)), tokenizer)
    for config_class, more, line in (
        (Qwen2Config, {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}, "layer_types is"),
        (
            LlamaConfig,
            {"hidden_act": "gelu"},
            "hidden_act is gelu here, and llama.cpp takes silu for granted in a llama",
        ),
        (Gemma3TextConfig, {**GEMMA, "query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64"),
        (Gemma3TextConfig, {**GEMMA, "layer_types": ["full_attention"] * 2}, "layer_types is"),
    ):
        classes = {"Qwen2Config": Qwen2ForCausalLM, "LlamaConfig": LlamaForCausalLM}
        with pytest.raises(UserError, match=line):
            check_gguf(classes.get(config_class.__name__, Gemma3ForCausalLM)(config_class(**SIZES, **more)), tokenizer)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UserError, match="positions scaled by dynamic are not written here"):
        check_gguf(LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)), tokenizer)


def test_the_modelfile_writes_turns_as_the_template_does(tokenizer) -> None:
    text, remark = build_modelfile(Chat(tokenizer, system="Be brief."), "m.gguf", adds_begin=False)
    assert remark == ""
    turns = "".join(
        f'{{{{ {head} eq .Role "{role}" }}}}<|im_start|>{role}\n{{{{ .Content }}}}<|im_end|>\n'
        for head, role in (("if", "system"), ("else if", "user"), ("else if", "assistant"))
    )
    assert text == (
        f'FROM ./m.gguf\nTEMPLATE """{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}'
        '<|im_start|>assistant\n"""\n'
        'PARAMETER stop "<|im_end|>"\nSYSTEM """Be brief."""\n'
    )


def test_a_default_system_message_stands_where_there_is_none() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}{% endif %}" + CHATML
    )
    texts = TurnTexts.from_chat(Chat(tokenizer))
    assert texts is not None
    assert texts.opening == "<|im_start|>system\nHelp.<|im_end|>\n"
    assert '{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system\nHelp.' in texts.write_go("")


def test_a_template_of_more_than_turns_has_no_go_form() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHATML.replace("m['content'] +", "m['content'] + (loop.index | string) +")
    text, remark = build_modelfile(Chat(tokenizer), "m.gguf", adds_begin=False)
    assert "TEMPLATE" not in text
    assert "not of turns alone" in remark
