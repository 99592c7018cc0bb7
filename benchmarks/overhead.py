"""What evaluation and report cost beyond the model's own forward passes, as a share of a run's time.

A run on the laboratory model that measures all skills before, during and after training, with the settings of
`holdfast demo` but SFT and fewer steps, in a process of its own. The seconds of its phases are those the run itself
keeps in run.json ("curate", "evaluate", "train"); the time the report takes is measured by writing it again from
report.json. The model's share of an evaluation is the time the engine spends answering the same questions, measured
beside: the same prompts, greedy, to the same limits, on the base model. What remains of "evaluate" is journal, judging,
storing and statistics; with the report it is the overhead, divided by the run's whole time.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Line, alone, at_most, main, reason, run_side


def run(items: int, steps: int) -> dict[str, Any]:
    """A run with its phases, the report alone, and the engine alone on the same questions."""
    from holdfast.pipeline.results import write_report
    from holdfast.pipeline.run_dir import replace_json
    from holdfast.pipeline.train import train
    from holdfast.recipe.schema import Recipe

    with tempfile.TemporaryDirectory() as directory:
        os.environ["HOLDFAST_CACHE"] = str(Path(directory) / "cache")
        recipe = Recipe.model_validate(
            {
                "model": "lab",
                "data": {"train": "lab:story", "limit": 400},
                "optimizer": {"learning_rate": 1e-3},
                "train": {"batch_tokens": 2048, "max_steps": steps},
                "evaluate": {"items": items, "live_items": 0, "every": 0, "max_tokens": 80},
                "output": str(Path(directory) / "run"),
            }
        )
        began = time.perf_counter()
        done = train(recipe)
        whole = time.perf_counter() - began
        began = time.perf_counter()
        write_report(done.path, done.report)
        replace_json(done.path / "report.json", done.report)
        report = time.perf_counter() - began
    answered = [engine(recipe) for _ in range(2)]
    return {"whole": whole, "phases": done.report["cost"]["seconds"], "report": report, "engine": answered}


def engine(recipe: Any) -> float:
    """Seconds the engine takes for every question of every task."""
    from holdfast.axes.engine import Request, SamplingParams
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.generation.native import NativeEngine
    from holdfast.models.loading import load_model
    from holdfast.pipeline.sources import read_sources

    sources = read_sources(recipe, str, str)
    tasks = build_tasks(recipe, sources.test, sources.judge, lab=True)
    base = load_model("lab")
    native = NativeEngine(base.model, Chat(base.tokenizer), slots=recipe.sampling.slots, fingerprint="benchmark")
    began = time.perf_counter()
    groups: dict[int, list[tuple[Request, list[int]]]] = {}
    for task in tasks:  # as the evaluation does: tasks with the same limit are answered together
        for number, row in enumerate(task.rows):
            groups.setdefault(task.max_tokens, []).append((Request(f"{task.name}-{number}", row.prompt), [0]))
    for tokens, requests in groups.items():
        for _sample in native.sample(requests, SamplingParams(max_tokens=tokens)):
            pass
    return time.perf_counter() - began


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """The share."""
    found = run_side(__file__, "run", items=4 if tiny else 100, steps=2 if tiny else 60)
    what = "evaluation and report beyond forward passes, share of the run"
    if "error" in found:
        return [alone(what, None, "", at_most(0.1), note=reason(found))], found
    beyond = max(0.0, found["phases"]["evaluate"] - sum(found["engine"])) + found["report"]
    share = beyond / found["whole"]
    note = f"{beyond:.2f} of {found['whole']:.1f} s; evaluation {found['phases']['evaluate']:.1f} s"
    return [alone(what, share, "", at_most(0.1), note=note)], {**found, "share": share}


if __name__ == "__main__":
    main("overhead", measure, {"run": run})
