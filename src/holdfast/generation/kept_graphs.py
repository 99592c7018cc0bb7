"""The slots and graphs of one sampling call, kept for the next one of the same engine.

A graph is a list of kernels with the addresses they read and write; it holds no weights. So weights that are updated in
place (an optimizer's step, `copy_`, a state that is loaded) are read as they then are by a graph that was captured
before, and nothing has to be captured again. What a graph does not notice is that a weight lies elsewhere (`.to()`, a
parameter in the place of another), or that Python would take another branch: an adapter that is switched off or folded
in, another scale, another attention, other settings of sampling. All that is the key: where one of them changed, slots
and graphs are made anew.

What a slot held before is zeroed and not masked alone: had that model made NaNs, they would go through a mask.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.axes.engine import SamplingParams
from holdfast.models.placement import memory_bytes

if TYPE_CHECKING:
    from holdfast.generation.static_step import StepRunner
    from holdfast.models.loading import Model

KEPT_SHARE = 0.1
"""Of an accelerator's memory: most that slots may take to be kept. Beside them models train and are measured."""
PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype)


def describe_step(model: Model, params: SamplingParams, stops: Collection[int], forward: type) -> Hashable:
    """Everything that a captured decoding step depends on but for what it reads from its own tensors.

    Args:
        model: As it is now; one that changes in place gives the same until storage, shapes or switches change.
        params: Of which temperature, `top_k` and `top_p` stand in the graph, and whether log-probabilities are kept.
        stops: Tokens that end a sequence.
        forward: The kind of forward pass.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    storage = tuple(
        (name, x.data_ptr(), x.storage_offset(), tuple(x.shape), x.stride(), x.dtype) for name, x in tensors
    )
    modules = tuple((name, type(module).__qualname__, _read_switches(module)) for name, module in model.named_modules())
    settings = model.config.to_json_string(use_diff=False), model.config.get_text_config()._attn_implementation
    drawing = (params.temperature, params.top_k, params.top_p, bool(params.keep_ids))
    return id(model), storage, modules, settings, forward, drawing, tuple(sorted(stops))


def _read_switches(module: nn.Module) -> str:
    """The plain values among a module's attributes, by which its forward pass may go one way or another."""
    values = {name: value for name, value in vars(module).items() if name != "training" and _is_plain(value)}
    return repr(values)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, chain(value, value.values())))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN_TYPES)


class KeptGraphs:
    """At most one set of slots with the graphs over them, while no call uses it."""

    def __init__(self) -> None:
        self.key: Hashable = None
        self.runner: StepRunner | None = None

    def take_runner(self, key: Hashable, slots: int, capacity: int) -> StepRunner | None:
        """What a call with this key can go on with, zeroed; `None`, and nothing is kept any more, where that is none.

        It is the caller's until it is handed back: two calls at once, of which each waits for its reader, must not
        write to the same slots.

        Args:
            slots, capacity: How many there must be at least, and columns of each.
        """
        runner, self.runner = self.runner, None
        if runner is None or key != self.key:
            return None
        cache = runner.step.cache
        if len(cache.numbers) < slots or cache.capacity < capacity:
            return None
        cache.clear_slots()
        return runner

    def hand_back(self, key: Hashable, runner: StepRunner) -> None:
        """Keep slots and graphs for the next call, unless they take much of the memory there is."""
        cache = runner.step.cache
        total = memory_bytes(cache.numbers.device)
        if total is None or cache.count_bytes() <= KEPT_SHARE * total:
            self.key, self.runner = key, runner
