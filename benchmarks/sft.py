"""Supervised fine-tuning: Holdfast's trainer beside TRL's `SFTTrainer`, real tokens a second and peak memory.

Cases: the laboratory model on rows of all its skills; a random Llama whose 151,936-token head dominates; a random Llama
of 30 million parameters on rows of 256 to 1,024 tokens. Both sides get the same tokenised rows (TRL as `input_ids` and
`labels`, so that it tokenises nothing), train on the same labels with the same number of tokens a step on average.

TRL's best setting is looked for first: padded with several numbers of rows a batch, grouped by length; packed (best
fit, which on TRL's side flattens a batch into one line); padding-free; each in fp32 and in bf16 autocast. Ours is the
layout that the trainer chooses itself. The best of each in the same precision are then run in turn, each in a process
of its own. Where a processor multiplies in bf16 more than `SLOW` times slower than in fp32 (it emulates it, and a step
takes minutes), bf16 is left out, and the table says so. Tokens are real ones, never padding. The time is that between
the ends of optimizer steps.

Memory is the peak of the whole process, and in the raw numbers also without what it held before training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

from common import Line, at_least, at_most, best, in_turn, line, main, measure_cases, reason, run_side, say

Setting = dict[str, Any]
CASES = {
    "lab": {"model": "lab", "rows": 1400, "low": 0, "high": 0, "per_step": 64},
    "head": {"model": "head", "rows": 128, "low": 32, "high": 192, "per_step": 6},
    "30m": {"model": "30m", "rows": 64, "low": 256, "high": 1024, "per_step": 4},
}
TINY = {"tiny": {"model": "tiny", "rows": 64, "low": 8, "high": 32, "per_step": 32}}
NAMES = {
    "lab": "SFT, laboratory model",
    "head": "SFT, 151,936-word vocabulary",
    "30m": "SFT, 30 million parameters, length 256 to 1,024",
    "tiny": "SFT, tiny",
}
ROWS = {"lab": (32, 16), "head": (4, 2), "30m": (2,)}
"""Rows of a padded batch that TRL may choose from; 4 rows of 30m were a fifth slower whenever they were looked at."""
SPEED = {"lab": 1.35, "head": 4.0, "30m": 1.7}
MEMORY = {"head": 0.7}
STEPS = {"lab": {"warm": 2, "steps": 12}, "head": {"warm": 1, "steps": 3}, "30m": {"warm": 1, "steps": 2}}
PRECISIONS = ("fp32", "bf16")
SLOW = 4.0


def products(seconds: float = 0.3) -> dict[str, Any]:
    """GFLOP/s of one matrix product of the 30-million-parameter model's shape, in both precisions."""
    import time

    import torch

    found = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = torch.randn(256, 512).to(kind), torch.randn(512, 1376).to(kind)
        left @ right
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            left @ right
            count += 1
        found[name] = 2 * 256 * 512 * 1376 * count / (time.perf_counter() - began) / 1e9
    return found


def ours(case: dict[str, Any], setting: Setting, warm: int, steps: int, limit: float = 1e9) -> dict[str, Any]:
    """Holdfast's trainer in one setting: `layout` and `precision`."""
    from work import Case, holdfast_steps, recipe

    from holdfast.errors import HoldfastError

    work = Case(**case)
    table = work.table()
    try:
        made = recipe(table, work.per_step, warm + steps, train=setting)
        return {"setting": setting, **holdfast_steps(made, work.load(), table, warm, limit)}
    except HoldfastError as error:
        return {"setting": setting, "error": str(error)}


def layouts(case: dict[str, Any], turns: int, warm: int, steps: int) -> dict[str, Any]:
    """Our trainer's rate on packed and on padded rows, in turn in one process: of each step the median time.

    Both compute the same: they differ by less than a turn does from the next, and the best of a few would be a lottery.
    """
    from work import Case, holdfast_steps, recipe

    work = Case(**case)
    table = work.table()
    found: dict[str, list[dict[str, Any]]] = {"packed": [], "padded": []}
    for turn in range(turns):
        for layout in sorted(found, reverse=turn % 2 == 1):  # neither is always the first
            made = recipe(table, work.per_step, warm + steps, train={"layout": layout, "precision": "fp32"})
            found[layout].append(holdfast_steps(made, work.load(), table, warm))
    rates = {}
    for layout, runs in found.items():
        seconds = sum(median(step) for step in zip(*(run["each"] for run in runs), strict=True))
        rates[layout] = runs[0]["tokens_per_step"] * steps / seconds
    return rates | {"rates": {layout: [run["rate"] for run in runs] for layout, runs in found.items()}}


