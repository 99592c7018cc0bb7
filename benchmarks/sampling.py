"""The native sampling engine beside `transformers.generate`: same prompts, same greedy answers, seconds and ratio.

    python benchmarks/sampling.py                          # a random Llama of 2 million parameters
    python benchmarks/sampling.py --model lab --prompts 500

`generate` runs in fixed batches of 16, 64 and 256 prompts, each the way its documentation shows: in the order given,
and sorted by length, which a careful user would add. The engine is compared with the fastest of either kind. Runs are
interleaved, so that other work on the machine meets all alike, and the least time of each counts, by the clock and,
where the machine is shared, in processor time. Both sides tokenise and decode within the measured time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.data.chat import Chat
from holdfast.sampling.base import Request, SamplingParams
from holdfast.sampling.native import NativeEngine

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
VOCABULARY = 1200


class Stops(Chat):
    """A chat whose answers end at many tokens: a random model then gives answers of uneven length, 26 on average."""

    def __init__(self, tokenizer: Any, stops: set[int]) -> None:
        super().__init__(tokenizer)
        self.stop_ids = stops


def random_model() -> tuple[Any, Chat]:
    """An untrained Llama and a chat whose tokens are the words w3, w4, ..."""
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    chosen = random.Random(1).sample(range(3, VOCABULARY), VOCABULARY // 30)
    return LlamaForCausalLM(config).eval(), Stops(tokenizer, {1, *chosen})


def named_model(name: str) -> tuple[Any, Chat]:
    from holdfast import models as library

    loaded = library.load(name)
    return loaded.model, Chat(loaded.tokenizer)


def questions(name: str | None, count: int) -> list[str]:
    """Random words for the random model; the laboratory's test questions for a named one."""
    rng = random.Random(0)
    if name is None:
        return [" ".join(f"w{rng.randrange(3, VOCABULARY)}" for _ in range(rng.randint(10, 60))) for _ in range(count)]
    from holdfast.lab.tasks import lab_rows

    return [row.prompt[-1]["content"] for row in lab_rows("lab", "test", count)]


def native(model: Any, chat: Chat, asked: list[str], tokens: int, slots: int) -> list[str]:
    engine = NativeEngine(model, chat, slots=slots, fingerprint="benchmark")
    requests = [(Request(str(i), [{"role": "user", "content": text}]), [0]) for i, text in enumerate(asked)]
    found = {int(s.key): s.text for s in engine.sample(requests, SamplingParams(max_tokens=tokens))}
    return [found[i] for i in range(len(asked))]


def generate(model: Any, chat: Chat, asked: list[str], tokens: int, batch: int, by_length: bool) -> list[str]:
    tokenizer = chat.tokenizer
    tokenizer.padding_side = "left"
    prompts = [chat.prompt_ids([{"role": "user", "content": text}]) for text in asked]
    order = sorted(range(len(asked)), key=lambda i: len(prompts[i]) if by_length else i)
    answers = [""] * len(asked)
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        inputs = tokenizer.pad({"input_ids": [prompts[i] for i in chosen]}, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=tokens,
                eos_token_id=sorted(chat.stop_ids),
                pad_token_id=tokenizer.pad_token_id,
            )
        for i, ids in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((at for at, token in enumerate(ids) if token in chat.stop_ids), len(ids))
            answers[i] = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return answers


def measure(
    ways: dict[str, Callable[[], list[str]]], rounds: int
) -> tuple[dict[str, float], dict[str, float], dict[str, list[str]]]:
    """Least seconds of each way over interleaved rounds, by the clock and of processor time, and its answers."""
    clock, processor = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, float("inf"))
    answers: dict[str, list[str]] = {}
    for number in range(rounds):
        for name, way in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            answers[name] = way()
            took, used = time.perf_counter() - start, time.process_time() - busy
            clock[name], processor[name] = min(clock[name], took), min(processor[name], used)
            print(f"round {number + 1}  {name:14} {took:8.2f} s  processor {used:8.2f} s", flush=True)
    return clock, processor, answers


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="any model Holdfast can load; default: a random one")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=60, help="longest answer")
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sampling.json"))
    return parser.parse_args()


def main() -> None:
    asked_for = arguments()
    model, chat = named_model(asked_for.model) if asked_for.model else random_model()
    model.to(asked_for.device)
    asked = questions(asked_for.model, asked_for.prompts)
    ways: dict[str, Callable[[], list[str]]] = {}
    for slots in asked_for.slots:
        ways[f"native {slots}"] = lambda slots=slots: native(model, chat, asked, asked_for.tokens, slots)
    for batch in asked_for.batches:
        for kind in ("generate", "sorted generate"):
            ways[f"{kind} {batch}"] = lambda batch=batch, kind=kind: generate(
                model, chat, asked, asked_for.tokens, batch, kind != "generate"
            )
    clock, processor, answers = measure(ways, asked_for.rounds)
    best = {kind: least(clock, kind) for kind in ("native", "generate", "sorted generate")}
    ours = best.pop("native")
    same = {
        theirs: sum(a == b for a, b in zip(answers[ours], answers[theirs], strict=True)) / len(asked)
        for theirs in best.values()
    }
    result = {
        "model": asked_for.model or "random Llama, 2.2 M parameters", "device": asked_for.device,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
        "prompts": len(asked), "seconds": clock, "processor_seconds": processor, "native": ours,
        "times as fast as": {theirs: clock[theirs] / clock[ours] for theirs in best.values()},
        "in processor time": {
            theirs: processor[least(processor, kind)] / processor[least(processor, "native")]
            for kind, theirs in best.items()
        },
        "same_answers": same,
    }  # fmt: skip
    asked_for.out.parent.mkdir(parents=True, exist_ok=True)
    asked_for.out.write_text(json.dumps(result, indent=1) + "\n")
    for theirs in best.values():
        print(
            f"{ours} is {result['times as fast as'][theirs]:.2f} times as fast as {theirs} "
            f"({result['in processor time'][theirs]:.2f} times in processor time); "
            f"{same[theirs]:.1%} of the answers are the same"
        )
    if min(same.values()) < 0.99:
        raise SystemExit("more than 1 % of the greedy answers differ")


def least(seconds: dict[str, float], kind: str) -> str:
    """The fastest way of a kind."""
    return min((name for name in seconds if name.rpartition(" ")[0] == kind), key=seconds.__getitem__)


if __name__ == "__main__":
    main()
