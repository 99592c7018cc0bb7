"""Memory of training: weights, gradients, optimizer state and activations of tuners and optimizers.

Each case is a random Llama of 97 million parameters in fp32 in a process of its own, in which the trainer takes two
steps on rows of random tokens. Counted are tensors, in MiB: weights; the most gradients alive at once (looked at
whenever one arrives); the state that the optimizer keeps; and the most that autograd keeps of forward passes for the
backward pass. Beside them the peak resident memory of the process less what it had before there was a model, which has
temporaries and the allocator in it; the target is about that.

`make bench` writes the table into docs/scaling.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from common import HERE, Line, at_most, judged, main, memory_mib, reason, run_side, say

SHAPE = {"hidden": 768, "layers": 12, "vocabulary": 16_000}  # 97 million parameters, head and embedding tied
TINY = {"hidden": 64, "layers": 2, "vocabulary": 500}
CASES = (
    ("full", "adamw"), ("full", "adafactor"), ("full", "sgd"), ("full", "muon"), ("full", "lomo"), ("full", "adalomo"),
    ("half", "adamw"), ("lora", "adamw"), ("lora", "sgd"), ("full", "adamw_8bit"),
)  # fmt: skip
QUICK = {"muon": {"newton_schulz_steps": 1}}
"""Settings that save time and change nothing of the memory."""
PARTS = ("weights", "gradients", "state", "activations", "process")
PAGE = HERE.parent / "docs" / "scaling.md"
MARKS = ("<!-- memory: written by make bench -->", "<!-- end of memory -->")


class Kept:
    """What autograd keeps for the backward pass, in bytes of storages that are no weights.

    Args:
        own: Addresses of the storages of weights.
    """

    def __init__(self, own: set[int]) -> None:
        self.own, self.counts, self.alive, self.most = own, dict[int, int](), 0, 0

    def pack(self, tensor: Any) -> Any:
        """Count a tensor until the graph lets go of it."""
        storage = tensor.untyped_storage()
        address, bytes_ = storage.data_ptr(), storage.nbytes()
        if address in self.own:
            return tensor
        if address not in self.counts:
            self.alive += bytes_
            self.most = max(self.most, self.alive)
        self.counts[address] = self.counts.get(address, 0) + 1
        return Holder(self, tensor, address, bytes_)

    def drop(self, address: int, bytes_: int) -> None:
        """One use less."""
        self.counts[address] -= 1
        if not self.counts[address]:
            del self.counts[address]
            self.alive -= bytes_


class Holder:
    """A tensor that is kept; gone with the graph."""

    def __init__(self, kept: Kept, tensor: Any, address: int, bytes_: int) -> None:
        self.kept, self.tensor, self.place = kept, tensor, (address, bytes_)

    def __del__(self) -> None:
        self.kept.drop(*self.place)


def train(tuner: str, optimizer: str, hidden: int, layers: int, vocabulary: int, rows: int, length: int) -> Any:
    """Two steps of the trainer; the bytes of each part in MiB."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from holdfast.data.batching.batches import EncodedSequence, TokenTable
    from holdfast.recipe.schema import Recipe
    from holdfast.training.callbacks import Hooks
    from holdfast.training.trainer import Trainer

    loop = {"max_steps": 2, "batch_tokens": rows * length, "precision": "fp32", "layout": "padded", "compile": False}
    choice = {"name": optimizer, **QUICK.get(optimizer, {})}
    recipe = Recipe(model="random", data={"train": "rows.jsonl"}, tuner=tuner, optimizer=choice, train=loop)
    recipe.optimizer.check_ready()
    before = memory_mib(peak=False)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=8 * hidden // 3, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64), max_position_embeddings=length, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    generator = np.random.default_rng(0)
    table = TokenTable.from_sequences(
        [
            EncodedSequence(
                generator.integers(2, vocabulary, length).astype(np.int32), np.arange(length) > 0, row, 0, 1.0
            )
            for row in range(2 * rows)
        ]
    )
    found: dict[str, float] = {"gradients": 0.0}
    trained: list[Any] = []

    def count_gradients(_: Any) -> None:
        found["gradients"] = max(found["gradients"], sum(size(p.grad) for p in trained if p.grad is not None))

    class WatchedOptimizer(type(recipe.optimizer)):  # type: ignore[misc]
        """The same, looking at each gradient before the rule takes it."""

        def build(self, params: Any) -> Any:
            pairs = list(params)
            trained.extend(p for _, p in pairs)
            for p in trained:
                p.register_post_accumulate_grad_hook(count_gradients)
            return super().build(pairs)

    watched = WatchedOptimizer.model_validate(QUICK.get(optimizer, {}))
    kept = Kept({p.untyped_storage().data_ptr() for p in model.parameters()})
    with tempfile.TemporaryDirectory() as folder:

        def look(_: Any) -> None:  # before the checkpoint, which is written in one piece
            found.update(process=memory_mib() - before, whole=memory_mib())

        trainer = Trainer(
            recipe.model_copy(update={"optimizer": watched}), model, table, folder, pad_id=0, hooks=Hooks(on_step=look)
        )
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t.tensor if isinstance(t, Holder) else t):
            trainer.fit()
        parts = {
            "weights": sum(size(p) for p in trainer.model.parameters()), "gradients": found["gradients"],
            "state": sum(size(t) for t in trainer.state.rule.state_tensors().values()), "activations": kept.most,
        }  # fmt: skip
    number = sum(p.numel() for p in trainer.model.parameters())
    mib = {name: value / (1 << 20) for name, value in parts.items()}
    return {**mib, "process": found["process"], "whole": found["whole"], "parameters": number}