def theirs(case: dict[str, Any], setting: Setting, warm: int, steps: int, limit: float = 1e9) -> dict[str, Any]:
    """TRL's SFTTrainer in one setting: `batch`, `precision`, and arguments of `SFTConfig` under `config`."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from work import Case, Ticks, memory_mib, trl_arguments

    work = Case(**case)
    table = work.table()
    rows = [table.row_sequences(row)[0] for row in range(len(table))]
    ids = [row.ids.tolist() for row in rows]
    labels = [[int(i) if t else -100 for i, t in zip(row.ids, row.label_mask, strict=True)] for row in rows]
    data = Dataset.from_dict({"input_ids": ids, "labels": labels})
    config = setting.get("config", {})
    per_step = work.per_step
    if config.get("packing"):  # a packed row holds several
        per_step = max(1, round(per_step * table.lengths.mean() / config["max_length"]))
    model = work.load()
    before = memory_mib(peak=False)
    try:
        with tempfile.TemporaryDirectory() as directory:
            common = trl_arguments(directory, warm + steps, setting["batch"], per_step, setting["precision"])
            arguments = SFTConfig(**{**common, "max_length": int(table.lengths.max()), **config})
            ticks = Ticks(warm, limit, before)
            trainer = SFTTrainer(
                model, args=arguments, train_dataset=data, processing_class=work.tokenizer(), callbacks=[ticks]
            )
            trainer.train()
    except Exception as error:  # a setting that the peer cannot run is told, whatever the reason
        return {"setting": setting, "error": f"{type(error).__name__}: {error}"[:300]}
    return {"setting": setting, **ticks.clock.result()}


def explore(who: str, case: dict[str, Any], settings: list[Setting], steps: int) -> dict[str, Any]:
    """A quick look at each setting, one after another in this process; those far behind are left early."""
    side = ours if who == "ours" else theirs
    found: list[dict[str, Any]] = []
    for setting in settings:
        fastest = max((f["rate"] / f["tokens_per_step"] for f in found if "rate" in f), default=0)
        limit = 4 / fastest + 1 if fastest else 1e9
        found.append(side(case, setting, 1, steps, limit))
        say(f"      {setting}: {found[-1].get('rate', found[-1].get('error'))}")
    return {"found": found}


def look(who: str, case: dict[str, Any], settings: list[Setting], steps: int) -> dict[str, Any]:
    """A quick look at one side's settings, in a process of its own, if there is a choice."""
    if len(settings) == 1:
        return {"found": [{"setting": settings[0]}]}
    return run_side(__file__, "explore", who=who, case=case, settings=settings, steps=steps)


def their_settings(case: dict[str, Any], precisions: Sequence[str], tiny: bool) -> list[Setting]:
    """What TRL may choose from, the likeliest best first, so that the others can be left early."""
    sizes = [8] if tiny else ROWS[case["model"]]
    grouped = {"train_sampling_strategy": "group_by_length"}
    packs = [{"packing": True, "packing_strategy": "bfd", "max_length": length} for length in _packed_lengths(case)]
    kinds = [{"batch": size, "config": grouped} for size in sizes]
    kinds += [{"batch": 1, "config": config} for config in packs]
    kinds += [{"batch": sizes[-1], "config": {"padding_free": True, "max_length": None}}]
    return [{**kind, "precision": precision} for precision in precisions for kind in kinds]


def _packed_lengths(case: dict[str, Any]) -> tuple[int, ...]:
    return (512,) if case["model"] != "30m" else (1024,)


def our_settings(precisions: Sequence[str]) -> list[Setting]:
    """What we may choose from: the layout is the one that the trainer chooses itself."""
    return [{"layout": "auto", "precision": precision} for precision in precisions]


