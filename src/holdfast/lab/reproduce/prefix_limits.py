"""What a prefix can and cannot do: the four experiments of Petrov et al. 2023 on tables of digits, shortened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above, quantity_below

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.tuner import Tuner

DIGITS, LENGTH, BATCH = 8, 5, 64
"""Kinds of digits, digits of a row, rows of a step. The paper has 10 digits to a row."""
QUESTIONS = 400
NEW_TASK_STEPS = 2000
"""For a task that no pre-training had; after 900 LoRA has learned it with some seeds and not with others."""

TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "ascending": lambda x: x.sort(-1).values,
    "descending": lambda x: x.sort(-1, descending=True).values,
    "add one": lambda x: (x + 1) % DIGITS,
    "add two": lambda x: (x + 2) % DIGITS,
    "ascending plus one": lambda x: (x.sort(-1).values + 1) % DIGITS,
    "double counts": lambda x: 2 * (x[..., None] == x[..., None, :]).sum(-1) % DIGITS,
}
"""From digits [B, L] to digits [B, L]; the last two are in no pre-training."""
KNOWN = ("ascending", "descending", "add one", "add two")


def measure_prefix_limits(seed: int) -> dict[str, float]:
    """Accuracies, in per cent of rows that are answered wholly right."""
    import copy

    from holdfast.methods.tuners.full import Full
    from holdfast.methods.tuners.lora import LoRA
    from holdfast.methods.tuners.prefix import Prefix

    sorter = train_digits(build_model(1, seed), ["ascending"], 700, 3e-3, seed)
    expert = train_digits(build_model(2, seed), list(KNOWN), 1200, 2e-3, seed)

    def score_after(model: Any, tuner: Tuner, task: str, steps: int, rate: float) -> float:
        tuned = tuner.apply(copy.deepcopy(model), seed)
        return measure_accuracy(train_digits(tuned, [task], steps, rate, seed + 1), task)

    one, ten = Prefix(tokens=1, projection=False), Prefix(tokens=10, projection=False)
    return {
        "sorter": measure_accuracy(sorter, "ascending"),
        "reversed by all weights": score_after(sorter, Full(), "descending", 500, 2e-3),
        "reversed by a prefix": score_after(sorter, one, "descending", 500, 3e-2),
        "chance of one of four": measure_accuracy(expert, "descending"),
        "chosen by a prefix": score_after(expert, one, "descending", 400, 3e-2),
        "joined by a prefix": score_after(expert, ten, "ascending plus one", 500, 3e-2),
        "new by a prefix": score_after(expert, ten, "double counts", NEW_TASK_STEPS, 3e-2),
        "new by LoRA": score_after(expert, LoRA(r=4), "double counts", NEW_TASK_STEPS, 3e-3),
    }


def build_model(layers: int, seed: int) -> Any:
    """A Llama of width 64 over digits and one sign that ends the question.

    Its positions are relative: absolute ones would be others behind a prefix, and the model lost with any.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=DIGITS + 1, max_position_embeddings=32, hidden_size=64, intermediate_size=256,
        num_hidden_layers=layers, num_attention_heads=2 * layers, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train_digits(model: Any, tasks: list[str], steps: int, rate: float, seed: int) -> Any:
    """A model after steps of AdamW on rows of tasks drawn at random; the loss is on the answers alone."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(seed)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        digits = torch.randint(DIGITS, (BATCH, LENGTH), generator=generator)
        choice = torch.randint(len(tasks), (BATCH,), generator=generator)
        answers = torch.stack([TASKS[name](digits) for name in tasks])[choice, torch.arange(BATCH)]  # [B, L]
        ids = torch.cat([digits, torch.full((BATCH, 1), DIGITS), answers], 1)
        logits = model(input_ids=ids[:, :-1]).logits[:, -LENGTH:]
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def measure_accuracy(model: Any, task: str) -> float:
    """Per cent of new rows whose whole answer is the likeliest, digit by digit."""
    import torch

    digits = torch.randint(DIGITS, (QUESTIONS, LENGTH), generator=torch.Generator().manual_seed(10**6))
    ids = torch.cat([digits, torch.full((QUESTIONS, 1), DIGITS)], 1)
    with torch.no_grad():
        for _ in range(LENGTH):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return 100 * float((ids[:, -LENGTH:] == TASKS[task](digits)).all(-1).float().mean())


PREFIX = Study(
    claim="A prefix calls up what the model can do, and cannot teach it what full fine-tuning or LoRA can.",
    paper="Petrov et al. 2023, arXiv 2310.19698; method: Li and Liang 2021, arXiv 2101.00190",
    measure=measure_prefix_limits,
    figures=(
        ("(1) sorting, pre-trained", "91.4 %", "sorter"),
        ("(1) sorting the other way, all weights", "84.9 %", "reversed by all weights"),
        ("(1) sorting the other way, a prefix of one", "0 %", "reversed by a prefix"),
        ("(2) one of four tasks, pre-trained", "24 to 32 %", "chance of one of four"),
        ("(2) one of four tasks, a prefix of one", "84 % (descending)", "chosen by a prefix"),
        ("(3) two known tasks in one, a prefix of ten", "71.6 %", "joined by a prefix"),
        ("(3) a new task, a prefix of ten", "0.6 %", "new by a prefix"),
        ("(4) a new task, LoRA", "high", "new by LoRA"),
    ),
    expects=(
        quantity_above("reversed by all weights", "reversed by a prefix", "all weights reverse the order", by=30.0),
        quantity_below("reversed by a prefix", 10.0, "a prefix does not reverse it"),
        quantity_above("chosen by a prefix", "chance of one of four", "a prefix chooses a known task", by=20.0),
        quantity_above("new by LoRA", "new by a prefix", "LoRA learns a new task that a prefix does not", by=10.0),
    ),
    seeds=3,
)


TUNER_RATES = {"prefix": 30.0, "lora": 5.0}
"""Multiples of the learning rate that full fine-tuning has on a work; the laboratory's model has rates for both."""


