"""The token table: what is kept, dropped, cut and refused, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.row_store import RowFile
from holdfast.data.rows import Row
from holdfast.errors import UserError


@pytest.fixture
def chat(tokenizer_of: Callable[[str], PreTrainedTokenizerBase]) -> Chat:
    return Chat(tokenizer_of("chatml"))


def row(answer: str, **more: object) -> Row:
    messages = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": answer}]
    return Row(messages, **more)  # type: ignore[arg-type]


def size(chat: Chat, one: Row) -> int:
    return len(chat.encode(one.messages)[0])


def rows_of(count: int) -> list[Row]:
    return [row("Paris " * (1 + i % 7) + str(i)) for i in range(count)]


def test_rows_come_through_as_the_chat_encodes_them(chat: Chat, tmp_path: Path) -> None:
    rows = [*rows_of(40), row("x", weight=0.5)]
    for cache in (None, tmp_path):
        for given in (rows, RowFile.write(rows, tmp_path / "rows")):
            table, report = build_table(given, chat, max_length=512, cache=cache)
            assert len(table) == report.kept == report.rows == 41
            for k, one in enumerate(rows):
                (found,) = table.row_sequences(k)
                ids, trained = chat.encode(one.messages)
                assert (found.ids.tolist(), found.label_mask.tolist()) == (ids.tolist(), trained.tolist())
                assert (found.row, found.role, found.weight) == (k, 0, one.weight)
            assert report.tokens == table.lengths.sum()
            assert report.trained_tokens == sum(int(table.row_sequences(k)[0].label_mask.sum()) for k in range(41))
            assert report.dropped == {}
            assert sum(count for _, count in report.histogram) == 41
            assert report.lengths["longest"] == table.lengths.max() == report.longest[0][1]
            assert report.summary_lines() == [
                f"41 of 41 rows, training on {report.trained_share:.0%} of {report.tokens} tokens"
            ]


def test_shards_do_not_matter(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    import holdfast.data.batching.tokenize as module

    done: list[int] = []
    whole, _ = build_table(rows_of(10), chat, max_length=512)
    monkeypatch.setattr(module, "SHARD", 3)
    parts, _ = build_table(rows_of(10), chat, max_length=512, progress=done.append)
    assert np.array_equal(whole.ids, parts.ids)
    assert np.array_equal(whole.label_mask, parts.label_mask)
    assert whole.fingerprint == parts.fingerprint
    assert done == [3, 3, 3, 1]


def test_pairs(chat: Chat) -> None:
    prompt = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Capital?"},
    ]
    rows = [Row(prompt, chosen="Paris", rejected="Rome, I think"), Row(prompt, chosen="A", rejected="B")]
    table, _ = build_table(rows, chat, max_length=512, kind="pair")
    assert (len(table), table.per_row) == (2, 2)
    chosen, rejected = table.row_sequences(0)
    assert (chosen.role, rejected.role, chosen.row, rejected.row) == (0, 1, 0, 0)
    decode = chat.tokenizer.decode
    assert decode(chosen.ids[chosen.label_mask]) == "Paris<|im_end|>"  # not the earlier "Hello"
    assert decode(rejected.ids[rejected.label_mask]) == "Rome, I think<|im_end|>"
    shared = int(chosen.label_mask.argmax())
    assert chosen.ids[:shared].tolist() == rejected.ids[:shared].tolist() == chat.prompt_ids(prompt)
    assert table.lengths[0] == len(chosen.ids) + len(rejected.ids)
    assert table.widths[0] == len(rejected.ids)


def test_plain_text(chat: Chat) -> None:
    table, report = build_table([Row([{"role": "assistant", "content": "Once upon a time."}])], chat, max_length=64)
    (found,) = table.row_sequences(0)
    assert chat.tokenizer.decode(found.ids) == "Once upon a time.<|im_end|>"
    assert found.label_mask.tolist() == [False] + [True] * (len(found.ids) - 1)
    assert report.trained_tokens == len(found.ids) - 1


def test_drop_counts_and_names(chat: Chat) -> None:
    rows = [row("Paris."), row("Paris " * 50), row("Rome."), row("Rome " * 60), row("x", weight=0.0)]
    limit = max(size(chat, rows[0]), size(chat, rows[2]))
    table, report = build_table(rows, chat, max_length=limit)
    assert table.source.tolist() == [0, 2]
    assert report.dropped == {"longer than max_length": 2, "weight 0": 1}
    assert report.named == {"longer than max_length": [2, 4], "weight 0": [5]}
    assert [number for number, _ in report.longest[:2]] == [4, 2]
    asked = repr(rows[1].messages[-2]["content"])
    assert report.summary_lines()[1:] == [
        f"left out 2: longer than max_length (rows 2 {asked}, 4)", f"left out 1: weight 0 (row 5 {asked})"
    ]  # fmt: skip
    (found,) = table.row_sequences(1)
    assert found.row == 1
    assert chat.tokenizer.decode(found.ids[found.label_mask]) == "Rome.<|im_end|>"


def test_truncate_cuts_answers_and_never_trains_on_nothing(chat: Chat) -> None:
    rows = [row("Paris."), row("Paris " * 50)]
    prompt = len(chat.prompt_ids(rows[0].prompt))
    limit = size(chat, rows[0]) + 3
    table, report = build_table(rows, chat, max_length=limit, too_long="cut")
    assert (report.kept, report.truncated, report.dropped) == (2, 1, {})
    (cut,) = table.row_sequences(1)
    assert cut.ids.tolist() == chat.encode(rows[1].messages)[0][:limit].tolist()
    assert cut.label_mask.sum() == limit - prompt
    assert int(cut.ids[-1]) not in chat.stop_ids

    long_prompt = Row([{"role": "user", "content": "word " * 90}, {"role": "assistant", "content": "Yes."}])
    table, report = build_table([*rows, long_prompt], chat, max_length=limit, too_long="cut")
    assert table.source.tolist() == [0, 1]
    assert (report.dropped, report.named) == ({"answer cut to nothing": 1}, {"answer cut to nothing": [3]})


@pytest.mark.parametrize("limit", [2, 3, 10, 64, 150])
def test_windows_train_every_token_of_a_long_text_exactly_once(limit: int, chat: Chat) -> None:
    text = "The capital of France is Paris. " * 6
    ids, trained = chat.encode_text(text)
    rows = [Row([{"role": "assistant", "content": text}]), row("Paris.")]
    table, report = build_table(rows, chat, max_length=limit, context=limit, too_long="window")
    parts = [table.row_sequences(i)[0] for i in np.flatnonzero(table.source == 0)]
    assert max(len(part.ids) for part in parts) <= limit
    learned = np.concatenate([part.ids[part.label_mask] for part in parts])
    assert learned.tolist() == ids[trained].tolist()
    assert not any(part.label_mask[0] for part in parts)  # a label needs a token before it
    begins = np.cumsum([0, *(len(part.ids) - 1 for part in parts)])
    for begin, part in zip(begins, parts, strict=False):
        assert part.ids.tolist() == ids[begin : begin + len(part.ids)].tolist()
    long = len(ids) > limit
    assert (report.windowed, report.windows) == ((1, len(parts)) if long else (0, 0))
    assert len(parts) == -(-(len(ids) - 1) // (limit - 1))


def test_truncated_pairs_lose_both_or_none(chat: Chat) -> None:
    prompt = [{"role": "user", "content": "Capital?"}]
    rows = [
        Row(prompt, chosen="Paris " * 40, rejected="Rome"),
        Row([{"role": "user", "content": "w " * 99}], chosen="A", rejected="B"),
    ]
    table, report = build_table(rows, chat, max_length=40, too_long="cut", kind="pair")
    assert (len(table), report.truncated, report.named) == (1, 1, {"answer cut to nothing": [2]})
    assert [len(e.ids) for e in table.row_sequences(0)] == [
        40,
        size(chat, Row([*prompt, {"role": "assistant", "content": "Rome"}])),
    ]


def raised(rows: list[Row], chat: Chat, **options: object) -> str:
    with pytest.raises(UserError) as error:
        build_table(rows, chat, **({"max_length": 40} | options))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_errors(chat: Chat, tmp_path: Path) -> None:
    rows = [row("Paris."), row("Paris " * 50)]
    most, least = size(chat, rows[1]), size(chat, rows[0])
    assert raised(rows, chat, too_long="error") == (
        f"1 rows are longer than 40 tokens, train.max_length, the longest (row 2, 'What is the capital of "
        f"France?') has {most} tokens; set train.max_length to {most}, or set data.too_long to cut or drop"
    )
    assert raised(rows, chat, max_length=5, cache=tmp_path) == (
        f"none of the 2 rows can be trained on (2 longer than max_length); the limit is 5 tokens, train.max_length, "
        f"the rows have {least} to {most} tokens (median {most}); set train.max_length to {most}, or set data.too_long "
        "to cut, which trains on their beginnings"
    )
    assert list(tmp_path.iterdir()) == []
    assert raised([], chat) == "there is no row to train on; the data or the curation left none"
    pair = Row([{"role": "user", "content": "Q"}], chosen="A", rejected="B")
    assert raised([rows[0], pair], chat) == (
        "row 2 has chosen and rejected, but the objective trains on answers; use rows with answers, or dpo"
    )
    assert raised([pair, rows[0]], chat, kind="pair") == (
        "row 2 has no chosen and rejected answer, but the objective compares them; add them"
    )


def test_the_disk_table_is_made_once_and_keyed_by_everything(chat: Chat, tmp_path: Path) -> None:
    rows = rows_of(5)

    def build(given: list[Row] = rows, who: Chat = chat, **options: object) -> str:
        settings = {"max_length": 64} | options
        return build_table(given, who, cache=tmp_path, **settings)[0].fingerprint  # type: ignore[arg-type]

    first = build()
    (made,) = tmp_path.iterdir()
    stamp = (made / "ids.bin").stat().st_mtime_ns
    assert build() == first
    assert (made / "ids.bin").stat().st_mtime_ns == stamp
    table, report = build_table(rows, chat, max_length=64, cache=tmp_path)
    again, in_memory = build_table(rows, chat, max_length=64)
    assert isinstance(table.ids, np.memmap)
    assert np.array_equal(table.ids, again.ids)
    assert report == in_memory
    others = [build(max_length=65), build(too_long="cut"), build(rows[:4]), build(who=Chat(chat.tokenizer, "S"))]
    assert len({first, *others}) == 5
    assert len(list(tmp_path.iterdir())) == 5


def test_answers_with_thoughts_that_the_template_cuts_are_entries_of_their_own(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = (Path(__file__).parent / "templates" / "qwen3.jinja").read_text(encoding="utf-8")
    chat = Chat(tokenizer, source=source)
    turns = []
    for number in range(3):
        turns.append({"role": "user", "content": f"Add {number} and 2."})
        turns.append({"role": "assistant", "content": f"<think>\nI add {number}.\n</think>\n\n{number + 2}"})
    plain = [{**m, "content": m["content"].rpartition("\n")[2]} for m in turns]
    table, report = build_table([Row(turns), Row(plain)], chat, max_length=256)
    assert (report.rows, report.kept, report.unrolled, report.parts) == (2, 2, 1, 3)
    assert table.source.tolist() == [0, 0, 0, 1]
    said = (
        "1 conversation holds thoughts in earlier answers, which the chat template cuts: its 3 answers are trained one"
    )
    assert report.summary_lines()[-1].startswith(said)
    texts = [tokenizer.decode(s.ids[s.label_mask]) for i in range(3) for s in table.row_sequences(i)]
    assert texts == [f"<think>\nI add {n}.\n</think>\n\n{n + 2}<|im_end|>" for n in range(3)]
    _, short = build_table([Row(turns), Row(plain)], chat, max_length=int(table.lengths.max()) - 1, too_long="drop")
    assert (short.kept, list(short.dropped.values())) == (1, [1])
