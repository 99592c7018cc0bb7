"""Everything a run needs before its first step: model, policy, update rule, sampler, a size that fits, references."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from pydantic_core import to_jsonable_python
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from holdfast.axes.axis import AXES
from holdfast.axes.method import Method
from holdfast.axes.objective import attach_step_statistics
from holdfast.axes.registry import name_of, source_of
from holdfast.core.progress import ignore_call
from holdfast.data.batching.batches import Batch, Layout, TokenTable
from holdfast.data.batching.step_size import compute_step_size, count_steps
from holdfast.errors import UserError
from holdfast.models.compiled_layers import CompiledLayers, wants_compiled
from holdfast.models.eyes import auto_class_of
from holdfast.models.lm_head import FEWEST_ROWS
from holdfast.models.loading import fingerprint_of
from holdfast.models.policy import ObjectiveModule, Policy, eval_mode
from holdfast.models.quantized_base import is_quantized
from holdfast.models.recomputation import enable_recomputation
from holdfast.models.value_head import make_value_head
from holdfast.training import layout as layouts
from holdfast.training import memory
from holdfast.training.apply_tuner import apply_tuner
from holdfast.training.distributed import Machine, find_layers, gather_full_tensor, reshard_like
from holdfast.training.draws import begin_draws
from holdfast.training.dropouts import attach_dropouts
from holdfast.training.memory_estimate import count_program_bytes, estimate_state_memory
from holdfast.training.sharing import SHARDED_VALUE_HEAD, describe_early_updates
from holdfast.training.table_source import TableSource
from holdfast.training.threaded_step import partition_rows

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from holdfast.axes.objective import Batches, Objective
    from holdfast.axes.tuner import Tuner
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe
    from holdfast.training.batch_source import BatchSource, OnDemandSource
    from holdfast.training.micro_batch_search import PassCost

T = TypeVar("T")

SHAPING = ("epochs", "max_steps", "batch_tokens", "max_length", "layout", "precision", "seed")
"""Fields of `train` that a run cannot change half way. How often it saves and how it fits into memory it may."""


def collect_training_settings(
    recipe: Recipe, table: TokenTable | OnDemandSource, batch_tokens: int, base: str = ""
) -> dict[str, Any]:
    """What shapes the weights, flat and in JSON types: a checkpoint made with other settings is refused.

    Args:
        batch_tokens: Of a step as it is used, also where the recipe says `auto`.
        base: Fingerprint of the weights it starts from: other weights may have the same name.
    """
    flat: dict[str, Any] = {"model": recipe.model, "rows": table.fingerprint}
    flat |= {"model weights": base} if base else {}
    for name, usual in (("weights", "auto"), ("vision", "frozen")):
        flat |= {f"train.{name}": v} if (v := getattr(recipe.train, name)) != usual else {}
    for axis, method in _list_training_methods(recipe):
        flat[axis] = type(method).__name__
        flat |= {f"{axis}.{knob}": value for knob, value in method.model_dump(mode="json").items()}
        if (source := source_of(method)) is not None:
            flat[f"source of {name_of(method)}"] = source[:12]
    shaping = {name: getattr(recipe.train, name) for name in SHAPING} | {"batch_tokens": batch_tokens}
    train = recipe.train
    # Checkpoints of before there was one of these had none.
    shaping |= {name: value for name in ("residual_dropout", "mixout") if (value := getattr(train, name))}
    shaping |= {f"seeds.{name}": seed for name, seed in train.list_given_seeds().items()}
    if train.keep != "last" or train.patience is not None:  # else evaluations change nothing
        shaping |= {"keep": train.keep, "patience": train.patience}
        flat["evaluate.every"] = recipe.evaluate.every
    return flat | {f"train.{name}": value for name, value in shaping.items()}


def collect_default_knobs(recipe: Recipe) -> dict[str, Any]:
    """Defaults of the knobs that `collect_training_settings` lists: a checkpoint of before there was one had these."""
    return {
        f"{axis}.{knob}": to_jsonable_python(info.get_default(call_default_factory=True))
        for axis, method in _list_training_methods(recipe)
        for knob, info in type(method).model_fields.items()
        if not info.is_required()
    }


def _list_training_methods(recipe: Recipe) -> list[tuple[str, Method]]:
    """The axes that shape the weights, each with the recipe's method."""
    return [(axis.key, getattr(recipe, axis.key)) for axis in AXES if axis.trains]