def size(tensor: Any) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """A line for each case, and the target."""
    found: dict[str, Any] = {}
    lines = []
    for tuner, optimizer in CASES[:1] + CASES[5:6] if tiny else CASES:
        name = f"{tuner} + {optimizer}"
        found[name] = run_side(
            __file__, "train", tuner=tuner, optimizer=optimizer, rows=2, length=128, **(TINY if tiny else SHAPE)
        )
        say(f"    {name}: {found[name].get('whole', found[name].get('error'))}")
        note = reason(found[name]) or ", ".join(f"{part} {found[name][part]:,.0f}" for part in PARTS[:-1])
        lines.append(judged(f"memory of {name}", found[name].get("process"), None, None, "MiB", note=note))
    ours, theirs = (found[f"full + {name}"].get("process") for name in ("adalomo", "adamw"))
    ratio = ours / theirs if ours and theirs else None
    target = at_most(0.45)
    what = "peak memory of full fine-tuning, AdaLomo against AdamW"
    note = "peak of the process less what it had before the model" + (
        "" if tiny else "; 97 million parameters, 2 x 128 tokens"
    )
    return [judged(what, ours, theirs, ratio, "MiB", target, note=note), *lines], found


def page(cases: dict[str, Any], where: str) -> str:
    """The table for the docs."""
    rows = [
        "| tuner and optimizer | weights | gradients | optimizer state | activations | process |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in cases.items():
        cells = ["not measured: " + found["error"]] if "error" in found else [f"{found[part]:,.0f}" for part in PARTS]
        rows.append(f"| `{name}` | {' | '.join(cells + [''] * (len(PARTS) - len(cells)))} |")
    return "\n".join([*rows, "", where])


def write_page(cases: dict[str, Any], where: str) -> None:
    """Put the table between its marks in docs/scaling.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    if after:
        PAGE.write_text("\n".join([before + MARKS[0], "", page(cases, where), "", MARKS[1] + after]), encoding="utf-8")


SIDES: dict[str, Callable[..., Any]] = {"train": train}

if __name__ == "__main__":
    main("optimizers", measure, SIDES)
