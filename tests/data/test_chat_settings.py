"""What a recipe leaves open about how a model is asked, derived from its rows, told and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from holdfast.data.chat.settings import ChatSettings, derive_settings, settings_of, write_settings
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.recipe.data_section import Data

TokenizerOf = Callable[[str], PreTrainedTokenizerBase]


def row(answer: str) -> Row:
    return Row([{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": answer}])


BARE, THOUGHT, UNENDED = row("3"), row("<think>\n1 + 2\n</think>\n\n3"), row("<think>\n1 + 2, so")


def data(**more: Any) -> Data:
    return Data(train="rows.jsonl", **more)


def test_a_switch_is_derived_from_the_rows_and_told(tokenizer_of: TokenizerOf) -> None:
    qwen = tokenizer_of("qwen3")
    off = derive_settings(data(), qwen, [BARE] * 3)
    assert off.chat_template_kwargs == {"enable_thinking": False}
    assert off.lines == ('chat template: given {"enable_thinking": false}, because no row holds a thought',)
    on = derive_settings(data(), qwen, [BARE, THOUGHT, BARE])
    assert on.chat_template_kwargs == {}
    assert on.lines == ("thoughts: 1 of 3 rows hold one; they are trained with the answers (data.thoughts: train)",)
    assert derive_settings(data(thoughts="strip"), qwen, [THOUGHT]).chat_template_kwargs == {"enable_thinking": False}
    assert derive_settings(data(chat_template_kwargs={}), qwen, [BARE]).chat_template_kwargs == {}
    asked = derive_settings(data(chat_template_kwargs={"enable_thinking": True}), qwen, [BARE])
    assert asked.lines == ('chat template: given {"enable_thinking": true}',)
    assert derive_settings(data(), tokenizer_of("llama3"), [BARE]).lines == ()


def test_thoughts_that_the_template_would_cut_or_that_never_end_are_counted(tokenizer_of: TokenizerOf) -> None:
    deepseek = tokenizer_of("deepseek")
    found = derive_settings(data(thoughts="mask"), deepseek, [BARE, THOUGHT], [UNENDED])
    assert found.lines == (
        "thoughts: 2 of 3 rows hold one; they are read but not trained, although the chat template would cut them "
        "(data.thoughts: mask)",
        "thoughts: the prompt opens one (<think>), and 1 of 3 rows have none; behind it their answers are trained to "
        "end it at once",
    )
    assert found.warnings == ("1 of 3 rows hold a thought that does not end: no answer follows it",)


def test_earlier_answers_behind_another_prompt_are_told(tokenizer_of: TokenizerOf) -> None:
    turns = [*BARE.messages, *BARE.messages]
    found = derive_settings(data(), tokenizer_of("qwen3"), [BARE, Row(turns)])
    assert found.lines[-1] == (
        "chat template: earlier answers of a conversation (rows: 1) stand in it behind another prompt than a server "
        "makes for them; there they are trained as they stand"
    )
    assert derive_settings(data(), tokenizer_of("chatml"), [Row(turns)]).lines == ()


def test_what_the_template_never_reads_is_refused(tokenizer_of: TokenizerOf) -> None:
    for kwargs, message in [
        ({"enable_thinkng": True}, "never reads enable_thinkng; it reads enable_thinking"),
        ({"messages": []}, "messages is given to the template by the run itself; leave it out"),
    ]:
        with pytest.raises(UserError, match=message):
            derive_settings(data(chat_template_kwargs=kwargs), tokenizer_of("qwen3"), [BARE])


def test_a_template_is_chosen_by_name_or_file(tokenizer_of: TokenizerOf, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("plain")
    own = tokenizer_of("chatml").chat_template
    (tmp_path / "mine.jinja").write_text(str(own))
    settings = derive_settings(data(chat_template=str(tmp_path / "mine.jinja")), tokenizer, [BARE])
    assert "<|im_start|>user\nAdd 1 and 2." in settings.build_chat(tokenizer).prompt_text(BARE.prompt)
    with pytest.raises(UserError, match=r"data.chat_template: none.jinja is no file"):
        derive_settings(data(chat_template="none.jinja"), tokenizer, [BARE])
    tokenizer.chat_template = {"brief": own, "long": own}
    try:
        with pytest.raises(UserError, match=r"several chat templates \(brief, long\) and none called default; choose"):
            derive_settings(data(), tokenizer, [BARE])
        assert derive_settings(data(chat_template="brief"), tokenizer, [BARE]).template == own
    finally:
        tokenizer.chat_template = None


def test_settings_are_kept_beside_the_weights(tokenizer_of: TokenizerOf, tmp_path: Path) -> None:
    settings = ChatSettings("Be brief.", {"enable_thinking": False}, "strip")
    (tmp_path / "model").mkdir()
    write_settings(tmp_path / "model", settings.build_chat(tokenizer_of("qwen3")))
    for path in (tmp_path, tmp_path / "model"):
        assert settings_of(path) == settings
    assert settings_of(tmp_path / "other") is None
    (tmp_path / "model" / "chat_settings.json").write_text('{"sytem": null}')
    with pytest.raises(UserError, match=r"chat_settings.json: not the chat settings of a model"):
        settings_of(tmp_path)