PENALTY = "penalty"  # the term of a step that is the tuner's


class PreparedObjective(ObjectiveModule):
    """The wrapped module, with a second entrance for the untouched model's log-probabilities.

    Args:
        tuner: It may add a penalty to the loss; of each micro-batch by its share of the rows, which makes 1 of a step.
    """

    def __init__(self, policy: Policy, objective: Objective, tuner: Tuner | None = None) -> None:
        super().__init__(policy, objective)
        self.tuner = tuner

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        sums, metrics = super().forward(batch)
        penalty = None if self.tuner is None else self.tuner.weight_penalty(self.model)
        return (sums if penalty is None else {**sums, PENALTY: penalty * batch.n_rows}), metrics

    def store_reference(self, batch: Batch) -> None:
        """Compute and store the label log-probabilities of `batch` before the weights move."""
        if self.policy.reference.find_values(batch) is None:
            self.policy.compute_reference(batch)

    def precompute_values(self, batches: Batches) -> None:
        """Let the objective compute what it keeps of the untouched model."""
        with eval_mode(self.model), torch.no_grad():
            self.objective.precompute(self.policy, batches, self.policy.store)

    @torch.no_grad()
    def compute_statistics(self, batch: Batch) -> dict[str, Tensor]:
        """What the objective wants to know of all sequences of a step."""
        return self.objective.step_statistics(self.policy, batch)


