"""Run by test_spread.py on two processes: trains each case, once through and once stopped and resumed.

Usage: spread.py DIRECTORY, as torchrun would start it. The main process writes DIRECTORY/CASE/{whole,parts}.safetensors
and said.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import material
import torch

from holdfast.errors import UserInterrupt
from holdfast.recipe.schema import Recipe
from holdfast.training.callbacks import Hooks
from holdfast.training.distributed import shutdown_process_group
from holdfast.training.trainer import Trainer

ADAMW = {"name": "adamw", "learning_rate": 0.003}
# Shards run the model's own forward, one process a quicker one: they differ in rounding, which Adam blows up to whole
# steps where a gradient is next to nothing, as those of adapters are at first. A larger eps keeps it from that.
STEADY = ADAMW | {"eps": 1e-4}
CASES = {
    "full": {"optimizer": ADAMW},
    "dpo with lora": {"objective": "dpo", "tuner": {"name": "lora", "r": 4}, "optimizer": STEADY},
    "half without a head": {"tuner": "half", "objective": {"name": "ift", "form": "authors"}, "optimizer": ADAMW},
}


def recipe(case: str) -> Recipe:
    return material.recipe({"batch_tokens": 150}, **CASES[case])


def trainer(case: str, out: Path, hooks: Hooks | None = None) -> Trainer:
    """The same model (with a tied head for the first case only) and rows on any number of processes."""
    model = material.model("qwen2", tie_word_embeddings=case == "full")
    table = material.table(per_row=2 if CASES[case].get("objective") == "dpo" else 1)
    return Trainer(recipe(case), model, table, out, pad_id=0, hooks=hooks)


def choosing(out: Path) -> Trainer:
    """A run whose loss turns at its second step, to be kept or stopped by that."""
    asked = {"batch_tokens": 150, "keep": "best", "patience": 2, "max_steps": 12}
    made = material.recipe(asked, optimizer=ADAMW, evaluate={"every": 0.1})
    hooks = Hooks(on_evaluate=lambda step, model, head: abs(step - 2.0))
    return Trainer(made, material.model("qwen2"), material.table(), out, pad_id=0, hooks=hooks)


def main(directory: str) -> None:
    torch.set_num_threads(1)
    said = {}
    for case in CASES:
        out, looked, steps = Path(directory) / case, [], []

        def look(step: int, model: torch.nn.Module, head: object, looked: list = looked) -> None:
            looked.append([step, model.training, len(list(model.parameters()))])

        def stop(log) -> None:
            if log.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

        whole = trainer(case, out / "whole", Hooks(on_evaluate=look))
        result = whole.fit()
        if case == "full":
            try:
                trainer(case, out / "parts", Hooks(on_step=stop)).fit()
            except UserInterrupt as error:
                steps.append(str(error))
            resumed = trainer(case, out / "parts").fit()
        if whole.machine.main:
            material.write_weights(result.tuner.merge(result.model), str(out / "whole.safetensors"))
            if case == "full":
                material.write_weights(resumed.tuner.merge(resumed.model), str(out / "parts.safetensors"))
            said[case] = {"looked": looked, "interrupted": steps, "loss": result.loss, "tokens": result.tokens}
            said[case] |= {"world": whole.machine.world, "sharded": whole.machine.is_sharded}
    chosen = choosing(Path(directory) / "chosen").fit()
    if whole.machine.main:
        material.write_weights(chosen.tuner.merge(chosen.model), str(Path(directory) / "chosen.safetensors"))
        said["chosen"] = {"steps": chosen.steps, "kept_step": chosen.kept_step}
        (Path(directory) / "said.json").write_text(json.dumps(said))
    shutdown_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
