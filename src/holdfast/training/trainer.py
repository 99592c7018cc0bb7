"""The one training loop. It knows sums, counts, update rules and checkpoints, and no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.core.events import StepFinished
from holdfast.data.batching.batches import Batch, TokenTable
from holdfast.errors import Diverged, Interrupted, RunError
from holdfast.models.loading import evaluating
from holdfast.models.placement import peak_gib, random_states, set_random_states
from holdfast.models.stored_values import ReferenceCache
from holdfast.training import broken_weights, checkpoint, memory
from holdfast.training.batch_source import make_bench
from holdfast.training.callbacks import Hooks, Totals, TrainResult
from holdfast.training.distributed import Machine, like, state_like, whole
from holdfast.training.drift import APART, SHARE, Watch
from holdfast.training.plan import boundaries
from holdfast.training.probe import probe
from holdfast.training.seeding import SURVEY, seed_for
from holdfast.training.selection import Selection
from holdfast.training.setup import fill_reference, prepare, settings
from holdfast.training.signals import Interrupts
from holdfast.training.threaded_step import side_by_side

if TYPE_CHECKING:
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe
    from holdfast.training.batch_source import MadeOnDemand


class Trainer:
    """Trains a model by a recipe, resuming from the newest checkpoint under `out` when there is one.

    The loss of a step is sum over terms of (term sum) / (term count), both over all micro-batches and processes; the
    counts are known before the first forward pass, so each micro-batch is scaled once and gradients simply add up. The
    random generators are seeded before every forward pass from (seed, step, micro-batch, process): noise and dropout
    do not depend on what ran before, and a killed run goes on bit for bit (on a GPU as far as its kernels are
    deterministic).

    Args:
        recipe: `objective`, `tuner`, `optimizer`, `train`, `evaluate.every` are read. With `train.keep: best` the
            model ends with the weights of the step whose loss, as `hooks.on_evaluate` gives it, was lowest.
        model: The base model, plain; it is changed in place.
        table: The encoded rows; or a source that makes the batches of each step when they are asked for.
        out: The run's directory; checkpoints go to `out/checkpoints`.
        pad_id: Token that fills lines up.
        hooks: Called on the main process.
        reference: Store of the base model's log-probabilities, for objectives that need one; default under `out`.
        name_row, again: What an error calls the row of an index, and the message after Ctrl-C running this once more.
        base: Fingerprint of the weights it starts from; a checkpoint of a run that started from others is refused.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        table: TokenTable | MadeOnDemand,
        out: str | Path,
        *,
        pad_id: int,
        hooks: Hooks | None = None,
        reference: ReferenceCache | None = None,
        name_row: Callable[[int], str] = "row {}".format,
        again: str = "the same command",
        base: str = "",
    ) -> None:
        self.recipe, self.model, self.table, self.pad_id = recipe, model, table, pad_id
        self.root = Path(out) / "checkpoints"
        self.hooks = hooks or Hooks()
        self.reference = reference
        self.name_row, self.again, self.base = name_row, again, base
        self.totals = Totals()
        self.selection = Selection(recipe.train.keep, recipe.train.patience)

    def fit(self) -> TrainResult:
        """Train to the end.

        Raises:
            UserError: If the checkpoint found was made with other settings, or the recipe does not fit the machine.
            RunError: If loss or gradient stop being numbers, memory is short, or a checkpoint cannot be written.
            Interrupted: After Ctrl-C; everything is saved.
        """
        machine = self.machine = Machine(self.recipe.train.precision, self.model.device)
        self.bench = make_bench(self.recipe, self.model, self.table, machine, self.pad_id)
        made_by = settings(self.recipe, self.table, self.bench.step_size.tokens, self.base)
        found = checkpoint.newest(self.root)
        saved = checkpoint.load(found, made_by) if found else None
        if machine.main:
            checkpoint.sweep(self.root)
        self.interrupts = Interrupts(machine.world, self._note)
        self.bench.build(saved.state if saved else {})
        self.model = self.bench.model
        if self.recipe.objective.needs_reference and self.bench.has_table:
            fill_reference(self.bench, self.reference, self.root.parent)
        if self.recipe.objective.prepares:
            prepare(self.bench, self.root.parent)
        self.watch = None if machine.sharded else Watch(self.bench.policy, self.bench.few())
        (self.bench.filler,) = self.bench.survey([self.bench.filler])  # type: ignore[assignment]
        start = self._restore(saved)
        done = steps = self.bench.steps
        if start < steps:
            if machine.main:
                best = self.recipe.train.keep == "best"
                checkpoint.check_room(self.root, self.bench.checkpoint_bytes(with_best=best))
            unreached = probe(self.bench, self._note)
            self.module = machine.spread(self.bench.scorer, unreached)
            try:
                with self.interrupts.watched():
                    done = self._run(start, steps, made_by)
            finally:
                del self.module  # what DDP wraps would keep the processes' connection open for as long as this lives
        elif self.selection.decides:
            self._evaluate(steps, steps, made_by)
        self._put_back_best(done, made_by)
        return self._result(start, done)

    def _run(self, start: int, steps: int, made_by: dict[str, Any]) -> int:
        """Train from step `start` on; how many steps the run then has, fewer than `steps` where it stops early."""
        saves = boundaries(self.recipe.train.save_every, steps) | {steps}
        self.watched = boundaries(max(SHARE, min(1.0, APART / steps)), steps) | {steps}
        looks = boundaries(self.recipe.evaluate.every, steps)
        looks = looks | {steps} if self.selection.decides else looks - {steps}
        if start in looks and self._evaluate(start, steps, made_by):
            return start
        for step in range(start, steps):
            stop = self._step(step, steps)
            done = step + 1
            if done in saves or stop:
                self._save(done, made_by)
            if stop:
                raise Interrupted(f"stopped after step {done} of {steps}, all saved; run {self.again} to go on")
            if done in looks and self._evaluate(done, steps, made_by):
                if done not in saves:
                    self._save(done, made_by)
                return done
        return steps

    def _step(self, step: int, steps: int) -> bool:
        """One step; whether the run shall stop after it."""
        began = time.perf_counter()
        batches = self.bench.source.step(step, self.bench.policy)
        counts = self._counts(batches)
        batches = self._surveyed(step, batches)
        rule = self.bench.rule
        rule.lr = self.recipe.optimizer.rate(step, steps)
        try:
            for index in range(rule.passes):
                rule.begin(index)
                sums, metrics = self._pass(step, batches, counts)
            terms = self._terms(step, batches, sums, counts)
            norm = rule.step()
        except Exception as error:
            if memory.is_out_of_memory(error):
                rows = max((b.n_rows for b in batches if b is not None), default=1)
                raise RunError(f"step {step + 1}: {self.bench.advice(rows)}") from error
            raise
        if not math.isfinite(norm):
            self._not_a_number(step, "gradient", [b for b in batches if b is not None])
        rule.zero_grad()
        if self.watch is not None and step + 1 in self.watched:
            metrics |= self.watch.look()
        self._log(step, steps, terms, metrics, norm, counts, time.perf_counter() - began)
        return counts["interrupts"] > 0 or (self.machine.world == 1 and self.interrupts.asked > 0)

    def _counts(self, batches: list[Batch | None]) -> dict[str, float]:
        """What the step holds over all processes: units of the terms, tokens, labels, sequences, requests to stop."""
        real = [b for b in batches if b is not None]
        found = [self.recipe.objective.counts(b) for b in real]
        mine = {t: float(sum(counts[t] for counts in found)) for t in self.bench.terms}
        mine["real tokens"] = sum(b.tokens for b in real)
        mine["labels"] = sum(len(b.labels) for b in real)
        mine["rows"] = sum(b.n_sequences for b in real)
        mine["interrupts"] = self.interrupts.asked
        return dict(zip(mine, self.machine.sum([float(v) for v in mine.values()]), strict=True))

    def _surveyed(self, step: int, batches: list[Batch | None]) -> list[Batch | None]:
        """The micro-batches, on their device, with what the objective surveys of the whole step."""
        here = [None if b is None else b.to(self.machine.device) for b in batches]
        if not self.recipe.objective.surveys:
            return here
        seed_for(self.recipe.train.seed, step, self.machine.rank, SURVEY)
        return self.bench.survey(here, together=True)

    def _pass(
        self, step: int, batches: list[Batch | None], counts: dict[str, float]
    ) -> tuple[Tensor, dict[str, tuple[float, float]]]:
        """Forward and backward over the micro-batches: term sums [micro-batches, terms], metrics as (sum, count)."""
        if self.bench.lanes > 1 and len(batches) > 1:
            return self._lanes([b for b in batches if b is not None], counts)
        sums: list[Tensor] = []
        metrics: dict[str, tuple[float, float]] = {}
        for index, batch in enumerate(batches):
            seed_for(self.recipe.train.seed, step, index, self.machine.rank)
            share = 0.0 if batch is None else 1.0  # a process without rows still takes part in every exchange
            with self.machine.local(self.module, last=index == len(batches) - 1):
                terms, extra = self.module(self.bench.filler if batch is None else batch)
                # DDP and FSDP2 average over processes; the counts are global, so that is undone here.
                factors = {t: share * self.machine.world / (counts[t] or 1.0) for t in self.bench.terms}
                loss = sum(terms[t] * factors[t] for t in self.bench.terms)
                if self.recipe.optimizer.in_backward and not bool(torch.isfinite(loss)):
                    self._not_a_number(step, "loss", [] if batch is None else [batch])
                loss.backward()
            sums.append(torch.stack([terms[t].detach().float() * share for t in self.bench.terms]))
            _add(metrics, extra, share)
        return torch.stack(sums), metrics

    def _lanes(self, batches: list[Batch], counts: dict[str, float]) -> tuple[Tensor, dict[str, tuple[float, float]]]:
        """As `_pass`, the micro-batches side by side."""
        bench = self.bench
        factors = {t: 1 / (counts[t] or 1.0) for t in bench.terms}
        scored = side_by_side(bench.scorer, batches, factors, list(bench.trained.values()), bench.lanes)
        metrics: dict[str, tuple[float, float]] = {}
        for _, extra in scored:
            _add(metrics, extra)
        return torch.stack([torch.stack([terms[t].float() for t in bench.terms]) for terms, _ in scored]), metrics

    def _terms(
        self, step: int, batches: list[Batch | None], sums: Tensor, counts: dict[str, float]
    ) -> dict[str, float]:
        """Each term over all processes; the run ends here if one is not a number, before anything is updated."""
        totals = self.machine.sum(sums.cpu().double().sum(0).tolist())  # some devices have no fp64
        if not all(map(math.isfinite, totals)):
            bad = (~sums.isfinite().all(1)).tolist()
            self._not_a_number(
                step, "loss", [b for b, b_bad in zip(batches, bad, strict=True) if b_bad and b is not None]
            )
        return {t: total / (counts[t] or 1.0) for t, total in zip(self.bench.terms, totals, strict=True)}

    def _not_a_number(self, step: int, what: str, batches: list[Batch]) -> None:
        rows = self.bench.culprits(batches) or sorted({row for batch in batches for row in batch.rows.tolist()})
        names = ", ".join(map(self.name_row, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        last = checkpoint.newest(self.root)
        raise Diverged(
            f"step {step + 1}: the {what} is not a finite number, in {names or 'rows of another process'}; nothing of "
            f"this step was saved ({f'{last.name} is intact' if last else 'no checkpoint yet'}). Look at these rows, "
            "lower optimizer.learning_rate, or set train.precision: fp32"
        )

    def _log(
        self,
        step: int,
        steps: int,
        terms: dict[str, float],
        metrics: dict[str, tuple[float, float]],
        norm: float,
        counts: dict[str, float],
        seconds: float,
    ) -> None:
        names = sorted(metrics)
        flat = self.machine.sum([x for name in names for x in metrics[name]]) if names else []
        means = {name: flat[2 * i] / (flat[2 * i + 1] or 1.0) for i, name in enumerate(names)}
        totals, clipped = self.totals, self.bench.rule.clipped
        totals.add(sum(terms.values()), counts, seconds, clipped)
        if not self.machine.main:
            return
        done = step + 1
        self.hooks.on_step(
            StepFinished(
                step=done,
                steps=steps,
                epoch=self.bench.source.progress(done),
                loss=totals.loss,
                terms=terms,
                metrics=means,
                grad_norm=norm,
                clipped=clipped,
                learning_rate=self.bench.rule.lr,
                tokens=totals.tokens,
                trained_tokens=totals.trained_tokens,
                tokens_per_second=counts["real tokens"] / seconds,
                memory_gib=peak_gib(self.machine.device),
                seconds=totals.seconds,
                remaining=totals.seconds / done * (steps - done),
            )
        )

    def _evaluate(self, done: int, steps: int, made_by: dict[str, Any]) -> bool:
        """Let the model be measured; whether the run stops here. All processes come to the same decision."""
        model = self.bench.plain() if self.machine.sharded else self.model
        loss = None
        if self.machine.main:
            with evaluating(model), self.machine.same_random():
                loss = self.hooks.on_evaluate(done, model)
        # The loss is the main process's; to the others it comes as a sum with zeros.
        known, value = self.machine.sum([float(loss is not None), 0.0 if loss is None else loss])
        self.machine.accelerator.wait_for_everyone()
        if not known:
            return False
        selection = self.selection
        selection.add(done, value)
        if selection.keep == "best" and selection.best == done and done < steps:
            self._save_best(done, made_by)
        if not selection.exhausted or done == steps:
            return False
        self._note(f"stopped after step {done} of {steps}: the loss of step {selection.best} was not bettered since")
        return True

    @property
    def _stem(self) -> str:
        """What the trained weights are called in a checkpoint."""
        return "adapter" if self.recipe.tuner.adapter else "model"

    def _save_best(self, done: int, made_by: dict[str, Any]) -> None:
        """The weights alone, of a step that is the best so far."""
        broken_weights.refuse(self.bench.trained, self.machine, self.root, done)
        if self.machine.main or self.machine.sharded:
            tensors = {self._stem: {name: whole(p) for name, p in self.bench.trained.items()}}
            if self.machine.main:
                checkpoint.save_best(self.root, checkpoint.Checkpoint(done, tensors, made_by, {}))
        self.machine.accelerator.wait_for_everyone()

    def _put_back_best(self, done: int, made_by: dict[str, Any]) -> None:
        """Give the model the weights of the step that is kept, where that is not the last one."""
        step = self.selection.kept(done)
        if step == done:
            return
        saved = checkpoint.load(checkpoint.best_at(self.root, step), made_by)
        self._put(saved.tensors[self._stem])
        self._note(f"the weights of step {step} are kept, whose loss was the lowest of {len(self.selection.losses)}")

    def _put(self, tensors: dict[str, Tensor]) -> None:
        """Put stored weights in place."""
        with torch.no_grad():
            for name, parameter in self.bench.trained.items():
                parameter.copy_(like(tensors[name], parameter))

    def _save(self, done: int, made_by: dict[str, Any]) -> None:
        """A checkpoint of `done` steps; every process takes part in making shards whole, the main one writes."""
        bench = self.bench
        broken_weights.refuse(bench.trained, self.machine, self.root, done)
        if self.machine.main or self.machine.sharded:
            tensors = {
                self._stem: {name: whole(p) for name, p in bench.trained.items()},
                "optimizer": {name: whole(t) for name, t in bench.rule.state().items()},
                "rng": random_states(self.machine.device),
            }
            state = {
                "totals": asdict(self.totals),
                "micro_tokens": [self.recipe.train.micro_tokens, bench.micro_tokens],
                "losses": self.selection.to_json(),
                **({"source": source} if (source := bench.source.state()) else {}),
            }
            if self.machine.main:
                keep = self.recipe.train.keep_checkpoints
                checkpoint.save(self.root, checkpoint.Checkpoint(done, tensors, made_by, state), keep)
                checkpoint.sweep_best(self.root, self.selection.best)
        self.machine.accelerator.wait_for_everyone()

    def _restore(self, saved: checkpoint.Checkpoint | None) -> int:
        """Put a checkpoint's weights, optimizer state and counters in place; the steps it had done."""
        if saved is None:
            return 0
        broken_weights.refuse_checkpoint(checkpoint.step_at(self.root, saved.step), saved.tensors[self._stem])
        self._put(saved.tensors[self._stem])
        self.selection.restore(saved.state.get("losses", []))
        stored = saved.tensors["optimizer"]
        self.bench.rule.load(state_like(stored, self.bench.rule.state(), self.bench.trained))
        set_random_states(saved.tensors["rng"], self.machine.device)
        self.totals = Totals(**saved.state["totals"])
        self.bench.source.load(saved.state.get("source", {}))
        self._note(f"resumed after step {saved.step} of {self.bench.steps}")
        return saved.step

    def _result(self, start: int, done: int) -> TrainResult:
        model = self.bench.plain() if self.machine.sharded else self.model
        totals = self.totals
        return TrainResult(
            model=model.eval(),
            tuner=self.recipe.tuner,
            steps=done,
            epochs=self.bench.source.progress(done),
            tokens=totals.tokens,
            trained_tokens=totals.trained_tokens,
            seconds=totals.seconds,
            loss=totals.loss,
            value_head=self.bench.policy.value_head,
            tokens_per_second=totals.tokens / max(totals.seconds, 1e-9),
            peak_memory_gib=peak_gib(self.machine.device),
            micro_tokens=min(self.bench.micro_tokens, self.bench.step_size.tokens),
            step_size=self.bench.step_size,
            layout=self.bench.layout,
            precision=self.machine.precision,
            trainable=sum(p.numel() for p in self.bench.trained.values()),
            clipped=totals.clipped,
            resumed_from=start,
            kept_step=self.selection.kept(done),
            stopped_early=done < self.bench.steps,
        )

    def _note(self, line: str) -> None:
        if self.machine.main:
            self.hooks.on_note(line)


def _add(metrics: dict[str, tuple[float, float]], more: dict[str, tuple[float, float]], share: float = 1.0) -> None:
    """Add sums and counts by name."""
    for name, (total, count) in more.items():
        so_far = metrics.get(name, (0.0, 0.0))
        metrics[name] = (so_far[0] + share * total, so_far[1] + share * count)
