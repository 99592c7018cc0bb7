"""How papers train with their objectives: the learning rate, epochs and batch of a recipe that says nothing of them."""

from __future__ import annotations

from dataclasses import dataclass

ADAPTER = 10.0
"""Learning rate of an adapter over that of base weights, where a paper has trained only the latter.

An adapter moves W by the product of two small matrices of which one begins at 0, so the same step of Adam moves W less;
the best rate is about ten times as large, whatever the rank, and about fifteen in runs of fewer than a hundred steps
[Schulman et al. 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora]. The alignment handbook goes from 5e-7 to
5e-6 in the same way (recipes/zephyr-7b-beta/dpo, config_full.yaml and config_qlora.yaml).
"""


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """What training with an objective begins from.

    Args:
        rate: Peak learning rate of base weights.
        adapter: Of an adapter; `None`: `ADAPTER` times `rate`.
        epochs: Passes over the rows.
        batch: Most rows of a step whose size is derived from the rows.
        source: Whose numbers these are; what they do not give is named.
    """

    rate: float
    adapter: float | None
    epochs: float
    batch: int
    source: str

    def learning_rate(self, adapter: bool) -> tuple[float, str]:
        """The rate for base weights or an adapter, and where it comes from, in words."""
        if not adapter:
            return self.rate, self.source
        if self.adapter is not None:
            return self.adapter, f"an adapter's, {self.source}"
        rate = float(f"{ADAPTER * self.rate:.12g}")  # 10 times 6e-07 is 6e-06, not 5.999999999999999e-06
        return rate, f"{ADAPTER:g} times the {self.rate:g} of base weights for an adapter, {self.source}"


SUPERVISED = ObjectiveSettings(2e-5, 1e-4, 3.0, 64, "Taori et al. 2023, Alpaca; adapters: Wang et al. 2024")
"""Of `sft`, and of objectives whose papers give none of their own; the batch is ours (Alpaca's is 128)."""

PREFERENCE = ObjectiveSettings(1e-6, None, 1.0, 64, "Rafailov et al. 2023")
"""Of `dpo`, and of its relatives whose papers give none of their own.

Rate and batch are Appendix B's of the paper (beta 0.1, batch 64, RMSprop, 1e-6 after 150 steps of warm-up); the one
epoch is that of the authors' code (config/config.yaml, n_epochs: 1), whose own rate is 5e-7. The alignment handbook's
corrected recipe for Zephyr takes 5e-7, one epoch and 128 rows (8 x 2 x 8 GPUs) with beta 0.01.
"""
