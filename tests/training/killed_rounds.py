"""Run by test_rollouts.py: learns online once in peace, then again killed while it samples, judges, learns and saves.

Usage: python killed_rounds.py DIRECTORY MODEL. Every run is a fork of this process, which itself computes nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

import material
import torch
from test_rollouts import ROWS, SmallLetters

from holdfast.axes.engine import SamplingParams
from holdfast.axes.registry import find_method
from holdfast.data.chat.encoder import Chat
from holdfast.generation.factory import build_local_engine
from holdfast.generation.journal import Journal
from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient
from holdfast.models.loading import load_model
from holdfast.recipe.schema import Recipe
from holdfast.training.callbacks import Hooks
from holdfast.training.rollouts import RolloutSource
from holdfast.training.rounds import RoundPlan
from holdfast.training.trainer import Trainer

MOMENTS = [("sample", 17), ("save", 1), ("step", 3), ("turn", 15), ("sample", 9), ("step", 1)]
"""What a run dies of, and the how manieth of its kind."""


def train(out: Path, model: Path, what: str = "", number: int = 0) -> None:
    torch.set_num_threads(1)
    counts = Counter[str]()

    def count(kind: str) -> None:
        counts[kind] += 1
        if (kind, counts[kind]) == (what, number):
            os.kill(os.getpid(), signal.SIGKILL)

    class Letters(SmallLetters):
        def step(self, state, action):
            count("turn")
            return super().step(state, action)

    def watch_renames(event: str, arguments: tuple) -> None:
        if event == "os.rename" and Path(os.fsdecode(arguments[1])).name.startswith("step-"):
            count("save")

    sys.addaudithook(watch_renames)
    loaded = load_model(model)
    chat = Chat(loaded.tokenizer)
    engine = build_local_engine(loaded.model, chat, fingerprint="start")
    recipe = Recipe(
        model="tiny", data={"train": "rows.jsonl"}, objective=PolicyGradient(), credit="loo",
        train={"max_steps": 10, "save_every": 0.2, "precision": "fp32", "micro_tokens": 60},
        optimizer={"name": "adamw", "learning_rate": 0.01},
    )  # fmt: skip
    out.mkdir(exist_ok=True)
    with Journal(out / "samples.jsonl") as journal:

        def build_sampler(policy, name):
            engine.update_model(policy.model, name)
            draw = journal.build_sample_fn(engine, together=True)
            return lambda requests, params: draw(requests, params, lambda sample: count("sample"))

        source = RolloutSource(
            ROWS, Letters(), find_method("credits", "loo")(), recipe.objective, plan=RoundPlan(3, 2, 2),
            sampling=SamplingParams(max_tokens=5, temperature=1.0), build_sampler=build_sampler, chat=chat, seed=0,
            folder=out,
        )  # fmt: skip
        hooks = Hooks(on_step=lambda log: count("step"))
        result = Trainer(recipe, loaded.model, source, out, pad_id=chat.pad_id, hooks=hooks).fit()
        material.write_weights(result.model, str(out / "final.safetensors"))


def forked(*arguments) -> int:
    """Exit status of a child that trains."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(directory: str, model: str) -> None:
    calm, stormy = Path(directory) / "calm", Path(directory) / "stormy"
    assert forked(calm, Path(model)) == 0
    for moment in MOMENTS:
        status = forked(stormy, Path(model), *moment)
        assert status == -signal.SIGKILL, (moment, status)
    assert forked(stormy, Path(model)) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