def fastest(found: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The quickest of the explored settings that are as wanted, or the first one's error."""
    chosen = [f for f in found if all(f["setting"].get(key) == value for key, value in wanted.items())]
    return best(chosen)


def measure_case(
    name: str, case: dict[str, Any], precisions: Sequence[str], tiny: bool
) -> tuple[list[Line], dict[str, Any]]:
    """The lines of one case."""
    settings = {"ours": our_settings(precisions), "theirs": their_settings(case, precisions, tiny)}
    looked = {who: look(who, case, settings[who], 2 if name == "lab" else 1) for who in settings}
    if error := reason(*looked.values()):
        return [line(NAMES[name], None, None, "tokens/s", note=error)], {"explored": looked}
    found = {who: side["found"] for who, side in looked.items()}
    precision = "bf16" if name == "30m" and "bf16" in precisions else fastest(found["theirs"])["setting"]["precision"]
    chosen = {who: fastest(found[who], precision=precision)["setting"] for who in found}
    steps = {"warm": 1, "steps": 2} if tiny else STEPS[name]
    ways = {who: lambda who=who: run_side(__file__, who, case=case, setting=chosen[who], **steps) for who in chosen}
    runs = in_turn(ways, 1 if tiny else 2)
    raw = {"explored": found, "chosen": chosen, "measured": runs}
    lines = lines_of(name, precision, runs, found)
    if name == "lab" or tiny:
        raw["layouts"] = by = run_side(__file__, "layouts", case=case, turns=1 if tiny else 16, warm=1, steps=4)
        about = reason(by) or "ours both: packed with isolation against padded, medians of 16 short turns"
        rates = [by.get(layout) for layout in ("packed", "padded")]
        lines.append(line("packed against padded, fp32", *rates, "tokens/s", at_least(1), note=about))
    return lines, raw


def lines_of(name: str, precision: str, runs: dict[str, Any], found: dict[str, Any]) -> list[Line]:
    """Speed and memory of a case; the other precision as it was explored."""
    we, they = runs["ours"], runs["theirs"]
    note = reason(we, they) or f"ours {words(we['setting'])}; TRL {words(they['setting'])}"
    target = at_least(SPEED[name]) if name in SPEED else None
    lines = [line(f"{NAMES[name]}, {precision}", we.get("rate"), they.get("rate"), "tokens/s", target, note=note)]
    limit = at_most(MEMORY[name]) if name in MEMORY else None
    lines.append(line(f"{NAMES[name]}, peak memory", we.get("peak_mib"), they.get("peak_mib"), "MiB", limit))
    for other in {f["setting"]["precision"] for f in found["ours"]} - {precision}:
        two = {who: fastest(found[who], precision=other) for who in found}
        modes = f"ours {words(two['ours']['setting'])}; TRL {words(two['theirs']['setting'])}, from the quick look"
        rates = [two[who].get("rate") for who in ("ours", "theirs")]
        lines.append(line(f"{NAMES[name]}, {other}", *rates, "tokens/s", note=reason(*two.values()) or modes))
    return lines


def words(setting: Setting) -> str:
    """A setting in a few words."""
    if "layout" in setting:
        return f"{setting['layout']} {setting['precision']}"
    config = setting["config"]
    kind = "packed" if config.get("packing") else "padding-free" if config.get("padding_free") else "padded"
    more = f" to {config['max_length']}" if config.get("packing") else f" {setting['batch']}"
    grouped = " grouped" if config.get("train_sampling_strategy") else ""
    return f"{kind}{more}{grouped} {setting['precision']}"


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """All cases."""
    lines: list[Line] = []
    speeds = run_side(__file__, "products")
    slower = speeds["fp32"] / speeds["bf16"]
    precisions = PRECISIONS if slower <= SLOW else PRECISIONS[:1]
    if slower > SLOW:
        note = f"bf16 products {slower:.0f} times slower than fp32 on this processor: bf16 left out on both sides"
        lines.append(line("SFT, bf16", None, None, "", note=note))
    measure_one = partial(measure_case, precisions=precisions, tiny=tiny)
    case_lines, measured = measure_cases(TINY if tiny else CASES, measure_one)
    return [*lines, *case_lines], {"products": speeds, **measured}


if __name__ == "__main__":
    sides = {"ours": ours, "theirs": theirs, "explore": explore, "layouts": layouts, "products": products}
    main("sft", measure, sides)
