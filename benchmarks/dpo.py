"""Preference training: Holdfast's `dpo` beside TRL's `DPOTrainer`, tokens a second and peak memory.

Three cases on a random Llama of 8 million parameters: prompts four times as long as the answers, all weights and LoRA
(rank 8 on all linear maps of the layers), and prompts a quarter of the answers, all weights. Both sides read the same
pairs of random words with the same tokenizer, so that the ids are the same, and take the same number of pairs a step on
average, in fp32. TRL runs with the reference's log-probabilities computed beforehand (`precompute_ref_log_probs`, the
time for it not counted) and as it is by default, with the reference model beside. Ours come from its cache, filled
before the first step and not counted either.

TRL's best batch (4 or 2 pairs) is looked for first; padding-free and packing do not exist in this trainer, and it
offers no lengths to group by. A pair counts for the tokens of its two sequences, prompt and answer, on both sides,
whatever a trainer saves of them.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

from common import Line, at_least, at_most, best, in_turn, line, main, measure_cases, reason, run_side, say

Setting = dict[str, Any]
LONG, SHORT = {"prompt": 256, "answer": 64}, {"prompt": 32, "answer": 128}
SIZE = {"shape": "8m", "pairs": 24, "per_step": 4}
CASES = {
    "long prompts, full": {**SIZE, **LONG, "tuner": "full"},
    "long prompts, lora": {**SIZE, **LONG, "tuner": "lora"},
    "short prompts, full": {**SIZE, **SHORT, "tuner": "full"},
}
TINY = {
    "long prompts, full": {"shape": "tiny", "pairs": 32, "per_step": 8, "prompt": 16, "answer": 4, "tuner": "full"},
    "long prompts, lora": {"shape": "tiny", "pairs": 32, "per_step": 8, "prompt": 16, "answer": 4, "tuner": "lora"},
}
TARGETS = {"precomputed": at_least(2.0), "default": at_least(3.0)}


def rows_of(case: dict[str, Any]) -> tuple[list[Any], Any]:
    """The pairs and their tokenizer."""
    from work import SHAPES, word_pairs, word_tokenizer

    words = SHAPES[case["shape"]]["vocab_size"]
    return word_pairs(case["pairs"], case["prompt"], case["answer"], words), word_tokenizer(words)


def ours(case: dict[str, Any], setting: Setting, warm: int, steps: int, limit: float = 1e9) -> dict[str, Any]:
    """Holdfast's trainer."""
    import numpy as np
    from work import holdfast_steps, random_llama, recipe

    from holdfast.data.batching.tokenize import build_table
    from holdfast.data.chat.encoder import Chat

    rows, tokenizer = rows_of(case)
    chat = Chat(tokenizer)
    table, _ = build_table(rows, chat, max_length=4096, kind="pair")
    lengths = np.array([whole_length(chat, row) for row in rows])
    model = random_llama(case["shape"])
    tuner = {"name": "lora", "r": 8, "alpha": 16} if case["tuner"] == "lora" else {"name": "full"}
    made = recipe(table, case["per_step"], warm + steps, objective="dpo", tuner=tuner, train=setting)
    found = holdfast_steps(made, model, table, warm, limit, lengths)
    return {"setting": setting, **found, "data_tokens": int(lengths.sum())}


