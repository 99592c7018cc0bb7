"""Training of the laboratory models: one seeded stream of rows, label tokens only, resumable to the bit."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from holdfast.lab.drills import Listing, ManyPeople, NewLabels
from holdfast.lab.tokenizer import CONTEXT, build_tokenizer
from holdfast.skills import skill
from holdfast.skills.base import Skill
from holdfast.skills.facts import Facts
from holdfast.skills.story import BASIC, Story

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

FIRST = {
    "story": 0.18, "sums": 0.14, "reading": 0.10, "rephrase": 0.10, "revise": 0.06, "strings": 0.07, "points": 0.09,
    "examples": 0.10, "cipher": 0.03, "program": 0.03, "format": 0.03, "route": 0.05, "lake": 0.02,
}  # fmt: skip
SECOND = FIRST | {"sums": 0.17, "story": 0.20, "reading": 0.12, "rephrase": 0.08, "strings": 0.05, "listing": 0.08}
ONLY = {"listing": 0.8, "examples": 0.2}
"""Shares of the rows of each skill; facts come on top, exactly as often as their level says."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is shown from step `start` on.

    Args:
        mix: Skill to its share of the rows.
        instead: Skills whose rows come from another generator, such as word problems shorter than those of fine-tuning.
    """

    start: int
    mix: dict[str, float]
    instead: dict[str, Skill]


@dataclass(frozen=True, slots=True)
class Cycle:
    """One rise and fall of the learning rate.

    Args:
        steps: Optimizer steps.
        learning_rate: Peak rate; warms up over `warmup` steps, then falls along a cosine that would end after `horizon`
            steps, and in the last `decay` steps straight to nothing.
        facts_from: Facts are shown from this share of the cycle on.
    """

    steps: int
    horizon: int
    decay: int
    learning_rate: float
    facts_from: float = 0.0
    warmup: int = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a laboratory model is made of.

    Args:
        cycles, stages: How and on what it is trained.
        hidden, layers, heads, inner: Shape of the Llama.
        rows: Rows per step.
        milestones: Steps after which an intermediate model is kept.
    """

    cycles: tuple[Cycle, ...]
    stages: tuple[Stage, ...]
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    inner: int = 512
    rows: int = 72
    weight_decay: float = 0.05
    seed: int = 0
    milestones: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return sum(cycle.steps for cycle in self.cycles)

    def cycle(self, step: int) -> tuple[Cycle, int]:
        """The cycle `step` belongs to, and the step within it."""
        for cycle in self.cycles:
            if step < cycle.steps:
                return cycle, step
            step -= cycle.steps
        raise IndexError(step)

    def stage(self, step: int) -> Stage:
        """The last stage that has begun."""
        return [stage for stage in self.stages if stage.start <= step][-1]


def stages(second: int, only: int, rest: int) -> tuple[Stage, ...]:
    """Harder questions than the skills ask; from `second` on the skills; from `only` to `rest` nothing but examples."""
    story = Story(BASIC)
    hard: dict[str, Skill] = {"story": story, "examples": NewLabels(lookup=0.25), "reading": ManyPeople()}
    easy: dict[str, Skill] = {"story": story, "listing": Listing()}
    return Stage(0, FIRST, hard), Stage(second, SECOND, easy), Stage(only, ONLY, easy), Stage(rest, SECOND, easy)


PLANS: dict[str, Plan] = {
    "lab": Plan(
        cycles=(Cycle(4500, 6500, 900, 2.5e-3, facts_from=0.45), Cycle(4250, 5000, 1000, 2e-3)),
        stages=stages(4500, 7000, 7250),
        milestones=(2250, 3375, 4500, 6500),
    ),
    "lab-small": Plan(
        cycles=(Cycle(2500, 3500, 600, 4e-3, facts_from=0.45), Cycle(2500, 3125, 625, 3e-3)),
        stages=stages(2500, 2500, 2800), hidden=112, layers=3, heads=4, inner=288,
    ),
}  # fmt: skip


def new_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama of the plan's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(plan.seed)
    config = LlamaConfig(  # type: ignore[call-arg]  # takes further keys at run time
        vocab_size=len(tokenizer), hidden_size=plan.hidden, intermediate_size=plan.inner, num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads, num_key_value_heads=plan.heads, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.05, holdfast_lab=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


FACTS = Facts()


class Stream:
    """The rows of every step, a pure function of (seed, step), so that training resumes anywhere."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast):
        self.plan, self.tokenizer = plan, tokenizer
        self.exposures = self._schedule_facts()

    def _schedule_facts(self) -> dict[int, list[Any]]:
        """Step to the facts shown in it: each showing of a cycle at a random step after its `facts_from`."""
        schedule: dict[int, list[Any]] = {}
        begin = 0
        for number, cycle in enumerate(self.plan.cycles):
            rng = random.Random(f"schedule/{self.plan.seed}/{number}" if number else f"schedule/{self.plan.seed}")
            for question in FACTS.exposures(self.plan.seed, number):
                step = begin + rng.randrange(int(cycle.facts_from * cycle.steps), cycle.steps)
                schedule.setdefault(step, []).append(question)
            begin += cycle.steps
        return schedule

    def conversations(self, step: int) -> list[tuple[list[dict[str, Any]], str, Sequence[str]]]:
        """`(prompt messages, answer, the words of it that alone are trained)` of the rows of `step`."""
        rng = random.Random(f"stream/{self.plan.seed}/{step}")
        stage = self.plan.stage(step)
        out = []
        for name in rng.choices(list(stage.mix), list(stage.mix.values()), k=self.plan.rows):
            source = stage.instead.get(name) or skill(name)
            row = source.row(rng, "train")
            out.append((row.prompt, row.answer or "", getattr(source, "only", ())))
        return out + [(q.messages, FACTS.answer(q, "bare", rng), ()) for q in self.exposures.get(step, [])]

    def batches(self, step: int, parts: int = 5) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`(ids [B, L], where [N], labels [N])` of `step`, cut by length into `parts` to waste little on padding."""
        encoded = sorted((self._encode(*row) for row in self.conversations(step)), key=lambda e: len(e[0]))
        size = math.ceil(len(encoded) / parts)
        for start in range(0, len(encoded), size):
            yield _pad(encoded[start : start + size], self.tokenizer.pad_token_id)

    def _encode(self, prompt: list[dict[str, Any]], answer: str, only: Sequence[str]) -> tuple[list[int], list[int]]:
        """`(tokens, positions of the trained ones)`."""
        tokenizer = self.tokenizer
        head = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        before, after = (tokenizer(t, add_special_tokens=False).input_ids for t in (head, answer))
        ids = [*before, *after, tokenizer.eos_token_id]
        vocabulary = tokenizer.get_vocab() if only else {}
        kept = {vocabulary[f"Ġ{word}"] for word in only} or set(ids)
        return ids, [t for t in range(len(before), len(ids)) if ids[t] in kept]


def _pad(encoded: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(ids) for ids, _ in encoded)
    grid = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in encoded])  # [B, L]
    where = [b * width + t - 1 for b, (_, trained) in enumerate(encoded) for t in trained]
    labels = [ids[t] for ids, trained in encoded for t in trained]
    return grid, torch.tensor(where), torch.tensor(labels)