class TrainerState:
    """The parts of a run, put together by `build`."""

    has_table = True
    """Whether all rows are known before the first step."""
    draw: int | None = None  # this and the next are of `training.draws`
    most_trained = 0
    stored_parameters: dict[str, nn.Parameter]
    """All that trains in any step, which is what a checkpoint holds; `trainable_parameters` are those of now."""

    chooses_micro_tokens = False
    """Whether the size of micro-batches is open: not the recipe's, nor that of the run that is resumed."""

    pass_cost: PassCost | None = None
    """What a micro-batch takes, where it was measured."""

    has_shown_plan = False

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        table: TokenTable,
        machine: Machine,
        pad_id: int,
        note: Callable[[str], None] = ignore_call,
    ) -> None:
        if not len(table):
            raise UserError("there are no rows to train on; look at what the curator and train.max_length dropped")
        self.recipe, self.model, self.machine, self.pad_id = recipe, model, machine, pad_id
        self.tuner_seed = recipe.train.init_seed
        self.compiled_layers = CompiledLayers(note)
        self.dropout_hooks: list[RemovableHandle] = []
        self.source: BatchSource = TableSource(self)
        self.full_table, self.table = table, table.keep_first_sequences(recipe.objective.sequences_per_step())
        most = recipe.objective.paper_settings.batch
        self.step_size = compute_step_size(recipe.train.batch_tokens, self.table, recipe.train.order_seed, most)

    def build(self, state: dict[str, Any]) -> None:
        """Apply the tuner, place and wrap the model, make the rule.

        Args:
            state: Of the checkpoint to resume from, or empty.
        Raises:
            UserError: If nothing would train, or the optimizer does not fit the number of processes.
        """
        recipe, machine, tuner = self.recipe, self.machine, self.recipe.tuner
        self.program_bytes = count_program_bytes(self.model, machine.device)
        in_backward = recipe.optimizer.in_backward
        if in_backward and (machine.world > 1 or machine.is_sharded):
            raise UserError(describe_early_updates(recipe.optimizer))
        looks_back = recipe.objective.needs_reference or recipe.objective.has_precompute
        self.base_fingerprint = fingerprint_of(self.model) if looks_back else ""
        if (bits := tuner.frozen_bits()) and not is_quantized(self.model):
            raise UserError(f"tuner.base_bits {bits}: the base is not quantized; load it with load_quantized_base")
        tuned = apply_tuner(recipe, self.model, self.tuner_seed)
        self.model = machine.place_model(tuned, in_backward, tuner.adapter_parameters(tuned))
        base = None if tuner.base_context(self.model) is None else self._base_context
        self.dropout_hooks = attach_dropouts(recipe.train, self.model, machine.is_sharded)
        recomputation = recipe.train.gradient_checkpointing
        self.policy = Policy(self.model, base=base, autocast=machine.autocast, recomputation=recomputation)
        if wants_compiled(recipe.train.compile, machine.device):
            self.policy.compiled_layers = self.compiled_layers
        if recipe.objective.needs_values:
            self._add_value_head()
        self.layout = self._choose_layout()
        table = self.table if self.has_table else None
        self.attention = layouts.describe_attention(self.policy, self.layout, table, machine.is_sharded)
        enable_recomputation(self.policy.causal, recomputation)
        self.has_penalty = tuner.weight_penalty(self.model) is not None
        self.scorer = PreparedObjective(self.policy, recipe.objective, tuner)
        self._shard_and_compile()
        self.scorer.train()
        self.trainable_parameters = self.stored_parameters = self._collect_trainable_parameters()
        self.rule, self.num_workers, self.draws_random = begin_draws(self), 1, False
        self.policy.chunk_rows = min(self.policy.chunk_rows, state.get("head_rows", self.policy.chunk_rows))
        self.filler = self.shortest_batch()
        self.terms = list(self.count_terms(self.filler))
        self.resize_micro_batches(self._first_micro_tokens(state))
        self._count_steps()

    def _collect_trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name: of the model, and of the value head."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not parameters:
            raise UserError(f"tuner {type(self.recipe.tuner).__name__} leaves nothing to train; look at its settings")
        head = self.policy.value_head
        return parameters | ({f"value_head.{name}": p for name, p in head.named_parameters()} if head else {})

    def _shard_and_compile(self) -> None:
        """Shard the weights where there are several processes for it; compile the layers where that is asked for."""
        if self.machine.is_sharded:
            self.machine.apply_fsdp(self.scorer, find_layers(self.model))
            for name in ("store_reference", "precompute_values", "compute_statistics"):
                register_fsdp_forward_method(self.scorer, name)
        if self.policy.compiled_layers is not None:
            self.compiled_layers.start(lambda: find_layers(self.model))

    def release_layers(self) -> None:
        """Leave the layers as they were before training: neither compiled nor with dropout between or in them."""
        self.compiled_layers.stop_compiling()
        for hook in self.dropout_hooks:
            hook.remove()

    def _add_value_head(self) -> None:
        """Give the policy a value head, which trains with the model."""
        if self.machine.is_sharded:
            raise UserError(SHARDED_VALUE_HEAD)
        width, scale = self.policy.config.get_text_config().hidden_size, self.recipe.objective.value_scale
        self.policy.value_head = make_value_head(width, self.machine.device, scale=scale, seed=self.tuner_seed)

    def _base_context(self) -> contextlib.AbstractContextManager[None]:
        context = self.recipe.tuner.base_context(self.model)
        assert context is not None
        return context

    def _choose_layout(self) -> Layout:
        """The layout; the two of a pair then stand in one line behind their prompt, where that is the same and pays."""
        table, machine, setting = self.table, self.machine, self.recipe.train.layout
        with layouts.place_for_trial(self.policy, machine):
            where = (machine.device, machine.is_sharded, table.pictures is not None)
            layout = layouts.choose_layout(setting, self.policy, table.per_row, *where)
            self.table = layouts.share_pair_prompts(table, self.policy, layout, self.recipe.objective)
        layouts.refuse_unlike_layouts(layout, machine.world)
        return layout

    def _first_micro_tokens(self, state: dict[str, Any]) -> int:
        """The micro-batch in tokens: what the interrupted run had found, the recipe's, or a first guess."""
        train = self.recipe.train
        if self.recipe.optimizer.in_backward:
            return memory.ONE_MICRO_BATCH
        recipe_tokens, stored_tokens = state.get("micro_tokens", (None, None))
        if stored_tokens is not None and recipe_tokens == train.micro_tokens:
            return stored_tokens
        self.chooses_micro_tokens = train.micro_tokens is None
        share = max(1, self.step_size.tokens // self.machine.world)
        causal, recomputation = self.policy.causal, train.gradient_checkpointing
        return train.micro_tokens or memory.first_micro_tokens(causal, self.machine.device, share, recomputation)

    def resize_micro_batches(self, micro_tokens: int) -> None:
        """Cut steps into micro-batches of this many tokens from now on."""
        train = self.recipe.train
        self.micro_tokens = micro_tokens
        self.sampler = self.table.build_sampler(
            batch_tokens=self.step_size.tokens,
            micro_tokens=micro_tokens,
            layout=self.layout,
            seed=train.order_seed,
            rank=self.machine.rank,
            world=self.machine.world,
        )
        self.set_gradient_types()

    def set_gradient_types(self) -> None:
        """Sum gradients of several micro-batches in fp32, whatever the weights' type; a single one is what it is."""
        sums = self.micro_tokens < self.step_size.tokens
        for p in self.trainable_parameters.values():
            if p.dtype == torch.bfloat16 and self.machine.weights == "bf16":
                p.grad_dtype = torch.float32 if sums else torch.bfloat16

    def _count_steps(self) -> None:
        self.steps = count_steps(self.recipe.train, self.sampler)

    def count_terms(self, batch: Batch) -> dict[str, float]:
        """What each term of the loss of a micro-batch is divided by."""
        counts = dict(self.recipe.objective.normalizers(batch))
        return counts | ({PENALTY: float(batch.n_rows)} if self.has_penalty else {})

    def copy_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Put values in the place of those of all trained parameters."""
        with torch.no_grad():
            for name, parameter in self.stored_parameters.items():
                parameter.copy_(reshard_like(tensors[name], parameter))

    def collate_rows(self, rows: Sequence[int] | np.ndarray) -> Batch | None:
        """The micro-batch of these rows, on the CPU; `None` for no rows."""
        return self.table.collate_rows(rows, self.layout, self.pad_id)

    def collate_on_device(self, rows: list[int]) -> Batch:
        """The micro-batch of these rows, of which there are some, on the device."""
        batch = self.collate_rows(rows)
        if batch is None:
            raise ValueError("no rows")
        return batch.to(self.machine.device)

    def shortest_batch(self) -> Batch:
        """The micro-batch of the shortest row, on the device."""
        return self.collate_on_device([int(self.table.lengths.argmin())])

    def largest_batch_rows(self) -> list[int]:
        """The rows of the largest micro-batch there can be."""
        limit = min(self.micro_tokens, self.step_size.tokens)
        return self.table.build_sampler(batch_tokens=limit, layout=self.layout).largest_micro_batch()

    def group_rows(self, table: TokenTable) -> list[list[int]]:
        """Every row of a table once, the longest first, cut into micro-batches."""
        cutter = table.build_sampler(batch_tokens=self.micro_tokens, micro_tokens=self.micro_tokens, layout=self.layout)
        return cutter.cut_micro_batches(np.argsort(-table.widths, kind="stable"))

    def all_batches(self) -> Batches:
        """Micro-batches with every row once and all its sequences, also those that steps do not hold."""
        table = self.table if self.recipe.objective.sequences_per_step() is None else self.full_table
        groups = self.group_rows(table)

        def iterate_batches() -> Iterator[Batch]:
            cpu_batches = (table.collate_rows(rows, self.layout, self.pad_id) for rows in groups)
            return (batch.to(self.machine.device) for batch in cpu_batches if batch is not None)

        return iterate_batches

    def small_batch(self) -> Batch:
        """Some rows of the table, at least one and about 64 labels, on the device."""
        rows = range(min(len(self.table), 16))
        labels = np.cumsum([sum(int(s.label_mask.sum()) for s in self.table.row_sequences(row)) for row in rows])
        return self.collate_on_device(list(rows)[: 1 + int(np.searchsorted(labels, 64))])

    def split_rows(self, rows: Sequence[int]) -> list[list[int]]:
        """A micro-batch as what goes through the model side by side."""
        return (
            partition_rows(rows, self.table.lengths, self.num_workers)
            if self.num_workers > 1 and len(rows)
            else [list(rows)]
        )

    def add_step_statistics(self, batches: list[Batch | None], together: bool = False) -> list[Batch | None]:
        """The micro-batches of a step, each with what the objective surveys of them all.

        Args:
            batches: On the device; `None` where this process has no rows.
            together: Over all processes, which must all call this.
        """
        if not self.recipe.objective.has_step_statistics:
            return batches
        statistics, real = [], [batch for batch in batches if batch is not None]
        for batch in batches if self.machine.is_sharded else real:  # where weights are sharded, all must take part
            one = self.scorer.compute_statistics(self.filler if batch is None else batch)
            if batch is not None:
                statistics.append({name: value.cpu() for name, value in one.items()})
        parts = gather_object([statistics]) if together and self.machine.world > 1 else [statistics]
        surveyed_batches = iter(
            attach_step_statistics(parts, self.machine.rank if len(parts) > 1 else 0, real) if real else []
        )
        return [None if batch is None else next(surveyed_batches) for batch in batches]

    def checkpoint_bytes(self, with_best: bool = False) -> int:
        """Size of a checkpoint: what trains, and the optimizer's state; and once more what trains, of the best step."""
        tensors = [
            *self.stored_parameters.values(),
            *self.rule.state_tensors().values(),
            *(self.stored_parameters.values() if with_best else ()),
        ]
        return sum(t.numel() * t.element_size() for t in tensors)

    def shrink_head(self) -> bool:
        """Have half as many rows of logits at a time from now on; whether there were enough for that.

        On a CPU they are few from the start.
        """
        if self.machine.device.type == "cpu" or self.policy.chunk_rows < 2 * FEWEST_ROWS:
            return False
        self.policy.chunk_rows //= 2
        return True

    def describe_memory_shortage(self, rows: int) -> str:
        """What to do about `rows` rows of the greatest length not fitting into memory."""
        tokens = rows * int(self.table.lengths.max())
        text = memory.describe_memory_shortage(estimate_state_memory(self, tokens), rows, tokens)
        return f"{text}; or a smaller train.batch_tokens" if self.recipe.optimizer.in_backward else text

    def run_pass(self, call: Callable[[], T]) -> T:
        """`call()`, forward and backward over a step; once more if code for its backward pass cannot be made.

        Where weights have moved already, or other processes wait for gradients, nothing can be done again.
        """
        if self.machine.world > 1 or self.recipe.optimizer.in_backward:
            return call()
        return self.compiled_layers.run(call, self.rule.zero_grad)

    def find_nonfinite_rows(self, batches: list[Batch]) -> list[int]:
        """The rows whose loss alone is not finite, among the first 256 of `batches`."""
        if self.machine.is_sharded:
            return []
        rows = sorted({row for batch in batches for row in batch.rows.tolist()})[:256]
        return [row for row in rows if not self._has_finite_loss(row)]

    def _has_finite_loss(self, row: int) -> bool:
        with torch.no_grad():
            sums, _ = self.scorer(self.add_step_statistics([self.collate_on_device([row])])[0])
        return all(bool(torch.isfinite(value)) for value in sums.values())

    def gather_full_model(self) -> Model:
        """A whole copy on the CPU of a sharded model, on the main process; every process must call this."""
        state = {name: gather_full_tensor(tensor) for name, tensor in self.model.state_dict().items()}
        if not self.machine.main:
            return self.model
        causal = self.policy.causal
        fresh = auto_class_of(causal.config).from_config(causal.config, dtype=torch.float32)
        fresh.generation_config, fresh.name_or_path = causal.generation_config, causal.name_or_path
        fresh = apply_tuner(self.recipe, fresh, self.tuner_seed)
        fresh.load_state_dict(state)
        return fresh