def theirs(case: dict[str, Any], setting: Setting, warm: int, steps: int, limit: float = 1e9) -> dict[str, Any]:
    """TRL's DPOTrainer in one setting: `batch` and `precompute`."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer
    from work import Ticks, memory_mib, random_llama, trl_arguments

    rows, tokenizer = rows_of(case)
    columns = {
        "prompt": [row.prompt[-1]["content"] for row in rows],
        "chosen": [f" {row.chosen}" for row in rows],
        "rejected": [f" {row.rejected}" for row in rows],
    }
    model = random_llama(case["shape"])
    before = memory_mib(peak=False)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    try:
        with tempfile.TemporaryDirectory() as directory:
            common = trl_arguments(directory, warm + steps, setting["batch"], case["per_step"], "fp32")
            more: dict[str, Any] = {"max_length": None, "precompute_ref_log_probs": setting["precompute"]}
            if setting["precompute"]:
                more["precompute_ref_batch_size"] = 8
            arguments = DPOConfig(**common, **more)
            ticks = Ticks(warm, limit, before)
            # The model TRL would load for itself by name, had this one a name.
            beside = case["tuner"] == "full" and not setting["precompute"]
            trainer = DPOTrainer(
                model, random_llama(case["shape"]) if beside else None, args=arguments,
                train_dataset=Dataset.from_dict(columns), processing_class=tokenizer,
                peft_config=lora if case["tuner"] == "lora" else None, callbacks=[ticks],
            )  # fmt: skip
            trainer.train()
    except Exception as error:  # a setting that the peer cannot run is told, whatever the reason
        return {"setting": setting, "error": f"{type(error).__name__}: {error}"[:300]}
    data = trainer.train_dataset
    read = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in data)
    return {"setting": setting, **ticks.clock.result(), "data_tokens": read}


def whole_length(chat: Any, row: Any) -> int:
    """Tokens of a pair's two sequences."""
    answers = ({"role": "assistant", "content": text} for text in (row.chosen, row.rejected))
    return sum(len(chat.encode([*row.messages, answer])[0]) for answer in answers)


def explore(case: dict[str, Any], settings: list[Setting], steps: int) -> dict[str, Any]:
    """A quick look at TRL's settings, one after another in this process; those far behind are left early."""
    found: list[dict[str, Any]] = []
    for setting in settings:
        fastest = max((f["rate"] / f["tokens_per_step"] for f in found if "rate" in f), default=0)
        found.append(theirs(case, setting, 1, steps, 4 / fastest + 1 if fastest else 1e9))
        say(f"      {setting}: {found[-1].get('rate', found[-1].get('error'))}")
    return {"found": found}


def their_settings(case: dict[str, Any]) -> list[Setting]:
    """What TRL may choose from."""
    return [{"batch": size, "precompute": True} for size in (8, 4, 2) if size <= case["per_step"]]


def measure_case(name: str, case: dict[str, Any], tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """The lines of one case."""
    looked = run_side(__file__, "explore", case=case, settings=their_settings(case), steps=1)
    if error := reason(looked):
        return [line(f"DPO, {name}", None, None, "tokens/s", note=error)], {"explored": looked}
    setting = best(looked["found"])["setting"]
    steps = {"warm": 1, "steps": 2} if tiny else {"warm": 1, "steps": 3}
    kinds = {"precomputed": {**setting, "precompute": True}, "default": {**setting, "precompute": False}}
    ways = {"ours": lambda: run_side(__file__, "ours", case=case, setting={"precision": "fp32"}, **steps)}
    for kind, chosen in kinds.items():
        ways[kind] = lambda chosen=chosen: run_side(__file__, "theirs", case=case, setting=chosen, **steps)
    runs = in_turn(ways, 1)
    lines = []
    for kind, target in TARGETS.items():
        we, they = runs["ours"], runs[kind]
        wanted = target if name.startswith("long") else None
        note = reason(we, they) or f"ours {we['layout']} fp32; TRL {kind}, batch {setting['batch']}"
        lines.append(line(f"DPO, {name}, TRL {kind}", we.get("rate"), they.get("rate"), "tokens/s", wanted, note=note))
    memory = at_most(0.7) if name.startswith("long") else None
    peaks = runs["ours"].get("peak_mib"), runs["precomputed"].get("peak_mib")
    lines.append(line(f"DPO, {name}, peak memory", *peaks, "MiB", memory, note="TRL precomputed"))
    return lines, {"explored": looked["found"], "chosen": setting, "measured": runs}


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """All cases."""
    return measure_cases(TINY if tiny else CASES, partial(measure_case, tiny=tiny))


if __name__ == "__main__":
    main("dpo", measure, {"ours": ours, "theirs": theirs, "explore": explore})
