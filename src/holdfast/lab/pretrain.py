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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from holdfast.lab.drills import Listing, ManyPeople, NewLabels, WithMistakes
from holdfast.lab.tokenizer import CONTEXT, build_tokenizer
from holdfast.models.loading import LAB_DIRECTORY
from holdfast.skills import load_skill
from holdfast.skills.base import Skill
from holdfast.skills.facts import Facts
from holdfast.skills.story import BASIC, Story

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

    from holdfast.models.loading import Model

FIRST = {
    "story": 0.18, "sums": 0.14, "reading": 0.10, "rephrase": 0.10, "revise": 0.06, "strings": 0.07, "points": 0.09,
    "examples": 0.10, "cipher": 0.03, "program": 0.03, "format": 0.03, "route": 0.05, "lake": 0.02,
}  # fmt: skip
SECOND = FIRST | {"sums": 0.17, "story": 0.20, "reading": 0.12, "rephrase": 0.08, "strings": 0.05, "listing": 0.08}
GRADED_MIX = SECOND | {"story": 0.45}
ONLY = {"listing": 0.8, "examples": 0.2}
"""Shares of the rows of each skill; facts come on top, exactly as often as their level says."""


@dataclass(frozen=True, slots=True)
class PretrainPhase:
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
        facts_over: Steps that their showings are spread over; default: those of the cycle. Of more, the last are left
            out.
    """

    steps: int
    horizon: int
    decay: int
    learning_rate: float
    facts_from: float = 0.0
    warmup: int = 200
    facts_over: int | None = None


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """Everything a laboratory model is made of.

    Args:
        cycles, phases: How and on what it is trained.
        hidden, layers, heads, inner: Shape of the Llama.
        rows: Rows per step.
        milestones: Steps after which an intermediate model is kept.
        start: The shipped model that it goes on from; `None`: random weights.
    """

    cycles: tuple[Cycle, ...]
    phases: tuple[PretrainPhase, ...]
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    inner: int = 512
    rows: int = 72
    weight_decay: float = 0.05
    seed: int = 0
    milestones: tuple[int, ...] = ()
    start: str | None = None

    @property
    def steps(self) -> int:
        return sum(cycle.steps for cycle in self.cycles)

    def cycle_at(self, step: int) -> tuple[Cycle, int]:
        """The cycle `step` belongs to, and the step within it."""
        for cycle in self.cycles:
            if step < cycle.steps:
                return cycle, step
            step -= cycle.steps
        raise IndexError(step)

    def phase_at(self, step: int) -> PretrainPhase:
        """The last stage that has begun."""
        return [phase for phase in self.phases if phase.start <= step][-1]


def build_phases(second: int, only: int, rest: int) -> tuple[PretrainPhase, ...]:
    """Harder questions than the skills ask; from `second` on the skills; from `only` to `rest` nothing but examples."""
    story = Story(BASIC)
    hard: dict[str, Skill] = {"story": story, "examples": NewLabels(lookup=0.25), "reading": ManyPeople()}
    easy: dict[str, Skill] = {"story": story, "listing": Listing()}
    return (
        PretrainPhase(0, FIRST, hard),
        PretrainPhase(second, SECOND, easy),
        PretrainPhase(only, ONLY, easy),
        PretrainPhase(rest, SECOND, easy),
    )


PLANS: dict[str, PretrainPlan] = {
    "lab": PretrainPlan(
        cycles=(Cycle(4500, 6500, 900, 2.5e-3, facts_from=0.45), Cycle(4250, 5000, 1000, 2e-3)),
        phases=build_phases(4500, 7000, 7250),
        milestones=(2250, 3375, 4500, 6500),
    ),
    "lab-small": PretrainPlan(
        cycles=(Cycle(2500, 3500, 600, 4e-3, facts_from=0.45), Cycle(2500, 3125, 625, 3e-3)),
        phases=build_phases(2500, 2500, 2800), hidden=112, layers=3, heads=4, inner=288,
    ),
    "lab-graded": PretrainPlan(
        cycles=(Cycle(900, 900, 300, 1e-3, warmup=50),),
        phases=(PretrainPhase(0, GRADED_MIX, {"story": WithMistakes(), "listing": Listing()}),),
        seed=1, start="lab",
    ),
}  # fmt: skip


def new_model(plan: PretrainPlan, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A freshly initialised Llama of the plan's shape, or the model it goes on from."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if plan.start:
        return LlamaForCausalLM.from_pretrained(LAB_DIRECTORY / plan.start, dtype=torch.float32)
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

    def __init__(self, plan: PretrainPlan, tokenizer: PreTrainedTokenizerBase):
        self.plan, self.tokenizer = plan, tokenizer
        self.exposures = self._schedule_facts()

    def _schedule_facts(self) -> dict[int, list[Any]]:
        """Step to the facts shown in it: each showing of a cycle at a random step after its `facts_from`."""
        schedule: dict[int, list[Any]] = {}
        begin = 0
        for number, cycle in enumerate(self.plan.cycles):
            rng = random.Random(f"schedule/{self.plan.seed}/{number}" if number else f"schedule/{self.plan.seed}")
            for question in FACTS.generate_exposures(self.plan.seed, number):
                over = cycle.facts_over or cycle.steps
                step = begin + rng.randrange(int(cycle.facts_from * over), over)
                schedule.setdefault(step, []).append(question)
            begin += cycle.steps
        return schedule

    def sample_conversations(self, step: int) -> list[tuple[list[dict[str, Any]], str, Sequence[str]]]:
        """`(prompt messages, answer, the words of it that alone are trained)` of the rows of `step`."""
        rng = random.Random(f"stream/{self.plan.seed}/{step}")
        phase = self.plan.phase_at(step)
        out = []
        for name in rng.choices(list(phase.mix), list(phase.mix.values()), k=self.plan.rows):
            source = phase.instead.get(name) or load_skill(name)
            row = source.generate_row(rng, "train")
            out.append((row.prompt, row.answer or "", getattr(source, "only", ())))
        return out + [(q.messages, FACTS.write_answer(q, "bare", rng), ()) for q in self.exposures.get(step, [])]

    def build_batches(self, step: int, parts: int = 5) -> Iterator[PretrainBatch]:
        """What is read in `step`, cut by length into `parts` to waste little on padding."""
        rows = sorted((self._encode_row(*row) for row in self.sample_conversations(step)), key=lambda e: len(e[0]))
        size = math.ceil(len(rows) / parts)
        for start in range(0, len(rows), size):
            yield pad_batch(rows[start : start + size], self.tokenizer.pad_token_id)

    def _encode_row(
        self, prompt: list[dict[str, Any]], answer: str, only: Sequence[str]
    ) -> tuple[list[int], list[int]]:
        """`(tokens, positions of the trained ones)`."""
        tokenizer = self.tokenizer
        head = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        before, after = (tokenizer(t, add_special_tokens=False).input_ids for t in (head, answer))
        ids = [*before, *after, tokenizer.eos_token_id]
        vocabulary = tokenizer.get_vocab() if only else {}
        target_ids = {vocabulary[f"Ġ{word}"] for word in only} or set(ids)
        return ids, [t for t in range(len(before), len(ids)) if ids[t] in target_ids]


class PretrainBatch(NamedTuple):
    """Lines of one forward pass.

    Args:
        ids: [B, L], padded on the right.
        where: [N], flat positions whose next tokens are trained.
        labels: [N], these tokens.
        inputs: What the model reads beside the ids.
    """

    ids: Tensor
    where: Tensor
    labels: Tensor
    inputs: dict[str, Tensor]


def pad_batch(rows: list[tuple[list[int], list[int]]], pad: int, **inputs: Tensor) -> PretrainBatch:
    """A batch of rows, each `(tokens, positions of the trained ones)`."""
    width = max(len(ids) for ids, _ in rows)
    grid = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])  # [B, L]
    where = [b * width + t - 1 for b, (_, positions) in enumerate(rows) for t in positions]
    labels = [ids[t] for ids, label_positions in rows for t in label_positions]
    return PretrainBatch(grid, torch.tensor(where), torch.tensor(labels), inputs)


def compute_label_loss(model: Model, batch: PretrainBatch, reduction: str = "sum") -> Tensor:
    """The loss of a batch's labels, in nats: their sum, or by "mean" that of one."""
    ids, where, labels, inputs = batch
    hidden = model.base_model(input_ids=ids, **inputs).last_hidden_state.flatten(0, 1)[where]  # [N, D]
    return F.cross_entropy(model.get_output_embeddings()(hidden), labels, reduction=reduction)