@dataclass
class Pretraining:
    """A training in progress; `state` is what a checkpoint holds besides tensors."""

    plan: Plan
    folder: Path
    log: Callable[[str], None] = print
    state: dict[str, Any] = field(default_factory=lambda: {"step": 0, "tokens": 0, "loss": 0.0})

    def __post_init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.model = new_model(self.plan, self.tokenizer)
        self.stream = Stream(self.plan, self.tokenizer)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate(0), betas=(0.9, 0.98), fused=True)
        self._resume()

    @property
    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def _resume(self) -> None:
        saved = self.folder / "state"
        if not saved.exists():
            return
        self.state = json.loads((saved / "state.json").read_text())
        tensors = load_file(saved / "tensors.safetensors")
        for name, parameter in self._parameters.items():
            parameter.data.copy_(tensors[name])
            moments = {k: tensors[f"{name}/{k}"] for k in ("exp_avg", "exp_avg_sq", "step")}
            self.optimizer.state[parameter] = moments
        self.log(f"resumed at step {self.state['step']} of {self.plan.steps}")

    def save(self) -> None:
        """Write the whole state to a side name, then rename it into place."""
        side, final = self.folder / "state.writing", self.folder / "state"
        shutil.rmtree(side, ignore_errors=True)
        side.mkdir(parents=True)
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[name] = parameter.data
            tensors |= {f"{name}/{k}": v for k, v in self.optimizer.state[parameter].items()}
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, side / "tensors.safetensors")
        (side / "state.json").write_text(json.dumps(self.state))
        old = self.folder / "state.old"
        if final.exists():
            os.replace(final, old)
        os.replace(side, final)
        shutil.rmtree(old, ignore_errors=True)

    def export(self, folder: Path) -> None:
        """The model as a bf16 Hugging Face folder with its tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.bfloat16().save_pretrained(folder)
        self.model.float().load_state_dict(weights)
        self.tokenizer.save_pretrained(folder)

    def rate(self, step: int) -> float:
        """Learning rate of `step`."""
        cycle, step = self.plan.cycle(step)
        if step < cycle.warmup:
            return cycle.learning_rate * (step + 1) / cycle.warmup
        done = (step - cycle.warmup) / (cycle.horizon - cycle.warmup)
        left = min(1.0, (cycle.steps - step) / cycle.decay)
        return cycle.learning_rate * left * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))

    def train_step(self, step: int) -> tuple[float, int]:
        """One update; returns the loss per label token and the tokens read."""
        batches = list(self.stream.batches(step))
        count = sum(len(labels) for _, _, labels in batches)
        head = self.model.get_output_embeddings()
        total = 0.0
        for ids, where, labels in batches:
            hidden = self.model.model(input_ids=ids).last_hidden_state.flatten(0, 1)[where]  # [N, D]
            loss = F.cross_entropy(head(hidden), labels, reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, sum(ids.numel() for ids, _, _ in batches)

    def run(self, save_every: int = 250, watch: Callable[[int], None] | None = None) -> None:
        """Train to the end, saving every `save_every` steps and at the milestones."""
        begun, tokens = time.perf_counter(), 0
        while self.state["step"] < self.plan.steps:
            step = self.state["step"]
            loss, read = self.train_step(step)
            tokens += read
            ema = 0.98 * self.state["loss"] + 0.02 * loss if step else loss
            self.state.update(step=step + 1, tokens=self.state["tokens"] + read, loss=ema)
            if (step + 1) % 50 == 0:
                speed = tokens / (time.perf_counter() - begun)
                self.log(
                    f"step {step + 1}/{self.plan.steps} | loss {ema:.3f} | {self.state['tokens']:,} tokens | "
                    f"{speed:,.0f} tok/s"
                )
            if step + 1 in self.plan.milestones:
                self.export(self.folder / f"step-{step + 1:06d}")
            if (step + 1) % save_every == 0 or step + 1 == self.plan.steps:
                self.save()
                if watch:
                    watch(step + 1)
        self.export(self.folder / "final")
