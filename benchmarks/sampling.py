"""Sampling: the native engine beside `transformers.generate` and `generate_batch`, in answer tokens a second.

Models: the laboratory model on its own test questions, and a random Llama of 30 million parameters on random words
(which ends an answer at one token in thirty, so that lengths are uneven). Greedy; at temperature 1; and at temperature
1 with 8 samples of each prompt (of greedy answers there is only one). `generate` runs in fixed batches of 16, 64 and
256 prompts sorted by length, and the best of them counts; at temperature 1 it runs in the batch that was best for
greedy, with `num_return_sequences` for several samples. `generate_batch`, its continuous batching, is very slow on a
CPU: its best setting is looked for on a few prompts (its default, which takes most of the memory whatever the work, and
caches of a size that fits), and runs on the first 300 of the laboratory's prompts, as our engine does. Both sides begin
with messages and end with texts. Runs are in turn; the best counts.

Also: 8 samples of one prompt against 8 unrelated prompts of the same lengths, prompts four times as long as the
answers (ours against ours); and the time until the first answer of the whole job is there.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any

from common import RESULTS, Line, at_least, best, line, main, reason, run_side, say

Result = dict[str, Any]
JOBS: dict[str, dict[str, Any]] = {
    "lab": {"model": "lab", "prompts": 1000, "tokens": 60, "batches": [16, 64, 256], "few": 24, "many": 300},
    "30m": {"model": "30m", "prompts": 48, "tokens": 48, "batches": [16, 64], "few": 8, "many": 8},
}
TINY = {"lab": {"model": "lab", "prompts": 28, "tokens": 8, "batches": [16], "few": 4, "many": 8}}
SHARED = {"lab": {"model": "lab", "groups": 16, "answer": 48}, "30m": {"model": "30m", "groups": 4, "answer": 48}}
NAMES = {"lab": "laboratory model", "30m": "30 million parameters"}
WORDS = 1200
CACHES: list[dict[str, int]] = [
    {},
    {"num_blocks": 64, "max_batch_tokens": 512},
    {"num_blocks": 64, "max_batch_tokens": 128},
]


def load(name: str, ends: bool = True) -> tuple[Any, Any]:
    """Model and chat; a random model's answers end at many tokens, or with `ends` off at none."""
    from holdfast.data.chat.encoder import Chat

    if name == "lab" and ends:
        from holdfast.models import loading

        loaded = loading.load_model(name)
        return loaded.model, Chat(loaded.tokenizer)
    from work import random_llama, word_tokenizer

    shape = {"vocab_size": WORDS, "hidden_size": 192, "intermediate_size": 512, "layers": 4, "heads": 6}
    model = random_llama("30m") if name == "30m" else random_llama("tiny", **shape)
    chat = Chat(word_tokenizer(WORDS))
    chat.stop_ids = {1, *random.Random(1).sample(range(3, WORDS), WORDS // 30)} if ends else set()
    return model.eval(), chat


def questions(name: str, count: int) -> list[str]:
    """The laboratory's test questions, or random words."""
    if name == "lab":
        from holdfast.skills.rows import lab_rows

        return [row.prompt[-1]["content"] for row in lab_rows("lab", "test", count)]
    rng = random.Random(0)
    return [text_of(rng, rng.randint(10, 60)) for _ in range(count)]


def text_of(rng: random.Random, words: int) -> str:
    """That many random words."""
    return " ".join(f"w{rng.randrange(3, WORDS)}" for _ in range(words))


def asking(text: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    return [{"role": "user", "content": text}]


def native(model: Any, chat: Any, asked: list[str], how: Result, slots: int = 128) -> Result:
    """Our engine."""
    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.generation.native import NativeEngine

    began, first = time.perf_counter(), None
    engine = NativeEngine(model, chat, slots=slots, fingerprint="benchmark")
    requests = [(Request(str(i), asking(text)), range(how["n"])) for i, text in enumerate(asked)]
    params = SamplingParams(max_tokens=how["tokens"], temperature=how["temperature"], n=how["n"])
    answers: dict[tuple[int, int], str] = {}
    tokens = 0
    for sample in engine.sample(requests, params):
        first = first or time.perf_counter() - began
        answers[int(sample.key), sample.index] = sample.text
        tokens += sample.tokens
    return told(began, tokens, first, [answers[key] for key in sorted(answers)])


def generate(model: Any, chat: Any, asked: list[str], how: Result, batch: int) -> Result:
    """`transformers.generate` in batches sorted by length, the way its documentation shows."""
    import torch

    began, first, tokens = time.perf_counter(), None, 0
    tokenizer = chat.tokenizer
    tokenizer.padding_side = "left"
    prompts = [chat.prompt_ids(asking(text)) for text in asked]
    order = sorted(range(len(asked)), key=lambda i: -len(prompts[i]))
    sampling = {"do_sample": True, "temperature": how["temperature"], "top_k": 0} if how["temperature"] else {}
    each = max(1, batch // how["n"])  # prompts at once, so that the batch holds as many sequences whatever n is
    answers: dict[int, list[str]] = {}
    for at in range(0, len(order), each):
        chosen = order[at : at + each]
        inputs = tokenizer.pad({"input_ids": [prompts[i] for i in chosen]}, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model.generate(
                **inputs, **({"do_sample": False} | sampling), max_new_tokens=how["tokens"],
                num_return_sequences=how["n"], eos_token_id=sorted(chat.stop_ids) or None,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        for i, ids in enumerate(output[:, inputs["input_ids"].shape[1] :].tolist()):
            kept = cut(ids, chat.stop_ids)
            tokens += drawn(kept, how)
            answers.setdefault(chosen[i // how["n"]], []).append(tokenizer.decode(kept, skip_special_tokens=True))
        first = first or time.perf_counter() - began
    return told(began, tokens, first, [text for i in range(len(asked)) for text in answers[i]])


def cut(ids: list[int], stops: set[int]) -> list[int]:
    """The ids before the first that ends an answer."""
    return ids[: next((at for at, token in enumerate(ids) if token in stops), len(ids))]


def drawn(kept: list[int], how: Result) -> int:
    """Tokens drawn for an answer, the one that ended it included, as our engine counts them."""
    return min(len(kept) + 1, how["tokens"])


def continuous(model: Any, chat: Any, asked: list[str], how: Result, cache: Result) -> Result:
    """`generate_batch`."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    began = time.perf_counter()
    prompts = [chat.prompt_ids(asking(text)) for text in asked]
    settings = GenerationConfig(
        do_sample=how["temperature"] > 0, max_new_tokens=how["tokens"], eos_token_id=sorted(chat.stop_ids),
        pad_token_id=chat.pad_id, num_return_sequences=how["n"],
    )  # fmt: skip
    config = ContinuousBatchingConfig(**cache) if cache else None
    found = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=config)
    kept = [cut(list(result.generated_tokens), chat.stop_ids) for result in found.values()]
    texts = [chat.tokenizer.decode(ids, skip_special_tokens=True) for ids in kept]
    if len(kept) != len(asked) * how["n"]:
        raise RuntimeError(f"{len(kept)} of {len(asked) * how['n']} answers")
    return told(began, sum(drawn(ids, how) for ids in kept), None, texts)


def told(began: float, tokens: int, first: float | None, answers: list[str]) -> Result:
    """The numbers of one run, ended now."""
    seconds = time.perf_counter() - began
    return {"rate": tokens / seconds, "seconds": seconds, "tokens": tokens, "first": first, "answers": answers}


def race(job: Result, how: Result, batches: list[int], rounds: int) -> Result:
    """The engine and `generate` in turn, in this process: the best run of each, with its answers."""
    model, chat = load(job["model"])
    asked = questions(job["model"], max(1, job["prompts"] // how["n"]))
    runs: dict[str, list[Result]] = {"native": [], **{f"generate {batch}": [] for batch in batches}}
    for _ in range(rounds):
        runs["native"].append(native(model, chat, asked, how))
        for batch in batches:
            runs[f"generate {batch}"].append(generate(model, chat, asked, how, batch))
        say("      " + ", ".join(f"{name} {found[-1]['seconds']:.2f} s" for name, found in runs.items()))
    chosen = {name: best(found) for name, found in runs.items()}
    same = None
    if not how["temperature"]:
        mine, peer = chosen["native"]["answers"], chosen[f"generate {batches[0]}"]["answers"]
        same = sum(a == b for a, b in zip(mine, peer, strict=True)) / len(mine)
    for result in chosen.values():
        del result["answers"]
    return {"runs": chosen, "prompts": len(asked), "same_answers": same}


def batching(job: Result, how: Result) -> Result:
    """The engine and `generate_batch` on the first prompts, in this process."""
    model, chat = load(job["model"])
    asked = questions(job["model"], job["prompts"])[: job["few"]]
    found: dict[str, Result] = {}
    for cache in CACHES[1:] + (CACHES[:1] if job["model"] == "lab" else []):  # the default takes minutes
        name = named(cache)
        try:
            found[name] = continuous(model, chat, asked, how, cache)
        except Exception as error:  # a setting that the peer cannot run is told, whatever the reason
            found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
        say(f"      generate_batch {name}: {found[name].get('rate', found[name].get('error'))}")
    asked = questions(job["model"], job["prompts"])[: job["many"]]
    if job["many"] > job["few"]:
        chosen = max(CACHES, key=lambda cache: found.get(named(cache), {}).get("rate", 0))
        found[named(chosen)] = continuous(model, chat, asked, how, chosen)
        say(f"      {len(asked)} prompts: {found[named(chosen)]['rate']}")
    mine = native(model, chat, asked, how)
    for result in (mine, *found.values()):
        result.pop("answers", None)
    return {"ours": mine, "theirs": found}


def named(cache: Result) -> str:
    """A setting of the cache in words."""
    return ", ".join(f"{key} {value}" for key, value in cache.items()) or "default"


def prefix(model: str, groups: int, answer: int) -> Result:
    """8 samples of each prompt against as many unrelated prompts, ours both; prompts 4 times the answers."""
    loaded, chat = load(model, ends=False)
    rng = random.Random(0)
    lengths = [rng.randint(3 * answer, 5 * answer) for _ in range(groups)]
    shared = [text_of(rng, length) for length in lengths]
    unrelated = [text_of(rng, length) for length in lengths for _ in range(8)]
    how = {"tokens": answer, "temperature": 1.0}
    runs: dict[str, list[Result]] = {"shared": [], "unrelated": []}
    for _ in range(2):
        runs["shared"].append(native(loaded, chat, shared, {**how, "n": 8}))
        runs["unrelated"].append(native(loaded, chat, unrelated, {**how, "n": 1}))
    return {name: {k: v for k, v in best(found).items() if k != "answers"} for name, found in runs.items()}


def measure_job(name: str, job: Result, tiny: bool) -> tuple[list[Line], Result]:
    """Greedy, temperature 1, 8 samples, and continuous batching of one model."""
    how = {"tokens": job["tokens"], "temperature": 0.0, "n": 1}
    raw: Result = {}
    lines: list[Line] = []
    batches = job["batches"]
    for kind, change in (
        ("greedy", {}),
        ("temperature 1", {"temperature": 1.0}),
        ("8 samples", {"temperature": 1.0, "n": 8}),
    ):
        rounds = 1 if tiny or name == "30m" or kind == "greedy" else 2  # greedy tries three sizes of batches
        raw[kind] = race_of = run_side(__file__, "race", job=job, how=how | change, batches=batches, rounds=rounds)
        if error := reason(race_of):
            lines.append(line(f"sampling, {NAMES[name]}, {kind}", None, None, "tokens/s", note=error))
            continue
        chosen = max(list(race_of["runs"])[1:], key=lambda way: race_of["runs"][way]["rate"])
        batches = [int(chosen.removeprefix("generate "))]
        we, they = race_of["runs"]["native"], race_of["runs"][chosen]
        target = at_least(5) if name == "lab" else None
        same = race_of["same_answers"]
        note = f"best of generate: batch {batches[0]}" + (f"; {same:.1%} of the answers the same" if same else "")
        lines.append(line(f"sampling, {NAMES[name]}, {kind}", we["rate"], they["rate"], "tokens/s", target, note=note))
        if kind == "greedy":
            about = "until the first answer of all"
            lines.append(
                line(f"first result, {NAMES[name]}", we["first"], they["first"], "s", less_is_better=True, note=about)
            )
    raw["continuous"] = run_side(__file__, "batching", job=job, how=how)
    return [*lines, continuous_line(name, raw["continuous"])], raw


def continuous_line(name: str, found: Result) -> Line:
    """The line against `generate_batch`, in its best setting."""
    what = f"sampling, {NAMES[name]}, generate_batch"
    if error := reason(found):
        return line(what, None, None, "tokens/s", note=error)
    setting, they = max(found["theirs"].items(), key=lambda item: item[1].get("rate", 0))
    target = at_least(20) if name == "lab" else None
    note = reason(they) or f"{they['tokens']:,} tokens, greedy; its best: {setting}"
    return line(what, found["ours"]["rate"], they.get("rate"), "tokens/s", target, note=note)


def measure(tiny: bool) -> tuple[list[Line], Result]:
    """All models, then prompts shared by samples."""
    lines: list[Line] = []
    raw: Result = {}
    for name, job in (TINY if tiny else JOBS).items():
        say(f"  {name}")
        made, raw[name] = measure_job(name, job, tiny)
        lines += made
    for name, job in ({} if tiny else SHARED).items():
        raw[f"shared {name}"] = found = run_side(__file__, "prefix", **job)
        rates = [found.get(kind, {}).get("rate") for kind in ("shared", "unrelated")]
        about = reason(found) or "ours both; random weights of that size"
        what = f"8 samples of one prompt against 8 prompts, {NAMES[name]}"
        lines.append(line(what, *rates, "tokens/s", at_least(1.5), note=about))
    if not tiny:
        (RESULTS / "sampling.json").write_text(json.dumps(raw, indent=1) + "\n")
    return lines, raw


if __name__ == "__main__":
    main("sampling", measure, {"race": race, "batching": batching, "prefix": prefix})
