"""Online learning: Holdfast's rounds beside TRL's `GRPOTrainer`, steps a minute and peak memory.

GRPO on the card game of the laboratory: both sides begin with the same weights and the same questions, draw as many
answers to each, score them by the same judge and take one step on them, with the loss summed over all tokens, no
divergence, AdamW, in fp32. As ours does by default, prompts whose answers all earned the same are left out of the step:
they have no gradient. A line beside it trains on all answers, as TRL does.

Everything counts from the end of the first step to the end of the last: sampling, judging, credit, the passes and the
update. Ours writes its journal as any run does. TRL samples by transformers' `generate` (vLLM, which it can use, needs
a GPU); its best micro-batch is looked for first. Where other work shares the machine the clock on the wall says little:
a line of its own has the steps for a minute of processor time.

The answers are the models' own, so that their lengths drift apart with time.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from common import Line, at_least, at_most, best, in_turn, line, main, measure_cases, reason, run_side, say

Setting = dict[str, Any]
CASES = {
    "laboratory model": {"model": "lab", "prompts": 16, "n": 8, "tokens": 40},
    "small laboratory model": {"model": "lab-small", "prompts": 48, "n": 8, "tokens": 40},
}
TINY = {"small laboratory model": {"model": "lab-small", "prompts": 4, "n": 4, "tokens": 12}}
RATE = 1e-4


def material(case: dict[str, Any]) -> tuple[Any, list[Any], Any]:
    """The model with its tokenizer, the rows, and what rewards answers."""
    from holdfast.methods.environments.judged import JudgeEnvironment
    from holdfast.models.loading import load_model
    from holdfast.skills.base import SkillJudge
    from holdfast.skills.rows import lab_rows

    rows = lab_rows("lab:points", "train", 400)
    return load_model(case["model"], device="cpu"), list(rows), JudgeEnvironment(judge=SkillJudge(skill="points"))


def ours(case: dict[str, Any], setting: Setting, warm: int, steps: int) -> dict[str, Any]:
    """Holdfast's trainer on its rounds."""
    from common import Clock

    from holdfast.axes.engine import SamplingParams
    from holdfast.data.chat.encoder import Chat
    from holdfast.generation.factory import build_local_engine
    from holdfast.generation.journal import Journal
    from holdfast.methods.credits.group import GroupCredit
    from holdfast.recipe.schema import Recipe
    from holdfast.training.callbacks import Hooks
    from holdfast.training.rollouts import RolloutSource
    from holdfast.training.rounds import RoundPlan
    from holdfast.training.trainer import Trainer

    base, rows, environment = material(case)
    chat, clock, processor = Chat(base.tokenizer), Clock(warm), list[float]()
    engine = build_local_engine(base.model, chat, fingerprint="start")
    made = Recipe.model_validate({
        "model": case["model"], "data": {"train": "lab:points"}, "objective": {"name": "policy_gradient"},
        "credit": "group", "optimizer": {"name": "adamw", "learning_rate": RATE, "schedule": "constant", "warmup": 0},
        "train": {"max_steps": warm + steps, "save_every": 1.0, "precision": "fp32"}, "evaluate": {"every": 0},
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as directory, Journal(Path(directory) / "samples.jsonl") as journal:

        def build_sampler(policy: Any, name: str) -> Any:
            engine.update_model(policy.model, name)
            return journal.build_sample_fn(engine)

        plan = RoundPlan(case["prompts"], case["n"], drop_equal=setting["drop_equal"])
        source = RolloutSource(
            rows, environment, GroupCredit(), made.objective, plan=plan,
            sampling=SamplingParams(max_tokens=case["tokens"], temperature=1.0), build_sampler=build_sampler, chat=chat,
            seed=0, folder=Path(directory) / "cache",
        )  # fmt: skip

        def on_step(log: Any) -> None:
            clock.tick(journal.sampled_tokens)
            processor.append(time.process_time())

        Trainer(made, base.model, source, directory, pad_id=chat.pad_id, hooks=Hooks(on_step=on_step)).fit()
    return {"setting": setting, **per_minute(clock.result(), processor, warm)}


def theirs(case: dict[str, Any], setting: Setting, warm: int, steps: int) -> dict[str, Any]:
    """TRL's GRPOTrainer with a micro-batch of `batch` answers."""
    from common import memory_mib
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from work import Ticks, trl_arguments

    base, rows, environment = material(case)
    before, answers = memory_mib(peak=False), case["prompts"] * case["n"]
    gold = {row.prompt[-1]["content"]: row for row in rows}

    def reward(prompts: list[Any], completions: list[Any], **more: Any) -> list[float]:
        states = [environment.start(gold[prompt[-1]["content"]], 0)[0] for prompt in prompts]
        texts = [completion[0]["content"] for completion in completions]
        return [turn.reward for turn in environment.step_all(list(zip(states, texts, strict=True)))]

    tokenizer, processor = base.tokenizer, list[float]()
    tokenizer.padding_side = "left"
    try:
        with tempfile.TemporaryDirectory() as directory:
            common = trl_arguments(directory, warm + steps, setting["batch"], answers, "fp32")
            arguments = GRPOConfig(
                **{**common, "learning_rate": RATE, "include_num_input_tokens_seen": "no"},
                num_generations=case["n"], max_completion_length=case["tokens"], temperature=1.0, beta=0.0,
                num_iterations=1, loss_type="dapo", scale_rewards="group", use_vllm=False,
            )  # fmt: skip

            class ProcessorTicks(Ticks):
                """Looks at the processor's clock too."""

                def on_step_end(self, *about: Any, **more: Any) -> None:
                    super().on_step_end(*about, **more)
                    processor.append(time.process_time())

            ticks = ProcessorTicks(warm, 1e9, before)
            GRPOTrainer(
                base.model, reward, args=arguments, processing_class=tokenizer, callbacks=[ticks],
                train_dataset=Dataset.from_dict({"prompt": [row.prompt for row in rows]}),
            ).train()  # fmt: skip
    except Exception as error:  # a setting that the peer cannot run is told, whatever the reason
        return {"setting": setting, "error": f"{type(error).__name__}: {error}"[:300]}
    return {"setting": setting, **per_minute(ticks.clock.result(), processor, warm)}


def per_minute(found: dict[str, Any], processor: list[float], warm: int) -> dict[str, Any]:
    """The clock's numbers with steps a minute as the rate.

    Args:
        processor: Its seconds at the end of each step.
        warm: Steps that do not count.
    """
    if "steps" not in found:
        return found
    spent = processor[-1] - processor[warm - 1]
    return found | {"rate": 60 * found["steps"] / found["seconds"], "processor_rate": 60 * found["steps"] / spent}


def explore(case: dict[str, Any], settings: list[Setting], steps: int) -> dict[str, Any]:
    """A quick look at TRL's micro-batches, one after another in this process."""
    found = [theirs(case, setting, 1, steps) for setting in settings]
    for result in found:
        say(f"      {result['setting']}: {result.get('rate', result.get('error'))}")
    return {"found": found}


def measure_case(name: str, case: dict[str, Any], tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """The lines of one case."""
    answers = case["prompts"] * case["n"]
    settings = [{"batch": size} for size in (answers, answers // 4)]
    looked = run_side(__file__, "explore", case=case, settings=settings, steps=1)
    if "error" in looked:
        return [line(f"GRPO online, {name}", None, None, "steps/min", note=reason(looked))], {"explored": looked}
    setting = best(looked["found"])["setting"]
    steps = {"warm": 1, "steps": 2 if tiny else 6}
    runs = in_turn(
        {
            "ours": lambda: run_side(__file__, "ours", case=case, setting={"drop_equal": True}, **steps),
            "all": lambda: run_side(__file__, "ours", case=case, setting={"drop_equal": False}, **steps),
            "theirs": lambda: run_side(__file__, "theirs", case=case, setting=setting, **steps),
        },
        1 if tiny else 2,
    )
    we, they, every = runs["ours"], runs["theirs"], runs["all"]
    note = reason(we, they) or (
        f"{case['prompts']} prompts x {case['n']} answers; TRL micro-batch {setting['batch']} answers"
    )
    lines = [
        line(f"GRPO online, {name}", we.get("rate"), they.get("rate"), "steps/min", at_least(3.0), note=note),
        line(
            f"GRPO online, {name}, trained on all answers",
            every.get("rate"),
            they.get("rate"),
            "steps/min",
            note=reason(every),
        ),
        line(
            f"GRPO online, {name}, by processor time",
            best(we["runs"], "processor_rate").get("processor_rate"),
            best(they["runs"], "processor_rate").get("processor_rate"),
            "steps/min of a core",
            at_least(3.0),
            note=reason(we, they),
        ),
        line(f"GRPO online, {name}, peak memory", we.get("peak_mib"), they.get("peak_mib"), "MiB", at_most(1.0)),
    ]
    return lines, {"explored": looked["found"], "chosen": setting, "measured": runs}


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """All cases; none where TRL is not installed."""
    from importlib.util import find_spec

    if find_spec("trl") is None:
        say("  TRL is not installed: nothing to measure beside")
        return [], {"skipped": "trl is not installed"}
    return measure_cases(TINY if tiny else CASES, partial(measure_case, tiny=tiny))


if __name__ == "__main__":
    main("online", measure, {"ours": ours, "theirs": theirs, "explore": explore})
