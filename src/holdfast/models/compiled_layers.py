"""Decoder layers compiled by `torch.compile`, each alone and in place, and run as they are where that fails.

What costs time in a layer beside its matrix products is memory traffic: norms, rotations and activations each read and
write all tokens. Compiled, they are a few kernels. Only the layers are compiled (regional): one of them stands for all
that are built alike, so it takes seconds, and whatever stands around them (embeddings, head, objective) stays as it is.

Shapes are symbols from the start. So there is one piece of code for lines of every length and number of sequences,
nothing is compiled anew in the middle of a run, and a run that was interrupted goes on with the code it had: code for
each length that comes would depend on which came first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import nn

from holdfast.errors import HoldfastError, first_line
from holdfast.models.placement import is_out_of_memory

T = TypeVar("T")

VARIANTS = 64
"""Pieces of code kept for the layers of a model: with and without gradient, adapter and mask, for each kind of layer.
Torch's own limit of 8, beyond which it silently compiles no more, is met by a model with two kinds."""

TEXT = 160
"""Most characters of an error in the line that tells of it."""


_compiled_layers: WeakSet[nn.Module] = WeakSet()
"""All that there are in this process, also of policies that are gone: a layer stays compiled."""


def wants_compiled(setting: str, device: torch.device) -> bool:
    """Whether `train.compile` asks for compiled layers on a device."""
    return setting == "on" or (setting == "auto" and device.type == "cuda")


class CompiledLayers:
    """The layers of a model, compiled at their first call; see the module.

    `nn.Module.compile` changes how a module is called and nothing else: names of weights, hooks, checkpointing,
    sharding and what is saved stay as they were.

    Args:
        report: Called with the one line that says why they are not compiled any more.
        backend: Of `torch.compile`.
    """

    def __init__(self, report: Callable[[str], None], backend: str = "inductor") -> None:
        self.layers: Sequence[nn.Module] = ()
        self.report, self.backend = report, backend
        self.is_on = False

    def start(self, find: Callable[[], Sequence[nn.Module]]) -> None:
        """From now on run compiled code, made when a layer is first called.

        Args:
            find: Gives the layers, all of one model.
        """
        self.is_on = True
        try:
            import torch._dynamo  # seconds, which those who compile nothing need not wait

            torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, VARIANTS)
            # Splitting a graph by the buckets of DDP is for models compiled whole, and knows no checkpoints inside.
            torch._dynamo.config.optimize_ddp = False
            self.layers = find()
            for layer in self.layers:
                layer.compile(dynamic=True, backend=self.backend)
                _compiled_layers.add(layer)
        except Exception as error:  # a torch that cannot compile here at all, or a model without a list of layers
            self._give_up(error)

    def stop_compiling(self) -> None:
        """From now on run the layers as they are."""
        for layer in self.layers if self.is_on else ():
            layer.compile(disable=True)
            _compiled_layers.discard(layer)
        self.is_on = False

    def can_recover(self, error: BaseException) -> bool:
        """Whether what failed may be tried again without compiling; then that is off for good, and reported.

        Which errors come from compiling nobody can tell (they come from torch, from a compiler, from Triton), so the
        trial decides: an error that is the model's own comes again, and is then raised.
        """
        if not self.is_on or isinstance(error, HoldfastError) or is_out_of_memory(error):
            return False
        self._give_up(error)
        return True

    def _give_up(self, error: BaseException) -> None:
        self.stop_compiling()
        reason = f"{type(error).__name__}: {first_line(error)}"[:TEXT]
        self.report(f"train.compile: the layers cannot be compiled here and run as they are, slower ({reason})")

    def run(self, call: Callable[[], T], undo: Callable[[], None] | None = None) -> T:
        """`call()`, a pass through the model; once more without compiling, if it fails with it.

        Args:
            undo: Called before that.
        """
        try:
            return call()
        except Exception as error:
            if not self.can_recover(error):
                raise
        if undo is not None:
            undo()
        return call()


_pause_lock = threading.Lock()
_pauses = ExitStack()
_pause_count = 0


@contextmanager
def pause_compiled() -> Iterator[None]:
    """Run no layers of this process compiled inside: sampling calls them with caches, one token at a time.

    What is compiled is a model's layers, whoever calls them, so that whoever calls a model and not a policy does it in
    here. Threads that decode side by side leave in any order: the last one ends the pause.
    """
    global _pause_count
    if not _compiled_layers:
        yield
        return
    with _pause_lock:
        if not _pause_count:
            _pauses.enter_context(torch.compiler.set_stance("force_eager"))
        _pause_count += 1
    try:
        yield
    finally:
        with _pause_lock:
            _pause_count -= 1
            if not _pause_count:
                _pauses.close()


def run_forward(layers: CompiledLayers | None, call: Callable[[], T]) -> T:
    """`call()`, whether or not layers are compiled."""
    return call() if layers is None else layers.run(call)
