"""Seeds of the random generators: noise and dropout depend on step, micro-batch and process alone."""

from __future__ import annotations

import numpy as np
import torch

SURVEY = 1 << 20
"""Stands for the survey of a step where random numbers are seeded by micro-batch."""


def seed_generators(*numbers: int) -> None:
    """Seed torch's generators from a few whole numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same for the CPU, hundreds of times as fast: the other keeps the call's stack for cards that may come
        torch.default_generator.manual_seed(seed)
