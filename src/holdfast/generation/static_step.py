"""One decoding step of all slots as one function of fixed tensors, and its CUDA graphs.

A small model's step is thousands of kernels of a few microseconds, which the host cannot launch as fast as a card does
them. A graph is launched once. It knows addresses and shapes alone, so that everything the step reads or writes stands
in tensors that never move: the slots' state here, their keys and values in the `StaticSlotCache`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from holdfast.axes.engine import SamplingParams
from holdfast.errors import first_line
from holdfast.generation.static_cache import StaticSlotCache
from holdfast.generation.static_forward import StaticForward
from holdfast.generation.token_sampler import choose_tokens, compute_token_logps, uniform_tensor

MOST_GRAPHS = 16
"""Graphs of one set of slots; beyond that the oldest goes. Each holds what a step needs beside weights and slots."""
WARM_STEPS = 3
"""Steps of one size that run as they are before one is captured: they warm up what capturing needs (kernels chosen,
workspaces taken), and a call that is over by then captures nothing."""


class StaticStep:
    """Draws one token in each slot: forward pass, random numbers, choice, and who goes on.

    Args:
        forward: The model.
        cache: The slots' keys and values.
        params: Temperature, `top_k` and `top_p`.
        stops: Tokens that end a sequence.
    Attributes:
        state: int64 [6, slots] on the device: of each slot the current token, its position, how many were drawn,
            whether it is live (0 or 1), how many may be drawn, and the bits of its seed. A sequence that ends stays as
            it is.
        logps: fp32 [slots], how likely each slot's current token was; zeros where they are not kept.
    """

    def __init__(
        self, forward: StaticForward, cache: StaticSlotCache, params: SamplingParams, stops: np.ndarray
    ) -> None:
        self.forward, self.cache, self.params = forward, cache, params
        device = cache.numbers.device
        self.stops = torch.from_numpy(stops).to(device)
        self.state = torch.zeros(6, len(cache.numbers), dtype=torch.long, device=device)
        self.logps = torch.zeros(len(cache.numbers), device=device)

    def run_step(self, size: int, columns: int) -> None:
        """Decode one token in each of the first `size` slots, none of which has more than `columns` columns."""
        ids, positions, draw_counts, live, limits, seeds = self.state[:, :size]  # [size] each
        self.cache.set_view(columns, positions)
        logits = self.forward.decode_logits(ids[:, None], positions[:, None], self.cache)
        uniform = uniform_tensor(seeds, draw_counts) if self.params.temperature else None
        tokens = choose_tokens(logits, uniform, self.params)
        if self.params.keep_ids:
            self.logps[:size].copy_(compute_token_logps(logits, tokens))
        ids.copy_(torch.where(live > 0, tokens, ids))
        positions += live
        draw_counts += live
        stays = (ids[:, None] != self.stops).all(-1) & (draw_counts < limits)
        live *= stays.long()


class StepRunner:
    """Runs a step, as it is or as a graph.

    Args:
        step: The step.
        captures: Whether steps are captured; not on a CPU, which has no graphs.
        say: Told once, in a line, if that fails.
    Attributes:
        graphs: By slots and columns.
    """

    def __init__(self, step: StaticStep, captures: bool, say: Callable[[str], Any]) -> None:
        self.step, self.captures, self.say = step, captures, say
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self.warm_steps: Counter[tuple[int, int]] = Counter()
        self._pool: Any = None

    def run_step(self, size: int, columns: int) -> None:
        """Decode one token in each of the first `size` slots."""
        sizes = (size, columns)
        if graph := self.graphs.get(sizes):
            graph.replay()
            return
        if self.captures and self.warm_steps[sizes] >= WARM_STEPS and self._capture_step(sizes):
            self.graphs[sizes].replay()
            return
        self.step.run_step(size, columns)
        self.warm_steps[sizes] += 1

    def forget_graphs(self) -> None:
        """Let go of all graphs: what they read and write is no longer there."""
        self.graphs.clear()
        self._pool = None

    def _capture_step(self, sizes: tuple[int, int]) -> bool:
        """Capture the step for these sizes, which computes nothing yet; whether that went well."""
        try:
            # Graphs share one pool of memory: none runs while another does, and what a step leaves stands outside it.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self.step.run_step(*sizes)
        except RuntimeError as error:
            self.captures = False
            self.say(f"decoding goes on without CUDA graphs, which is slower: {first_line(error)}")
            return False
        if len(self.graphs) >= MOST_GRAPHS:
            del self.graphs[next(iter(self.graphs))]
        self.graphs[sizes] = graph
        return True
