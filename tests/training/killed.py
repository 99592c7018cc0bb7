"""Run by test_resume.py: trains once in peace, then again killed at random moments until it is done.

Usage: python killed.py DIRECTORY OBJECTIVE TUNER OPTIMIZER SEED (each a JSON value). Every run is a fork of this
process, which itself computes nothing. Prints the number of kills.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import material
import torch

from holdfast.training import checkpoint
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer


def train(out: Path, axes: dict, die_after: int | None) -> None:
    torch.set_num_threads(1)

    def on_step(log) -> None:
        if log.step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    recipe = material.recipe({"save_every": 0.1, "epochs": 6, "deterministic": True}, **axes)
    # Dropout in attention, so that the random generators matter.
    model = material.model("llama", attention_dropout=0.1)
    result = Trainer(recipe, model, material.table(), out, pad_id=0, hooks=Hooks(on_step=on_step)).fit()
    material.write_weights(result.model, str(out / "final.safetensors"))


def forked(out: Path, axes: dict, die_after: int | None = None, kill_after: float | None = None) -> int:
    """Exit status of a child that trains; it may kill itself after a step, or be killed after some seconds."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(out, axes, die_after)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(directory: str, objective: str, tuner: str, optimizer: str, seed: str) -> None:
    axes = {"objective": json.loads(objective), "tuner": json.loads(tuner), "optimizer": json.loads(optimizer)}
    calm, stormy = Path(directory) / "calm", Path(directory) / "stormy"
    began = time.perf_counter()
    assert forked(calm, axes) == 0
    whole = time.perf_counter() - began
    dice, kills = random.Random(int(seed)), 0
    while kills < 4:
        done = checkpoint.find_newest(stormy / "checkpoints")
        start = int(done.name.removeprefix("step-")) if done else 0
        if kills % 2:
            status = forked(stormy, axes, kill_after=dice.uniform(0.1, 0.7) * whole)
        else:
            status = forked(stormy, axes, die_after=start + dice.randint(1, 3))
        kills += status == -signal.SIGKILL
        assert status in (0, -signal.SIGKILL), status
        if status == 0:  # it was through before: how long it takes depends on what else runs; begin anew, in less time
            shutil.rmtree(stormy)
            whole /= 2
    assert forked(stormy, axes) == 0
    print(kills)


if __name__ == "__main__":
    main(*sys.argv[1:])