@dataclass
class Pretraining:
    """A training in progress; `state` is what a checkpoint holds besides tensors."""

    plan: PretrainPlan
    folder: Path
    log: Callable[[str], None] = print
    state: dict[str, Any] = field(default_factory=lambda: {"step": 0, "tokens": 0, "loss": 0.0})

    def __post_init__(self) -> None:
        self.tokenizer, self.model, self.stream = self._build_parts()
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.learning_rate_at(0), betas=(0.9, 0.98), fused=True)
        self._resume_state()

    def _build_parts(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, Stream]:
        tokenizer = build_tokenizer()
        return tokenizer, new_model(self.plan, tokenizer), Stream(self.plan, tokenizer)

    @property
    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def _resume_state(self) -> None:
        state_dir = self.folder / "state"
        if not state_dir.exists():
            return
        self.state = json.loads((state_dir / "state.json").read_text())
        tensors = load_file(state_dir / "tensors.safetensors")
        for name, parameter in self._parameters.items():
            parameter.data.copy_(tensors[name])
            if f"{name}/step" in tensors:  # the last norm of eyes is never reached: what they see is taken before it
                moments = {k: tensors[f"{name}/{k}"] for k in ("exp_avg", "exp_avg_sq", "step")}
                self.optimizer.state[parameter] = moments
        self.log(f"resumed at step {self.state['step']} of {self.plan.steps}")

    def save_state(self) -> None:
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

    def export_model(self, folder: Path) -> None:
        """The model as a bf16 Hugging Face folder with its tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.bfloat16().save_pretrained(folder)
        self.model.float().load_state_dict(weights)
        self.tokenizer.save_pretrained(folder)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of `step`."""
        cycle, step = self.plan.cycle_at(step)
        if step < cycle.warmup:
            return cycle.learning_rate * (step + 1) / cycle.warmup
        progress = (step - cycle.warmup) / (cycle.horizon - cycle.warmup)
        decay_factor = min(1.0, (cycle.steps - step) / cycle.decay)
        return cycle.learning_rate * decay_factor * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self, step: int) -> tuple[float, int]:
        """One update; returns the loss per label token and the tokens read."""
        batches = list(self.stream.build_batches(step))
        count = sum(len(batch.labels) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = compute_label_loss(self.model, batch) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, sum(batch.ids.numel() for batch in batches)

    def run(self, save_every: int = 250, watch: Callable[[int], None] | None = None) -> None:
        """Train to the end, saving every `save_every` steps and at the milestones."""
        start, tokens = time.perf_counter(), 0
        while self.state["step"] < self.plan.steps:
            step = self.state["step"]
            loss, read = self.train_step(step)
            tokens += read
            ema = 0.98 * self.state["loss"] + 0.02 * loss if step else loss
            self.state.update(step=step + 1, tokens=self.state["tokens"] + read, loss=ema)
            if (step + 1) % 50 == 0:
                speed = tokens / (time.perf_counter() - start)
                self.log(
                    f"step {step + 1}/{self.plan.steps} | loss {ema:.3f} | {self.state['tokens']:,} tokens | "
                    f"{speed:,.0f} tok/s"
                )
            if step + 1 in self.plan.milestones:
                self.export_model(self.folder / f"step-{step + 1:06d}")
            if (step + 1) % save_every == 0 or step + 1 == self.plan.steps:
                self.save_state()
                if watch:
                    watch(step + 1)
        self.export_model(self.folder / "final")
