"""How fast data gets from a file into batches, and what memory that needs.

Makes a JSONL file of 200,000 conversations of about 60 tokens (for a million raise `ROWS`: 7 minutes), then
opens, splits, tokenises and batches it as a run does, with the rows per second and the peak memory after each stage.
`start` is writing the file, which is no part of the work. `open_again` and `tokenise_again` are the second start,
which finds the rows indexed and the tokens made in the cache.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Line, alone, at_least, at_most, line, main, memory_mib, run_side
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.reading.formats import count_shared_prompts, open_rows, split_rows

TEXT = (
    "the of and to in is that it was for on are as with they be at one have this from or had by word but what some we "
    "can out other were all there when up use your how said an each she which do their time if will way about many "
    "then them write would like so these her long make thing see him two has look more day could go come did number"
)
WORDS = TEXT.split()
ROWS = 200_000


def sentence(generator: random.Random, words: int) -> str:
    """That many random words."""
    return " ".join(generator.choices(WORDS, k=words))


def write_rows(path: Path, count: int) -> None:
    """A JSONL file of distinct prompt and completion rows, about 60 tokens each with `make_tokenizer`."""
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as handle:
        for index in range(count):
            row = {"prompt": f"{index} {sentence(generator, 20)}?", "completion": f"{sentence(generator, 24)}."}
            handle.write(json.dumps(row) + "\n")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with one token for most words and a ChatML template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    generator = random.Random(1)
    bpe.train_from_iterator([sentence(generator, 500) for _ in range(20)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


class Stages:
    """Times stages; each knows its rows per second and the peak memory of the process when it ended."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}
        self.began = 0.0

    def __call__(self, name: str) -> Stages:
        self.name = name
        return self

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self.began
        self.report[self.name] = {"seconds": round(seconds, 3), "peak_mib": round(memory_mib())}

    def rows(self, count: int) -> None:
        """Add how many rows a second the last stage made."""
        last = self.report[self.name]
        last["rows_per_second"] = round(count / max(last["seconds"], 1e-9))


def stages(count: int, directory: Path) -> dict[str, Any]:
    """All stages over `count` rows, with their files in `directory`."""
    stage, cache = Stages(), directory / "cache"
    with stage("start"):
        write_rows(directory / "train.jsonl", count)
        chat = Chat(make_tokenizer())
    with stage("open"):
        rows = open_rows(directory / "train.jsonl", cache=cache)
    stage.rows(count)
    with stage("open_again"):
        rows = open_rows(directory / "train.jsonl", cache=cache)
    stage.rows(count)
    with stage("split"):
        train, test = split_rows(rows, 0.01)
        common = count_shared_prompts(train, test)
    stage.rows(count)
    with stage("tokenise"):
        table, report = build_table(train, chat, max_length=512, cache=cache)
    stage.rows(len(train))
    with stage("tokenise_again"):
        table, report = build_table(train, chat, max_length=512, cache=cache)
    stage.rows(len(train))
    for layout in ("padded", "packed"):
        with stage(f"batches_{layout}"):
            sampler = table.build_sampler(batch_tokens=32768, micro_tokens=8192, layout=layout)  # type: ignore[arg-type]
            seen = 0
            for step in range(sampler.count_steps(1)):
                for part in sampler.rank_micro_batches(step):
                    batch = table.collate_rows(part, layout, chat.pad_id)  # type: ignore[arg-type]
                    seen += batch.n_sequences if batch else 0
        assert seen == len(train)
        stage.rows(seen)
    facts = {"rows": count, "test_rows": len(test), "duplicates": common, "tokens_per_row": report.tokens / report.kept}
    return {**facts, "padding": report.padding, "trained_share": report.trained_share, "stages": stage.report}


def run(count: int) -> dict[str, Any]:
    """All stages in a directory of their own."""
    with tempfile.TemporaryDirectory() as directory:
        return stages(count, Path(directory))


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """Lines of the batches, the tokeniser, the memory and the second start."""
    count = 2000 if tiny else ROWS
    found = run_side(__file__, "run", count=count)
    if "error" in found:
        return [alone("data", None, "rows/s", note=found["error"])], found
    at, told = found["stages"], f"{count:,} rows, {found['tokens_per_row']:.0f} tokens each"
    packed = at["batches_packed"]["rows_per_second"]
    peak = max(stage["peak_mib"] for stage in at.values())
    first = sum(at[name]["seconds"] for name in ("open", "split", "tokenise"))
    again = sum(at[name]["seconds"] for name in ("open_again", "split", "tokenise_again"))
    return [
        alone("data: rows into packed batches", packed, "rows/s", at_least(60_000), note=told),
        alone("data: rows tokenised", at["tokenise"]["rows_per_second"], "rows/s", note=told),
        alone("data: peak memory", peak, "MiB", at_most(2000), note=told),
        line("data: second start against the first", again, first, "s", less_is_better=True, note="ours both"),
    ], found


if __name__ == "__main__":
    main("data", measure, {"run": run})
