# ruff: noqa: RUF001 (templates stand as they are)
"""The chat templates that models ship: what is trained, what a server would ask, and where thoughts go."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from holdfast.data.chat.encoder import Chat
from holdfast.data.chat.settings import derive_kwargs
from holdfast.data.chat.template_source import source_of
from holdfast.data.thoughts import split_thought
from holdfast.errors import UserError

FOLDER = Path(__file__).parent / "templates"
SPECIAL = re.compile(r"<\|[a-zA-Z_]+\|?>|<｜[^｜]+｜>|</?(?:start|end)_of_\w+>|<\w+\|>|\[/?[A-Z_]+\]|\[gMASK\]|<sop>")
OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is the capital of France?"}
MORE = {"role": "user", "content": "And of Spain?"}
THOUGHT = "France, so it is Paris."
THINKING = f"<think>\n{THOUGHT}\n</think>\n\nParis."


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Case:
    """What a template makes of conversations.

    Args:
        name, kwargs: The template and what it is given.
        end, inner: What ends the last answer, and those before it where that differs.
        lead: What has to be generated before an answer without a thought.
        earlier: The same before answers that are not the last, where that differs.
        thought: What is trained of an answer with a thought, its end left out; `None`: such rows are refused.
        apart: Whether the answers of a conversation with thoughts are trained one by one.
        opens: What the prompt opens.
        off: What must be given so that it does not think; `None`: it cannot be told.
    """

    name: str
    kwargs: dict[str, Any]
    end: str
    lead: str = ""
    thought: str | None = THINKING
    apart: bool = False
    opens: str = ""
    off: dict[str, Any] | None = None
    inner: str = ""
    earlier: str | None = None


IM, NOW = "<|im_end|>", "\n</think>\n\n"
QWEN, INSIDE = THINKING, f"{THOUGHT}\n</think>\n\nParis."
EMPTY = "<think>\n\n</think>\n\n"
DEEPSEEK = "<｜end▁of▁sentence｜>"
CHANNEL = "<|channel|>final<|message|>"
GEMMA = f"<|channel>thought\n{THOUGHT}\n<channel|>Paris."

CASES = [
    # Templates that know nothing of thoughts: what the row holds is trained.
    Case("gemma", {}, "<end_of_turn>"),
    Case("gemma3", {}, "<end_of_turn>"),
    Case("idefics3", {}, "<end_of_utterance>", " ", " " + THINKING),
    Case("lfm2", {}, IM),
    Case("llama3", {}, "<|eot_id|>"),
    Case("llama3_1", {}, "<|eot_id|>"),
    Case("llama3_2", {}, "<|eot_id|>"),
    Case("llava_next", {}, "</s>", " ", " " + THINKING),
    Case("needs_system", {}, IM),
    Case("phi3", {}, "<|end|>"),
    Case("phi3_5", {}, "<|end|>"),
    Case("qwen2_5", {}, IM),
    Case("qwen2_5_vl", {}, IM),
    Case("qwen3_instruct_2507", {}, IM),
    Case("qwen3_vl", {}, IM),
    Case("smolvlm", {}, "<end_of_utterance>", " ", " " + THINKING),
    # Templates whose prompt leaves it to the model.
    Case("gemma4", {}, "<turn|>", "", GEMMA, True),
    Case("gemma4_v5", {}, "<turn|>", "", GEMMA, True),
    Case(
        "gptoss", {}, "<|return|>", CHANNEL,
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant{CHANNEL}Paris.", True, inner="<|end|>",
    ),
    Case("lfm2_2_5", {}, IM, "", f"<think>{THOUGHT}</think>Paris.", True),
    Case("magistral", {}, "</s>", "", f"[THINK]{THOUGHT}[/THINK]Paris."),
    Case(
        "muse_glimmer", {}, "<|eot|>", " to=user<|message|>",
        f" to=self<|message|>{THOUGHT}<|eom|><|start|>assistant to=user<|message|>Paris.",
    ),
    # Templates whose prompt opens a thought.
    Case("deepseek_r1_distill", {}, DEEPSEEK, NOW, INSIDE, True, "<think>\n", earlier=""),
    Case("deepseekv3", {}, DEEPSEEK, NOW, INSIDE, True, "<think>\n", earlier=""),
    Case("qwen3_thinking_2507", {}, IM, NOW, INSIDE, True, "<think>\n", earlier=""),
    Case("qwq", {}, IM, NOW, INSIDE, True, "<think>\n", earlier=""),
    # Templates with a switch, as a server uses them and both ways.
    Case("deepseek_v3_1", {}, DEEPSEEK, thought=None, off={}),
    Case("deepseek_v3_1", {"thinking": True}, DEEPSEEK, NOW, f"\n{INSIDE}", True, "<think>", {}, earlier=""),
    Case("glm4moe", {}, "<|endoftext|>", "\n<think></think>\n", f"\n<think>{THOUGHT}</think>\nParis.", True, off=OFF),
    Case("glm4moe", OFF, "<|endoftext|>", "\n", None, off=OFF),
    Case("nemotron_3_nano", {}, IM, NOW, f"{THOUGHT}\n</think>\nParis.", True, "<think>\n", OFF, earlier=""),
    Case("nemotron_3_nano", OFF, IM, thought=None, off=OFF),
    Case("nemotron_3_super", {}, IM, NOW, f"{THOUGHT}\n</think>\nParis.", True, "<think>\n", OFF, earlier=""),
    Case("nemotron_3_ultra", {}, IM, NOW, f"{THOUGHT}</think>Paris.", True, "<think>\n", OFF, earlier=""),
    Case("qwen3", {}, IM, EMPTY, QWEN, True, off=OFF, earlier=""),
    Case("qwen3", ON, IM, EMPTY, QWEN, True, off=OFF, earlier=""),
    Case("qwen3", OFF, IM, thought=None, off=OFF),
    Case("qwen3_5_nothink", {}, IM, thought=None, off={}),
    Case("qwen3_5_nothink", ON, IM, NOW, INSIDE, True, "<think>\n", {}, earlier=""),
    Case("qwen3_5_think", {}, IM, NOW, INSIDE, True, "<think>\n", OFF, earlier=""),
    Case("qwen3_5_think", OFF, IM, thought=None, off=OFF),
    Case("qwen3_6", {}, IM, NOW, INSIDE, True, "<think>\n", OFF, earlier=""),
    Case("qwen3_8", {}, IM, NOW, INSIDE, False, "<think>\n", OFF),
    Case("qwen3_8", OFF, IM, thought=None, off=OFF),
    Case("smollm3", {}, IM, off=OFF),
    Case("smollm3", OFF, IM, thought=None, off=OFF),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tokenizer_of: Callable[[str], PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """One tokenizer that has the control tokens of all templates."""
    found = {mark for path in FOLDER.glob("*.jinja") for mark in SPECIAL.findall(path.read_text(encoding="utf-8"))}
    tokens = [AddedToken(text, special=True, normalized=False) for text in sorted({*found, "<|endoftext|>", "</s>"})]
    made = copy.deepcopy(tokenizer_of("chatml"))
    made.add_special_tokens({"additional_special_tokens": tokens})
    made.add_tokens(["<think>", "</think>"])
    return made


def chat_of(tokenizer: PreTrainedTokenizerBase, case: Case, **more: Any) -> Chat:
    tokenizer.chat_template = (FOLDER / f"{case.name}.jinja").read_text(encoding="utf-8")
    tokenizer.eos_token = case.end if case.name in ("gptoss", "glm4moe") else "</s>"
    tokenizer.bos_token = "<s>"
    return Chat(tokenizer, kwargs=case.kwargs, **more)


def start(case: Case) -> list[dict[str, Any]]:
    """The beginning of a conversation, which of one template must be a system message."""
    return [SYSTEM, USER] if case.name == "needs_system" else [USER]


def trained(chat: Chat, messages: list[dict[str, Any]]) -> list[str]:
    """The trained texts of a conversation, each proven to follow the prompt that is sampled from."""
    out = []
    for part in chat.unroll_answers(messages):
        ids, mask = chat.encode(part)
        prompt = chat.prompt_ids(part[:-1])
        assert ids[: len(prompt)].tolist() == prompt
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))).reshape(-1, 2)
        assert edges[-1, 0] >= len(prompt)
        texts = [chat.tokenizer.decode(ids[a:b]) for a, b in edges]
        for text, (a, b) in zip(texts, edges, strict=True):  # its marks are the tokens that a model writes
            assert control(chat, ids[a:b]) == control(chat, chat.ids_of(text))
        out += texts
    return out


def control(chat: Chat, ids: Any) -> list[str]:
    """The control tokens among ids."""
    return [
        t for t in chat.tokenizer.convert_ids_to_tokens(list(map(int, ids))) if t in chat.tokenizer.all_special_tokens
    ]


def server_prompt(chat: Chat, messages: list[dict[str, Any]]) -> str:
    """What a server makes of messages with the model's own template."""
    if chat.template.thoughts.takes_parts:
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    found = chat.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **chat.template.kwargs
    )
    return str(found)