def measure_patterns(seed: int, work: Mapping[str, Any] | None = None) -> dict[str, float]:
    """How far what tokens look at moved in the first layer, and how much goes to the prefix, after runs on facts."""
    import tempfile

    from holdfast.lab.reproduce.at_the_logits import scale_rate, train_arms
    from holdfast.lab.reproduce.known_facts import write_form_files
    from holdfast.methods.analyses.prefix_limits import PrefixLimits
    from holdfast.pipeline.analyse import analyse_runs

    out: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = work or {
            "model": "lab-small", "data": write_form_files(Path(folder)), "judge": "exact",
            "train": {"batch_tokens": 512, "max_steps": 60},
            "evaluate": {"items": 60, "every": 0, "max_tokens": 8, "keep": ["lab:strings"]},
        }  # fmt: skip
        arms = {
            tuner: {"tuner": tuner, **(scale_rate(work, multiple) if work else {})}
            for tuner, multiple in TUNER_RATES.items()
        }
        for tuner, report in train_arms(folder, seed, arms, recipe).items():
            lines = analyse_runs([f"{folder}/{tuner}"], [PrefixLimits()])["sections"][0]["table"]["rows"]
            first = [line for line in lines if line[1] == 1]
            out[f"{tuner}, first layer"] = sum(line[3] for line in first) / len(first)
            out[f"{tuner}, most"] = max(line[3] for line in lines)
            out[f"{tuner}, attention"] = sum(line[2] for line in lines) / len(lines)
            out[f"{tuner}, gain"] = float(report["gain"]["delta"])
    return out


PATTERNS = Study(
    claim="A trained prefix takes attention, and leaves what tokens look at among themselves in the first layer, which "
    "LoRA changes.",
    paper="Petrov et al. 2023, arXiv 2310.19698",
    measure=measure_patterns,
    figures=(
        ("pattern moved in layer 1, prefix", "0 (theorem; 5e-4 in LLaMA-7B, fp16)", "prefix, first layer"),
        ("pattern moved in layer 1, LoRA", "can be any", "lora, first layer"),
        ("pattern moved most, prefix", "through the input of later layers", "prefix, most"),
        ("pattern moved most, LoRA", "can be any", "lora, most"),
        ("attention to the prefix (%)", "not given", "prefix, attention"),
        ("facts in a new form, prefix (points)", "calls up what is known", "prefix, gain"),
        ("facts in a new form, LoRA (points)", "reference", "lora, gain"),
    ),
    expects=(
        quantity_below("prefix, first layer", 1e-3, "a prefix leaves the pattern of the first layer"),
        quantity_above("lora, first layer", "prefix, first layer", "LoRA moves it", by=1e-3),
        quantity_above("prefix, attention", 1.0, "the prefix takes attention"),
    ),
    seeds=3,
)
