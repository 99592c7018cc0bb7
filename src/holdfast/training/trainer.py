"""The one training loop. It knows sums, counts, update rules and checkpoints, and no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.core.events import StepFinished
from holdfast.data.batching.batches import Batch, TokenTable
from holdfast.errors import RunError, TrainingDiverged, UserInterrupt
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.loading import eval_mode
from holdfast.models.placement import is_out_of_memory, peak_gib, random_states, set_random_states
from holdfast.models.quantized_base import describe_bits
from holdfast.models.stored_values import ReferenceCache
from holdfast.training import broken_weights, checkpoint
from holdfast.training.base_values import fill_reference, precompute_objective
from holdfast.training.batch_source import build_trainer_state
from holdfast.training.callbacks import Hooks, StartingPoint, Totals, TrainResult, add_metrics
from holdfast.training.determinism import deterministic_algorithms, needs_deterministic_algorithms
from holdfast.training.distributed import Machine, gather_full_tensor, reshard_state
from holdfast.training.draws import end_draws, follow_draw, mark_all_trained
from holdfast.training.drift import APART, SHARE, DriftMonitor
from holdfast.training.plan import boundary_steps, count_steps_to_stop
from holdfast.training.probe import probe_largest_batch
from holdfast.training.seeding import SURVEY, seed_generators
from holdfast.training.selection import Selection
from holdfast.training.setup import collect_default_knobs, collect_training_settings
from holdfast.training.signals import Interrupts
from holdfast.training.threaded_step import run_threaded_backward

if TYPE_CHECKING:
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe
    from holdfast.training.batch_source import OnDemandSource


class Trainer:
    """Trains a model by a recipe, resuming from the newest checkpoint under `out` when there is one.

    The loss of a step is sum over terms of (term sum) / (term count), both over all micro-batches and processes; the
    counts are known before the first forward pass, so each micro-batch is scaled once and gradients simply add up. The
    random generators are seeded before every forward pass from (seed, step, micro-batch, process): noise and dropout
    do not depend on what ran before, and a killed run goes on bit for bit (on a GPU with `train.deterministic`).

    Args:
        recipe: `objective`, `tuner`, `optimizer`, `train`, `evaluate.every` are read. With `train.keep: best` the
            model ends with the weights of the step whose loss, as `hooks.on_evaluate` gives it, was lowest.
        model: The base model, plain; it is changed in place.
        table: The encoded rows; or a source that makes the batches of each step when they are asked for.
        out: The run's directory; checkpoints go to `out/checkpoints`.
        pad_id: Token that fills lines up.
        hooks: Called on the main process.
        reference: Store of the base model's log-probabilities, for objectives that need one; default under `out`.
        name_row, rerun_hint: What an error calls the row of an index, and the message after Ctrl-C running this once
            more.
        base: Fingerprint of the weights it starts from; a checkpoint of a run that started from others is refused.
        start: What to begin with instead of the model's own weights.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        table: TokenTable | OnDemandSource,
        out: str | Path,
        *,
        pad_id: int,
        hooks: Hooks | None = None,
        reference: ReferenceCache | None = None,
        name_row: Callable[[int], str] = "row {}".format,
        rerun_hint: str = "the same command",
        base: str = "",
        start: StartingPoint | None = None,
    ) -> None:
        self.recipe, self.model, self.table, self.pad_id = recipe, model, table, pad_id
        self.root = Path(out) / "checkpoints"
        self.hooks = hooks or Hooks()
        self.reference = reference
        self.name_row, self.rerun_hint, self.base = name_row, rerun_hint, base
        self.start = start or StartingPoint()
        self.totals = Totals()
        self.selection = Selection(recipe.train.keep, recipe.train.patience)

    def fit(self) -> TrainResult:
        """Train to the end.

        Raises:
            UserError: If the checkpoint found was made with other settings, or the recipe does not fit the machine.
            RunError: If loss or gradient stop being numbers, memory is short, or a checkpoint cannot be written.
            Interrupted: After Ctrl-C; everything is saved.
        """
        machine = self.machine = Machine(self.recipe.train.precision, self.model.device, self.recipe.train.weights)
        self.state = build_trainer_state(self.recipe, self.model, self.table, machine, self.pad_id, self._send_note)
        if self.start.tuner_seed is not None:
            self.state.tuner_seed = self.start.tuner_seed
        made_by = collect_training_settings(self.recipe, self.table, self.state.step_size.tokens, self.base)
        newest, defaults = checkpoint.find_newest(self.root), collect_default_knobs(self.recipe)
        resume_point = checkpoint.load_checkpoint(newest, made_by, defaults) if newest else None
        if machine.main:
            checkpoint.remove_partial(self.root)
        self.interrupts = Interrupts(machine.world, self._send_note)
        self.state.build(resume_point.state if resume_point else {})
        self.model = self.state.model
        needs_order = needs_deterministic_algorithms(self.recipe.train.deterministic, machine.device)
        self.in_fixed_order = partial(deterministic_algorithms, needs_order)
        with self.in_fixed_order():
            if self.recipe.objective.needs_reference and self.state.has_table:
                fill_reference(self.state, self.reference, self.root.parent)
            if self.recipe.objective.has_precompute:
                precompute_objective(self.state, self.root.parent)
        self.drift_monitor = None if machine.is_sharded else DriftMonitor(self.state.policy, self.state.small_batch())
        (self.state.filler,) = self.state.add_step_statistics([self.state.filler])  # type: ignore[assignment]
        if self.start.tensors:
            self.state.copy_weights({**self.state.stored_parameters, **self.start.tensors})
        start = self._restore_checkpoint(resume_point)
        steps, self.stop = self.state.steps, count_steps_to_stop(self.recipe.train.stop_at, self.state.steps)
        steps_done = max(start, self.stop)
        if start < self.stop:
            if machine.main:
                checkpoint.check_room(self.root, self.state.checkpoint_bytes(self.recipe.train.keep == "best"))
            with self.in_fixed_order():
                has_unused = probe_largest_batch(self.state, self._send_note)
            self.module = machine.wrap_ddp(self.state.scorer, has_unused)
            try:
                with self.interrupts.catch_signals():
                    steps_done = self._run_steps(start, steps, made_by)
            finally:
                del self.module  # what DDP wraps would keep the processes' connection open for as long as this lives
        elif self.selection.decides and start == steps:
            self._evaluate_model(steps, steps, made_by)
        self.state.release_layers()
        self._restore_best_weights(steps_done, made_by)
        return self._build_result(start, steps_done)

    def _run_steps(self, start: int, steps: int, made_by: dict[str, Any]) -> int:
        """Train from step `start` on; how many steps the run then has, fewer than `steps` where it stops early."""
        saves = boundary_steps(self.recipe.train.save_every, steps) | {self.stop}
        self.drift_steps = boundary_steps(max(SHARE, min(1.0, APART / steps)), steps) | {steps}
        looks = boundary_steps(self.recipe.evaluate.every, steps)
        looks = looks | {steps} if self.selection.decides else looks - {steps}
        if start in looks and self._evaluate_model(start, steps, made_by):
            return start
        for step in range(start, self.stop):
            stop = self._run_step(step, steps)
            steps_done = step + 1
            if steps_done in saves or stop:
                self._save_checkpoint(steps_done, made_by)
            if stop:
                raise UserInterrupt(
                    f"stopped after step {steps_done} of {steps}, all saved; run {self.rerun_hint} to go on"
                )
            if steps_done in looks and self._evaluate_model(steps_done, steps, made_by):
                if steps_done not in saves:
                    self._save_checkpoint(steps_done, made_by)
                return steps_done
        return self.stop

    def _run_step(self, step: int, steps: int) -> bool:
        """One step; whether the run shall stop after it."""
        began = time.perf_counter()
        if follow_draw(self.state, step):
            probe_largest_batch(self.state, self._send_note)
        with pause_compiled():  # it may sample
            batches = self.state.source.step_batches(step, self.state.policy)
        counts = self._sum_counts(batches)
        batches = self._prepare_batches(step, batches)
        rule = self.state.rule
        rule.lr = self.recipe.tuner.learning_rate_at(self.recipe.optimizer, step, steps)
        try:
            with self.in_fixed_order():
                for index in range(rule.passes):
                    rule.begin_pass(index)
                    sums, metrics = self.state.run_pass(partial(self._forward_backward, step, batches, counts))
                terms = self._reduce_terms(step, batches, sums, counts)
                norm = rule.step()
        except Exception as error:
            if is_out_of_memory(error):
                rows = max((b.n_rows for b in batches if b is not None), default=1)
                raise RunError(f"step {step + 1}: {self.state.describe_memory_shortage(rows)}") from error
            raise
        if not math.isfinite(norm):
            self._raise_diverged(step, "gradient", [b for b in batches if b is not None])
        rule.zero_grad()
        if self.drift_monitor is not None and step + 1 in self.drift_steps:
            metrics |= self.drift_monitor.measure_drift()
        metrics |= self.state.source.step_figures()
        self._log_step(step, steps, terms, metrics, norm, counts, time.perf_counter() - began)
        return counts["interrupts"] > 0 or (self.machine.world == 1 and self.interrupts.stop_requests > 0)

    def _sum_counts(self, batches: list[Batch | None]) -> dict[str, float]:
        """What the step holds over all processes: units of the terms, tokens, labels, sequences, requests to stop."""
        real = [b for b in batches if b is not None]
        batch_counts = [self.state.count_terms(b) for b in real]
        mine = {t: float(sum(counts[t] for counts in batch_counts)) for t in self.state.terms}
        mine["real tokens"] = sum(b.tokens for b in real)
        mine["labels"] = sum(len(b.labels) for b in real)
        mine["rows"] = sum(b.n_sequences for b in real)
        mine["interrupts"] = self.interrupts.stop_requests
        return dict(zip(mine, self.machine.sum_over_processes([float(v) for v in mine.values()]), strict=True))

    def _prepare_batches(self, step: int, batches: list[Batch | None]) -> list[Batch | None]:
        """The micro-batches, on their device, with what the objective surveys of the whole step."""
        here = [None if b is None else b.to(self.machine.device) for b in batches]
        if not self.recipe.objective.has_step_statistics:
            return here
        seed_generators(self.recipe.train.noise_seed, step, self.machine.rank, SURVEY)
        with self.in_fixed_order():
            return self.state.add_step_statistics(here, together=True)

    def _forward_backward(
        self, step: int, batches: list[Batch | None], counts: dict[str, float]
    ) -> tuple[Tensor, dict[str, tuple[float, float]]]:
        """Forward and backward over the micro-batches: term sums [micro-batches, terms], metrics as (sum, count)."""
        if self.state.num_workers > 1 and len(batches) > 1:
            return self._forward_backward_threaded([b for b in batches if b is not None], counts)
        sums: list[Tensor] = []
        metrics: dict[str, tuple[float, float]] = {}
        for index, batch in enumerate(batches):
            seed_generators(self.recipe.train.noise_seed, step, index, self.machine.rank)
            share = 0.0 if batch is None else 1.0  # a process without rows still takes part in every exchange
            with self.machine.no_sync_until_last(self.module, last=index == len(batches) - 1):
                terms, extra = self.module(self.state.filler if batch is None else batch)
                # DDP and FSDP2 average over processes; the counts are global, so that is undone here.
                factors = {t: share * self.machine.world / (counts[t] or 1.0) for t in self.state.terms}
                loss = sum(terms[t] * factors[t] for t in self.state.terms)
                if self.recipe.optimizer.in_backward and not bool(torch.isfinite(loss)):
                    self._raise_diverged(step, "loss", [] if batch is None else [batch])
                loss.backward()
            sums.append(torch.stack([terms[t].detach().float() * share for t in self.state.terms]))
            add_metrics(metrics, extra, share)
        return torch.stack(sums), metrics

    def _forward_backward_threaded(
        self, batches: list[Batch], counts: dict[str, float]
    ) -> tuple[Tensor, dict[str, tuple[float, float]]]:
        """As `_forward_backward`, the micro-batches side by side."""
        state = self.state
        factors = {t: 1 / (counts[t] or 1.0) for t in state.terms}
        scores = run_threaded_backward(
            state.scorer, batches, factors, list(state.trainable_parameters.values()), state.num_workers
        )
        metrics: dict[str, tuple[float, float]] = {}
        for _, extra in scores:
            add_metrics(metrics, extra)
        return torch.stack([torch.stack([terms[t].float() for t in state.terms]) for terms, _ in scores]), metrics

    def _reduce_terms(
        self, step: int, batches: list[Batch | None], sums: Tensor, counts: dict[str, float]
    ) -> dict[str, float]:
        """Each term over all processes; the run ends here if one is not a number, before anything is updated."""
        totals = self.machine.sum_over_processes(sums.cpu().double().sum(0).tolist())  # some devices have no fp64
        if not all(map(math.isfinite, totals)):
            bad = (~sums.isfinite().all(1)).tolist()
            self._raise_diverged(
                step, "loss", [b for b, b_bad in zip(batches, bad, strict=True) if b_bad and b is not None]
            )
        return {t: total / (counts[t] or 1.0) for t, total in zip(self.state.terms, totals, strict=True)}

    def _raise_diverged(self, step: int, what: str, batches: list[Batch]) -> None:
        rows = self.state.find_nonfinite_rows(batches) or sorted(
            {row for batch in batches for row in batch.rows.tolist()}
        )
        names = ", ".join(map(self.name_row, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        last = checkpoint.find_newest(self.root)
        raise TrainingDiverged(
            f"step {step + 1}: the {what} is not a finite number, in {names or 'rows of another process'}; nothing of "
            f"this step was saved ({f'{last.name} is intact' if last else 'no checkpoint yet'}). Look at these rows, "
            "lower optimizer.learning_rate, or set train.precision: fp32"
        )

    def _log_step(
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
        flat = self.machine.sum_over_processes([x for name in names for x in metrics[name]]) if names else []
        means = {name: flat[2 * i] / (flat[2 * i + 1] or 1.0) for i, name in enumerate(names)}
        totals, was_clipped = self.totals, self.state.rule.was_clipped
        totals.add_step(sum(terms.values()), counts, seconds, was_clipped)
        if not self.machine.main:
            return
        steps_done = step + 1
        self.hooks.on_step(
            StepFinished(
                step=steps_done,
                steps=steps,
                epoch=self.state.source.epoch_at(steps_done),
                loss=totals.loss,
                terms=terms,
                metrics=means,
                grad_norm=norm,
                clipped=was_clipped,
                learning_rate=self.state.rule.lr,
                tokens=totals.tokens,
                trained_tokens=totals.trained_tokens,
                tokens_per_second=counts["real tokens"] / seconds,
                memory_gib=peak_gib(self.machine.device),
                seconds=totals.seconds,
                remaining=totals.seconds / steps_done * (steps - steps_done),
            )
        )

    def _evaluate_model(self, steps_done: int, steps: int, made_by: dict[str, Any]) -> bool:
        """Let the model be measured; whether the run stops here. All processes come to the same decision."""
        model = self.state.gather_full_model() if self.machine.is_sharded else self.model
        loss = None
        if self.machine.main:
            with eval_mode(model), self.machine.preserve_rng(), mark_all_trained(self.state):
                loss = self.hooks.on_evaluate(steps_done, model, self.state.policy.value_head)
        # The loss is the main process's; to the others it comes as a sum with zeros.
        has_loss, value = self.machine.sum_over_processes([float(loss is not None), 0.0 if loss is None else loss])
        self.machine.accelerator.wait_for_everyone()
        if not has_loss:
            return False
        selection = self.selection
        selection.add_loss(steps_done, value)
        if selection.keep == "best" and selection.best == steps_done and steps_done < steps:
            self._save_best(steps_done, made_by)
        if not selection.is_exhausted or steps_done == steps:
            return False
        self._send_note(
            f"stopped after step {steps_done} of {steps}: the loss of step {selection.best} was not bettered since"
        )
        return True

    @property
    def _stem(self) -> str:
        """What the trained weights are called in a checkpoint."""
        return "adapter" if self.recipe.tuner.adapter else "model"

    def _save_best(self, steps_done: int, made_by: dict[str, Any]) -> None:
        """The weights alone, of a step that is the best so far."""
        broken_weights.refuse_broken_weights(self.state.stored_parameters, self.machine, self.root, steps_done)
        if self.machine.main or self.machine.is_sharded:
            tensors = {self._stem: {name: gather_full_tensor(p) for name, p in self.state.stored_parameters.items()}}
            if self.machine.main:
                checkpoint.save_best(self.root, checkpoint.Checkpoint(steps_done, tensors, made_by, {}))
        self.machine.accelerator.wait_for_everyone()

    def _restore_best_weights(self, steps_done: int, made_by: dict[str, Any]) -> None:
        """Give the model the weights of the step that is kept, where that is not the last one."""
        step = self.selection.kept_step(steps_done)
        if step == steps_done:
            return
        best = checkpoint.load_checkpoint(checkpoint.best_path(self.root, step), made_by)
        self.state.copy_weights(best.tensors[self._stem])
        self._send_note(
            f"the weights of step {step} are kept, whose loss was the lowest of {len(self.selection.losses)}"
        )

    def _save_checkpoint(self, steps_done: int, made_by: dict[str, Any]) -> None:
        """A checkpoint of `done` steps; every process takes part in making shards whole, the main one writes."""
        trainer_state = self.state
        broken_weights.refuse_broken_weights(trainer_state.stored_parameters, self.machine, self.root, steps_done)
        if self.machine.main or self.machine.is_sharded:
            tensors = {
                self._stem: {name: gather_full_tensor(p) for name, p in trainer_state.stored_parameters.items()},
                "optimizer": {name: gather_full_tensor(t) for name, t in trainer_state.rule.state_tensors().items()},
                "rng": random_states(self.machine.device),
            }
            state = {
                "totals": asdict(self.totals),
                "micro_tokens": [self.recipe.train.micro_tokens, trainer_state.micro_tokens],
                "head_rows": trainer_state.policy.chunk_rows,
                "losses": self.selection.to_json(),
                **({"source": source} if (source := trainer_state.source.state_dict()) else {}),
            }
            if self.machine.main:
                keep = self.recipe.train.keep_checkpoints
                checkpoint.save_checkpoint(self.root, checkpoint.Checkpoint(steps_done, tensors, made_by, state), keep)
                checkpoint.remove_other_best(self.root, self.selection.best)
        self.machine.accelerator.wait_for_everyone()

    def _restore_checkpoint(self, resume_point: checkpoint.Checkpoint | None) -> int:
        """Put a checkpoint's weights, optimizer state and counters in place; the steps it had done."""
        if resume_point is None:
            return 0
        broken_weights.refuse_broken_checkpoint(
            checkpoint.step_path(self.root, resume_point.step), resume_point.tensors[self._stem]
        )
        self.state.copy_weights(resume_point.tensors[self._stem])
        follow_draw(self.state, max(0, resume_point.step - 1))  # whose state of the optimizer was saved
        self.selection.restore_losses(resume_point.state.get("losses", []))
        optimizer_state = resume_point.tensors["optimizer"]
        self.state.rule.load(
            reshard_state(optimizer_state, self.state.rule.state_tensors(), self.state.stored_parameters)
        )
        set_random_states(resume_point.tensors["rng"], self.machine.device)
        self.totals = Totals(**resume_point.state["totals"])
        self.state.source.load_state_dict(resume_point.state.get("source", {}))
        self._send_note(f"resumed after step {resume_point.step} of {self.state.steps}")
        return resume_point.step

    def _build_result(self, start: int, steps_done: int) -> TrainResult:
        end_draws(self.state)
        model = self.state.gather_full_model() if self.machine.is_sharded else self.model
        totals, tuner = self.totals, self.recipe.tuner
        return TrainResult(
            model=(model if tuner.adapter else tuner.merge(model)).eval(),
            tuner=tuner,
            steps=steps_done,
            epochs=self.state.source.epoch_at(steps_done),
            tokens=totals.tokens,
            trained_tokens=totals.trained_tokens,
            seconds=totals.seconds,
            loss=totals.loss,
            value_head=self.state.policy.value_head,
            tokens_per_second=totals.tokens / max(totals.seconds, 1e-9),
            peak_memory_gib=peak_gib(self.machine.device),
            micro_tokens=min(self.state.micro_tokens, self.state.step_size.tokens),
            step_size=self.state.step_size,
            layout=self.state.layout,
            precision=self.machine.precision,
            arithmetic=self.machine.arithmetic + describe_bits(self.recipe.tuner.frozen_bits()),
            trainable=sum(p.numel() for p in self.state.stored_parameters.values()),
            clipped=totals.clipped,
            resumed_from=start,
            kept_step=self.selection.kept_step(steps_done),
            stopped_early=steps_done < self.stop,
            is_partial=self.stop <= steps_done < self.state.steps,
        )

    def _send_note(self, line: str) -> None:
        if self.machine.main:
            self.hooks.on_note(line)