NAMES = [f"{case.name}-{'-'.join(map(str, case.kwargs.values()))}" for case in CASES]


def test_there_are_templates_of_all_kinds() -> None:
    assert len({case.name for case in CASES}) == len(list(FOLDER.glob("*.jinja"))) >= 28
    assert sum(case.opens != "" for case in CASES) >= 8
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(path.stem in readme for path in FOLDER.glob("*.jinja"))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_answers(tokenizer: PreTrainedTokenizerBase, case: Case) -> None:
    chat, begin = chat_of(tokenizer, case), start(case)
    last, inner = f"{case.lead}Paris.{case.end}", case.inner or case.end
    earlier = case.lead if case.earlier is None else case.earlier
    assert trained(chat, [*begin, said("Paris.")]) == [last]
    assert trained(chat, [SYSTEM, USER, said("Paris.")]) == [last]
    several = trained(chat, [*begin, said("Paris."), MORE, said("Madrid.")])
    assert several == [f"{earlier}Paris.{inner}", f"{case.lead}Madrid.{case.end}"]
    # A server makes the prompt that is sampled from and trained behind, system message included.
    assert chat.prompt_text(begin) == server_prompt(chat, begin)
    folded = [{"role": "user", "content": f"{SYSTEM['content']}\n\n{USER['content']}"}]
    asked = [SYSTEM, USER, said("Paris."), MORE]
    wanted = [*folded, *asked[2:]] if chat.template.folds_system else asked
    assert chat.prompt_text(asked) == server_prompt(chat, wanted)
    assert SYSTEM["content"] in chat.prompt_text(asked)
    assert int(chat.encode([*begin, said("Paris.")])[0][-1]) in chat.stop_ids


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_thoughts(tokenizer: PreTrainedTokenizerBase, case: Case) -> None:
    chat, begin = chat_of(tokenizer, case), start(case)
    row = [*begin, said(THINKING)]
    assert chat.opening == case.opens
    strip, mask = (chat_of(tokenizer, case, thoughts=how) for how in ("strip", "mask"))
    assert trained(strip, row) == trained(chat, [*begin, said("Paris.")])
    if case.thought is None:
        with pytest.raises(UserError, match="holds a thought, but the prompt says not to think"):
            chat.encode(row)
        return
    assert trained(chat, row) == [case.thought + case.end]
    assert trained(mask, row) == ["Paris." + case.end]
    assert mask.tokenizer.decode(mask.encode(row)[0]) == chat.tokenizer.decode(chat.encode(row)[0])
    # What would be sampled there is read back as thought and answer.
    ids, labels = chat.encode(row)
    reply = split_thought(chat.opening + chat.text_of(ids[labels].tolist()))
    assert (reply.thought, reply.answer.strip(), reply.has_ended) == (THOUGHT, "Paris.", True)
    both = [*row, MORE, said("<think>\nSpain.\n</think>\n\nMadrid.")]
    second = case.thought.replace(THOUGHT, "Spain.").replace("Paris.", "Madrid.")
    assert trained(chat, both) == [
        case.thought + (case.end if case.apart else case.inner or case.end),
        second + case.end,
    ]
    assert len(chat.unroll_answers(both)) == (2 if case.apart else 1)


@pytest.mark.parametrize("case", [case for case in CASES if case.off is not None], ids=lambda case: case.name)
def test_switches(tokenizer: PreTrainedTokenizerBase, case: Case) -> None:
    chat_of(tokenizer, case)  # gives the tokenizer its template
    source = source_of(tokenizer)
    assert derive_kwargs(tokenizer, source, False) == case.off
    on = derive_kwargs(tokenizer, source, True)
    assert trained(Chat(tokenizer, kwargs=on), [USER, said(THINKING)])  # not refused
    with pytest.raises(UserError, match="never reads enable_thinkng; it reads"):
        Chat(tokenizer, kwargs={"enable_thinkng": False})
